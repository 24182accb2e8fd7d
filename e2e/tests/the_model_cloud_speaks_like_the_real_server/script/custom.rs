//! Custom resources: a definition, objects with and without a status, and their tables.

use serde_json::{Value, json};

use crate::step::{Act, PROTOBUF, TABLE, Until, delete, get, merge, post, put, strategic};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const POOLS: &str = "/apis/script.eyot.io/v1/pools";

fn definition() -> Value {
    json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": "pools.script.eyot.io"},
        "spec": {"group": "script.eyot.io", "scope": "Cluster",
            "names": {"plural": "pools", "singular": "pool", "kind": "Pool", "listKind": "PoolList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
}

fn pool(name: &str, size: u32) -> Value {
    json!({"apiVersion": "script.eyot.io/v1", "kind": "Pool", "metadata": {"name": name},
        "spec": {"size": size}, "status": {"ready": size}})
}

/// The definition itself is made beside the transcript: the real server serves it a moment later.
pub(super) fn acts() -> Vec<Act> {
    let path = format!("{POOLS}/a");
    vec![
        get(POOLS).into(),
        Act::Define(Box::new((DEFINITIONS, definition(), POOLS))),
        get(POOLS).into(),
        post(POOLS, &pool("a", 1)).into(),
        post(POOLS, &pool("a", 1)).into(),
        post(POOLS, &pool("b", 2)).into(),
        get(&path).into(),
        get(format!("{POOLS}/absent")).into(),
        get(POOLS).into(),
        get(format!("{POOLS}?limit=1")).into(),
        get(format!("{POOLS}?fieldSelector=metadata.name%3Da")).into(),
        get(format!("{POOLS}?fieldSelector=spec.size%3D1")).into(),
        get(POOLS).accept(TABLE).into(),
        get(POOLS).accept(PROTOBUF).into(),
        get(POOLS).accept("application/vnd.kubernetes.protobuf,application/json").into(),
        merge(&path, &json!({"spec": {"size": 3}})).into(),
        merge(&path, &json!({"status": {"ready": 3}})).into(),
        merge(format!("{path}/status"), &json!({"status": {"ready": 3}, "spec": {"size": 9}})).into(),
        merge(format!("{path}/status"), &json!({"status": {"ready": 3}})).into(),
        put(format!("{path}/status"), &pool("a", 4)).into(),
        put(&path, &pool("a", 5)).into(),
        get(&path).save("pool-version", "/metadata/resourceVersion").into(),
        put(&path, &{
            let mut given = pool("a", 5);
            given["metadata"]["resourceVersion"] = "${pool-version}".into();
            given
        })
        .into(),
        strategic(&path, &json!({"spec": {"size": 6}})).into(),
        get(format!("{path}/status")).into(),
        get(format!("{POOLS}?watch=1&timeoutSeconds=1")).watch(Until::End, []).into(),
        get(format!("{POOLS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"))
            .watch(Until::Marked, [])
            .into(),
        delete(&path).into(),
        delete(&path).into(),
        delete(POOLS).into(),
    ]
}
