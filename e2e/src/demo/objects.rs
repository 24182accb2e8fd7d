//! The objects of the demo as a cluster would hold them, about as large as real ones.

use serde_json::{Value, json};

use super::plan::{Kind, Object};
use crate::cloud::model::Gvr;

/// The namespace of everything that has one.
pub(super) const NAMESPACE: &str = "default";
/// The ServiceAccount of the agents.
pub(super) const AGENT: &str = "agent";

/// The name of a node, counted from 0 here and from 1 for people.
pub(super) fn node_name(node: usize) -> String {
    format!("node-{}", node + 1)
}

/// The pod that the agents of a node run in; it is never changed.
pub(super) fn agent_pod(node: usize) -> String {
    format!("agent-{}", node + 1)
}

/// Resource, name and whether it stands in a namespace.
pub(super) fn place(object: &Object) -> (Gvr, &'static str, String) {
    match object.kind {
        Kind::Service => (Gvr::core("services"), NAMESPACE, format!("svc-{}", object.number)),
        Kind::EndpointSlice => (
            Gvr::new("discovery.k8s.io", "v1", "endpointslices"),
            NAMESPACE,
            format!("svc-{}-slice", object.number),
        ),
        Kind::Pod => {
            (Gvr::core("pods"), NAMESPACE, format!("app-{}-{}", node_name(object.node), object.number))
        }
        Kind::Node => (Gvr::core("nodes"), "", node_name(object.node)),
    }
}

/// The part of an object that a change writes.
pub(super) fn patch(object: &Object) -> Value {
    json!({"metadata": {"annotations": {"demo.eyot.io/value": object.value.to_string()}}})
}

/// The whole object as it is created.
pub(super) fn whole(object: &Object) -> Value {
    let (_, namespace, name) = place(object);
    let mut value = patch(object);
    value["metadata"]["name"] = json!(name);
    if !namespace.is_empty() {
        value["metadata"]["namespace"] = json!(namespace);
    }
    let service = format!("svc-{}", object.number);
    let app = json!({"app": service, "app.kubernetes.io/managed-by": "demo"});
    value["metadata"]["labels"] = app.clone();
    let address = |last: u32| format!("10.{}.{}.{last}", object.node, object.number % 250);
    match object.kind {
        Kind::Service => {
            value["spec"] = json!({
                "type": "ClusterIP", "clusterIP": address(1), "selector": app, "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 8443}],
            });
        }
        Kind::EndpointSlice => {
            value["metadata"]["labels"]["kubernetes.io/service-name"] = json!(service);
            value["addressType"] = json!("IPv4");
            value["ports"] = json!([{"name": "https", "port": 8443, "protocol": "TCP"}]);
            value["endpoints"] = (2..8)
                .map(|last| {
                    json!({
                        "addresses": [address(last)], "nodeName": node_name(object.node),
                        "conditions": {"ready": true, "serving": true, "terminating": false},
                    })
                })
                .collect();
        }
        Kind::Pod => {
            value["spec"] = pod_spec(object.node, "default");
            value["status"] = json!({"phase": "Running", "podIP": address(9)});
        }
        Kind::Node => {
            value["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        }
    }
    value
}

/// The spec of a pod on `node` that runs as `account`.
pub(super) fn pod_spec(node: usize, account: &str) -> Value {
    json!({
        "nodeName": node_name(node), "serviceAccountName": account, "restartPolicy": "Always",
        "containers": [{
            "name": "main", "image": "registry.example/app:1.2.3", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "GREETING", "value": "an island in a river"}],
            "ports": [{"containerPort": 8443, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8443}, "periodSeconds": 5},
        }],
        "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}],
    })
}

/// The `resourceVersion` of an object; 0 where it has none.
pub(super) fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}
