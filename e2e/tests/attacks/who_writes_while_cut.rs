//! Writes that nobody can grant while the cloud is away, and events under false pretences (rows 10, 12).

use std::collections::BTreeSet;

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use http::HeaderName;
use serde_json::{Value, json};

use crate::attacker::{SECRET, post, scene, shows};
use crate::rig::{CONFIG_MAPS, NODE_USER, Rig, run};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Method, path and body of what changes something, or would be done by the API server alone.
fn writes() -> Vec<(&'static str, String, &'static str)> {
    let pod = "/api/v1/namespaces/default/pods/p";
    let account = "/api/v1/namespaces/default/serviceaccounts/other/token";
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let owned = |list: &[(&'static str, &str, &'static str)]| -> Vec<(&'static str, String, &'static str)> {
        list.iter().map(|(method, path, body)| (*method, (*path).to_owned(), *body)).collect()
    };
    let object = r#"{"metadata":{"name":"made"}}"#;
    let mut writes = owned(&[
        ("POST", CONFIG_MAPS, object),
        ("PUT", "/api/v1/namespaces/default/configmaps/a", object),
        ("PATCH", "/api/v1/namespaces/default/configmaps/a", r#"{"data":{"v":"2"}}"#),
        ("DELETE", "/api/v1/namespaces/default/configmaps/a", ""),
        ("DELETE", CONFIG_MAPS, ""),
        ("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", object),
        ("PATCH", SECRET, r#"{"data":{}}"#),
        ("DELETE", SECRET, ""),
        ("PUT", "/api/v1/nodes/n1/status", object),
        ("PATCH", "/api/v1/nodes/n1/status", r#"{"status":{"phase":"Running"}}"#),
        ("PATCH", "/api/v1/nodes/n2/status", r#"{"status":{"phase":"Running"}}"#),
        ("DELETE", "/api/v1/nodes/n2", ""),
        ("POST", "/api/v1/namespaces/default/pods", object),
        ("DELETE", pod, ""),
        ("PATCH", "/api/v1/namespaces/default/pods/q/status", r#"{"status":{"podIP":"10.6.6.6"}}"#),
        ("POST", account, r#"{"spec":{"audiences":["x"]}}"#),
        ("POST", slices, object),
        ("PATCH", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/x", "{}"),
        ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", object),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "{}"),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", r#"{"spec":{"token":"operator-token"}}"#),
        ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", object),
        ("PUT", &format!("{LEASE}/n2"), object),
        ("DELETE", &format!("{LEASE}/n2"), ""),
    ]);
    for sub in ["exec", "attach", "portforward", "proxy", "log", "eviction", "binding", "ephemeralcontainers"]
    {
        for method in ["GET", "POST"] {
            writes.push((method, format!("{pod}/{sub}"), if method == "POST" { "{}" } else { "" }));
        }
    }
    for sub in ["proxy/logs/", "proxy/exec/default/p/c"] {
        writes.push(("GET", format!("/api/v1/nodes/n1/{sub}"), ""));
        writes.push(("POST", format!("/api/v1/nodes/n1/{sub}"), "{}"));
    }
    writes
}

/// The kind of body that goes with a method.
fn kind(method: &str) -> &'static str {
    if method == "PATCH" { STRATEGIC } else { "application/json" }
}

/// What the cloud was asked to change since the mark, beside the hub's own reviews.
fn changes(rig: &Rig, mark: u64) -> Vec<String> {
    let own = ["tokenreviews", "subjectaccessreviews", "leases"];
    rig.cloud
        .records_since(mark)
        .into_iter()
        .filter(|r| !matches!(r.verb.as_str(), "get" | "list" | "watch"))
        .filter(|r| r.gvr.as_ref().is_none_or(|gvr| !own.contains(&gvr.resource.as_str())))
        .map(|r| format!("{} {} {}", r.user, r.verb, r.path))
        .collect()
}

#[test]
fn no_write_of_anybody_is_taken_while_cut_and_none_happens_later() {
    run(async {
        let (rig, operator) = scene().await;
        let clients = [
            ("the pod", rig.pod()),
            ("the node", rig.kubelet()),
            ("the operator", operator),
            ("nobody", rig.nobody()),
        ];
        rig.cut(LinkState::Refused).await;
        let mark = rig.cloud.mark();
        let before = rig.cloud.revision();
        let mut codes = BTreeSet::new();
        for (who, client) in clients {
            let client = client.over_one_connection();
            for (method, path, body) in writes() {
                // A kubelet asks who its own callers are, and the hub remembers what the cloud said of them.
                if who == "the node" && path.ends_with("/tokenreviews") {
                    continue;
                }
                let (status, answer) = post(&client, method, &path, kind(method), Bytes::from(body)).await;
                assert!(matches!(status, 400..=499 | 503), "{who} {method} {path}: {status}");
                assert!(!shows(&answer), "{who} {method} {path}");
                codes.insert(status);
            }
            // The node's own heartbeats are its kubelet's.
            if who != "the node" {
                for (method, path) in [("PUT", format!("{LEASE}/n1")), ("POST", LEASE.to_owned())] {
                    let body = Bytes::from_static(br#"{"metadata":{"name":"n1"},"spec":{}}"#);
                    let (status, _) = post(&client, method, &path, kind(method), body).await;
                    assert!(matches!(status, 401 | 403 | 503), "{who} {method} {path}: {status}");
                }
            }
        }
        assert!(codes.contains(&503) && codes.contains(&401), "{codes:?}");
        rig.heal().await;
        rig.heal_seen().await;
        // What would be sent late is sent by who comes first after the heal.
        assert_eq!(rig.kubelet().get("/api/v1/nodes/n1").await.unwrap().0, 200);
        assert_eq!(changes(&rig, mark), Vec::<String>::new());
        let later = rig.cloud.revision();
        assert!(later <= before + 1, "the node's Lease at most: {before} {later}");
    });
}

fn event(name: &str) -> Value {
    json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "Started",
        "message": "started", "type": "Normal", "source": {"component": "kubelet", "host": "n1"}})
}

#[test]
fn an_event_is_kept_for_who_may_write_it_and_as_what_it_is() {
    run(async {
        let (rig, _) = scene().await;
        let path = "/api/v1/namespaces/default/events";
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        rig.cut(LinkState::Refused).await;
        let mark = rig.cloud.mark();
        let send = async |client: &Client, path: &str, body: &Value| {
            post(client, "POST", path, "application/json", body.to_string().into()).await.0
        };
        assert_eq!(send(&kubelet, path, &event("true")).await, 201);
        let mut large = event("large");
        large["message"] = "x".repeat(100 * 1024).into();
        let mut wrong = event("wrong");
        wrong["kind"] = "Secret".into();
        let mut elsewhere = event("elsewhere");
        elsewhere["metadata"]["namespace"] = "kube-system".into();
        let impersonating =
            kubelet.clone().with_header(HeaderName::from_static("impersonate-user"), "operator");
        for (what, client, path, body) in [
            ("of a pod without the right", &pod, path, event("pods")),
            ("of nobody", &rig.nobody(), path, event("nobodys")),
            ("of the node as another", &impersonating, path, event("anothers")),
            ("as a trial", &kubelet, "/api/v1/namespaces/default/events?dryRun=All", event("trial")),
            ("in no namespace", &kubelet, "/api/v1/events", event("none")),
            ("of another namespace than its path", &kubelet, path, elsewhere),
            ("of 100 KB", &kubelet, path, large),
            ("of another kind", &kubelet, path, wrong),
        ] {
            let status = send(client, path, &body).await;
            assert!(matches!(status, 400..=499 | 503), "{what}: {status}");
        }
        rig.heal().await;
        rig.cloud.wait_for(|all| all.iter().any(|r| r.order >= mark && r.path == path)).await;
        rig.heal_seen().await;
        let written: Vec<_> = changes(&rig, mark);
        assert_eq!(written, [format!("{NODE_USER} create {path}")]);
    });
}
