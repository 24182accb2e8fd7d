//! A reader of Kubernetes protobuf for the transcript: documents and watch frames become JSON with the names of the
//! fields that it knows. It is a third one, beside the hub's and the model's, on purpose.
//!
//! It knows object metadata whole and of each kind the fields that the model writes; others are left out.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How a field's bytes are to be read.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Texts,
    Number,
    Flag,
    Time,
    TextMap,
    ByteMap,
    Part(Schema),
    Parts(Schema),
}

use Shape::{ByteMap, Flag, Number, Part, Parts, Text, TextMap, Texts, Time};

/// Number, name and shape of the fields of a message.
type Schema = &'static [(u64, &'static str, Shape)];

const OWNER: Schema = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Flag),
    (7, "blockOwnerDeletion", Flag),
];
const OBJECT_META: Schema = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (4, "selfLink", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Number),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", Number),
    (11, "labels", TextMap),
    (12, "annotations", TextMap),
    (13, "ownerReferences", Parts(OWNER)),
    (14, "finalizers", Texts),
];
const LIST_META: Schema =
    &[(2, "resourceVersion", Text), (3, "continue", Text), (4, "remainingItemCount", Number)];
const CAUSE: Schema = &[(1, "reason", Text), (2, "message", Text), (3, "field", Text)];
const DETAILS: Schema = &[
    (1, "name", Text),
    (2, "group", Text),
    (3, "kind", Text),
    (4, "causes", Parts(CAUSE)),
    (5, "retryAfterSeconds", Number),
    (6, "uid", Text),
];
const STATUS: Schema = &[
    (1, "metadata", Part(LIST_META)),
    (2, "status", Text),
    (3, "message", Text),
    (4, "reason", Text),
    (5, "details", Part(DETAILS)),
    (6, "code", Number),
];
const CONFIG_MAP: Schema = &[(1, "metadata", Part(OBJECT_META)), (2, "data", TextMap)];
const SECRET: Schema = &[(1, "metadata", Part(OBJECT_META)), (2, "data", ByteMap), (3, "type", Text)];
const LEASE_SPEC: Schema =
    &[(1, "holderIdentity", Text), (2, "leaseDurationSeconds", Number), (4, "renewTime", Time)];
const LEASE: Schema = &[(1, "metadata", Part(OBJECT_META)), (2, "spec", Part(LEASE_SPEC))];
const POD_SPEC: Schema = &[
    (3, "restartPolicy", Text),
    (8, "serviceAccountName", Text),
    (10, "nodeName", Text),
    (11, "hostNetwork", Flag),
    (19, "schedulerName", Text),
];
const POD_STATUS: Schema = &[(1, "phase", Text), (6, "podIP", Text)];
const POD: Schema =
    &[(1, "metadata", Part(OBJECT_META)), (2, "spec", Part(POD_SPEC)), (3, "status", Part(POD_STATUS))];
const NODE_SPEC: Schema = &[(1, "podCIDR", Text), (4, "unschedulable", Flag)];
const NODE: Schema = &[(1, "metadata", Part(OBJECT_META)), (2, "spec", Part(NODE_SPEC))];
const NAMESPACE_STATUS: Schema = &[(1, "phase", Text)];
const NAMESPACE: Schema = &[(1, "metadata", Part(OBJECT_META)), (3, "status", Part(NAMESPACE_STATUS))];
const METADATA_ONLY: Schema = &[(1, "metadata", Part(OBJECT_META))];
const WATCH_EVENT: Schema = &[(1, "type", Text), (2, "object", Part(&[]))];

fn schema(kind: &str) -> Schema {
    match kind {
        "Status" => STATUS,
        "ConfigMap" => CONFIG_MAP,
        "Secret" => SECRET,
        "Lease" => LEASE,
        "Pod" => POD,
        "Node" => NODE,
        "Namespace" => NAMESPACE,
        _ => METADATA_ONLY,
    }
}

/// A varint at the start of `bytes` and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let value = bytes[..=end].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, &bytes[end + 1..]))
}

