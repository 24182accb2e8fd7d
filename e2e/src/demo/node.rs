//! The clients of one node: a kubelet with the node's certificate, and two agents that share a ServiceAccount, as
//! kube-proxy and a DNS server do. Each keeps one connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::informer::{Informer, Watched};
use super::objects::node_name;
use super::tally::Tally;
use crate::cloud::client::Client;
use crate::cloud::model::Gvr;

/// How long a client waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// The kubelet's rhythms; the real ones are about five times slower.
const READ_EVERY: Duration = Duration::from_secs(1);
const RENEW_EVERY: Duration = Duration::from_secs(2);
const REPORT_EVERY: Duration = Duration::from_secs(4);

const PODS: &str = "/api/v1/pods";
const NODES: &str = "/api/v1/nodes";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// What the clients of a node watch; `agent` is nothing for the kubelet.
pub(super) fn watched(node: usize, agent: Option<&str>) -> Vec<Watched> {
    let name = node_name(node);
    let who = agent.unwrap_or("kubelet");
    let one = |gvr: Gvr, path, selector: String| Watched {
        id: format!("{name} {who}: {}", gvr.resource),
        gvr,
        path,
        selector,
        watch_list: agent.is_none(),
    };
    let services = one(Gvr::core("services"), SERVICES, String::new());
    match agent {
        None => vec![
            one(Gvr::core("nodes"), NODES, format!("fieldSelector=metadata.name%3D{name}&")),
            one(Gvr::core("pods"), PODS, format!("fieldSelector=spec.nodeName%3D{name}&")),
            services,
        ],
        Some(_) => {
            let slices = Gvr::new("discovery.k8s.io", "v1", "endpointslices");
            vec![services, one(slices, SLICES, String::new())]
        }
    }
}

/// The names of the agents on every node.
pub(super) const AGENTS: [&str; 2] = ["proxy", "dns"];

/// Start all clients of a node; they end when the set is dropped.
pub(super) fn start(node: usize, kubelet: &Client, agent: &Client, tally: &Arc<Tally>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let kubelet = kubelet.clone().over_one_connection();
    let mut follow = |client: &Client, all: Vec<Watched>| {
        for watched in all {
            tasks.spawn(Informer::new(client.clone(), watched, tally.clone()).run());
        }
    };
    follow(&kubelet, watched(node, None));
    for name in AGENTS {
        follow(&agent.clone().over_one_connection(), watched(node, Some(name)));
    }
    let chores = Chores { name: node_name(node), client: kubelet, tally: tally.clone() };
    tasks.spawn(chores.clone().read_node());
    tasks.spawn(chores.clone().renew_lease());
    tasks.spawn(chores.report_status());
    tasks
}

/// What a kubelet does all the time.
#[derive(Clone)]
struct Chores {
    name: String,
    client: Client,
    tally: Arc<Tally>,
}

impl Chores {
    /// Send a request and count it; `None` when no answer came in time.
    async fn call(&self, method: &str, path: &str, kind: &str, body: &Value) -> Option<(u16, Value)> {
        let cut = self.tally.is_cut();
        let bytes = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let exchange = async {
            let response = self.client.send(method, path, kind, bytes).await.ok()?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.ok()?.to_bytes();
            Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, exchange).await.ok().flatten();
        let what = path.split('?').next().unwrap_or(path);
        self.tally.count(cut, &format!("{method} {what}"), answer.as_ref().map(|(status, _)| *status));
        answer
    }

    async fn read_node(self) {
        let path = format!("{NODES}/{}?resourceVersion=0", self.name);
        let mut rhythm = tokio::time::interval(READ_EVERY);
        loop {
            rhythm.tick().await;
            let answer = self.call("GET", &path, "", &Value::Null).await;
            if answer.is_some_and(|(status, _)| status == 404) {
                self.tally.violation(format!("{}: the node was told that it does not exist", self.name));
            }
        }
    }

    async fn renew_lease(self) {
        let own = format!("{LEASES}/{}", self.name);
        let mut held: Option<Value> = None;
        let mut rhythm = tokio::time::interval(RENEW_EVERY);
        loop {
            rhythm.tick().await;
            let now = time::OffsetDateTime::now_utc();
            let now = now.format(time::macros::format_description!(
                "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
            ));
            let spec = json!({
                "holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now.unwrap_or_default(),
            });
            let answer = match &mut held {
                Some(lease) => {
                    lease["spec"] = spec;
                    self.call("PUT", &own, "application/json", lease).await
                }
                None => match self.call("GET", &own, "", &Value::Null).await {
                    Some((404, _)) => {
                        let lease = json!({
                            "kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
                            "metadata": {"name": self.name, "namespace": "kube-node-lease"}, "spec": spec,
                        });
                        self.call("POST", LEASES, "application/json", &lease).await
                    }
                    found => found,
                },
            };
            match answer {
                Some((200 | 201, lease)) => held = Some(lease),
                // As the kubelet: read it again before the next attempt.
                Some((409, _)) => held = None,
                _ => {}
            }
        }
    }

    async fn report_status(self) {
        let path = format!("{NODES}/{}/status", self.name);
        let mut rhythm = tokio::time::interval(REPORT_EVERY);
        for report in 0_u64.. {
            rhythm.tick().await;
            let body = json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "message": format!("report {report}")},
            ]}});
            let answer = self.call("PATCH", &path, "application/strategic-merge-patch+json", &body).await;
            if answer.is_some_and(|(status, _)| status == 200) {
                self.tally.counts().confirmed += 1;
            }
        }
    }
}
