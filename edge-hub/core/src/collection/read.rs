//! What a collection answers: single objects, lists of now and of a moment ago, and facts about itself.

use std::sync::Arc;
use std::time::Duration;

use proto_kube::object::ObjectKey;

use super::ring::Ring;
use super::spec::{CollectionSpec, Filter, Selection};
use super::tombstones::Tombstones;
use super::{Collection, Envelope, Listing, Lookup, Object, Refusal};
use crate::clock::Now;

impl Collection {
    /// One object. Where it is not held, absent is said only by a complete collection.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Lookup {
        let inside = self.spec.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace);
        let narrowed = !self.spec.labels.is_empty() || !self.spec.fields.is_empty();
        match self.index.get(key) {
            Some(object) => Lookup::Found(Arc::clone(object)),
            None if self.complete && inside && !narrowed => Lookup::Absent,
            None => Lookup::Unknown,
        }
    }

    /// All selected objects at the collection's resource version.
    ///
    /// # Errors
    /// [`Refusal::Incomplete`] and [`Refusal::Uncovered`].
    pub fn list(&self, selection: &Selection) -> Result<Listing, Refusal> {
        if !self.complete {
            return Err(Refusal::Incomplete);
        }
        let filter = Filter::new(&self.spec, selection)?;
        let objects = self.index.values().filter(|object| filter.matches(object)).cloned().collect();
        Ok(Listing { resource_version: self.resource_version, objects })
    }

    /// All selected objects exactly as they were at `resource_version` (`resourceVersionMatch=Exact`): the current
    /// state with the ring's events undone.
    ///
    /// # Errors
    /// [`Refusal::Expired`] when the ring does not reach back to it or a relist jumped over it,
    /// [`Refusal::TooLargeResourceVersion`], [`Refusal::Incomplete`] and [`Refusal::Uncovered`].
    pub fn state_at(&self, resource_version: u64, selection: &Selection) -> Result<Listing, Refusal> {
        if !self.complete {
            return Err(Refusal::Incomplete);
        }
        let filter = Filter::new(&self.spec, selection)?;
        let current = self.resource_version;
        if resource_version > current {
            return Err(Refusal::TooLargeResourceVersion { requested: resource_version, current });
        }
        let known = self.ring.undo_to(resource_version).filter(|_| !self.is_foreign(resource_version));
        let Some(undo) = known else {
            return Err(Refusal::Expired { requested: resource_version, oldest: current });
        };
        let mut state = self.index.clone();
        for event in undo {
            match &event.previous {
                Some(previous) => state.insert(previous.key.clone(), Arc::clone(previous)),
                None => state.remove(&event.object.key),
            };
        }
        let objects = state.into_values().filter(|object| filter.matches(object)).collect();
        Ok(Listing { resource_version, objects })
    }

    /// What the collection is a list-watch of.
    #[must_use]
    pub fn spec(&self) -> &CollectionSpec {
        &self.spec
    }

    /// What surrounds the objects; empty names before the first list.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Whether every object is known to be held, so that lists and watches may be answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The state's resource version as clients are told it; 0 before the first list.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.resource_version
    }

    /// Where the upstream watch goes on; `None` when the whole state must be fetched first.
    #[must_use]
    pub fn resume_from(&self) -> Option<u64> {
        self.complete.then_some(self.upstream_version)
    }

    /// The oldest resource version from which a watch can be answered.
    #[must_use]
    pub fn horizon(&self) -> u64 {
        self.horizon
    }

    /// Rises whenever a view may have something new to say.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Last word from upstream, by the wall clock of then, since 1970; zero if there was none.
    #[must_use]
    pub fn synced_unix(&self) -> Duration {
        self.synced_unix
    }

    /// Age of the data: time since upstream was last heard. The monotonic clock counts where it can; `None` when
    /// upstream was never heard.
    #[must_use]
    pub fn staleness(&self, now: Now) -> Option<Duration> {
        match self.heard_at {
            Some(heard_at) => Some(now.monotonic.saturating_sub(heard_at)),
            None if self.synced_unix.is_zero() => None,
            None => Some(now.unix.saturating_sub(self.synced_unix)),
        }
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no object is held; says nothing about completeness.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// What is held, for metrics and budgets.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        Footprint {
            object_bytes: self.bytes,
            ring_events: self.ring.len(),
            ring_bytes: self.ring.bytes(),
            tombstones: self.tombstones.len(),
            tombstone_bytes: self.tombstones.bytes(),
        }
    }

    /// All objects in key order, shared until the next change.
    pub(crate) fn snapshot(&self) -> Arc<[Arc<Object>]> {
        Arc::clone(self.snapshot.get_or_init(|| self.index.values().cloned().collect()))
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.index.values()
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Whether some event of this collection, as far as it is remembered, had exactly this version.
    pub(crate) fn has_told(&self, resource_version: u64) -> bool {
        self.ring.has_event_at(resource_version)
            || self.tombstones.has(resource_version)
            || self.index.values().any(|object| object.resource_version == resource_version)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn relists(&self) -> u64 {
        self.relists
    }
}

/// How much one collection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of the objects of the index.
    pub object_bytes: usize,
    /// Events in the ring.
    pub ring_events: usize,
    /// Bytes that they may come to hold.
    pub ring_bytes: usize,
    /// Deletions remembered.
    pub tombstones: usize,
    /// Bytes of their last states.
    pub tombstone_bytes: usize,
}
