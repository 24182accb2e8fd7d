//! Chunks may end anywhere in a stream; the events are the same, and a broken stream says how it is broken.

mod arbitrary;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::{self, TypeMeta};
use proto_kube::status::Status;
use proto_kube::watch::{self, EventType, FrameError, WatchDecoder, WatchEvent};

const TABLE: Format = Format { encoding: Encoding::Json, form: Form::Table };
const LIMIT: usize = 1 << 20;

fn decode<'a>(
    format: Format,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<WatchEvent>, FrameError> {
    let mut decoder = WatchDecoder::new(format, LIMIT);
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        while let Some(event) = decoder.next()? {
            events.push(event);
        }
    }
    assert!(!decoder.is_mid_frame(), "the stream was whole");
    Ok(events)
}

fn stream(format: Format, objects: &[Vec<u8>]) -> Vec<u8> {
    let kind = TypeMeta::new("v1", "Pod");
    let types = [EventType::Added, EventType::Modified, EventType::Deleted];
    let mut bytes = Vec::new();
    for (object, event_type) in objects.iter().zip(types.into_iter().cycle()) {
        bytes.extend_from_slice(&watch::encode_event(format, event_type, &kind, object, None));
    }
    bytes.extend_from_slice(&watch::encode_bookmark(format, &kind, "99", true));
    bytes
}

/// At every boundary in two, and byte for byte.
fn alike_at_every_cut(format: Format, bytes: &[u8]) -> Vec<WatchEvent> {
    let whole = decode(format, [bytes]).unwrap();
    for cut in 0..=bytes.len() {
        assert_eq!(decode(format, [&bytes[..cut], &bytes[cut..]]).unwrap(), whole, "cut at {cut}");
    }
    assert_eq!(decode(format, bytes.chunks(1)).unwrap(), whole);
    whole
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn protobuf_events_come_out_as_written(objects in vec(arbitrary::protobuf_object(), 0..4)) {
        let events = alike_at_every_cut(Format::PROTOBUF, &stream(Format::PROTOBUF, &objects));
        prop_assert_eq!(events.len(), objects.len() + 1);
        for (event, object) in events.iter().zip(&objects) {
            prop_assert_eq!(&event.type_meta, &TypeMeta::new("v1", "Pod"));
            prop_assert_eq!(&event.raw, object);
        }
    }

    #[test]
    fn json_events_come_out_as_written(objects in vec(arbitrary::json_item(), 0..4)) {
        let objects: Vec<Vec<u8>> = objects.into_iter().map(String::into_bytes).collect();
        let events = alike_at_every_cut(Format::JSON, &stream(Format::JSON, &objects));
        prop_assert_eq!(events.len(), objects.len() + 1);
        for (event, object) in events.iter().zip(&objects) {
            prop_assert_eq!(&event.raw, object);
        }
    }

    #[test]
    fn json_events_need_no_newline_between_them(objects in vec(arbitrary::json_item(), 1..4)) {
        let joined: String = objects.iter().map(|object| format!("{{\"object\":{object},\"type\":\"ADDED\"}}")).collect();
        // Items without kind and apiVersion are not what a server sends in an event.
        let sent = joined.replace("{\"metadata\"", "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\"");
        let events = decode(Format::JSON, [sent.as_bytes()]).unwrap();
        prop_assert_eq!(events.len(), objects.len());
    }
}

#[test]
fn bookmarks_carry_the_version_and_the_mark_in_every_format() {
    let partial = Form::PartialMetadata;
    let formats = [
        Format::JSON,
        Format::PROTOBUF,
        TABLE,
        Format { encoding: Encoding::Json, form: partial },
        Format { encoding: Encoding::Protobuf, form: partial },
    ];
    for format in formats {
        for mark in [false, true] {
            let bytes = watch::encode_bookmark(format, &TypeMeta::new("v1", "Pod"), "123", mark);
            let events = decode(format, [bytes.as_ref()]).unwrap();
            assert_eq!(events.len(), 1);
            assert_eq!(events[0].event_type, EventType::Bookmark);
            assert_eq!(object::scan(format, &events[0].raw).unwrap().resource_version, "123", "{format:?}");
            assert_eq!(watch::bookmark_marks_initial_events_end(format, &events[0].raw), mark, "{format:?}");
        }
    }
}

#[test]
fn a_table_bookmark_may_keep_its_version_in_the_table() {
    let sent = "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{\"resourceVersion\":\"77\"},\"columnDefinitions\":null,\"rows\":[]}}\n";
    let events = decode(TABLE, [sent.as_bytes()]).unwrap();
    assert_eq!(object::scan(TABLE, &events[0].raw).unwrap().resource_version, "77");
}

