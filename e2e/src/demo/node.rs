//! The clients of one node: a kubelet with the node's certificate, and two agents that share a ServiceAccount, as
//! kube-proxy and a DNS server do. Each keeps one connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use super::informer::{Informer, Watched};
use super::objects::{NAMESPACE, node_name, revision};
use super::tally::{Read, Tally};
use crate::cloud::client::Client;
use crate::cloud::model::Gvr;

/// How long a client waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// The kubelet's rhythms; the real ones are about five times slower.
const READ_EVERY: Duration = Duration::from_secs(1);
const RENEW_EVERY: Duration = Duration::from_secs(2);
const REPORT_EVERY: Duration = Duration::from_secs(4);
/// How often a renewal is tried at a time, reads included.
const RENEW_ATTEMPTS: usize = 5;
/// How often something happens that is worth an Event.
const POST_EVERY: Duration = Duration::from_secs(3);

const JSON: &str = "application/json";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const PODS: &str = "/api/v1/pods";
const NODES: &str = "/api/v1/nodes";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
/// Where nodes keep their Leases.
pub(super) const LEASE_NAMESPACE: &str = "kube-node-lease";
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

/// The running clients of one node; they end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// Informers, and the renewal of the Lease, which no informer watches.
    lasting: JoinSet<()>,
    chores: JoinSet<()>,
}

impl Clients {
    /// Start all clients of a node.
    pub(super) fn start(node: usize, kubelet: &Client, agent: &Client, tally: &Arc<Tally>) -> Self {
        let mut clients = Self::default();
        let kubelet = kubelet.clone().over_one_connection();
        let mut follow = |client: &Client, all: Vec<Watched>| {
            for watched in all {
                clients.lasting.spawn(Informer::new(client.clone(), watched, tally.clone()).run());
            }
        };
        follow(&kubelet, watched(node, None));
        for name in AGENTS {
            follow(&agent.clone().over_one_connection(), watched(node, Some(name)));
        }
        let chores = Chores { name: node_name(node), client: kubelet, tally: tally.clone() };
        clients.lasting.spawn(chores.clone().renew_lease());
        clients.chores.spawn(chores.clone().read_node());
        clients.chores.spawn(chores.clone().post_events());
        clients.chores.spawn(chores.report_status());
        clients
    }

    /// End what changes or reads objects that informers watch.
    pub(super) async fn stop_chores(&mut self) {
        self.chores.shutdown().await;
    }

    /// End everything.
    pub(super) async fn stop(&mut self) {
        self.stop_chores().await;
        self.lasting.shutdown().await;
    }
}

/// What a kubelet does all the time.
#[derive(Clone)]
struct Chores {
    name: String,
    client: Client,
    tally: Arc<Tally>,
}

/// What came of a request.
struct Outcome {
    /// `None` when no answer came in time.
    status: Option<u16>,
    body: Value,
    /// It was served while the link was cut.
    offline: bool,
}

impl Chores {
    /// Send a request and count it.
    async fn call(&self, method: &str, path: &str, kind: &str, body: &Value) -> Outcome {
        let begun = self.tally.begin();
        let exchange = self.client.call(method, path, kind, body);
        let answer = tokio::time::timeout(ANSWER_LIMIT, exchange).await.ok().and_then(Result::ok);
        let what = path.split('?').next().unwrap_or(path);
        let (status, body) = answer.map_or((None, Value::Null), |(status, body)| (Some(status), body));
        let offline = self.tally.count(begun, &format!("{method} {what}"), status);
        Outcome { status, body, offline }
    }

    async fn read_node(self) {
        let path = format!("{NODES}/{}?resourceVersion=0", self.name);
        let mut rhythm = rhythm(READ_EVERY);
        loop {
            rhythm.tick().await;
            let answer = self.call("GET", &path, "", &Value::Null).await;
            if answer.status == Some(404) {
                self.tally.violation(format!("{}: the node was told that it does not exist", self.name));
            }
            if answer.status == Some(200) && answer.offline {
                let read = Read { revision: revision(&answer.body), came: Instant::now() };
                self.tally.counts().offline_reads.push(read);
            }
        }
    }

