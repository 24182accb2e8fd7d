//! One model cloud with its nodes' links and clients. The demo runs two: one with hubs on the nodes, one without.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::DemoError;
use super::informer::entry;
use super::node::{self, AGENTS, watched};
use super::objects::{AGENT, NAMESPACE, agent_pod, node_name, patch, place, pod_spec, whole};
use super::plan::{Break, Kind, Object, PODS, SERVICES};
use super::tally::Tally;
use crate::cloud::client::Client;
use crate::cloud::model::{
    AnswerKind, Fault, Gvr, Identity as Caller, Key, Principal, Request, RequestMatch, Rule,
};
use crate::cloud::pki::{Authority, Identity};
use crate::cloud::{CloudControl, LinkState};

/// What belongs to one node.
pub(super) struct Node {
    pub(super) tally: Arc<Tally>,
    /// Where the cloud listens for this node alone.
    pub(super) link: SocketAddr,
    kubelet: Client,
    agent: Client,
    clients: JoinSet<()>,
    /// The moment of the cut.
    pub(super) cut: Option<Instant>,
    /// The cloud's record and the moment when the link came back.
    pub(super) healed: Option<(u64, Instant)>,
    /// How long after that every copy was the truth again.
    pub(super) caught_up: Option<Duration>,
}

/// A cloud and its nodes.
pub(super) struct World {
    pub(super) cloud: CloudControl,
    pub(super) nodes: Vec<Node>,
    /// When each revision came into being, for those that the schedule made.
    pub(super) changed: BTreeMap<u64, Instant>,
}

impl World {
    /// A cloud full of objects and one link per node. The clients talk to `servers`, or to the links if there are none.
    ///
    /// # Errors
    /// When keys or listeners cannot be made, or the model refuses an object.
    pub(super) fn new(
        authority: &Authority,
        identities: &[Identity],
        servers: Option<&[SocketAddr]>,
    ) -> Result<Self, DemoError> {
        let cloud = CloudControl::start(authority, &["127.0.0.1"])?;
        cloud.allow(Rule::allow(
            &format!("system:serviceaccount:{NAMESPACE}:{AGENT}"),
            &["get", "list", "watch"],
            &["services", "endpointslices"],
        ));
        fill(&cloud, identities.len())?;
        let mut nodes = Vec::new();
        for (node, identity) in identities.iter().enumerate() {
            let io = |source| DemoError::Io { what: "listen on loopback", source };
            let listener = TcpListener::bind("127.0.0.1:0").map_err(io)?;
            let link = cloud.listen(listener, node).map_err(io)?;
            let server = servers.map_or(link, |servers| servers[node]);
            let client =
                |identity| Client::new(server, &server.ip().to_string(), authority.roots()?, identity);
            nodes.push(Node {
                tally: Arc::default(),
                link,
                kubelet: client(Some(identity))?,
                agent: client(None)?.with_token(&agent_token(&cloud, node)?),
                clients: JoinSet::new(),
                cut: None,
                healed: None,
                caught_up: None,
            });
        }
        Ok(Self { cloud, nodes, changed: BTreeMap::new() })
    }

    /// Start a node's clients; those that run lose their memory and end.
    pub(super) async fn start_clients(&mut self, node: usize) {
        let held = &mut self.nodes[node];
        held.clients.shutdown().await;
        held.clients = node::start(node, &held.kubelet, &held.agent, &held.tally);
    }

    /// End every client.
    pub(super) async fn stop_clients(&mut self) {
        for node in &mut self.nodes {
            node.clients.shutdown().await;
        }
    }

