//! What runs on whole nodes besides the ordinary pods: one workload of each kind that survives in a way of its own. A
//! Deployment behind a Service with a ConfigMap and a Secret, a DaemonSet, and a static pod that no API server made.

use serde_json::{Value, json};

use super::objects::{POD_NAMESPACE, POD_PORT, pod_spec};

/// The name of the Deployment and of its Service.
pub(crate) const DEPLOYMENT: &str = "web";

/// The name of the Service whose name resolves to the addresses of the Deployment's pods themselves.
const HEADLESS: &str = "web-pods";

/// The name of the DaemonSet.
pub(crate) const DAEMON_SET: &str = "agent";

/// The name of the static pods; the kubelet adds its node's.
pub(crate) const STATIC_POD: &str = "fixed";

/// The label that all sample pods carry.
pub(crate) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "eyot-lab");

/// The objects; `replicas` of the Deployment are spread evenly over the nodes. The Service has an address of each family
/// that the cluster has.
pub(crate) fn objects(replicas: usize) -> Vec<Value> {
    vec![
        named("v1", "ConfigMap", "settings", json!({ "data": { "value": "first" } })),
        named("v1", "Secret", "credentials", json!({ "stringData": { "value": "first" } })),
        named(
            "v1",
            "Service",
            DEPLOYMENT,
            json!({ "spec": {
                "selector": { "app": DEPLOYMENT },
                "ipFamilyPolicy": "PreferDualStack",
                "ports": [{ "name": "http", "port": 80, "targetPort": POD_PORT }],
            } }),
        ),
        named(
            "v1",
            "Service",
            HEADLESS,
            json!({ "spec": { "clusterIP": "None", "selector": { "app": DEPLOYMENT } } }),
        ),
        named("apps/v1", "Deployment", DEPLOYMENT, deployment(replicas)),
        named(
            "apps/v1",
            "DaemonSet",
            DAEMON_SET,
            json!({ "spec": { "selector": selector(DAEMON_SET), "template": template(DAEMON_SET, pod_spec()) } }),
        ),
    ]
}

fn deployment(replicas: usize) -> Value {
    let mut spec = pod_spec();
    let main = &mut spec["containers"][0];
    // Two seconds and not ten: what a test waits for is mostly this.
    main["readinessProbe"] = json!({ "httpGet": { "path": "/", "port": POD_PORT }, "periodSeconds": 2 });
    for (name, source) in [
        ("settings", json!({ "configMap": { "name": "settings" } })),
        ("credentials", json!({ "secret": { "secretName": "credentials" } })),
    ] {
        let mount = json!({ "name": name, "mountPath": format!("/etc/eyot/{name}") });
        spec["containers"][0]["volumeMounts"].as_array_mut().expect("a list since above").push(mount);
        let mut volume = source;
        volume["name"] = name.into();
        spec["volumes"].as_array_mut().expect("a list since above").push(volume);
    }
    spec["topologySpreadConstraints"] = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector(DEPLOYMENT),
        // Each roll-out is spread by itself.
        "matchLabelKeys": ["pod-template-hash"],
    }]);
    json!({ "spec": {
        "replicas": replicas,
        "selector": selector(DEPLOYMENT),
        "template": template(DEPLOYMENT, spec),
    } })
}

/// The manifest that the kubelet of each node finds in its folder.
pub(crate) fn static_pod() -> Value {
    let mut pod = named("v1", "Pod", STATIC_POD, json!({ "spec": pod_spec() }));
    pod["metadata"]["labels"] = labels(STATIC_POD);
    pod
}

fn named(api_version: &str, kind: &str, name: &str, mut content: Value) -> Value {
    content["apiVersion"] = api_version.into();
    content["kind"] = kind.into();
    content["metadata"] = json!({ "name": name, "namespace": POD_NAMESPACE });
    content
}

fn labels(app: &str) -> Value {
    json!({ "app": app, PART_OF.0: PART_OF.1 })
}

fn selector(app: &str) -> Value {
    json!({ "matchLabels": { "app": app } })
}

fn template(app: &str, spec: Value) -> Value {
    json!({ "metadata": { "labels": labels(app) }, "spec": spec })
}
