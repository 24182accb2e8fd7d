//! DELETE: preconditions, finalizers, and whole collections.

use serde_json::{Value, json};

use super::objects::{below, config_map, config_map_path, labelled};
use crate::step::{Act, NO_JSON, delete, get, merge, post, put};

fn options(member: &str, value: Value) -> Value {
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    options[member] = value;
    options
}

fn finalizers() -> Vec<Act> {
    let path = config_map_path("held");
    let mut held = config_map("held", "1");
    held["metadata"]["finalizers"] = json!(["script.eyot.io/a", "script.eyot.io/b"]);
    vec![
        post(below("configmaps"), &held).into(),
        delete(&path).into(),
        delete(&path).into(),
        get(&path).save("held-version", "/metadata/resourceVersion").into(),
        put(&path, &{
            let mut changed = held.clone();
            changed["data"] = json!({"v": "2"});
            changed
        })
        .into(),
        // Who is on its way out takes no new finalizer.
        merge(&path, &json!({"metadata": {"finalizers": ["script.eyot.io/a", "script.eyot.io/c"]}})).into(),
        merge(&path, &json!({"metadata": {"finalizers": ["script.eyot.io/a"]}})).into(),
        post(below("configmaps"), &config_map("held", "1")).into(),
        merge(&path, &json!({"metadata": {"finalizers": null}})).into(),
        get(&path).into(),
    ]
}

fn collections() -> Vec<Act> {
    let path = below("configmaps");
    let mut acts: Vec<Act> = Vec::new();
    for (name, group) in [("goes-1", "going"), ("goes-2", "going"), ("stays-1", "staying")] {
        acts.push(post(&path, &labelled(name, group)).into());
    }
    acts.extend([
        delete(format!("{path}?labelSelector=group%3Dgoing&dryRun=All")).into(),
        delete(format!("{path}?labelSelector=group%3Dgoing")).into(),
        delete(format!("{path}?labelSelector=group%3Dgoing")).into(),
        get(format!("{path}?labelSelector=group")).into(),
        delete(format!("{path}?fieldSelector=metadata.name%3Dstays-1")).into(),
        delete("/api/v1/namespaces/script-empty/configmaps").into(),
        delete("/api/v1/configmaps").into(),
        delete("/api/v1/namespaces?labelSelector=none").into(),
        delete(format!("{path}?fieldSelector=spec.nonsense%3D1")).into(),
    ]);
    acts
}

pub(super) fn acts() -> Vec<Act> {
    let path = config_map_path("gone");
    let create = || post(below("configmaps"), &config_map("gone", "1"));
    let stranger = "0c8a31c6-6a4f-4d0e-9d5e-00000000000a";
    let mut acts: Vec<Act> = vec![
        create().save("gone-uid", "/metadata/uid").save("gone-version", "/metadata/resourceVersion").into(),
        delete(format!("{path}?dryRun=All")).into(),
        delete(&path).body(&options("preconditions", json!({"uid": stranger}))).into(),
        delete(&path).body(&options("preconditions", json!({"resourceVersion": "1"}))).into(),
        delete(&path).body(&options("preconditions", json!({"uid": "${gone-uid}"}))).into(),
        get(&path).into(),
        delete(&path).into(),
        create().save("gone-version", "/metadata/resourceVersion").into(),
        delete(&path).body(&options("preconditions", json!({"resourceVersion": "${gone-version}"}))).into(),
        create().into(),
        delete(&path).body(&options("gracePeriodSeconds", 0.into())).into(),
        create().into(),
        delete(format!("{path}?gracePeriodSeconds=5&propagationPolicy=Background")).into(),
        create().into(),
        delete(&path).body(&options("propagationPolicy", "Foreground".into())).into(),
        merge(&path, &json!({"metadata": {"finalizers": null}})).into(),
        create().into(),
        delete(&path).body(&options("propagationPolicy", "Orphan".into())).into(),
        merge(&path, &json!({"metadata": {"finalizers": null}})).into(),
        create().into(),
        delete(&path).body(&options("propagationPolicy", "Nonsense".into())).into(),
        delete(&path).body(&options("dryRun", json!(["All"]))).into(),
        delete(&path).raw("application/json", "{ not json").note(NO_JSON).into(),
        delete(&path).into(),
        delete("/apis/coordination.k8s.io/v1/namespaces/script/leases/leader").into(),
        delete(below("secrets/absent")).into(),
    ];
    acts.extend(finalizers());
    acts.extend(collections());
    acts
}