#[test]
fn table_events_are_written_as_kube_apiserver_writes_them() {
    let sent = concat!(
        "{\"type\":\"ADDED\",\"object\":{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{\"resourceVersion\":\"5\"},",
        "\"columnDefinitions\":[{\"name\":\"Name\"}],\"rows\":[{\"cells\":[\"a\"],\"object\":{\"kind\":\"PartialObjectMetadata\",",
        "\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"5\"}}}]}}\n"
    );
    let events = decode(TABLE, [sent.as_bytes()]).unwrap();
    assert_eq!(events[0].columns.as_deref(), Some(b"[{\"name\":\"Name\"}]".as_slice()));
    assert_eq!(object::scan(TABLE, &events[0].raw).unwrap().name, "a");
    let columns = events[0].columns.as_deref();
    let again = watch::encode_event(TABLE, EventType::Added, &events[0].type_meta, &events[0].raw, columns);
    assert_eq!(again, sent);
    let later = watch::encode_event(TABLE, EventType::Added, &events[0].type_meta, &events[0].raw, None);
    let later = std::str::from_utf8(&later).unwrap();
    assert!(later.contains("\"columnDefinitions\":null,\"rows\":["), "{later}");
}

#[test]
fn typed_json_events_keep_the_item_without_its_type_and_get_it_back() {
    let sent = "{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\"}}}\n";
    let events = decode(Format::JSON, [sent.as_bytes()]).unwrap();
    assert_eq!(events[0].raw, "{\"metadata\":{\"name\":\"a\"}}");
    let again =
        watch::encode_event(Format::JSON, EventType::Added, &events[0].type_meta, &events[0].raw, None);
    assert_eq!(again, sent);
}

#[test]
fn errors_come_in_the_encoding_of_the_stream() {
    let status = Status::expired(5, 9);
    for format in [Format::JSON, Format::PROTOBUF, TABLE] {
        let bytes = watch::encode_error(format.encoding, &status);
        let events = decode(format, [bytes.as_ref()]).unwrap();
        assert_eq!(events[0].event_type, EventType::Error);
        assert_eq!(events[0].type_meta, TypeMeta::new("v1", "Status"));
        let summary = watch::read_error(format.encoding, &events[0].raw).unwrap();
        assert_eq!((summary.code, summary.reason.as_ref()), (410, "Expired"));
        assert_eq!(summary.message.as_ref(), status.message.as_str());
        let relayed =
            watch::encode_event(format, EventType::Error, &events[0].type_meta, &events[0].raw, None);
        assert_eq!(relayed, bytes);
    }
}

#[test]
fn a_protobuf_event_is_laid_out_as_kube_apiserver_lays_it_out() {
    let raw = b"\x0a\x03\x0a\x01a";
    let frame =
        watch::encode_event(Format::PROTOBUF, EventType::Added, &TypeMeta::new("v1", "Pod"), raw, None);
    let document = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x05\x0a\x03\x0a\x01a\x1a\0\x22\0";
    let mut expected = vec![0, 0, 0, 11 + u8::try_from(document.len()).unwrap()];
    expected.extend_from_slice(b"\x0a\x05ADDED\x12");
    expected.push(2 + u8::try_from(document.len()).unwrap());
    expected.push(0x0a);
    expected.push(u8::try_from(document.len()).unwrap());
    expected.extend_from_slice(document);
    assert_eq!(frame, Bytes::from(expected));
}

#[test]
fn a_frame_above_the_limit_is_refused_before_it_is_held() {
    let mut decoder = WatchDecoder::new(Format::PROTOBUF, 100);
    decoder.push(&[0xff, 0xff, 0xff, 0xff]);
    assert_eq!(decoder.next(), Err(FrameError::TooLong { length: 0xffff_ffff, limit: 100 }));

    let mut decoder = WatchDecoder::new(Format::JSON, 100);
    decoder.push(b"{\"type\":\"");
    assert_eq!(decoder.next(), Ok(None));
    decoder.push(&[b'A'; 100]);
    assert_eq!(decoder.next(), Err(FrameError::TooLong { length: 109, limit: 100 }));
    decoder.push(b"\"}");
    assert_eq!(
        decoder.next(),
        Err(FrameError::TooLong { length: 109, limit: 100 }),
        "the place is lost for good"
    );
}

#[test]
fn a_stream_cut_inside_a_frame_is_known_to_be_cut() {
    for format in [Format::JSON, Format::PROTOBUF] {
        let bytes = watch::encode_bookmark(format, &TypeMeta::new("v1", "Pod"), "1", false);
        let mut decoder = WatchDecoder::new(format, LIMIT);
        decoder.push(&bytes[..bytes.len() / 2]);
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.is_mid_frame());
        decoder.push(&bytes[bytes.len() / 2..]);
        assert!(decoder.next().unwrap().is_some());
        assert_eq!(decoder.next(), Ok(None));
        assert!(!decoder.is_mid_frame());
    }
}

#[test]
fn what_is_wrong_with_a_stream_is_said() {
    let cases: [(&str, &str); 5] = [
        ("<html>", "a watch event begins with byte 0x3c, expected '{'"),
        ("{\"type\":\"GONE\",\"object\":{}}", "unknown watch event type `GONE`"),
        ("{\"type\":\"ADDED\"}", "the watch event has no `object`"),
        ("{\"type\":\"ADDED\",\"object\":{}}", "in a watch event: the body has no `kind`"),
        (
            "{\"type\":\"ADDED\",\"object\":[}]}",
            "in a watch event: malformed JSON at byte 26: expected a value",
        ),
    ];
    for (sent, message) in cases {
        assert_eq!(decode(Format::JSON, [sent.as_bytes()]).unwrap_err().to_string(), message);
    }
}
