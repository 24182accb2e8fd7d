//! Objects written once and rendered in both encodings.
#![allow(dead_code, reason = "each test file uses its own part")]

use bytes::Bytes;
use edge_hub_core::collection::Object;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::{ObjectKey, scan};
use proto_kube::wire;
use serde_json::{Map, Value};

/// A value with its place in both encodings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    Text(String),
    Number(u64),
    Bool(bool),
    List(Vec<Tree>),
    Strings(Vec<(String, String)>),
    Message(Vec<(u32, &'static str, Tree)>),
}

pub(crate) fn text(text: &str) -> Tree {
    Tree::Text(text.to_owned())
}

pub(crate) fn message<const N: usize>(fields: [(u32, &'static str, Tree); N]) -> Tree {
    Tree::Message(fields.into())
}

pub(crate) fn strings(pairs: &[(&str, &str)]) -> Tree {
    Tree::Strings(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

/// `metadata` as every object begins.
pub(crate) fn metadata(
    namespace: &str,
    name: &str,
    version: u64,
    labels: &[(&str, &str)],
    annotations: &[(&str, &str)],
) -> (u32, &'static str, Tree) {
    let fields = [
        (1, "name", text(name)),
        (3, "namespace", text(namespace)),
        (5, "uid", text(&format!("{namespace}-{name}"))),
        (6, "resourceVersion", text(&version.to_string())),
        (11, "labels", strings(labels)),
        (12, "annotations", strings(annotations)),
    ];
    (1, "metadata", message(fields))
}

impl Tree {
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
            Self::Bool(flag) => (*flag).into(),
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Strings(pairs) => {
                pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
            }
            Self::Message(fields) => {
                let fields = fields.iter().map(|(_, name, value)| ((*name).to_owned(), value.json()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    fn put(&self, out: &mut Vec<u8>, number: u32) {
        match self {
            Self::Text(text) => wire::put_bytes(out, number, text.as_bytes()),
            Self::Number(value) => wire::put_varint_field(out, number, *value),
            Self::Bool(flag) => wire::put_varint_field(out, number, u64::from(*flag)),
            Self::List(items) => items.iter().for_each(|item| item.put(out, number)),
            Self::Strings(pairs) => {
                for (key, value) in pairs {
                    let entry = message([(1, "", text(key)), (2, "", text(value))]);
                    entry.put(out, number);
                }
            }
            Self::Message(_) => wire::put_bytes(out, number, &self.protobuf()),
        }
    }

    pub(crate) fn protobuf(&self) -> Vec<u8> {
        let Self::Message(fields) = self else { panic!("only a message stands alone") };
        let mut out = Vec::new();
        fields.iter().for_each(|(number, _, value)| value.put(&mut out, *number));
        out
    }

    pub(crate) fn raw(&self, encoding: Encoding) -> Bytes {
        match encoding {
            Encoding::Json => self.json().to_string().into(),
            Encoding::Protobuf => self.protobuf().into(),
        }
    }

    /// The object of a collection in this format.
    pub(crate) fn object(&self, format: Format) -> Object {
        let raw = self.raw(format.encoding);
        let meta = scan(format, &raw).expect("a good object");
        let key: ObjectKey = meta.key();
        let resource_version = meta.resource_version.parse().expect("a number");
        Object { key, uid: meta.uid.as_ref().into(), resource_version, raw: raw.clone() }
    }
}

/// Whether bytes are this object; JSON is compared by value, and a null says nothing.
pub(crate) fn is_same(encoding: Encoding, raw: &[u8], tree: &Tree) -> bool {
    match encoding {
        Encoding::Json => without_nulls(serde_json::from_slice(raw).expect("JSON")) == tree.json(),
        Encoding::Protobuf => raw == tree.protobuf(),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let told = members.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(told.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(elements) => elements.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
