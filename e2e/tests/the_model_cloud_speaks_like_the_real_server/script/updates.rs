//! PUT: optimistic concurrency, writes that change nothing, and what a client may not change.

use serde_json::{Value, json};

use super::objects::{below, config_map, config_map_path, lease};
use crate::step::{Act, get, put};

fn with(value: &str, member: &str, given: Value) -> Value {
    let mut object = config_map("first", value);
    object["metadata"][member] = given;
    object
}

pub(super) fn acts() -> Vec<Act> {
    let path = config_map_path("first");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/script/leases";
    let in_script = |name: &str, renewed: &str| {
        let mut lease = lease(name, renewed);
        lease["metadata"]["namespace"] = "script".into();
        lease
    };
    vec![
        put(&path, &config_map("first", "2")).into(),
        put(&path, &config_map("first", "2")).into(),
        put(&path, &with("3", "resourceVersion", "${first-version}".into())).into(),
        get(&path).save("first-version", "/metadata/resourceVersion").into(),
        put(&path, &with("3", "resourceVersion", "${first-version}".into())).into(),
        put(&path, &with("3", "resourceVersion", "${first-version}".into())).into(),
        put(&path, &with("4", "resourceVersion", "nonsense".into())).into(),
        put(&path, &with("4", "uid", "${first-uid}".into())).into(),
        put(&path, &with("5", "uid", "0c8a31c6-6a4f-4d0e-9d5e-000000000000".into())).into(),
        put(&path, &with("5", "name", "second".into())).into(),
        put(&path, &with("5", "namespace", "default".into())).into(),
        put(&path, &with("5", "labels", json!({"changed": "yes"}))).into(),
        put(&path, &with("5", "labels", json!({"good": "bad value!"}))).into(),
        put(&path, &with("5", "creationTimestamp", "2021-01-01T00:00:00Z".into())).into(),
        put(&path, &with("5", "deletionTimestamp", "2021-01-01T00:00:00Z".into())).into(),
        put(&path, &with("5", "generateName", "other-".into())).into(),
        put(&path, &json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "first"}})).into(),
        put(&path, &json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "first"}})).into(),
        put(config_map_path("absent"), &config_map("absent", "1")).into(),
        put(config_map_path("absent"), &with("1", "name", "absent".into())).into(),
        put(below("configmaps"), &config_map("first", "1")).into(),
        put(format!("{path}?dryRun=All"), &config_map("first", "dry")).into(),
        get(&path).into(),
        put(config_map_path("full"), &config_map("full", "changed")).into(),
        put(format!("{leases}/leader"), &in_script("leader", "2021-01-01T00:00:10.000000Z")).into(),
        put(format!("{leases}/leader"), &in_script("leader", "2021-01-01T00:00:10.000000Z")).into(),
        put(format!("{leases}/absent"), &in_script("absent", "2021-01-01T00:00:10.000000Z")).into(),
        put(below("status"), &json!({})).into(),
    ]
}
