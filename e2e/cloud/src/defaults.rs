//! What the server adds to a new object, as far as tests see it. Specs are stored as they come.

use serde_json::{Value, json};

use crate::resource::ResourceKind;

/// For every object that is created, by whomever.
pub(crate) fn fill(kind: &ResourceKind, object: &mut Value) {
    match kind.kind.as_str() {
        "Namespace" => {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
        }
        "Secret" => encode_strings(object),
        _ => {}
    }
}

/// `stringData` is how a client may write `data`; it is never stored.
pub(crate) fn encode_strings(secret: &mut Value) {
    use base64::Engine as _;
    let Some(Value::Object(plain)) = secret.as_object_mut().and_then(|o| o.remove("stringData")) else {
        return;
    };
    for (key, value) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        secret["data"][key] = encoded.into();
    }
    if secret["type"].is_null() {
        secret["type"] = "Opaque".into();
    }
}

/// A client cannot create an object with a status or managers of its own choice; a test past the wire can.
pub(crate) fn reset(kind: &ResourceKind, object: &mut Value) {
    if let Some(meta) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    // A kubelet registers its Node with the status that it has.
    if !kind.status || kind.kind == "Node" {
        return;
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    if kind.kind == "Pod" {
        object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
    }
}

/// What Go's types do to what is stored: empty maps and lists of metadata, ConfigMaps and Secrets are left out, and the
/// probe time of a pod's condition is null when there is none.
pub(crate) fn prune(object: &mut Value) {
    if object["kind"] == "Pod" {
        let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
            condition.entry("lastProbeTime").or_insert(Value::Null);
        }
    }
    let empty = |value: &Value| {
        value.is_null()
            || value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
    };
    for (place, members) in [
        ("/metadata", &["labels", "annotations", "finalizers", "ownerReferences"][..]),
        ("", &["data", "binaryData"][..]),
    ] {
        let Some(Value::Object(map)) = object.pointer_mut(place) else { continue };
        for member in members {
            if map.get(*member).is_some_and(empty) {
                map.remove(*member);
            }
        }
    }
}
