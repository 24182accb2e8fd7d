//! The endpoint overlay: while the cloud is cut, this node's clients see where this node's pods are now.
//!
//! Pods restart and get new addresses while nobody can tell the cloud. The kubelet says so in the patches of their
//! status, which get a 503, but are read ([`PodMemory::hear`]). From them come the [`Amendments`] of EndpointSlices:
//! the address, `ready` and `serving` of endpoints whose target is such a pod on this node; an endpoint whose pod
//! ended, or lost its address, is left out. None is added, and nothing else is touched. Selectors and filters see the
//! amended object. Everything else is the cloud's word.
//!
//! **Resource versions.** A collection has two lines. Upstream's own goes to the store and into every request; nothing
//! of this module is ever in it. The line that clients see is the same one for as long as nothing is amended. An event
//! that is not the cloud's, or that comes from the cloud below what clients have seen, is told under a version of the
//! hub's own ([`OwnVersions`]): one more than the last that this collection's clients saw or that the hub made up for
//! any collection of the kind. All else, which is above all of these, is told under the cloud's version; an amended
//! object never is. So on each stream versions rise, an event's version is its alone, and the lines are one again as
//! soon as the cloud's version is past: in a cluster where anything lives a matter of seconds.
//! The object keeps the version that it was told under until the cloud changes it, so a client that comes again is
//! told exactly what it missed, by ring, objects and tombstones as ever.
//!
//! The plan was to hold the cloud's events back after a cut until its version has passed those given out. A stock
//! server tells the version of a quiet collection once a minute, so clients would wait as long for what is known;
//! numbering these few events again costs nothing and holds nothing back.
//!
//! **A version of the hub's own that comes back.** Its collection knows which ones it told, and goes on from there. To
//! any other collection, to one that was filled anew and to a later process it means nothing: 410 for a watch, and a
//! list answers as for any version. It never goes upstream: neither in the hub's own requests nor in one passed on.
//! A durable record covers each such version before it is given out, so no later process gives it out again. That
//! process does not know what its clients were told amid the overlay of the one before: they list again, at the hub.
//!
//! **Pods that stayed as they were.** A cloud that has not heard of a node for a while writes of each of its pods that it
//! is not ready, and so do their slices; the kubelet repairs that, one pod after another, some seconds after the heal. That
//! word says something of the node, which is here, and nothing of the pod. So when a cut begins, each pod of this node
//! that is ready is held to be so, as if its kubelet had said it ([`PodMemory::cut`]).
//!
//! **The end.** When the cloud shows the pod as the kubelet told it, or otherwise than before - but not only given up -
//! it knows: from then on slices newer than that pod are shown as they are, unless they still show what was before: their
//! controller may have read the pod earlier. Older ones stay amended until they change or [`GRACE`] is over. Thus clients
//! see no step back to the old address between the cloud's hearing of the pod and its writing the slice. What becomes of
//! the pod meanwhile is followed. Of a pod that the kubelet does not report after a heal the overlay ends after
//! [`PATIENCE`].
//!
//! A restart of the hub amid a cut keeps what the kubelet said (a record each), and the kubelet says it again within
//! 10 s. Tables and PartialObjectMetadata are not amended; the former are made by the server alone.

mod amendments;
mod pod;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::ObjectKey;
use proto_kube::wire;
use serde::{Deserialize, Serialize};

pub use amendments::Amendments;
pub use pod::PodError;
pub use versions::OwnVersions;

use crate::clock::Now;
use crate::collection::Object;
use crate::record::{self, DamagedRecord, RecordChange};
use amendments::Amendment;
use pod::{PodState, is_given_up};

/// How long slices older than the pod stay amended after the cloud knows the pod's state.
pub const GRACE: Duration = Duration::from_secs(30);
/// How long after a heal the kubelet has to tell the cloud. It tries every 10 s.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pods remembered; a node runs a few hundred at most.
const MAX_PODS: usize = 4096;

/// Whether objects of this kind are amended.
#[must_use]
pub fn concerns(gvr: &GroupVersionResource) -> bool {
    (&*gvr.group, &*gvr.version, &*gvr.resource) == ("discovery.k8s.io", "v1", "endpointslices")
}

/// What the kubelet said of one pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fact {
    namespace: Box<str>,
    name: Box<str>,
    /// The pod as the kubelet has it.
    told: PodState,
    /// The pod as the cloud had it.
    held: PodState,
    /// Version of the cloud's pod that shows that the cloud knows.
    known_from: Option<u64>,
    /// When that was seen by this process.
    #[serde(skip)]
    known_at: Option<Duration>,
    /// The kubelet said nothing, and the pod was ready when the cut began: its version then. A later process finds the
    /// same among the pods that it holds, so that no record is kept.
    #[serde(skip)]
    held_since: Option<u64>,
}

