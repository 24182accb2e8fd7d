//! Events, as recorders send them.

use serde_json::{Value, json};

use super::objects::below;
use crate::step::{Act, PROTOBUF, Who, delete, get, post, strategic};

fn event(name: &str, node: &str) -> Value {
    json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": name, "namespace": "script"},
        "involvedObject": {"kind": "Pod", "namespace": "script", "name": "bound", "apiVersion": "v1"},
        "reason": "Started", "message": "Started container main",
        "source": {"component": "kubelet", "host": node}, "firstTimestamp": "2021-01-01T00:00:00Z",
        "lastTimestamp": "2021-01-01T00:00:00Z", "count": 1, "type": "Normal", "eventTime": null,
        "reportingComponent": "kubelet", "reportingInstance": node})
}

pub(super) fn acts() -> Vec<Act> {
    let path = below("events/bound.1");
    vec![
        post(below("events"), &event("bound.1", "edge-1")).by(Who::Node).into(),
        post(below("events"), &event("bound.1", "edge-1")).by(Who::Node).into(),
        strategic(&path, &json!({"count": 2, "lastTimestamp": "2021-01-01T00:00:07Z"})).by(Who::Node).into(),
        get(&path).by(Who::Node).into(),
        get(&path).into(),
        get(&path).accept(PROTOBUF).into(),
        get(format!("{}?fieldSelector=involvedObject.name%3Dbound,reason%3DStarted", below("events"))).into(),
        get(format!("{}?fieldSelector=involvedObject.name%3Dother", below("events"))).into(),
        post(below("events"), &event("bound.2", "edge-1")).by(Who::Reader).into(),
        post("/api/v1/namespaces/default/events", &event("bound.3", "edge-1")).by(Who::Node).into(),
        delete(&path).by(Who::Node).into(),
        delete(&path).into(),
    ]
}
