//! PATCH: merge, strategic merge, JSON patch and server-side apply.

use serde_json::{Value, json};

use super::objects::{below, config_map, config_map_path};
use crate::step::{Act, NO_JSON, Step, apply, get, json_patch, merge, post, strategic};

fn json_patches(path: &str) -> Vec<Act> {
    let operation = |op: &str, place: &str, value: Value| json!([{"op": op, "path": place, "value": value}]);
    vec![
        json_patch(path, &operation("add", "/data/added", "1".into())).into(),
        json_patch(path, &operation("replace", "/data/added", "2".into())).into(),
        json_patch(path, &operation("test", "/data/added", "2".into())).into(),
        json_patch(path, &operation("test", "/data/added", "3".into())).into(),
        json_patch(path, &json!([{"op": "remove", "path": "/data/added"}])).into(),
        json_patch(path, &json!([{"op": "remove", "path": "/data/added"}])).into(),
        json_patch(path, &json!([{"op": "move", "from": "/data/v", "path": "/data/w"}])).into(),
        json_patch(path, &json!([{"op": "copy", "from": "/data/w", "path": "/data/v"}])).into(),
        json_patch(path, &operation("add", "/metadata/labels", json!({"a~b": "1"}))).into(),
        json_patch(path, &operation("add", "/metadata/labels", json!({"a": "1"}))).into(),
        json_patch(path, &operation("add", "/metadata/annotations", json!({"x/y": "1"}))).into(),
        json_patch(path, &operation("replace", "/metadata/annotations/x~1y", "2".into())).into(),
        json_patch(path, &operation("replace", "/metadata/name", "other".into())).into(),
        json_patch(path, &json!({"op": "add"})).note(NO_JSON).into(),
        json_patch(path, &json!([{"op": "nonsense", "path": "/data"}])).into(),
        json_patch(path, &json!([])).into(),
    ]
}

fn strategic_patches(path: &str) -> Vec<Act> {
    vec![
        strategic(path, &json!({"data": {"s": "1"}})).into(),
        strategic(path, &json!({"data": {"s": null}})).into(),
        strategic(path, &json!({"metadata": {"finalizers": ["script.eyot.io/a"]}})).into(),
        strategic(path, &json!({"metadata": {"finalizers": ["script.eyot.io/b"]}})).into(),
        strategic(path, &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["script.eyot.io/a"]}}))
            .into(),
        strategic(path, &json!({"metadata": {"finalizers": null}})).into(),
        strategic(path, &json!({"data": {"$patch": "replace", "only": "1"}})).into(),
        strategic(
            path,
            &json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
            "name": "owner", "uid": "0c8a31c6-6a4f-4d0e-9d5e-00000000000a"}]}}),
        )
        .into(),
        strategic(
            path,
            &json!({"metadata": {"ownerReferences": [{"uid": "0c8a31c6-6a4f-4d0e-9d5e-00000000000a",
            "$patch": "delete"}]}}),
        )
        .into(),
        strategic(path, &json!({"metadata": {"resourceVersion": "1"}, "data": {"s": "2"}})).into(),
        strategic(path, &json!({"metadata": {"uid": "0c8a31c6-6a4f-4d0e-9d5e-00000000000a"}})).into(),
    ]
}

fn applies() -> Vec<Act> {
    let path = config_map_path("applied");
    let options = "fieldManager=script&force=true";
    vec![
        apply(format!("{path}?{options}"), &config_map("applied", "1")).into(),
        apply(format!("{path}?{options}"), &config_map("applied", "1")).into(),
        apply(format!("{path}?{options}"), &config_map("applied", "2")).into(),
        apply(&path, &config_map("applied", "3")).into(),
        apply(format!("{path}?{options}"), &config_map("other", "3")).into(),
        apply(format!("{path}?{options}"), &json!({"metadata": {"name": "applied"}})).into(),
        apply(format!("{path}?{options}&dryRun=All"), &config_map("applied", "4")).into(),
        get(&path).into(),
        Step::new("PATCH", format!("{path}?{options}"))
            .raw("application/apply-patch+yaml", "{ not yaml")
            .note(NO_JSON)
            .into(),
    ]
}

pub(super) fn acts() -> Vec<Act> {
    let path = config_map_path("patched");
    let mut acts: Vec<Act> = vec![
        post(below("configmaps"), &config_map("patched", "1")).into(),
        merge(&path, &json!({"data": {"m": "1"}})).into(),
        merge(&path, &json!({"data": {"m": "1"}})).into(),
        merge(&path, &json!({"data": {"m": null}})).into(),
        merge(&path, &json!({"metadata": {"labels": {"a": "1", "b": "2"}}})).into(),
        merge(&path, &json!({"metadata": {"labels": {"a": null}}})).into(),
        merge(&path, &json!({"metadata": {"labels": null, "annotations": {"k": "v"}}})).into(),
        merge(&path, &json!({})).into(),
        merge(&path, &json!({"metadata": {"resourceVersion": "1"}, "data": {"m": "2"}})).into(),
        merge(&path, &json!({"metadata": {"uid": "0c8a31c6-6a4f-4d0e-9d5e-00000000000a"}})).into(),
        merge(&path, &json!({"metadata": {"name": "other"}})).into(),
        merge(&path, &json!({"metadata": {"namespace": "default"}})).into(),
        merge(config_map_path("absent"), &json!({"data": {"m": "1"}})).into(),
        merge(format!("{path}?dryRun=All"), &json!({"data": {"dry": "1"}})).into(),
        get(&path).into(),
        Step::new("PATCH", &path).raw("application/merge-patch+json", "{ not json").note(NO_JSON).into(),
        Step::new("PATCH", &path).raw("application/json", "{}").into(),
        Step::new("PATCH", &path).raw("text/plain", "nonsense").into(),
        merge(below("configmaps"), &json!({})).into(),
    ];
    acts.extend(json_patches(&path));
    acts.extend(strategic_patches(&path));
    acts.extend(applies());
    acts
}
