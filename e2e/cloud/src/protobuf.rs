//! Kubernetes protobuf for the kinds that tests need, written from the stored JSON.
//!
//! A message holds object metadata, the fields that selectors and endpoint logic read, and field
//! [`UNKNOWN_FIELD`], which no decoder knows: whoever decodes and re-encodes instead of keeping the
//! bytes loses it, and a test sees that. Everything else of the object is missing here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Number of the field that nobody knows; its value is `unknown:` and the object's uid.
pub(crate) const UNKNOWN_FIELD: u32 = 9999;

/// First bytes of every Kubernetes protobuf document.
const MAGIC: &[u8] = b"k8s\0";

/// A protobuf message under construction.
#[derive(Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(u8::try_from(value & 0x7f).expect("seven bits fit") | 0x80);
            value >>= 7;
        }
        self.bytes.push(u8::try_from(value).expect("less than 0x80"));
    }

    fn uint(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    fn message(&mut self, field: u32, inner: &Self) {
        self.bytes(field, &inner.bytes);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn optional_text(&mut self, field: u32, value: &Value) {
        if let Some(text) = value.as_str() {
            self.text(field, text);
        }
    }

    /// Go writes flags that are no pointers whether they are set or not.
    fn flag(&mut self, field: u32, value: &Value) {
        self.uint(field, u64::from(value == true));
    }

    fn optional_bool(&mut self, field: u32, value: &Value) {
        if let Some(flag) = value.as_bool() {
            self.uint(field, u64::from(flag));
        }
    }

    fn text_map(&mut self, field: u32, map: &Value) {
        for (key, value) in map.as_object().into_iter().flatten() {
            let mut entry = Self::default();
            entry.text(1, key);
            entry.text(2, value.as_str().unwrap_or_default());
            self.message(field, &entry);
        }
    }

    fn timestamp(&mut self, field: u32, value: &Value) {
        if let Some(time) = value.as_str().and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok()) {
            self.time(field, time);
        }
    }

    fn time(&mut self, field: u32, time: OffsetDateTime) {
        let mut inner = Self::default();
        inner.uint(1, u64::try_from(time.unix_timestamp()).unwrap_or(0));
        inner.uint(2, u64::from(time.nanosecond()));
        self.message(field, &inner);
    }
}

/// One item of a list: the bare message.
pub(crate) fn item(kind: &str, object: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.message(1, &object_meta(&object["metadata"]));
    body(kind, object, &mut message);
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    message.text(UNKNOWN_FIELD, &format!("unknown:{uid}"));
    message.finish()
}

/// One item of a metadata-only list: field 1 alone.
pub(crate) fn partial_item(object: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.message(1, &object_meta(&object["metadata"]));
    message.finish()
}

/// A document: magic, type and message.
pub(crate) fn document(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Message::default();
    type_meta.text(1, api_version);
    type_meta.text(2, kind);
    let mut unknown = Message::default();
    unknown.message(1, &type_meta);
    unknown.bytes(2, raw);
    unknown.text(3, "");
    unknown.text(4, "");
    [MAGIC, &unknown.finish()].concat()
}

/// A list message: metadata, then items.
pub(crate) fn list(
    revision: u64,
    continue_token: &str,
    remaining: Option<u64>,
    items: &[Vec<u8>],
) -> Vec<u8> {
    let mut meta = Message::default();
    meta.text(1, "");
    meta.text(2, &revision.to_string());
    meta.text(3, continue_token);
    if let Some(count) = remaining {
        meta.uint(4, count);
    }
    let mut message = Message::default();
    message.message(1, &meta);
    for item in items {
        message.bytes(2, item);
    }
    message.finish()
}

/// One frame of a watch stream: length, `WatchEvent{type, object}`.
pub(crate) fn frame(event_type: &str, document: &[u8]) -> Vec<u8> {
    let mut extension = Message::default();
    extension.bytes(1, document);
    let mut event = Message::default();
    event.text(1, event_type);
    event.message(2, &extension);
    let event = event.finish();
    let length = u32::try_from(event.len()).expect("a stored object is far below 4 GiB");
    [&length.to_be_bytes()[..], &event].concat()
}

