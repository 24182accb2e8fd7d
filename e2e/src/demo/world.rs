//! One model cloud with its nodes' links and clients. The demo runs two: one with hubs on the nodes, one without.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::error::DemoError;
use super::informer::Watched;
use super::node::{AGENTS, Clients, LEASE_NAMESPACE, watched};
use super::objects::{AGENT, NAMESPACE, agent_pod, node_name, patch, place, pod_spec, revision, whole};
use super::plan::{Break, Kind, Object, PODS, SERVICES};
use super::tally::{Counts, Tally};
use crate::cloud::client::Client;
use crate::cloud::model::{
    AnswerKind, Cloud, Fault, Gvr, Identity as Caller, Principal, Request, RequestMatch, Rule,
};
use crate::cloud::pki::{Authority, Identity};
use crate::cloud::{CloudControl, LinkState};

/// What belongs to one node.
pub(super) struct Node {
    pub(super) tally: Arc<Tally>,
    /// Where the cloud listens for this node alone.
    pub(super) link: SocketAddr,
    /// All that its informers watch.
    pub(super) watched: Vec<Watched>,
    kubelet: Client,
    agent: Client,
    clients: Clients,
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
    /// How many running watches the schedule broke.
    pub(super) broken: usize,
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
                watched: std::iter::once(None)
                    .chain(AGENTS.map(Some))
                    .flat_map(|agent| watched(node, agent))
                    .collect(),
                kubelet: client(Some(identity))?,
                agent: client(None)?.with_token(&agent_token(&cloud, node)?),
                clients: Clients::default(),
                cut: None,
                healed: None,
                caught_up: None,
            });
        }
        Ok(Self { cloud, nodes, changed: BTreeMap::new(), broken: 0 })
    }

    /// Start a node's clients; those that run lose their memory and end.
    pub(super) async fn start_clients(&mut self, node: usize) {
        let held = &mut self.nodes[node];
        held.clients.stop().await;
        held.clients = Clients::start(node, &held.kubelet, &held.agent, &held.tally);
    }

    /// Nodes report nothing more, so that the cloud stands still; informers go on.
    pub(super) async fn stop_chores(&mut self) {
        for node in &mut self.nodes {
            node.clients.stop_chores().await;
        }
    }

    /// End every client.
    pub(super) async fn stop_clients(&mut self) {
        for node in &mut self.nodes {
            node.clients.stop().await;
        }
    }

    pub(super) fn put(&mut self, object: &Object) -> Result<(), DemoError> {
        let (gvr, namespace, name) = place(object);
        let changed = match self.cloud.merge(&gvr, namespace, &name, &patch(object)) {
            Ok(changed) => changed,
            Err(_) => self.cloud.create(&gvr, whole(object)).map_err(refused)?,
        };
        self.changed.insert(revision(&changed), Instant::now());
        Ok(())
    }

    pub(super) fn remove(&mut self, object: &Object) -> Result<(), DemoError> {
        let (gvr, namespace, name) = place(object);
        // Nobody else deletes, but status reports write at the same time: the deletion's own revision is wanted.
        let deleted = self
            .cloud
            .with(|cloud, now| cloud.delete(now, &gvr, namespace, &name).map(|()| cloud.store().revision()));
        self.changed.insert(deleted.map_err(refused)?, Instant::now());
        Ok(())
    }

    /// Break the watches of Services that run over a node's link, whoever holds them.
    pub(super) fn break_streams(&mut self, node: usize, how: Break) {
        let fault = match how {
            Break::Reset => Fault::Reset,
            Break::Truncate => Fault::Truncate,
            Break::End => Fault::End,
        };
        let streams = RequestMatch::verb("watch").resource("services").replica(node);
        self.broken += self.cloud.fault_streams(&streams, &fault);
    }

    pub(super) async fn cut(&mut self, node: usize) {
        self.nodes[node].cut = Some(Instant::now());
        self.cloud.set_link(node, LinkState::BlackHole).await;
        // Afterwards, so that nothing that the cloud answers counts as served while cut.
        self.nodes[node].tally.turn();
    }

    pub(super) async fn heal(&mut self, node: usize) {
        self.nodes[node].tally.turn();
        self.nodes[node].healed = Some((self.cloud.mark(), Instant::now()));
        self.cloud.set_link(node, LinkState::Up).await;
    }

    /// What of a node differs from the cloud, and how: copies by the revisions of their objects, and what was promised
    /// to the node and has not arrived.
    pub(super) fn differences(&self, node: usize) -> BTreeMap<String, String> {
        self.cloud.look(|cloud| {
            let held = &self.nodes[node];
            let mut found = BTreeMap::new();
            for watched in &held.watched {
                if let Some(text) = difference(cloud, &node_name(node), watched, &held.tally.counts()) {
                    found.insert(watched.id.clone(), text);
                }
            }
            found.extend(owed(cloud, &node_name(node), &held.tally.counts()));
            found
        })
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
}

/// Whether an object is one of those that the informer watches.
pub(super) fn selects(watched: &Watched, node: &str, name: &str, object: &Value) -> bool {
    match watched.gvr.resource.as_str() {
        "nodes" => name == node,
        "pods" => object["spec"]["nodeName"] == *node,
        _ => true,
    }
}

fn difference(cloud: &Cloud, node: &str, watched: &Watched, counts: &Counts) -> Option<String> {
    let Some(Some(copy)) = counts.copies.get(&watched.id) else {
        return Some("it has no copy".to_owned());
    };
    let (mut lacks, mut old, mut same) = (0, 0, 0);
    for (key, object) in cloud.store().objects(&watched.gvr) {
        if !selects(watched, node, &key.1, object) {
            continue;
        }
        match copy.get(key) {
            None => lacks += 1,
            Some(held) if held.revision != revision(object) => old += 1,
            Some(_) => same += 1,
        }
    }
    let more = copy.len() - old - same;
    (lacks + more + old > 0).then(|| format!("{lacks} objects missing, {more} too many, {old} different"))
}

/// What the node was promised and the cloud does not have yet: Events, and the last renewal of its Lease.
fn owed(cloud: &Cloud, node: &str, counts: &Counts) -> Option<(String, String)> {
    let store = cloud.store();
    let events = Gvr::core("events");
    let lost = |name: &&String| store.get(&events, &(NAMESPACE.to_owned(), (*name).clone())).is_none();
    let lost = counts.posted.iter().filter(lost).count();
    let lease = store.get(
        &Gvr::new("coordination.k8s.io", "v1", "leases"),
        &(LEASE_NAMESPACE.to_owned(), node.to_owned()),
    );
    let renewed = lease.and_then(|lease| lease["spec"]["renewTime"].as_str());
    // One way of writing the time, so that text compares as time does.
    let stale = counts.renewed.as_deref().is_some_and(|last| renewed.is_none_or(|renewed| renewed < last));
    (lost > 0 || stale).then(|| {
        let lease = if stale { "old" } else { "new" };
        (
            format!("{node} kubelet: its own writes"),
            format!("{lost} confirmed Events lacking, the Lease is {lease}"),
        )
    })
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
