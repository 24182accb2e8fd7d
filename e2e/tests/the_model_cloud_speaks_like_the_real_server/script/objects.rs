//! The objects of the script. Specs are complete, with every default in them: the model adds none.

use serde_json::{Value, json};

use crate::step::{Act, get, post};

/// The namespace of almost everything.
pub(super) const NAMESPACE: &str = "/api/v1/namespaces/script";

/// A path below the namespace.
pub(super) fn below(rest: &str) -> String {
    format!("{NAMESPACE}/{rest}")
}

/// `/api/v1/namespaces/script/configmaps/NAME`
pub(super) fn config_map_path(name: &str) -> String {
    below(&format!("configmaps/{name}"))
}

pub(super) fn config_map(name: &str, value: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"v": value}})
}

/// With the label `group` set.
pub(super) fn labelled(name: &str, group: &str) -> Value {
    let mut object = config_map(name, group);
    object["metadata"]["labels"] = json!({"group": group, "name": name});
    object
}

pub(super) fn secret(name: &str) -> Value {
    json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}, "type": "Opaque",
        "data": {"password": "aHVudGVyMg=="}})
}

/// A pod with all that the server would add; `node` may be empty.
pub(super) fn pod(name: &str, node: &str) -> Value {
    let toleration = |key: &str| {
        json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
        "effect": "NoExecute", "tolerationSeconds": 300})
    };
    // A node gets tokens for the audiences that its pods ask for, and for no others.
    let token = |path: &str, audience: &str| {
        let mut source = json!({"path": path, "expirationSeconds": 3607});
        if !audience.is_empty() {
            source["audience"] = audience.into();
        }
        json!({"serviceAccountToken": source})
    };
    let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": "script"}},
        "spec": {
            "containers": [{"name": "main", "image": "eyot.io/lab/busybox:1", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "imagePullPolicy": "Never"}],
            "volumes": [{"name": "settings", "configMap": {"name": "mounted", "defaultMode": 420}},
                {"name": "tokens", "projected": {"defaultMode": 420, "sources": [token("own", ""),
                    token("other", "https://kubernetes.default.svc")]}}],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "serviceAccount": "default", "automountServiceAccountToken": false,
            "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority", "enableServiceLinks": true,
            "tolerations": [toleration("not-ready"), toleration("unreachable")],
        }, "status": {"phase": "Pending", "qosClass": "BestEffort"}});
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

/// The Node as its kubelet registers it.
pub(super) fn node(name: &str) -> Value {
    json!({"kind": "Node", "apiVersion": "v1",
    "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
    "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
    "status": {
        "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        "allocatable": {"cpu": "4", "memory": "7Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "starting",
            "lastHeartbeatTime": "2021-01-01T00:00:00Z", "lastTransitionTime": "2021-01-01T00:00:00Z"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {"machineID": "m", "systemUUID": "s", "bootID": "b", "kernelVersion": "6.18",
            "osImage": "linux", "containerRuntimeVersion": "containerd://2", "kubeletVersion": "v1.36.3",
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
    }})
}

/// The Lease that the kubelet renews.
pub(super) fn lease(name: &str, renewed: &str) -> Value {
    json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed}})
}

pub(super) fn beginning() -> Vec<Act> {
    let namespace = |name: &str| json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
    let account =
        |name: &str| json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": name}});
    let hour = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "spec": {"expirationSeconds": 3600}});
    vec![
        post("/api/v1/namespaces", &namespace("script")).into(),
        post("/api/v1/namespaces", &namespace("script-empty")).into(),
        get(NAMESPACE).into(),
        get("/api/v1/namespaces/absent").into(),
        get("/api/v1/namespaces/script/status").into(),
        post("/api/v1/namespaces", &namespace("script")).into(),
        post("/api/v1/namespaces", &namespace("Not_A_Name")).into(),
        post(below("serviceaccounts"), &account("default")).into(),
        post(below("serviceaccounts"), &account("reader")).into(),
        post(below("serviceaccounts/reader/token"), &hour).save("reader", "/status/token").into(),
    ]
}