/// The message of a `metav1.Status`.
pub(crate) fn status(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.message(1, &Message::default());
    for (field, name) in [(2, "status"), (3, "message"), (4, "reason")] {
        message.text(field, document[name].as_str().unwrap_or_default());
    }
    let causes = document["details"]["causes"].as_array();
    if document["details"].is_object() {
        let mut details = Message::default();
        details.text(1, document["details"]["name"].as_str().unwrap_or_default());
        details.text(2, document["details"]["group"].as_str().unwrap_or_default());
        details.text(3, document["details"]["kind"].as_str().unwrap_or_default());
        for cause in causes.into_iter().flatten() {
            let mut inner = Message::default();
            for (field, name) in [(1, "reason"), (2, "message"), (3, "field")] {
                inner.text(field, cause[name].as_str().unwrap_or_default());
            }
            details.message(4, &inner);
        }
        details.uint(5, document["details"]["retryAfterSeconds"].as_u64().unwrap_or(0));
        details.text(6, document["details"]["uid"].as_str().unwrap_or_default());
        message.message(5, &details);
    }
    message.uint(6, document["code"].as_u64().unwrap_or(0));
    message.finish()
}

fn object_meta(meta: &Value) -> Message {
    let mut message = Message::default();
    let fields = [
        (1, "name"),
        (2, "generateName"),
        (3, "namespace"),
        (4, "selfLink"),
        (5, "uid"),
        (6, "resourceVersion"),
    ];
    for (field, name) in fields {
        // Go writes strings that are no pointers even when they are empty.
        message.text(field, meta[name].as_str().unwrap_or_default());
    }
    message.uint(7, meta["generation"].as_u64().unwrap_or(0));
    if meta["creationTimestamp"].is_string() {
        message.timestamp(8, &meta["creationTimestamp"]);
    } else {
        // It is no pointer in Go either: an object without it, a bookmark, is as old as time.
        message.time(8, OffsetDateTime::UNIX_EPOCH);
    }
    message.timestamp(9, &meta["deletionTimestamp"]);
    if let Some(seconds) = meta["deletionGracePeriodSeconds"].as_u64() {
        message.uint(10, seconds);
    }
    message.text_map(11, &meta["labels"]);
    message.text_map(12, &meta["annotations"]);
    for owner in meta["ownerReferences"].as_array().into_iter().flatten() {
        let mut inner = Message::default();
        for (field, name) in [(1, "kind"), (3, "name"), (4, "uid"), (5, "apiVersion")] {
            inner.optional_text(field, &owner[name]);
        }
        inner.optional_bool(6, &owner["controller"]);
        inner.optional_bool(7, &owner["blockOwnerDeletion"]);
        message.message(13, &inner);
    }
    for finalizer in meta["finalizers"].as_array().into_iter().flatten() {
        message.optional_text(14, finalizer);
    }
    for entry in meta["managedFields"].as_array().into_iter().flatten() {
        let mut inner = Message::default();
        for (field, name) in [(1, "manager"), (2, "operation"), (3, "apiVersion"), (6, "fieldsType")] {
            inner.optional_text(field, &entry[name]);
        }
        inner.timestamp(4, &entry["time"]);
        if entry["fieldsV1"].is_object() {
            let mut fields = Message::default();
            fields.text(1, &entry["fieldsV1"].to_string());
            inner.message(7, &fields);
        }
        message.message(17, &inner);
    }
    message
}

fn body(kind: &str, object: &Value, message: &mut Message) {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut inner = Message::default();
    match kind {
        "Pod" => {
            for container in spec["containers"].as_array().into_iter().flatten() {
                inner.message(2, &self::container(container));
            }
            inner.optional_text(3, &spec["restartPolicy"]);
            inner.optional_text(8, &spec["serviceAccountName"]);
            inner.optional_text(10, &spec["nodeName"]);
            inner.flag(11, &spec["hostNetwork"]);
            inner.optional_text(19, &spec["schedulerName"]);
            message.message(2, &inner);
            message.message(3, &pod_status(status));
        }
        "Node" => {
            inner.optional_text(1, &spec["podCIDR"]);
            inner.flag(4, &spec["unschedulable"]);
            message.message(2, &inner);
        }
        "Service" => {
            for port in spec["ports"].as_array().into_iter().flatten() {
                let mut one = Message::default();
                one.optional_text(1, &port["name"]);
                one.uint(3, port["port"].as_u64().unwrap_or(0));
                inner.message(1, &one);
            }
            inner.optional_text(3, &spec["clusterIP"]);
            inner.optional_text(4, &spec["type"]);
            for address in spec["clusterIPs"].as_array().into_iter().flatten() {
                inner.optional_text(18, address);
            }
            message.message(2, &inner);
        }
        "Namespace" => {
            inner.optional_text(1, &status["phase"]);
            message.message(3, &inner);
        }
        "ConfigMap" => message.text_map(2, &object["data"]),
        "Secret" => {
            for (key, value) in object["data"].as_object().into_iter().flatten() {
                let mut entry = Message::default();
                entry.text(1, key);
                entry.bytes(2, &STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default());
                message.message(2, &entry);
            }
            message.optional_text(3, &object["type"]);
        }
        "Lease" => {
            inner.optional_text(1, &spec["holderIdentity"]);
            if let Some(seconds) = spec["leaseDurationSeconds"].as_u64() {
                inner.uint(2, seconds);
            }
            inner.timestamp(4, &spec["renewTime"]);
            message.message(2, &inner);
        }
        "EndpointSlice" => endpoint_slice(object, message),
        "Event" => event(object, message),
        _ => {}
    }
}

