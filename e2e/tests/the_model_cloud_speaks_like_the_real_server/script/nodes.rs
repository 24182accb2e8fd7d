//! What a kubelet does with its Node and its Lease.

use serde_json::{Value, json};

use super::objects::{lease, node};
use crate::step::{Act, JSON, PROTOBUF, TABLE, Until, Who, delete, get, merge, post, put, strategic};

const OWN: &str = "/api/v1/nodes/edge-1";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn condition(status: &str) -> Value {
    json!({"status": {"$setElementOrder/conditions": [{"type": "MemoryPressure"}, {"type": "Ready"}],
    "conditions": [
        {"type": "MemoryPressure", "status": "False", "reason": "Fine", "message": "enough",
            "lastHeartbeatTime": "2021-01-01T00:00:05Z", "lastTransitionTime": "2021-01-01T00:00:05Z"},
        {"type": "Ready", "status": status, "lastHeartbeatTime": "2021-01-01T00:00:05Z"},
    ]}})
}

fn leases() -> Vec<Act> {
    let own = format!("{LEASES}/edge-1");
    vec![
        get(&own).by(Who::Node).into(),
        post(LEASES, &lease("edge-1", "2021-01-01T00:00:00.000000Z")).by(Who::Node).into(),
        get(&own).by(Who::Node).into(),
        get(&own).by(Who::Node).accept(PROTOBUF).into(),
        put(&own, &lease("edge-1", "2021-01-01T00:00:10.000000Z")).by(Who::Node).into(),
        put(&own, &lease("edge-1", "2021-01-01T00:00:20.000000Z")).by(Who::Node).accept(PROTOBUF).into(),
        get(LEASES).by(Who::Node).into(),
        put(format!("{LEASES}/edge-2"), &lease("edge-2", "2021-01-01T00:00:10.000000Z")).by(Who::Node).into(),
        post("/apis/coordination.k8s.io/v1/namespaces/script/leases", &{
            let mut other = lease("edge-1", "2021-01-01T00:00:00.000000Z");
            other["metadata"]["namespace"] = "script".into();
            other
        })
        .by(Who::Node)
        .into(),
    ]
}

pub(super) fn acts() -> Vec<Act> {
    let selector = "fieldSelector=metadata.name%3Dedge-1";
    let mut acts: Vec<Act> = vec![
        get(OWN).by(Who::Node).into(),
        post("/api/v1/nodes", &node("edge-1")).by(Who::Node).into(),
        post("/api/v1/nodes", &node("edge-1")).by(Who::Node).into(),
        post("/api/v1/nodes", &node("edge-2")).into(),
        get(OWN).by(Who::Node).into(),
        get("/api/v1/nodes/edge-2").by(Who::Node).into(),
        get("/api/v1/nodes").by(Who::Node).into(),
        get(format!("/api/v1/nodes?{selector}")).by(Who::Node).into(),
        get(format!("/api/v1/nodes?{selector}&resourceVersion=0")).by(Who::Node).accept(PROTOBUF).into(),
        strategic(format!("{OWN}/status"), &condition("False")).by(Who::Node).into(),
        strategic(format!("{OWN}/status"), &condition("True")).by(Who::Node).into(),
        strategic(
            format!("{OWN}/status"),
            &json!({"status": {"$setElementOrder/addresses": [{"type": "InternalIP"},
            {"type": "Hostname"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.10"}]}}),
        )
        .by(Who::Node)
        .into(),
        strategic(
            format!("{OWN}/status"),
            &json!({"status": {"nodeInfo": {"kernelVersion": "6.19"}},
            "spec": {"unschedulable": true}}),
        )
        .by(Who::Node)
        .into(),
        strategic("/api/v1/nodes/edge-2/status", &condition("True")).by(Who::Node).into(),
        merge(OWN, &json!({"metadata": {"annotations": {"volumes.kubernetes.io/attach": "true"}}}))
            .by(Who::Node)
            .into(),
        merge(OWN, &json!({"status": {"phase": "Running"}})).into(),
        merge(OWN, &json!({"spec": {"unschedulable": true}})).into(),
        get("/api/v1/nodes?fieldSelector=spec.unschedulable%3Dtrue").into(),
        merge(OWN, &json!({"spec": {"unschedulable": null}})).into(),
        get(format!("{OWN}/status")).by(Who::Node).into(),
        get(format!("/api/v1/nodes?{selector}&watch=1&timeoutSeconds=1"))
            .by(Who::Node)
            .watch(Until::End, [])
            .into(),
        get("/api/v1/nodes?watch=1&timeoutSeconds=1").by(Who::Node).watch(Until::End, []).into(),
        get(OWN).accept(TABLE).note("many columns").into(),
        get(OWN).accept(JSON).by(Who::Reader).into(),
        delete(OWN).by(Who::Node).into(),
        delete("/api/v1/nodes/edge-2").into(),
        delete("/api/v1/nodes/edge-2").into(),
    ];
    acts.extend(leases());
    acts
}
