//! Whatever the bytes, a reader answers with a value or an error, within the memory its bounds promise.

mod arbitrary;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::watch::WatchDecoder;
use proto_kube::{edit, json, list, object, watch};

fn formats() -> impl Strategy<Value = Format> {
    let encoding = prop_oneof![Just(Encoding::Json), Just(Encoding::Protobuf)];
    let form = prop_oneof![Just(Form::Object), Just(Form::Table), Just(Form::PartialMetadata)];
    (encoding, form).prop_map(|(encoding, form)| Format { encoding, form })
}

/// Noise, and good bodies with a few bytes changed or cut: those get further into the readers.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let json = arbitrary::json_members().prop_map(|members| {
        format!("{{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"items\":[],\"rows\":[],{members}}}").into_bytes()
    });
    let event = arbitrary::json_members().prop_map(|members| {
        format!("{{\"type\":\"ADDED\",\"object\":{{\"kind\":\"Table\",\"rows\":[{{{members}}}]}}}}")
            .into_bytes()
    });
    let document = arbitrary::protobuf_object().prop_map(|object| {
        list::encode_document(Format::PROTOBUF, &object::TypeMeta::new("v1", "PodList"), &object).to_vec()
    });
    let item = arbitrary::json_item().prop_map(String::into_bytes);
    let good = prop_oneof![json, event, document, item, arbitrary::protobuf_object()];
    let damaged =
        (good, vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), any::<prop::sample::Index>());
    let damaged = damaged.prop_map(|(mut bytes, changes, cut)| {
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 4);
        bytes
    });
    prop_oneof![vec(any::<u8>(), 0..300), damaged]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn readers_answer(format in formats(), raw in bytes()) {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let _ = object::scan(format, &raw);
        let _ = object::labels(format, &raw);
        let _ = object::annotations(format, &raw);
        for path in ["metadata.name", "spec.nodeName", "spec.hostNetwork", "status.phase", "nonsense"] {
            let _ = object::field(&pods, format, &raw, path);
        }
        let edited = edit::with_resource_version(format, &raw, "12");
        if object::scan(format, &raw).is_ok() {
            let edited = edited.expect("what can be read can be edited");
            prop_assert_eq!(object::scan(format, &edited).unwrap().resource_version, "12");
        }
        let _ = edit::partial_metadata(format.encoding, &raw);
        let _ = watch::read_error(format.encoding, &raw);
        let body = Bytes::from(raw);
        if let Ok((_, items)) = list::split_list(format, &body) {
            prop_assert!(items.iter().map(Bytes::len).sum::<usize>() <= body.len());
        }
        let _ = list::split_document(format, &body);
    }

    #[test]
    fn decoders_answer(format in formats(), chunks in vec(bytes(), 0..4)) {
        let mut decoder = WatchDecoder::new(format, 256);
        for chunk in &chunks {
            decoder.push(chunk);
            while let Ok(Some(_)) = decoder.next() {}
            let _ = decoder.is_mid_frame();
        }
    }

    #[test]
    fn what_the_scanner_takes_for_json_serde_takes_too(text in arbitrary::json_value()) {
        let wrapped = format!("[{text}]");
        let found: Vec<_> = json::elements(wrapped.as_bytes()).unwrap().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(found, vec![text.as_bytes()]);
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = |levels: usize| format!("{{\"metadata\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
    json::member(deep(json::MAX_DEPTH).as_bytes(), "none").expect("as deep as allowed");
    let error = json::member(deep(json::MAX_DEPTH + 1).as_bytes(), "none").unwrap_err();
    assert_eq!(error.what, "nested too deeply");
    let endless = format!("{{\"metadata\":{}", "[".repeat(1_000_000));
    object::scan(Format::JSON, endless.as_bytes()).expect_err("no end");
}

#[test]
fn mismatched_brackets_and_loose_commas_are_not_json() {
    for text in [
        "{\"a\":[}",
        "{\"a\":[1}]}",
        "{\"a\":1,}",
        "{,\"a\":1}",
        "{\"a\" 1}",
        "{\"a\":1}x",
        "{\"a\":[1,]}",
        "{\"a\":tru}",
    ] {
        let all = json::members(text.as_bytes()).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        all.expect_err(text);
    }
}