fn container(object: &Value) -> Message {
    let mut message = Message::default();
    message.optional_text(1, &object["name"]);
    message.optional_text(2, &object["image"]);
    for variable in object["env"].as_array().into_iter().flatten() {
        let mut inner = Message::default();
        inner.optional_text(1, &variable["name"]);
        inner.optional_text(2, &variable["value"]);
        message.message(7, &inner);
    }
    message
}

fn pod_status(status: &Value) -> Message {
    let mut state = Message::default();
    state.optional_text(1, &status["phase"]);
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let mut inner = Message::default();
        inner.optional_text(1, &condition["type"]);
        inner.optional_text(2, &condition["status"]);
        inner.optional_text(5, &condition["reason"]);
        state.message(2, &inner);
    }
    state.optional_text(6, &status["podIP"]);
    state.optional_text(11, &status["nominatedNodeName"]);
    for ip in status["podIPs"].as_array().into_iter().flatten() {
        let mut inner = Message::default();
        inner.optional_text(1, &ip["ip"]);
        state.message(12, &inner);
    }
    state
}

fn object_reference(reference: &Value) -> Message {
    let mut message = Message::default();
    let fields = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];
    for (field, name) in (1..).zip(fields) {
        message.optional_text(field, &reference[name]);
    }
    message
}

fn endpoint_slice(object: &Value, message: &mut Message) {
    for endpoint in object["endpoints"].as_array().into_iter().flatten() {
        let mut inner = Message::default();
        for address in endpoint["addresses"].as_array().into_iter().flatten() {
            inner.optional_text(1, address);
        }
        let mut conditions = Message::default();
        for (field, name) in (1..).zip(["ready", "serving", "terminating"]) {
            conditions.optional_bool(field, &endpoint["conditions"][name]);
        }
        inner.message(2, &conditions);
        if endpoint["targetRef"].is_object() {
            inner.message(4, &object_reference(&endpoint["targetRef"]));
        }
        inner.optional_text(6, &endpoint["nodeName"]);
        inner.optional_text(7, &endpoint["zone"]);
        message.message(2, &inner);
    }
    message.optional_text(4, &object["addressType"]);
}

fn event(object: &Value, message: &mut Message) {
    message.message(2, &object_reference(&object["involvedObject"]));
    message.optional_text(3, &object["reason"]);
    message.optional_text(4, &object["message"]);
    let mut source = Message::default();
    source.optional_text(1, &object["source"]["component"]);
    message.message(5, &source);
    message.optional_text(9, &object["type"]);
    message.optional_text(14, &object["reportingComponent"]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_has_the_layout_of_the_wire() {
        let object = json!({"metadata": {"name": "a", "uid": "u"}, "data": {"k": "v"}});
        let raw = item("ConfigMap", &object);
        assert_eq!(raw[0], 0x0a, "metadata is field 1");
        // Field 9999, length-delimited: key 0xfa 0xf0 0x04, then `unknown:u`.
        assert!(raw.ends_with(b"\xfa\xf0\x04\x09unknown:u"), "{raw:02x?}");
        assert!(raw.windows(8).any(|w| w == b"\x12\x06\x0a\x01k\x12\x01v"), "data is a map entry in field 2");
        let document = document("v1", "ConfigMap", &raw);
        assert!(document.starts_with(b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12"));
        assert!(document.ends_with(b"\x1a\x00\x22\x00"), "the empty encoding fields are written");
        let frame = frame("ADDED", &document);
        let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
        assert_eq!(length as usize, frame.len() - 4);
        assert_eq!(&frame[4..11], b"\x0a\x05ADDED");
    }
}
