//! What a later version of an event adds to the one that the API server has: how often it happened, and when last.
//!
//! A client counts an event up by PATCH; while cut it posts the whole event instead, under the name of the first. After
//! the cut that name is taken, so the newer count goes out as a PATCH again. The count is the client's own and the whole
//! one, so sending it twice changes nothing.

use bytes::Bytes;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::Encoding;
use proto_kube::{json, wire};

use crate::body::{BodyError, Document, Path, format_time};

const MESSAGE: Path = Path { json: &["message"], wire: &[4] };
const LAST_TIMESTAMP: Path = Path { json: &["lastTimestamp"], wire: &[7] };
/// `count` in protobuf.
const COUNT: u32 = 8;

/// The merge patch that tells the count of the core/v1 event in `body`; `None` for one that happened once, or of another
/// kind, or that cannot be read or is longer than `limit` bytes.
pub fn merge_patch(
    gvr: &GroupVersionResource,
    encoding: Encoding,
    body: &[u8],
    limit: usize,
) -> Option<Bytes> {
    if (&*gvr.group, &*gvr.version) != ("", "v1") {
        return None;
    }
    let document = Document::parse(encoding, body, limit, "v1", "Event").ok()?;
    let count = count(encoding, document.content()).ok()?.filter(|count| *count > 1)?;
    let mut patch = format!("{{\"count\":{count}").into_bytes();
    if let Some(time) = document.time(LAST_TIMESTAMP).ok()?.and_then(format_time) {
        patch.extend_from_slice(format!(",\"lastTimestamp\":\"{time}\"").as_bytes());
    }
    if let Some(message) = document.text(MESSAGE).ok()? {
        patch.extend_from_slice(b",\"message\":");
        json::write_string(&mut patch, &message);
    }
    patch.push(b'}');
    Some(patch.into())
}

fn count(encoding: Encoding, content: &[u8]) -> Result<Option<u32>, BodyError> {
    match encoding {
        Encoding::Json => {
            let Some(value) = json::member(content, "count")? else { return Ok(None) };
            Ok(serde_json::from_slice(value).ok())
        }
        Encoding::Protobuf => Ok(match wire::last(content, COUNT)?.map(|field| field.value) {
            Some(wire::Value::Varint(count)) => u32::try_from(count).ok(),
            _ => None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::tests::envelope;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn events() -> GroupVersionResource {
        GroupVersionResource::new("", "v1", "events")
    }

    fn patch_of(encoding: Encoding, body: &[u8]) -> Option<Value> {
        merge_patch(&events(), encoding, body, 64 << 10)
            .map(|patch| serde_json::from_slice(&patch).expect("JSON"))
    }

    #[test]
    fn an_event_that_happened_again_tells_how_often_and_when_last() {
        let wanted = json!({ "count": 3, "lastTimestamp": "2026-11-26T13:40:00Z", "message": "a \"b\"" });
        let body = json!({ "kind": "Event", "metadata": { "name": "x" }, "count": 3, "message": "a \"b\"",
                           "lastTimestamp": "2026-11-26T13:40:00Z" });
        assert_eq!(patch_of(Encoding::Json, body.to_string().as_bytes()), Some(wanted.clone()));
        let mut message = Vec::new();
        wire::put_bytes(&mut message, 4, b"a \"b\"");
        let mut time = Vec::new();
        wire::put_varint_field(&mut time, 1, 1_795_700_400);
        wire::put_bytes(&mut message, 7, &time);
        wire::put_varint_field(&mut message, 8, 3);
        assert_eq!(patch_of(Encoding::Protobuf, &envelope("v1", "Event", &message)), Some(wanted));
    }

    #[test]
    fn an_event_that_happened_once_has_nothing_to_add() {
        for body in [json!({ "count": 1 }), json!({}), json!({ "count": "3" }), json!({ "count": -3 })] {
            assert_eq!(patch_of(Encoding::Json, body.to_string().as_bytes()), None, "{body}");
        }
        let series = GroupVersionResource::new("events.k8s.io", "v1", "events");
        assert_eq!(merge_patch(&series, Encoding::Json, br#"{"count":3}"#, 64 << 10), None);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for body in [&bytes, &envelope("v1", "Event", &bytes)] {
                for encoding in [Encoding::Json, Encoding::Protobuf] {
                    if let Some(patch) = merge_patch(&events(), encoding, body, 64 << 10) {
                        prop_assert!(serde_json::from_slice::<Value>(&patch).is_ok());
                    }
                }
            }
        }
    }
}