impl Fact {
    fn record(&self, uid: &str) -> RecordChange {
        RecordChange::Put { key: uid.as_bytes().to_vec(), value: record::encode(self, b"") }
    }

    /// What the cloud says of the pod now. Returns whether that changes anything.
    fn learn(&mut self, now: Now, version: u64, state: PodState, is_given_up: bool) -> bool {
        let is_where_it_was =
            state.addresses == self.held.addresses || state.addresses == self.told.addresses;
        if is_given_up && is_where_it_was && (self.known_from.is_none() || self.told.ready) {
            return self.learn_given_up(version, &state);
        }
        if self.known_from.is_some() {
            // Whatever becomes of it now, the cloud is who knows.
            let changed = state != self.told;
            if changed {
                (self.told, self.known_from) = (state, Some(version));
            }
            return changed;
        }
        let is_news = match self.held_since {
            Some(held_since) => version > held_since,
            None => state == self.told || state != self.held,
        };
        if is_news {
            self.told = state;
            self.know(now, version);
        }
        is_news
    }

    /// The cloud has given the pod up with its node, of which it had not heard. A watch that goes on after a heal may tell
    /// first what the kubelet had told just before the cut: that was not the repair, so the cloud knows nothing yet.
    fn learn_given_up(&mut self, version: u64, state: &PodState) -> bool {
        let was_known = self.known_from.take().is_some();
        if let Some(held_since) = &mut self.held_since {
            *held_since = version.max(*held_since);
        }
        // That it is to end is news all the same.
        let merged = PodState {
            terminating: self.told.terminating || state.terminating,
            ended: self.told.ended || state.ended,
            ..self.told.clone()
        };
        std::mem::replace(&mut self.told, merged.clone()) != merged || was_known
    }

    fn know(&mut self, now: Now, version: u64) {
        self.known_from = Some(version);
        self.known_at = Some(now.monotonic);
    }

    fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// What the cloud says of a pod.
#[derive(Clone, Debug)]
pub enum CloudPod {
    /// It is this one now.
    Present(Arc<Object>),
    /// It is gone; the list that says so has this version.
    Gone(u64),
}

/// The pods of this node of which the kubelet said something that the cloud may not know.
#[derive(Debug)]
pub struct PodMemory {
    node: Box<str>,
    facts: BTreeMap<Box<str>, Fact>,
    connected_since: Option<Duration>,
    /// The pods of this cut are held.
    is_cut: bool,
}

impl PodMemory {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), facts: BTreeMap::new(), connected_since: None, is_cut: false }
    }

    /// The cloud was lost, or this process began without it; `pods` are those of this node, as the cloud showed them last.
    /// Each that is ready is held to be so until the kubelet says something else or repairs what the cloud wrote. Does
    /// nothing when it is called again in the same cut.
    pub fn cut(&mut self, format: Format, pods: &[Arc<Object>]) -> Vec<RecordChange> {
        if std::mem::replace(&mut self.is_cut, true) {
            return Vec::new();
        }
        // What the cloud knew counts no longer as what the kubelet said: from now on the cloud knows nothing new.
        let over = self.facts.extract_if(.., |_, fact| fact.known_from.is_some());
        let changes = over.filter(|(_, fact)| fact.held_since.is_none());
        let changes = changes.map(|(uid, _)| RecordChange::Remove { key: uid.as_bytes().to_vec() }).collect();
        for pod in pods {
            let Ok(held) = PodState::of(format, pod) else { continue };
            let is_known = self.facts.contains_key(&pod.uid);
            if !held.ready || held.ended || is_known || self.facts.len() >= MAX_PODS {
                continue;
            }
            let fact = Fact {
                namespace: pod.key.namespace.clone(),
                name: pod.key.name.clone(),
                told: held.clone(),
                held,
                known_from: None,
                known_at: None,
                held_since: Some(pod.resource_version),
            };
            self.facts.insert(pod.uid.clone(), fact);
        }
        changes
    }

    /// Takes back a record of a former process.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn restore(&mut self, uid: &[u8], value: &[u8]) -> Result<(), DamagedRecord> {
        let uid = std::str::from_utf8(uid).map_err(|_| DamagedRecord)?;
        let (fact, _): (Fact, _) = record::decode(value)?;
        self.facts.insert(uid.into(), fact);
        Ok(())
    }

    /// The kubelet of this node patches the status of `pod`, which is held as the cloud last showed it among the pods
    /// of this node. What is to be kept; nothing when it is known already.
    ///
    /// # Errors
    /// [`PodError`] when the pod or the patch cannot be read; nothing changes then.
    pub fn hear(
        &mut self,
        format: Format,
        pod: &Object,
        patch: &[u8],
    ) -> Result<Vec<RecordChange>, PodError> {
        let held = PodState::of(format, pod)?;
        let told = held.patched(&pod.uid, patch)?;
        let known = self.facts.get(&pod.uid);
        if known.is_some_and(|known| known.told == told)
            || known.is_none() && (told == held || self.facts.len() >= MAX_PODS)
        {
            return Ok(Vec::new());
        }
        let fact = Fact {
            namespace: pod.key.namespace.clone(),
            name: pod.key.name.clone(),
            told,
            held,
            known_from: None,
            known_at: None,
            held_since: None,
        };
        let change =
            RecordChange::Put { key: pod.uid.as_bytes().to_vec(), value: record::encode(&fact, b"") };
        self.facts.insert(pod.uid.clone(), fact);
        Ok(vec![change])
    }

    /// Compares what the kubelet said with what the cloud says now of the pods of this node. What is to be kept; then
    /// the amendments changed.
    pub fn compare(
        &mut self,
        now: Now,
        format: Format,
        mut of_cloud: impl FnMut(&ObjectKey) -> Option<CloudPod>,
    ) -> Vec<RecordChange> {
        let mut changes = Vec::new();
        for (uid, fact) in &mut self.facts {
            let changed = match of_cloud(&fact.key()) {
                None => false,
                Some(CloudPod::Present(pod)) if pod.uid == *uid => {
                    let read =
                        PodState::of(format, &pod).and_then(|state| Ok((state, is_given_up(format, &pod)?)));
                    read.is_ok_and(|(state, is_given_up)| {
                        fact.learn(now, pod.resource_version, state, is_given_up)
                    })
                }
                Some(_) if fact.known_from.is_some() => false,
                Some(CloudPod::Gone(version)) => {
                    fact.know(now, version);
                    true
                }
                Some(CloudPod::Present(another)) => {
                    fact.know(now, another.resource_version);
                    true
                }
            };
            if changed && fact.held_since.is_none() {
                changes.push(fact.record(uid));
            }
        }
        changes
    }

    /// The link's state and the time. Forgets what the cloud has known long enough, or will not hear any more; what is
    /// returned is to be removed from the store.
    pub fn tick(&mut self, now: Now, connected: bool) -> Vec<RecordChange> {
        if !connected {
            self.connected_since = None;
            return Vec::new();
        }
        self.is_cut = false;
        let since = *self.connected_since.get_or_insert(now.monotonic);
        let over = self.facts.extract_if(.., |_, fact| end_of(fact, since) <= now.monotonic);
        let kept = over.filter(|(_, fact)| fact.held_since.is_none());
        kept.map(|(uid, _)| RecordChange::Remove { key: uid.as_bytes().to_vec() }).collect()
    }

    /// When [`Self::tick`] will forget something; `None` while cut, or when there is nothing to forget.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        let since = self.connected_since?;
        self.facts.values().map(|fact| end_of(fact, since)).min()
    }

    /// Whether there is nothing that the cloud may not know.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Pods of which the kubelet said something.
    #[must_use]
    pub fn told(&self) -> usize {
        self.facts.values().filter(|fact| fact.held_since.is_none()).count()
    }

    /// What follows for slices. `unready_published` are the services that publish addresses of pods that are not ready
    /// ([`publishes_unready`]).
    #[must_use]
    pub fn amendments(&self, unready_published: BTreeSet<ObjectKey>) -> Amendments {
        let amendment = |fact: &Fact| Amendment {
            state: fact.told.clone(),
            held: fact.held.addresses.clone(),
            known_from: fact.known_from,
        };
        let pods = self.facts.iter().map(|(uid, fact)| (uid.clone(), amendment(fact))).collect();
        Amendments { node: self.node.clone(), pods, unready_published }
    }

    /// All records, for a store that begins anew.
    #[must_use]
    pub fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let kept = self.facts.iter().filter(|(_, fact)| fact.held_since.is_none());
        kept.map(|(uid, fact)| (uid.as_bytes().to_vec(), record::encode(fact, b""))).collect()
    }
}

fn end_of(fact: &Fact, connected_since: Duration) -> Duration {
    match fact.known_from {
        Some(_) => connected_since.max(fact.known_at.unwrap_or_default()) + GRACE,
        None => connected_since + PATIENCE,
    }
}

/// Whether a Service publishes addresses of pods that are not ready. One that cannot be read is taken not to.
#[must_use]
pub fn publishes_unready(format: Format, service: &Object) -> bool {
    use crate::filter::value::{child, field};
    let Ok(Some(spec)) = child(format.encoding, &service.raw, field(2, "spec")) else { return false };
    match format.encoding {
        Encoding::Json => {
            matches!(child(format.encoding, spec, field(13, "publishNotReadyAddresses")), Ok(Some(b"true")))
        }
        Encoding::Protobuf => wire::last(spec, 13)
            .ok()
            .flatten()
            .is_some_and(|found| matches!(found.value, wire::Value::Varint(value) if value != 0)),
    }
}
