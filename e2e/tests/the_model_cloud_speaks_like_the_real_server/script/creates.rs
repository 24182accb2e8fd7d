//! POST: names, generated names, what a server sets, and what it refuses.

use serde_json::json;

use super::objects::{below, config_map, lease, secret};
use crate::step::{Act, NO_JSON, Who, get, post};

pub(super) fn acts() -> Vec<Act> {
    let path = below("configmaps");
    let generated =
        |prefix: &str| json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"generateName": prefix}});
    let with = |member: &str, value: serde_json::Value| {
        let mut object = config_map("odd", "1");
        object["metadata"][member] = value;
        object
    };
    let mut acts: Vec<Act> = vec![
        post(&path, &config_map("first", "1")).into(),
        post(&path, &config_map("first", "2")).into(),
        post(&path, &generated("many-")).save("generated", "/metadata/name").into(),
        post(&path, &generated("more-")).into(),
        get(below("configmaps/${generated}")).into(),
        // What a server sets itself, a client may send in vain.
        post(&path, &with("uid", "0c8a31c6-6a4f-4d0e-9d5e-000000000000".into())).into(),
        post(&path, &json!({"metadata": {"name": "untyped"}, "data": {"k": "v"}})).into(),
        post(
            &path,
            &json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "full",
            "namespace": "script", "labels": {"a": "b"}, "annotations": {"c": "d"},
            "finalizers": ["script.eyot.io/hold"]}, "binaryData": {"b": "AAEC"}, "immutable": true}),
        )
        .into(),
        post(below("secrets"), &secret("sealed")).into(),
        post(
            below("secrets"),
            &json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "plain"},
            "type": "Opaque", "stringData": {"user": "admin"}}),
        )
        .into(),
        post("/apis/coordination.k8s.io/v1/namespaces/script/leases", &{
            let mut lease = lease("leader", "2021-01-01T00:00:00.000000Z");
            lease["metadata"]["namespace"] = "script".into();
            lease
        })
        .into(),
        // Refused.
        post(&path, &json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}})).into(),
        post(&path, &with("resourceVersion", "5".into())).into(),
        post(&path, &with("namespace", "default".into())).into(),
        post(&path, &with("name", "Capital".into())).into(),
        post(&path, &with("name", "two words".into())).into(),
        post(&path, &with("labels", json!({"bad key!": "x"}))).into(),
        post(&path, &with("labels", json!({"good": "bad value!"}))).into(),
        post(&path, &json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "wrong"}})).into(),
        post(&path, &json!({"kind": "ConfigMap", "apiVersion": "v9", "metadata": {"name": "wrong"}})).into(),
        post(&path, &json!({"kind": "Nonsense", "apiVersion": "v1", "metadata": {"name": "wrong"}})).into(),
        post(&path, &json!([1, 2])).note(NO_JSON).into(),
        post(below("configmaps/named"), &config_map("named", "1")).into(),
        post("/api/v1/namespaces/absent/configmaps", &config_map("lost", "1")).into(),
        post("/api/v1/configmaps", &config_map("lost", "1")).into(),
        // A dry run answers as if, and does nothing.
        post(format!("{path}?dryRun=All"), &config_map("dry", "1")).into(),
        get(below("configmaps/dry")).into(),
        post(format!("{path}?dryRun=All"), &config_map("first", "1")).into(),
        post(format!("{path}?dryRun=Some"), &config_map("dry", "1")).into(),
        post(format!("{path}?fieldManager=script&fieldValidation=Ignore"), &config_map("managed", "1"))
            .into(),
    ];
    for who in [Who::Node, Who::Reader, Who::Forger, Who::Nobody] {
        acts.push(post(&path, &config_map("intruder", "1")).by(who).into());
    }
    acts
}
