//! Whatever the bytes of an object, they become one JSON object within the bound, or an error.

mod arbitrary;

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proto_kube::descriptor::Descriptor;
use proto_kube::json;
use proto_kube::media_type::Format;
use proto_kube::object::{TypeMeta, scan};
use proto_kube::transcode::{MAX_DEPTH, TranscodeError, to_json};
use proto_kube::wire::{put_bytes, put_varint_field};
use serde_json::Value;

const MAX_BYTES: usize = 20_000;
const CRD: (&str, &str) = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");

/// Kinds with every shape of message in them.
fn kinds() -> impl Strategy<Value = TypeMeta> {
    let kinds = [
        ("v1", "Pod"),
        ("v1", "Service"),
        ("v1", "Secret"),
        ("v1", "Event"),
        ("v1", "Status"),
        ("apps/v1", "ControllerRevision"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("authorization.k8s.io/v1", "SubjectAccessReview"),
        ("coordination.k8s.io/v1", "Lease"),
        ("resource.k8s.io/v1", "ResourceSlice"),
        CRD,
    ];
    prop::sample::select(kinds.to_vec()).prop_map(|(api_version, kind)| TypeMeta::new(api_version, kind))
}

/// Messages of small field numbers in one another, some of whose values are text, numbers or noise.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        vec(any::<u8>(), 0..8),
        "[a-z\\PC{}\"]{0,8}".prop_map(String::into_bytes),
        Just(Vec::new()),
        arbitrary::protobuf_object(),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        vec((1_u32..24, any::<u64>(), 0..4, inner), 0..6).prop_map(|fields| {
            let mut out = Vec::new();
            for (number, bits, kind, value) in fields {
                match kind {
                    0 => put_varint_field(&mut out, number, bits % 4),
                    1 => put_varint_field(&mut out, number, bits),
                    _ => put_bytes(&mut out, number, &value),
                }
            }
            out
        })
    })
}

/// No name stands twice in any object, which serde would not tell.
fn assert_names_are_unique(text: &[u8]) {
    match text.trim_ascii().first() {
        Some(b'{') => {
            let mut names = BTreeSet::new();
            for member in json::members(text).expect("an object") {
                let (name, value) = member.expect("a member");
                assert!(names.insert(name.into_owned()), "a name stands twice");
                assert_names_are_unique(value);
            }
        }
        Some(b'[') => {
            for element in json::elements(text).expect("an array") {
                assert_names_are_unique(element.expect("an element"));
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_message_is_json_or_refused(kind in kinds(), raw in message()) {
        if let Ok(text) = to_json(&kind, &raw, MAX_BYTES) {
            let value: Value = serde_json::from_slice(&text).expect("JSON");
            prop_assert!(value.is_object());
            assert_names_are_unique(&text);
        }
    }

    #[test]
    fn json_inside_comes_out_as_it_is(text in prop_oneof![arbitrary::json_value(), arbitrary::json_item()]) {
        let (mut extension, mut revision) = (Vec::new(), Vec::new());
        put_bytes(&mut extension, 1, text.as_bytes());
        put_bytes(&mut revision, 2, &extension);
        let made = to_json(&TypeMeta::new("apps/v1", "ControllerRevision"), &revision, 1 << 20).expect("JSON");
        prop_assert_eq!(json::member(&made, "data"), Ok(Some(text.as_bytes())));
    }

    #[test]
    fn what_nobody_knows_changes_nothing(object in arbitrary::protobuf_object()) {
        let kind = TypeMeta::new("v1", "ConfigMap");
        let text = to_json(&kind, &object, 1 << 20).expect("a good object");
        let meta = scan(Format::PROTOBUF, &object).expect("metadata");
        prop_assert_eq!(scan(Format::JSON, &text).expect("metadata"), meta);
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        prop_assert_eq!(value.as_object().expect("an object").keys().collect::<Vec<_>>(), ["metadata"]);
    }
}

/// A definition whose schema holds `levels` schemas in one another (`not`).
fn nested_schema(levels: usize) -> Vec<u8> {
    let wrap = |number: u32, inner: &[u8]| {
        let mut out = Vec::new();
        put_bytes(&mut out, number, inner);
        out
    };
    let schema = (0..levels).fold(Vec::new(), |inner, _| wrap(28, &inner));
    // spec 2, versions 7, schema 4, openAPIV3Schema 1
    [2, 7, 4, 1].iter().rev().fold(schema, |inner, number| wrap(*number, &inner))
}

#[test]
fn nesting_is_bounded() {
    let kind = TypeMeta::new(CRD.0, CRD.1);
    to_json(&kind, &nested_schema(MAX_DEPTH - 5), 1 << 20).expect("as deep as allowed");
    assert_eq!(to_json(&kind, &nested_schema(MAX_DEPTH - 4), 1 << 20), Err(TranscodeError::TooDeep));
}

#[test]
fn a_short_message_of_many_zero_values_is_bounded() {
    // Two bytes for each empty rule become `{"verbs":null}`.
    let kind = TypeMeta::new("rbac.authorization.k8s.io/v1", "Role");
    let raw = [0x12, 0].repeat(100_000);
    assert_eq!(to_json(&kind, &raw, 1 << 20), Err(TranscodeError::TooLong(1 << 20)));
}

#[test]
fn a_kind_of_nobody_is_named() {
    let error = to_json(&TypeMeta::new("example.org/v1", "Widget"), b"", 100).expect_err("unknown");
    assert_eq!(error.to_string(), "objects of type Widget in example.org/v1 cannot be read here");
}

#[test]
fn the_table_is_small() {
    let bytes = Descriptor::kubernetes().heap_bytes();
    println!("the table of the Kubernetes API takes {bytes} bytes on the heap");
    assert!(bytes <= 256 << 10, "{bytes} bytes");
}
