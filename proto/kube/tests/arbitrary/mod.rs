//! Generators of objects as servers may write them: fields nobody here knows, in any order, in both encodings.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proto_kube::wire;

/// Text that needs escapes, quotes and brackets in it, and other alphabets.
pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9.-]{0,12}", "[\\\\\"{}\\[\\],: \n\t]{0,8}", "\\PC{0,8}",]
}

/// The record of a field that no Kubernetes message here has.
pub(crate) fn unknown_field() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![50_u32..200, 70_000_u32..(1 << 29)];
    (number, 0..4, any::<u64>(), vec(any::<u8>(), 0..200)).prop_map(|(number, kind, bits, bytes)| {
        let mut out = Vec::new();
        let tag = u64::from(number) << 3;
        match kind {
            0 => wire::put_varint_field(&mut out, number, bits),
            1 => {
                wire::put_varint(&mut out, tag | 1);
                out.extend_from_slice(&bits.to_le_bytes());
            }
            2 => wire::put_bytes(&mut out, number, &bytes),
            _ => {
                wire::put_varint(&mut out, tag | 5);
                out.extend_from_slice(&bits.to_le_bytes()[..4]);
            }
        }
        out
    })
}

fn bytes_field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, value);
    out
}

/// A protobuf object: metadata {name, namespace, uid, maybe a resource version, labels, unknown} among other fields.
pub(crate) fn protobuf_object() -> impl Strategy<Value = Vec<u8>> {
    let labels = btree_map("[a-z]{1,6}", text(), 0..4);
    let meta =
        (text(), text(), text(), proptest::option::of("[0-9]{1,12}"), labels, vec(unknown_field(), 0..4));
    let meta = meta.prop_flat_map(|(name, namespace, uid, rv, labels, unknown)| {
        let mut records = unknown;
        records.push(bytes_field(1, name.as_bytes()));
        records.push(bytes_field(3, namespace.as_bytes()));
        records.push(bytes_field(5, uid.as_bytes()));
        records.extend(rv.map(|rv| bytes_field(6, rv.as_bytes())));
        for (key, value) in labels {
            records.push(bytes_field(
                11,
                &[bytes_field(1, key.as_bytes()), bytes_field(2, value.as_bytes())].concat(),
            ));
        }
        Just(records).prop_shuffle().prop_map(|records| records.concat())
    });
    (meta, vec(unknown_field(), 0..4)).prop_flat_map(|(meta, mut records)| {
        records.push(bytes_field(1, &meta));
        Just(records).prop_shuffle().prop_map(|records| records.concat())
    })
}

/// The text of any JSON value.
pub(crate) fn json_value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        (-1e9..1e9_f64).prop_map(|number| format!("{number:e}")),
        text().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" ,\n"))),
            vec((text(), inner), 0..4).prop_map(|members| {
                let members = members
                    .iter()
                    .map(|(key, value)| format!("{} : {value}", serde_json::to_string(key).unwrap()));
                format!("{{ {} }}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// A JSON object's inside after kind and apiVersion: metadata first, then members that nobody here knows.
pub(crate) fn json_members() -> impl Strategy<Value = String> {
    let meta = (text(), text(), proptest::option::of("[0-9]{1,12}"), vec(json_value(), 0..3));
    (meta, vec(json_value(), 0..3)).prop_map(|((name, namespace, rv, more), rest)| {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let mut meta =
            vec![format!("\"name\":{}", quoted(&name)), format!("\"namespace\": {}", quoted(&namespace))];
        meta.extend(rv.map(|rv| format!("\"resourceVersion\":\"{rv}\"")));
        meta.extend(more.iter().enumerate().map(|(index, value)| format!("\"x{index}\":{value}")));
        let mut members = vec![format!("\"metadata\":{{{}}}", meta.join(","))];
        members.extend(rest.iter().enumerate().map(|(index, value)| format!("\"y{index}\":{value}")));
        members.join(",")
    })
}

/// A JSON item as the hub keeps it: stripped, or whole as unstructured servers write it.
pub(crate) fn json_item() -> impl Strategy<Value = String> {
    (json_members(), any::<bool>()).prop_map(|(members, typed)| {
        if typed {
            format!("{{{members}}}")
        } else {
            format!("{{\"apiVersion\":\"example.org/v1\",\"kind\":\"Widget\",{members}}}")
        }
    })
}
