//! What filters read besides the object: where this node stands, where the hub is reached, which pool each node is in
//! and which services ask for topology. Kept up to date by the shell, one object at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proto_kube::gvr::GroupVersionResource;
use proto_kube::json;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::{ObjectKey, annotation, label};
use serde::{Deserialize, Serialize};

use super::FilterError;
use crate::collection::Object;

/// Label of a node: the pool it is in.
pub const NODE_POOL_LABEL: &str = "apps.openyurt.io/nodepool";
/// Label of a NodeBucket: the pool whose nodes it lists.
pub const BUCKET_POOL_LABEL: &str = "openyurt.io/pool-name";
/// Label of a node and of an endpoint: its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Annotation of a service: from how far its endpoints may be.
pub const TOPOLOGY_KEYS: &str = "openyurt.io/topologyKeys";

/// Longest list of nodes read from one pool or bucket; what is beyond it makes the object unreadable.
const MAX_NODES: usize = 10_000;

/// Where pods of this node reach the hub instead of the API server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubAddress {
    /// An address that pods can reach.
    pub host: IpAddr,
    /// The port of the hub's TLS listener there.
    pub port: u16,
}

/// How near an endpoint must be to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// On this node.
    Node,
    /// In this node's pool.
    Pool,
    /// In this node's zone.
    Zone,
}

impl Reach {
    /// The annotation's value. `kubernetes.io/zone` means the pool, as OpenYurt's users have it; a zone is asked for
    /// by its label's name.
    fn parse(value: &str) -> Option<Self> {
        match value.trim() {
            "kubernetes.io/hostname" => Some(Self::Node),
            "openyurt.io/nodepool" | "kubernetes.io/zone" => Some(Self::Pool),
            ZONE_LABEL => Some(Self::Zone),
            _ => None,
        }
    }
}

/// A part of a pool's nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bucket {
    pool: Box<str>,
    nodes: BTreeSet<Box<str>>,
}

/// Everything a filter may depend on besides the object. Equal inputs give equal outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    node: Box<str>,
    hub: Option<HubAddress>,
    /// The certificate of the hub's own authority, as PEM.
    #[serde(default)]
    authority: Option<Box<str>>,
    /// False while only this node's name and the hub's address are known.
    is_complete: bool,
    /// This node's pool by configuration, which counts before everything else.
    own_pool: Option<Box<str>>,
    zone: Option<Box<str>>,
    /// Pools by node, from nodes' labels.
    labelled: BTreeMap<Box<str>, Box<str>>,
    /// By name.
    buckets: BTreeMap<Box<str>, Bucket>,
    /// Nodes by pool, from the pools' status.
    pools: BTreeMap<Box<str>, BTreeSet<Box<str>>>,
    /// Services that ask for topology, as `NAMESPACE/NAME`.
    services: BTreeMap<Box<str>, Reach>,
}

