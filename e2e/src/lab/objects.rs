//! What a lab puts into the API server: the Nodes, the ServiceAccounts of its kubeconfigs and of each node's agents, and
//! one ordinary pod a node. What whole nodes run beside it is in [`super::samples`].

use std::path::Path;
use std::process::Command;

use proto_daemon::config;
use serde_json::{Value, json};

use super::command::run;
use super::error::{LabError, Result};

/// The namespace of the ordinary pods and of the ServiceAccount that they run as.
pub(crate) const POD_NAMESPACE: &str = "default";

/// The ServiceAccount of the ordinary pods.
pub(crate) const POD_ACCOUNT: &str = "eyot-lab-pod";

/// The user that the hubs admit while cut off: the cluster-admin ServiceAccount.
pub(crate) const ADMIN_USER: &str = "system:serviceaccount:eyot-lab:admin";

/// The image of the ordinary pods; nodes with a kubelet import it from an archive.
pub(crate) const POD_IMAGE: &str = "eyot.io/lab/pod:1";

/// The image of every pod's sandbox, from the same archive.
pub(crate) const SANDBOX_IMAGE: &str = "eyot.io/lab/pause:1";

/// An image that no pod uses: the kubelet's to collect.
pub(crate) const UNUSED_IMAGE: &str = "eyot.io/lab/unused:1";

/// The program inside these images.
pub(crate) const POD_PROGRAM: &str = "/eyot-pod";

/// The start of the names of the roles by which requests for node certificates are approved.
const NODE_CERTIFICATES: &str = "system:certificates.k8s.io:certificatesigningrequests";

/// The namespace of the ServiceAccounts of kube-proxy and CoreDNS.
pub(crate) const SYSTEM_NAMESPACE: &str = "kube-system";

/// The name of the ordinary pod of `node`.
pub(crate) fn pod_name(node: &str) -> String {
    format!("eyot-lab-{node}")
}

/// Applies `objects`; `kubectl` is one that may do everything.
pub(crate) fn apply(kubectl: Command, objects: &[Value]) -> Result<()> {
    apply_with(kubectl, objects, &[])
}

/// As [`apply`] for what the objects hold as their status.
pub(crate) fn apply_status(kubectl: Command, objects: &[Value]) -> Result<()> {
    apply_with(kubectl, objects, &["--subresource=status"])
}

fn apply_with(mut kubectl: Command, objects: &[Value], flags: &[&str]) -> Result<()> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    run(kubectl.args(["apply", "--server-side", "-f", "-"]).args(flags), &list.to_string()).map(drop)
}

/// Asks the API server for a token by TokenRequest. `bound` is the kind and name of the object that it dies with;
/// `seconds` is its lifetime.
pub(crate) fn token(
    mut kubectl: Command,
    namespace: &str,
    account: &str,
    bound: Option<(&str, &str)>,
    seconds: u32,
) -> Result<String> {
    let mut spec = json!({ "expirationSeconds": seconds });
    if let Some((kind, name)) = bound {
        spec["boundObjectRef"] = json!({ "apiVersion": "v1", "kind": kind, "name": name });
    }
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let answer = run(kubectl.args(["create", "--raw", &path, "-f", "-"]), &request.to_string())?;
    let answer: Value = serde_json::from_str(&answer)
        .map_err(|error| LabError::Invalid(format!("TokenRequest: no JSON: {error}")))?;
    let token = answer.pointer("/status/token").and_then(Value::as_str);
    token
        .map(str::to_owned)
        .ok_or_else(|| LabError::Invalid("TokenRequest: an answer without a token".to_owned()))
}

/// The Node that a kubelet would register, with its labels and pods' addresses but without conditions.
pub(crate) fn node(name: &str, pod_networks: &[String]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "eyot.io/lab": "true",
            },
        },
        "spec": { "podCIDR": pod_networks[0], "podCIDRs": pod_networks },
    })
}

/// What a kubelet on `node` told in a former life. One that finds its Node without it would refuse its static pods for
/// want of room, and would not ask again.
pub(crate) fn node_status(node: &str) -> Value {
    let room = json!({ "cpu": "2", "memory": "4Gi", "pods": "110" });
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node },
        "status": { "capacity": room, "allocatable": room },
    })
}

/// What operators apply for hubs.
const HUB_RIGHTS: &str = include_str!("../../../deploy/rbac.yaml");

/// Accounts and rights: an administrator, the ordinary pods' account, and what deploy/ gives nodes for their hubs.
pub(crate) fn accounts() -> Vec<Value> {
    let parse = |text| config::parse(Path::new("deploy/rbac.yaml"), text).expect("a test reads it, too");
    let mut objects = lab_accounts();
    objects.extend(HUB_RIGHTS.split("\n---\n").map(parse));
    objects
}

