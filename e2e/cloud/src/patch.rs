//! Merge patch (RFC 7396), JSON patch (RFC 6902) and the part of strategic merge that kubelet and kubectl use.

use serde_json::{Map, Value};

use crate::status::Status;

/// Apply a patch of the given `Content-Type`.
///
/// # Errors
/// 400 for a patch that cannot be read, 415 for an unknown type, 422 for one that does not fit.
pub(crate) fn apply(object: &Value, content_type: &str, patch: &[u8]) -> Result<Value, Status> {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let parse = || {
        let what = if kind == "application/apply-patch+yaml" { "YAML" } else { "patch" };
        serde_json::from_slice::<Value>(patch)
            .map_err(|e| Status::bad_request(format!("error decoding {what}: {e}")))
    };
    let mut result = object.clone();
    match kind {
        "application/merge-patch+json" => merge(&mut result, &parse()?),
        "application/strategic-merge-patch+json" => strategic(&mut result, &parse()?, ""),
        // Field ownership is not kept: an applied configuration is merged over what is there. YAML
        // bodies that are JSON are understood, as client libraries send them.
        "application/apply-patch+yaml" => {
            let configuration = parse()?;
            if configuration["kind"].is_null() {
                return Err(Status::bad_request("invalid object type: /, Kind="));
            }
            strategic(&mut result, &configuration, "");
        }
        "application/json-patch+json" => json_patch(&mut result, &parse()?)?,
        _ => return Err(Status::no_such_body()),
    }
    Ok(result)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let object = target.as_object_mut().expect("made an object above");
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Lists that strategic merge joins by key instead of replacing them.
fn merge_key(list: &str) -> Option<&'static str> {
    Some(match list {
        "conditions" | "addresses" => "type",
        "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets" => {
            "name"
        }
        "volumeMounts" => "mountPath",
        "ownerReferences" => "uid",
        "ports" => "port",
        "podIPs" | "hostIPs" => "ip",
        _ => return None,
    })
}

fn strategic(target: &mut Value, patch: &Value, name: &str) {
    match patch {
        Value::Object(patch) => strategic_object(target, patch),
        Value::Array(items) => strategic_list(target, items, name),
        _ => *target = patch.clone(),
    }
}

fn strategic_object(target: &mut Value, patch: &Map<String, Value>) {
    if patch.get("$patch").is_some_and(|d| d == "replace") || !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let object = target.as_object_mut().expect("an object, or made one above");
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(kept), Some(gone)) =
                (object.get_mut(list).and_then(Value::as_array_mut), value.as_array())
            {
                kept.retain(|item| !gone.contains(item));
            }
        } else if key.starts_with('$') {
            // `$setElementOrder/...` is looked at below; `$retainKeys` prunes what tests do not depend on.
        } else if value.is_null() {
            object.remove(key);
        } else {
            let before = object.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
            strategic(object.entry(key.clone()).or_insert(Value::Null), value, key);
            let order = patch.get(&format!("$setElementOrder/{key}")).unwrap_or(value);
            if let (Some(items), Some(order), true) =
                (object.get_mut(key).and_then(Value::as_array_mut), order.as_array(), is_merged(key))
            {
                *items = ordered(std::mem::take(items), order, &before, merge_key(key));
            }
        }
    }
}

fn is_merged(list: &str) -> bool {
    list == "finalizers" || merge_key(list).is_some()
}

/// The order of a merged list: that of the patch for what the patch names; what only the server has stands as far in
/// front as it did.
fn ordered(items: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let same = |one: &Value, other: &Value| key.map_or(one == other, |key| one[key] == other[key]);
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item));
    let (mut named, mut kept): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    let (mut named, mut kept) = (named.drain(..).peekable(), kept.drain(..).peekable());
    let mut result = Vec::new();
    loop {
        let first = match (kept.peek(), named.peek()) {
            (None, _) => named.next(),
            (_, None) => kept.next(),
            (Some(one), Some(other)) => match (place(before, one), place(before, other)) {
                (Some(one), Some(other)) if one < other => kept.next(),
                _ => named.next(),
            },
        };
        match first {
            Some(item) => result.push(item),
            None => return result,
        }
    }
}

fn strategic_list(target: &mut Value, items: &[Value], name: &str) {
    let replace = items.iter().any(|i| i.get("$patch").is_some_and(|d| d == "replace"));
    let plain = || items.iter().filter(|i| i.get("$patch").is_none()).cloned().collect();
    if name == "finalizers" && !replace {
        let mut merged = target.as_array().cloned().unwrap_or_default();
        merged.extend(items.iter().filter(|i| !target.as_array().is_some_and(|t| t.contains(i))).cloned());
        *target = Value::Array(merged);
        return;
    }
    let Some(key) = merge_key(name).filter(|_| !replace) else {
        *target = Value::Array(plain());
        return;
    };
    let mut merged = target.as_array().cloned().unwrap_or_default();
    for item in items {
        let place = merged.iter().position(|m| m[key] == item[key]);
        match (place, item.get("$patch").and_then(Value::as_str)) {
            (Some(at), Some("delete")) => {
                merged.remove(at);
            }
            (None, Some("delete")) => {}
            (Some(at), _) => strategic(&mut merged[at], item, ""),
            (None, _) => {
                let mut fresh = Value::Null;
                strategic(&mut fresh, item, "");
                merged.push(fresh);
            }
        }
    }
    *target = Value::Array(merged);
}

fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Status> {
    let operations = patch
        .as_array()
        .ok_or_else(|| Status::bad_request("error decoding patch: a JSON patch is a list of operations"))?;
    for operation in operations {
        let path = operation["path"].as_str().ok_or_else(Status::unfitting_patch)?;
        let from = operation["from"].as_str().unwrap_or_default();
        match operation["op"].as_str().unwrap_or_default() {
            "add" => add(target, path, operation["value"].clone()),
            "remove" => remove(target, path).map(|_| ()),
            "replace" => remove(target, path).and_then(|_| add(target, path, operation["value"].clone())),
            "move" => remove(target, from).and_then(|value| add(target, path, value)),
            "copy" => target.pointer(from).cloned().and_then(|value| add(target, path, value)),
            "test" => (target.pointer(path) == Some(&operation["value"])).then_some(()),
            _ => None,
        }
        .ok_or_else(Status::unfitting_patch)?;
    }
    Ok(())
}

fn split(pointer: &str) -> Option<(&str, String)> {
    let (parent, last) = pointer.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, pointer: &str, value: Value) -> Option<()> {
    if pointer.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = split(pointer)?;
    match target.pointer_mut(parent)? {
        Value::Object(object) => {
            object.insert(last, value);
        }
        Value::Array(list) => {
            let at =
                if last == "-" { list.len() } else { last.parse().ok().filter(|at| *at <= list.len())? };
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, pointer: &str) -> Option<Value> {
    let (parent, last) = split(pointer)?;
    match target.pointer_mut(parent)? {
        Value::Object(object) => object.remove(&last),
        Value::Array(list) => {
            let at = last.parse().ok().filter(|at: &usize| *at < list.len())?;
            Some(list.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(kind: &str, object: &Value, patch: &Value) -> Value {
        apply(object, &format!("application/{kind}"), patch.to_string().as_bytes()).expect("the patch fits")
    }

    #[test]
    fn conditions_are_merged_by_type() {
        let node = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "R"}, {"type": "Disk"}]}});
        let patch = json!({"status": {
            "$setElementOrder/conditions": [{"type": "Ready"}],
            "conditions": [{"type": "Ready", "status": "Unknown"}, {"type": "Disk", "$patch": "delete"}, {"type": "New"}],
        }});
        let expected = json!([{"type": "Ready", "status": "Unknown", "reason": "R"}, {"type": "New"}]);
        assert_eq!(patched("strategic-merge-patch+json", &node, &patch)["status"]["conditions"], expected);
    }

    #[test]
    fn a_merged_list_has_the_order_of_the_patch() {
        let object = json!({"metadata": {"finalizers": ["a"]}});
        let patch = json!({"metadata": {"finalizers": ["b"]}});
        let merged = patched("strategic-merge-patch+json", &object, &patch);
        assert_eq!(merged["metadata"]["finalizers"], json!(["b", "a"]));
        let node = json!({"conditions": [{"type": "x"}, {"type": "y"}, {"type": "z"}]});
        let patch = json!({"$setElementOrder/conditions": [{"type": "z"}, {"type": "y"}], "conditions": [{"type": "z", "s": 1}]});
        let merged = patched("strategic-merge-patch+json", &node, &patch);
        assert_eq!(merged["conditions"], json!([{"type": "x"}, {"type": "z", "s": 1}, {"type": "y"}]));
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_removes_nulls() {
        let object = json!({"a": [1, 2], "b": 1, "c": {"d": 1}});
        let merged = patched("merge-patch+json", &object, &json!({"a": [3], "b": null, "c": {"e": 2}}));
        assert_eq!(merged, json!({"a": [3], "c": {"d": 1, "e": 2}}));
    }

    #[test]
    fn a_json_patch_is_followed_step_by_step() {
        let object = json!({"metadata": {"labels": {"a/b": "1"}}, "list": [1, 3]});
        let patch = json!([
            {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
            {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
            {"op": "add", "path": "/list/1", "value": 2},
            {"op": "remove", "path": "/list/0"},
        ]);
        let expected = json!({"metadata": {"labels": {"a/b": "2"}}, "list": [2, 3]});
        assert_eq!(patched("json-patch+json", &object, &patch), expected);
        let failing = json!([{"op": "test", "path": "/list", "value": 0}]);
        let refused = apply(&object, "application/json-patch+json", failing.to_string().as_bytes());
        assert_eq!(refused.unwrap_err().code, 422);
    }
}