    pub(super) fn put(&mut self, object: &Object) -> Result<(), DemoError> {
        let (gvr, namespace, name) = place(object);
        let changed = match self.cloud.merge(&gvr, namespace, &name, &patch(object)) {
            Ok(changed) => changed,
            Err(_) => self.cloud.create(&gvr, whole(object)).map_err(refused)?,
        };
        let (_, bare) = entry(&changed);
        let revision = bare["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
        self.changed.insert(revision.unwrap_or(0), Instant::now());
        Ok(())
    }

    pub(super) fn remove(&mut self, object: &Object) -> Result<(), DemoError> {
        let (gvr, namespace, name) = place(object);
        self.cloud.delete(&gvr, namespace, &name).map_err(refused)?;
        self.changed.insert(self.cloud.revision(), Instant::now());
        Ok(())
    }

    /// Break a stream of Services of this node, whoever holds it.
    pub(super) fn break_stream(&self, node: usize, how: Break) {
        let fault = match how {
            Break::Reset => Fault::Reset,
            Break::Truncate => Fault::Truncate,
            Break::End => Fault::End,
        };
        let user = format!("system:node:{}", node_name(node));
        self.cloud.fault_streams(&RequestMatch::verb("watch").resource("services").user(&user), &fault);
    }

    pub(super) async fn cut(&mut self, node: usize) {
        self.nodes[node].cut = Some(Instant::now());
        self.cloud.set_link(node, LinkState::BlackHole).await;
        self.nodes[node].tally.set_cut(true);
    }

    pub(super) async fn heal(&mut self, node: usize) {
        self.nodes[node].healed = Some((self.cloud.mark(), Instant::now()));
        self.cloud.set_link(node, LinkState::Up).await;
        self.nodes[node].tally.set_cut(false);
    }

    /// What each informer of a node ought to hold.
    pub(super) fn truth(&self, node: usize) -> BTreeMap<String, BTreeMap<Key, Value>> {
        let name = node_name(node);
        let all = std::iter::once(None).chain(AGENTS.map(Some)).flat_map(|agent| watched(node, agent));
        self.cloud.with(|cloud, _| {
            let collection = |gvr: &Gvr| {
                let objects = cloud.store().objects(gvr).map(|(_, object)| entry(object));
                let selected = objects.filter(|((_, key), object)| match gvr.resource.as_str() {
                    "nodes" => *key == name,
                    "pods" => object["spec"]["nodeName"] == *name,
                    _ => true,
                });
                selected.collect()
            };
            all.map(|watched| (watched.id, collection(&watched.gvr))).collect()
        })
    }

    /// The informers of a node whose copy differs from the cloud, and how.
    pub(super) fn differences(&self, node: usize) -> BTreeMap<String, String> {
        let truth = self.truth(node);
        let counts = self.nodes[node].tally.counts();
        let mut found = BTreeMap::new();
        for (id, wanted) in truth {
            let Some(Some(held)) = counts.caches.get(&id) else {
                found.insert(id, "it has no copy".to_owned());
                continue;
            };
            let lacks = wanted.keys().filter(|key| !held.contains_key(*key)).count();
            let more = held.keys().filter(|key| !wanted.contains_key(*key)).count();
            let old =
                wanted.iter().filter(|(key, object)| held.get(*key).is_some_and(|h| h != *object)).count();
            if lacks + more + old > 0 {
                found.insert(id, format!("{lacks} objects missing, {more} too many, {old} different"));
            }
        }
        found
    }

    /// Note the nodes that have caught up after their link came back.
    pub(super) fn look_for_recovery(&mut self) {
        for node in 0..self.nodes.len() {
            let held = &self.nodes[node];
            if let (Some((_, since)), None) = (held.healed, held.caught_up)
                && self.differences(node).is_empty()
            {
                self.nodes[node].caught_up = Some(since.elapsed());
            }
        }
    }

    /// Deletions that the cloud did not make, writes that it never saw, and copies that differ from it.
    pub(super) fn judge(&self, last: &[BTreeMap<String, String>]) -> Vec<String> {
        let mut violations = Vec::new();
        let records = self.cloud.records();
        for (index, node) in self.nodes.iter().enumerate() {
            let standing: BTreeMap<String, String> = self
                .truth(index)
                .into_values()
                .flatten()
                .map(|(key, object)| (object["metadata"]["uid"].to_string(), key.1))
                .collect();
            let counts = node.tally.counts();
            violations.extend(counts.violations.iter().cloned());
            for (uid, text) in &counts.gone {
                if standing.contains_key(&json!(uid).to_string()) {
                    violations.push(format!("{text}: told that it is deleted, but it stands in the cloud"));
                }
            }
            let seen = records
                .iter()
                .filter(|record| record.replica == index && record.verb == "patch" && record.status == 200);
            if (seen.count() as u64) < counts.confirmed {
                let name = node_name(index);
                violations.push(format!("{name}: a write was confirmed that the cloud has never seen"));
            }
        }
        let differing = last.iter().flatten();
        violations.extend(differing.map(|(id, text)| format!("{id}: not what the cloud holds: {text}")));
        violations
    }
}

fn refused(status: crate::cloud::model::Status) -> DemoError {
    DemoError::Model(format!("{status:?}"))
}

fn fill(cloud: &CloudControl, nodes: usize) -> Result<(), DemoError> {
    let create = |object: Object| {
        let (gvr, ..) = place(&object);
        cloud.create(&gvr, whole(&object)).map(drop).map_err(refused)
    };
    let account = json!({"metadata": {"name": AGENT, "namespace": NAMESPACE}});
    cloud.create(&Gvr::core("serviceaccounts"), account).map_err(refused)?;
    for number in 0..SERVICES {
        for kind in [Kind::Service, Kind::EndpointSlice] {
            create(Object { kind, number, node: 0, value: 0 })?;
        }
    }
    for node in 0..nodes {
        create(Object { kind: Kind::Node, number: 0, node, value: 0 })?;
        for number in 0..PODS {
            create(Object { kind: Kind::Pod, number, node, value: 0 })?;
        }
        let agent = json!({
            "metadata": {"name": agent_pod(node), "namespace": NAMESPACE}, "spec": pod_spec(node, AGENT),
        });
        cloud.create(&Gvr::core("pods"), agent).map_err(refused)?;
    }
    Ok(())
}

/// A real token, bound to the agents' pod. Straight from the core: it is in the pod before the demo begins.
fn agent_token(cloud: &CloudControl, node: usize) -> Result<String, DemoError> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{AGENT}/token");
    let mut request = Request::new(Caller::Certificate(Principal::node(&node_name(node))), "POST", &path);
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": agent_pod(node)});
    request.body = json!({"spec": {"boundObjectRef": bound}}).to_string().into();
    request.user_agent = "demo-setup".into();
    let answer = cloud.with(|cloud, now| cloud.handle(now, &request));
    let AnswerKind::Full { response, .. } = answer.kind else {
        return Err(DemoError::Model("a watch is no token".to_owned()));
    };
    let document: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let token = document["status"]["token"].as_str().map(str::to_owned);
    token.ok_or_else(|| DemoError::Model(format!("no token: {document}")))
}