impl Inputs {
    /// Of the node called `node`; without `hub` nothing is redirected to the hub.
    #[must_use]
    pub fn new(node: impl Into<Box<str>>, hub: Option<HubAddress>) -> Self {
        Self {
            node: node.into(),
            hub,
            authority: None,
            is_complete: true,
            own_pool: None,
            zone: None,
            labelled: BTreeMap::new(),
            buckets: BTreeMap::new(),
            pools: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }

    /// The same while nothing else is known of the cluster: filters that read more than the hub's address show nothing.
    #[must_use]
    pub fn pending(node: impl Into<Box<str>>, hub: Option<HubAddress>) -> Self {
        Self { is_complete: false, ..Self::new(node, hub) }
    }

    /// With this node's pool by configuration, whatever labels and pools say.
    #[must_use]
    pub fn with_own_pool(mut self, pool: Option<Box<str>>) -> Self {
        self.own_pool = pool;
        self
    }

    /// With the certificate of the hub's own authority, as PEM: who is led to the hub has to trust it.
    #[must_use]
    pub fn with_authority(mut self, authority: Option<Box<str>>) -> Self {
        self.authority = authority;
        self
    }

    /// From now on everything that filters read is known.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Whether everything that filters read is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes over what a Service, a Node, a `NodePool` or a `NodeBucket` (group `apps.openyurt.io`) says; anything
    /// else says nothing.
    ///
    /// # Errors
    /// When the object is malformed; the inputs stay as they were.
    pub fn put(
        &mut self,
        gvr: &GroupVersionResource,
        format: Format,
        object: &Object,
    ) -> Result<(), FilterError> {
        let raw = &object.raw[..];
        let name = &object.key.name;
        match (gvr.group.as_ref(), gvr.resource.as_ref()) {
            ("", "services") => {
                let reach = annotation(format, raw, TOPOLOGY_KEYS)?.and_then(|value| Reach::parse(&value));
                replace(&mut self.services, service_name(&object.key), reach);
            }
            ("", "nodes") => {
                let pool = label(format, raw, NODE_POOL_LABEL)?.filter(|pool| !pool.is_empty());
                if *name == self.node {
                    self.zone = label(format, raw, ZONE_LABEL)?.map(Into::into);
                }
                replace(&mut self.labelled, name.clone(), pool.map(Into::into));
            }
            ("apps.openyurt.io", "nodepools") => {
                let status = json_member(format, raw, "status")?;
                let nodes = match status.map(|status| json::member(status, "nodes")).transpose()?.flatten() {
                    Some(nodes) if !json::is_null(nodes) => names(nodes, |node| Ok(Some(node)))?,
                    _ => BTreeSet::new(),
                };
                self.pools.insert(name.clone(), nodes);
            }
            ("apps.openyurt.io", "nodebuckets") => {
                let pool = label(format, raw, BUCKET_POOL_LABEL)?;
                let nodes = match json_member(format, raw, "nodes")? {
                    Some(nodes) => names(nodes, |node| Ok(json::member(node, "name")?))?,
                    None => BTreeSet::new(),
                };
                replace(
                    &mut self.buckets,
                    name.clone(),
                    pool.map(|pool| Bucket { pool: pool.into(), nodes }),
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets what a deleted object said.
    pub fn remove(&mut self, gvr: &GroupVersionResource, key: &ObjectKey) {
        match (gvr.group.as_ref(), gvr.resource.as_ref()) {
            ("", "services") => drop(self.services.remove(&service_name(key))),
            ("", "nodes") => {
                self.labelled.remove(&key.name);
                if key.name == self.node {
                    self.zone = None;
                }
            }
            ("apps.openyurt.io", "nodepools") => drop(self.pools.remove(&key.name)),
            ("apps.openyurt.io", "nodebuckets") => drop(self.buckets.remove(&key.name)),
            _ => {}
        }
    }

    /// Whether every outcome for objects of this resource is the same under both.
    #[must_use]
    pub fn is_same_for(&self, gvr: &GroupVersionResource, other: &Self) -> bool {
        match (gvr.group.as_ref(), gvr.resource.as_ref()) {
            ("", "services") => {
                self.is_complete == other.is_complete && self.hub == other.hub && self.pool() == other.pool()
            }
            ("", "pods") => self.hub == other.hub,
            ("", "configmaps") => self.authority == other.authority,
            ("discovery.k8s.io", "endpointslices") => self == other,
            _ => true,
        }
    }

    /// The part on which outcomes for objects of this resource depend, see [`Self::is_same_for`].
    pub(crate) fn only_for(&self, gvr: &GroupVersionResource) -> Self {
        match (gvr.group.as_ref(), gvr.resource.as_ref()) {
            ("discovery.k8s.io", "endpointslices") => self.clone(),
            ("", "configmaps") => {
                Self { is_complete: self.is_complete, ..Self::new(self.node.clone(), self.hub.clone()) }
                    .with_authority(self.authority.clone())
            }
            _ => Self {
                is_complete: self.is_complete,
                ..Self::new(self.node.clone(), self.hub.clone()).with_own_pool(self.pool().map(Into::into))
            },
        }
    }

    /// Whether these say less than the former: nothing is known yet beyond what both say of the hub.
    pub(crate) fn is_less_than(&self, former: &Self) -> bool {
        let is_alike = self.hub == former.hub && self.authority == former.authority;
        !self.is_complete && former.is_complete && is_alike
    }

    pub(super) fn hub(&self) -> Option<&HubAddress> {
        self.hub.as_ref()
    }

    pub(super) fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The pool of this node.
    #[must_use]
    pub fn pool(&self) -> Option<&str> {
        self.pool_of(&self.node)
    }

    /// How near the endpoints of a service must be; `None` when they may be anywhere.
    pub(super) fn reach(&self, namespace: &str, service: &str) -> Option<Reach> {
        self.services.get(format!("{namespace}/{service}").as_str()).copied()
    }

    /// Whether an endpoint on `node` in `zone` is within reach. A node outside of all pools reaches itself only.
    pub(super) fn is_near(&self, reach: Reach, node: Option<&str>, zone: Option<&str>) -> bool {
        let same_node = node == Some(&*self.node);
        match (reach, self.pool()) {
            (Reach::Node, _) | (Reach::Pool, None) => same_node,
            (Reach::Pool, Some(pool)) => node.and_then(|node| self.pool_of(node)) == Some(pool),
            (Reach::Zone, _) => same_node || zone.is_some() && zone == self.zone.as_deref(),
        }
    }

    /// A node's own label counts first; pools and buckets speak for the nodes that are not held here.
    fn pool_of(&self, node: &str) -> Option<&str> {
        if let Some(pool) = self.own_pool.as_deref().filter(|_| *node == *self.node) {
            return Some(pool);
        }
        if let Some(pool) = self.labelled.get(node) {
            return Some(pool);
        }
        let bucket =
            self.buckets.values().find(|bucket| bucket.nodes.contains(node)).map(|bucket| &bucket.pool);
        let pool = || self.pools.iter().find(|(_, nodes)| nodes.contains(node)).map(|(pool, _)| pool);
        bucket.or_else(pool).map(AsRef::as_ref)
    }
}

fn service_name(key: &ObjectKey) -> Box<str> {
    format!("{}/{}", key.namespace, key.name).into()
}

fn replace<V>(map: &mut BTreeMap<Box<str>, V>, key: Box<str>, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// A member of a custom resource, which exists in JSON only.
fn json_member<'a>(format: Format, raw: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, FilterError> {
    if format.encoding != Encoding::Json {
        return Err(FilterError::Form);
    }
    Ok(json::member(raw, name)?.filter(|value| !json::is_null(value)))
}

/// The names in an array, each found in its element by `of`.
fn names<'a>(
    array: &'a [u8],
    of: impl Fn(&'a [u8]) -> Result<Option<&'a [u8]>, FilterError>,
) -> Result<BTreeSet<Box<str>>, FilterError> {
    let mut found = BTreeSet::new();
    for element in json::elements(array)? {
        if let Some(name) = of(element?)? {
            found.insert(json::string(name)?.into());
        }
        if found.len() > MAX_NODES {
            return Err(FilterError::TooManyNodes);
        }
    }
    Ok(found)
}