/// The fields of a message: number, number value, bytes. Kubernetes uses wire types 0 and 2 here.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, u64, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (key, rest) = varint(bytes)?;
        let (value, rest) = varint(rest)?;
        bytes = match key & 7 {
            0 => {
                found.push((key >> 3, value, &[][..]));
                rest
            }
            2 => {
                let length = usize::try_from(value).ok().filter(|length| *length <= rest.len())?;
                found.push((key >> 3, value, &rest[..length]));
                &rest[length..]
            }
            _ => return None,
        };
    }
    Some(found)
}

fn message(bytes: &[u8], schema: Schema) -> Option<Value> {
    let mut object = Map::new();
    for (number, value, raw) in fields(bytes)? {
        let Some((_, name, shape)) = schema.iter().find(|(known, _, _)| *known == number) else { continue };
        read(&mut object, name, *shape, value, raw)?;
    }
    Some(object.into())
}

fn read(object: &mut Map<String, Value>, name: &str, shape: Shape, value: u64, raw: &[u8]) -> Option<()> {
    let text = || std::str::from_utf8(raw).ok().map(str::to_owned);
    let mut push = |item: Value| {
        let list = object.entry(name).or_insert_with(|| json!([]));
        list.as_array_mut().expect("only lists stand here").push(item);
    };
    let single: Value = match shape {
        Texts => {
            push(text()?.into());
            return Some(());
        }
        Parts(schema) => {
            push(message(raw, schema)?);
            return Some(());
        }
        TextMap | ByteMap => {
            let entry = fields(raw)?;
            let part = |number| entry.iter().find(|(known, _, _)| *known == number).map_or(&[][..], |f| f.2);
            let key = String::from_utf8(part(1).to_vec()).ok()?;
            let value = match shape {
                TextMap => String::from_utf8(part(2).to_vec()).ok()?,
                _ => STANDARD.encode(part(2)),
            };
            object.entry(name).or_insert_with(|| json!({}))[key] = value.into();
            return Some(());
        }
        Text => text()?.into(),
        Number => value.into(),
        Flag => (value == 1).into(),
        Time => {
            let part = fields(raw)?;
            let seconds = part.iter().find(|(number, _, _)| *number == 1).map_or(0, |field| field.1);
            let time = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
            time.format(&Rfc3339).ok()?.into()
        }
        Part(schema) => message(raw, schema)?,
    };
    // Go writes plain strings and parts even when they are empty; JSON leaves those out.
    let empty = single == "" || single == json!({}) || matches!(shape, Number) && single == 0;
    if !empty || shape_is_code(name) {
        object.insert(name.to_owned(), single);
    }
    Some(())
}

/// A code of 0 says that there is none, which JSON would show as well.
fn shape_is_code(name: &str) -> bool {
    name == "code"
}

/// A document that begins with `k8s\0`, as JSON.
pub(crate) fn document(bytes: &[u8]) -> Option<Value> {
    let outer = fields(bytes.strip_prefix(b"k8s\0")?)?;
    let part = |number| outer.iter().find(|(known, _, _)| *known == number).map_or(&[][..], |field| field.2);
    let kind = message(part(1), &[(1, "apiVersion", Text), (2, "kind", Text)])?;
    let name = kind["kind"].as_str().unwrap_or_default();
    let mut object = match name.strip_suffix("List") {
        Some(item) => {
            let mut list = json!({"metadata": {}, "items": []});
            for (number, _, raw) in fields(part(2))? {
                match number {
                    1 => list["metadata"] = message(raw, LIST_META)?,
                    2 => list["items"].as_array_mut().expect("made above").push(message(raw, schema(item))?),
                    _ => {}
                }
            }
            list
        }
        None => message(part(2), schema(name))?,
    };
    for (key, value) in kind.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    Some(object)
}

/// The first whole watch frame of `bytes` (length, then an event) with its length.
pub(crate) fn frame(bytes: &[u8]) -> Option<(Value, usize)> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let event = bytes.get(4..4 + length)?;
    let mut read = message(event, WATCH_EVENT)?;
    let object = fields(event)?.into_iter().find(|field| field.0 == 2)?.2;
    let raw = fields(object)?.into_iter().find(|field| field.0 == 1)?.2;
    read["object"] = document(raw)?;
    Some((read, 4 + length))
}
