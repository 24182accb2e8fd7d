//! Pods as the scheduler binds them, the kubelet reports them, and both let go of them.

use serde_json::{Value, json};

use super::objects::{below, config_map, config_map_path, pod};
use crate::step::{Act, PROTOBUF, Right, TABLE, Until, Who, delete, get, merge, post, strategic};

fn path(name: &str) -> String {
    below(&format!("pods/{name}"))
}

fn binding(name: &str, node: &str) -> Value {
    json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": name, "namespace": "script"},
        "target": {"kind": "Node", "name": node}})
}

fn running(phase: &str) -> Value {
    json!({"status": {"phase": phase, "hostIP": "10.0.0.9", "podIP": "10.244.1.2",
        "podIPs": [{"ip": "10.244.1.2"}], "hostIPs": [{"ip": "10.0.0.9"}], "startTime": "2021-01-01T00:00:00Z",
        "$setElementOrder/conditions": [{"type": "Ready"}],
        "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "2021-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": "main", "image": "eyot.io/lab/busybox:1", "imageID": "i", "ready": true,
            "restartCount": 0, "started": true, "containerID": "containerd://c",
            "state": {"running": {"startedAt": "2021-01-01T00:00:00Z"}}, "lastState": {}}]}})
}

/// The authorizer learns a moment later which pods a node has.
fn rights_on_bound(allowed: bool) -> Act {
    let user = "system:node:edge-1";
    Act::Await(Right { user, groups: &["system:nodes"], resource: "pods", name: "bound", allowed })
}

fn going() -> Vec<Act> {
    let now = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
    let of = |uid: &str| {
        let mut options = now.clone();
        options["preconditions"] = json!({"uid": uid});
        options
    };
    vec![
        get(path("bound")).save("bound-uid", "/metadata/uid").into(),
        delete(path("bound")).into(),
        delete(path("bound")).into(),
        delete(format!("{}?gracePeriodSeconds=5", path("bound"))).into(),
        delete(format!("{}?gracePeriodSeconds=60", path("bound"))).into(),
        get(path("bound")).by(Who::Node).into(),
        strategic(format!("{}/status", path("bound")), &running("Succeeded")).by(Who::Node).into(),
        delete(path("bound")).by(Who::Node).body(&of("0c8a31c6-6a4f-4d0e-9d5e-00000000000a")).into(),
        delete(path("bound")).by(Who::Node).body(&of("${bound-uid}")).into(),
        rights_on_bound(false),
        get(path("bound")).by(Who::Node).into(),
        delete(path("bound")).by(Who::Node).body(&now).into(),
        // One that no node holds goes at once.
        post(below("pods"), &pod("unbound", "")).into(),
        delete(path("unbound")).into(),
        get(path("unbound")).into(),
        delete(path("other")).body(&now).into(),
    ]
}

pub(super) fn acts() -> Vec<Act> {
    let own = "fieldSelector=spec.nodeName%3Dedge-1";
    let mut acts: Vec<Act> = vec![
        post(below("configmaps"), &config_map("mounted", "1")).into(),
        get(config_map_path("mounted")).by(Who::Node).into(),
        post(below("pods"), &pod("bound", "")).into(),
        post(format!("{}/binding", path("bound")), &binding("bound", "edge-1")).into(),
        post(format!("{}/binding", path("bound")), &binding("bound", "edge-1")).into(),
        post(format!("{}/binding", path("absent")), &binding("absent", "edge-1")).into(),
        post(below("pods"), &pod("other", "edge-2")).into(),
        rights_on_bound(true),
        get(path("bound")).by(Who::Node).into(),
        get(path("other")).by(Who::Node).into(),
        get(below("pods")).by(Who::Node).into(),
        get("/api/v1/pods").by(Who::Node).into(),
        get(format!("/api/v1/pods?{own}")).by(Who::Node).into(),
        get(format!("/api/v1/pods?{own}")).by(Who::Node).accept(PROTOBUF).into(),
        get(format!("/api/v1/pods?{own}&watch=1&timeoutSeconds=1"))
            .by(Who::Node)
            .watch(Until::End, [])
            .into(),
        get("/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-2").by(Who::Node).into(),
        get(format!("{}?{own}", below("pods"))).by(Who::Reader).into(),
        get(below("pods")).accept(TABLE).note("many columns").into(),
        strategic(format!("{}/status", path("bound")), &running("Running")).by(Who::Node).into(),
        strategic(format!("{}/status", path("bound")), &running("Running")).by(Who::Node).into(),
        strategic(
            format!("{}/status", path("bound")),
            &json!({"metadata": {"uid": "0c8a31c6-6a4f-4d0e-9d5e-00000000000a"},
            "status": {"reason": "Stale"}}),
        )
        .by(Who::Node)
        .into(),
        strategic(format!("{}/status", path("other")), &running("Running")).by(Who::Node).into(),
        strategic(format!("{}/status", path("absent")), &running("Running")).by(Who::Node).into(),
        merge(path("bound"), &json!({"status": {"phase": "Failed"}})).into(),
        merge(path("bound"), &json!({"metadata": {"labels": {"tier": "edge"}}})).into(),
        get(format!("{}/status", path("bound"))).into(),
        get(format!("{}?fieldSelector=status.phase%3DRunning", below("pods"))).into(),
        get(config_map_path("mounted")).by(Who::Node).into(),
        get(config_map_path("first")).by(Who::Node).into(),
        get(format!(
            "{}?watch=1&fieldSelector=metadata.name%3Dmounted&timeoutSeconds=1",
            below("configmaps")
        ))
        .by(Who::Node)
        .watch(Until::End, [])
        .into(),
    ];
    acts.extend(super::tokens::bound());
    acts.extend(going());
    acts
}