fn lab_accounts() -> Vec<Value> {
    vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "eyot-lab" } }),
        account("eyot-lab", "admin"),
        binding("eyot-lab-admin", "cluster-admin", &service_account("eyot-lab", "admin")),
        account(POD_NAMESPACE, POD_ACCOUNT),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": { "name": POD_ACCOUNT, "namespace": POD_NAMESPACE },
            "rules": [
                { "apiGroups": [""], "resources": ["services", "endpoints", "pods", "events"],
                  "verbs": ["get", "list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
                  "verbs": ["get", "list", "watch"] },
                { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"] },
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": { "name": POD_ACCOUNT, "namespace": POD_NAMESPACE },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": POD_ACCOUNT },
            "subjects": [service_account(POD_NAMESPACE, POD_ACCOUNT)],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": POD_ACCOUNT },
            "rules": [
                { "apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
                  "verbs": ["get", "list", "watch"] },
            ],
        }),
        binding(POD_ACCOUNT, POD_ACCOUNT, &service_account(POD_NAMESPACE, POD_ACCOUNT)),
        account(SYSTEM_NAMESPACE, "kube-proxy"),
        binding(
            "eyot-lab-kube-proxy",
            "system:node-proxier",
            &service_account(SYSTEM_NAMESPACE, "kube-proxy"),
        ),
        account(SYSTEM_NAMESPACE, "coredns"),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": "eyot-lab-coredns" },
            "rules": [
                { "apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"],
                  "verbs": ["list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        }),
        binding("eyot-lab-coredns", "eyot-lab-coredns", &service_account(SYSTEM_NAMESPACE, "coredns")),
        // As kubeadm has it: who joins by a bootstrap token gets a client certificate, and nodes renew their own.
        binding("eyot-lab-join", "system:node-bootstrapper", &group("system:bootstrappers")),
        binding("eyot-lab-first", &format!("{NODE_CERTIFICATES}:nodeclient"), &group("system:bootstrappers")),
        binding("eyot-lab-next", &format!("{NODE_CERTIFICATES}:selfnodeclient"), &group("system:nodes")),
    ]
}

/// An ordinary pod on `node`, the owner of the token in the node's `pod.kubeconfig`.
pub(crate) fn pod(node: &str) -> Value {
    let mut spec = pod_spec();
    spec["nodeName"] = node.into();
    spec["serviceAccountName"] = POD_ACCOUNT.into();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(node),
            "namespace": POD_NAMESPACE,
            "labels": { "app": "eyot-lab", "eyot.io/node": node },
        },
        "spec": spec,
    })
}

/// What all pods of a lab have in common: one container `main` that serves its page and counts its starts. Their
/// tolerations have no end, so that no taint ever evicts them.
pub(crate) fn pod_spec() -> Value {
    let forever = |key: &str| json!({ "key": key, "operator": "Exists", "effect": "NoExecute" });
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    json!({
        "terminationGracePeriodSeconds": 1,
        "tolerations": [
            forever("node.kubernetes.io/not-ready"),
            forever("node.kubernetes.io/unreachable"),
        ],
        "containers": [{
            "name": "main",
            "image": POD_IMAGE,
            "imagePullPolicy": "Never",
            "env": [field("POD", "metadata.name"), field("NODE", "spec.nodeName")],
            "ports": [{ "name": "http", "containerPort": POD_PORT }],
            "volumeMounts": [{ "name": "state", "mountPath": "/state" }],
        }],
        "volumes": [{ "name": "state", "emptyDir": {} }],
    })
}

/// Where every pod serves its page.
pub(crate) const POD_PORT: u16 = 8080;

fn account(namespace: &str, name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } })
}

fn service_account(namespace: &str, name: &str) -> Value {
    json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
}

fn group(name: &str) -> Value {
    json!({ "kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": name })
}

/// The Secret that the bootstrap token `ID.SECRET` is judged by until `end`.
pub(crate) fn bootstrap_token(id: &str, secret: &str, end: time::OffsetDateTime) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": { "name": format!("bootstrap-token-{id}"), "namespace": SYSTEM_NAMESPACE },
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "usage-bootstrap-authentication": "true",
            "expiration": rfc3339(end),
        },
    })
}

/// To the second, as Kubernetes writes times.
fn rfc3339(time: time::OffsetDateTime) -> String {
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn binding(name: &str, role: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [subject],
    })
}