    async fn renew_lease(self) {
        let mut held: Option<Value> = None;
        let mut rhythm = rhythm(RENEW_EVERY);
        loop {
            rhythm.tick().await;
            // As the kubelet: after a conflict the Lease is read again and renewed at once.
            for _ in 0..RENEW_ATTEMPTS {
                let Some(lease) = held.take() else {
                    held = self.fetch_lease().await;
                    if held.is_none() {
                        break;
                    }
                    continue;
                };
                match self.put_lease(&lease).await {
                    Outcome { status: Some(200), body, .. } => held = Some(body),
                    Outcome { status: Some(409), .. } => continue,
                    _ => held = Some(lease),
                }
                break;
            }
        }
    }

    fn lease_spec(&self) -> Value {
        json!({"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now()})
    }

    /// The Lease as it stands; it is made if there is none.
    async fn fetch_lease(&self) -> Option<Value> {
        let own = format!("{LEASES}/{}", self.name);
        let mut found = self.call("GET", &own, "", &Value::Null).await;
        if found.status == Some(404) {
            let lease = json!({
                "kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "spec": self.lease_spec(),
                "metadata": {"name": self.name, "namespace": LEASE_NAMESPACE},
            });
            found = self.call("POST", LEASES, JSON, &lease).await;
        }
        matches!(found.status, Some(200 | 201)).then_some(found.body)
    }

    async fn put_lease(&self, lease: &Value) -> Outcome {
        let mut lease = lease.clone();
        lease["spec"] = self.lease_spec();
        let own = format!("{LEASES}/{}", self.name);
        let answer = self.call("PUT", &own, JSON, &lease).await;
        if answer.status == Some(200) {
            self.tally.counts().renewed = lease["spec"]["renewTime"].as_str().map(str::to_owned);
        }
        answer
    }

    async fn report_status(self) {
        let path = format!("{NODES}/{}/status", self.name);
        let mut rhythm = rhythm(REPORT_EVERY);
        loop {
            rhythm.tick().await;
            let message = format!("reported at {}", now());
            let body = json!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "message": message},
            ]}});
            let answer = self.call("PATCH", &path, "application/strategic-merge-patch+json", &body).await;
            if answer.status == Some(200) {
                self.tally.counts().reports.push((revision(&answer.body), message));
            }
        }
    }

    async fn post_events(self) {
        let mut rhythm = rhythm(POST_EVERY);
        loop {
            rhythm.tick().await;
            // The kubelet names its Events by the time, too.
            let nanos = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
            let (name, moment) = (format!("{}.{nanos:x}", self.name), now());
            let event = json!({
                "kind": "Event", "apiVersion": "v1", "metadata": {"name": name, "namespace": NAMESPACE},
                "involvedObject": {"kind": "Node", "name": self.name, "uid": self.name},
                "reason": "NodeHasSufficientMemory", "message": "an island in a river", "type": "Normal",
                "source": {"component": "kubelet", "host": self.name}, "count": 1,
                "firstTimestamp": moment, "lastTimestamp": moment,
            });
            let answer = self.call("POST", EVENTS, JSON, &event).await;
            if answer.status == Some(201) {
                let mut counts = self.tally.counts();
                counts.posted.push(name);
                counts.posted_offline += u64::from(answer.offline);
            }
        }
    }
}

/// Beats at most as often as it says, also after one that took long.
fn rhythm(every: Duration) -> Interval {
    let mut rhythm = tokio::time::interval(every);
    rhythm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    rhythm
}

/// The time as Kubernetes writes a `MicroTime`.
fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    let written = now.format(time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    ));
    written.unwrap_or_default()
}
