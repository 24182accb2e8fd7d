//! What clients are told of a collection where that is not upstream's word: amended objects, and versions of the hub's
//! own. The rules are those of [`crate::overlay`].

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto_kube::object::ObjectKey;
use proto_kube::watch::EventType;

use super::diff::{Index, Step, with_version};
use super::spec::Filter;
use super::{Change, Collection, CollectionSpec, Envelope, Object, Selection, Tombstone};
use crate::clock::Now;
use crate::overlay::{Amendments, OwnVersions};

/// Relists remembered that jumped over versions which were never told.
const SKIPPED: usize = 64;

/// Where the state of an object is from that a client was shown under some version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is upstream's, which calls it by this version.
    Upstream(u64),
    /// It was made here: upstream never had it.
    Amended,
    /// It is not held, or no longer.
    Unknown,
}

impl Collection {
    /// From now on objects may be amended, under versions from this line. What a former process told is taken to be
    /// anything up to its last version.
    pub fn share_versions(&mut self, versions: Arc<Mutex<OwnVersions>>) {
        self.overlaid.versions = Some(versions);
        let last = self.overlaid.lock().map_or(0, |mut versions| {
            versions.join(self.resource_version);
            versions.last()
        });
        if self.complete && self.resource_version <= last {
            self.resource_version = self.overlaid.take(self.resource_version);
            self.ring.restart(self.resource_version);
            self.revision += 1;
        }
        self.overlaid.since = self.resource_version;
    }

    /// What the kubelet says of this node's pods. What that changes is told to open views as events; true when any
    /// may have something to say.
    pub fn amend(&mut self, now: Now, amendments: Arc<Amendments>) -> bool {
        if let Some(mut versions) = self.overlaid.lock() {
            versions.set_active(!amendments.is_empty());
        }
        self.overlaid.amendments = amendments;
        let first = self.ring.next_sequence();
        if self.complete {
            self.amend_all(now);
        }
        if first == self.ring.next_sequence() {
            return false;
        }
        self.snapshot.take();
        self.revision += 1;
        true
    }

    /// Whether the next changes may need versions of the hub's own, so that the shell must have reserved some.
    #[must_use]
    pub fn may_need_versions(&self) -> bool {
        let is_amended = !self.overlaid.amendments.is_empty();
        is_amended || self.upstream_version < self.overlaid.last().max(self.resource_version)
    }

    /// The version that upstream is asked from. Never one of the hub's own.
    #[must_use]
    pub fn upstream_version(&self) -> u64 {
        self.upstream_version
    }

    /// Whether the state is not older than what a client saw under this version. One of the hub's own that was not
    /// told here says nothing about this collection.
    #[must_use]
    pub fn has_reached(&self, resource_version: u64) -> bool {
        resource_version <= self.resource_version || self.is_foreign(resource_version)
    }

    /// Whether nothing follows for this collection from what a client saw under a version: one of the hub's own that
    /// was told elsewhere, one of upstream's that clients of this collection were led past, or one that upstream had
    /// before it was set back and has not reached again.
    pub(crate) fn is_foreign(&self, resource_version: u64) -> bool {
        let within = |(after, upto): (u64, u64)| after < resource_version && resource_version <= upto;
        let overlaid = &self.overlaid;
        let is_elsewhere = || {
            overlaid.lock().is_some_and(|versions| {
                versions.gave(resource_version)
                    || resource_version < overlaid.since && versions.holds(resource_version)
            })
        };
        !self.is_own(resource_version)
            && (within((self.upstream_version, self.resource_version))
                || overlaid.skipped.iter().copied().any(within)
                || within((self.resource_version, overlaid.set_back_from))
                || is_elsewhere())
    }

    /// What upstream calls the state of an object that a client was shown under this version.
    #[must_use]
    pub fn upstream_of(&self, key: &ObjectKey, resource_version: u64) -> Origin {
        let Some(shown) = self.index.get(key) else { return Origin::Unknown };
        let truth = self.overlaid.truths.get(key).unwrap_or(shown);
        let same = || with_version(self.spec.format, truth, shown.resource_version);
        match resource_version {
            version if version == truth.resource_version => Origin::Upstream(version),
            version if version != shown.resource_version => Origin::Unknown,
            _ if same().is_some_and(|same| same.raw == shown.raw) => Origin::Upstream(truth.resource_version),
            _ => Origin::Amended,
        }
    }

    /// Whether this collection told this version, and it is the hub's own.
    pub(crate) fn is_own(&self, resource_version: u64) -> bool {
        self.overlaid.told.contains(&resource_version)
    }

    /// Upstream's object, whatever clients are told.
    pub(super) fn upstream_object(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.overlaid.truths.get(key).or_else(|| self.index.get(key)).cloned()
    }

    /// Upstream's state, whatever clients are told.
    pub(super) fn upstream_index(&self) -> Cow<'_, Index> {
        if self.overlaid.truths.is_empty() {
            return Cow::Borrowed(&self.index);
        }
        let mut index = self.index.clone();
        index.extend(self.overlaid.truths.iter().map(|(key, object)| (key.clone(), Arc::clone(object))));
        Cow::Owned(index)
    }

    /// What upstream says of a narrower collection of the same kind and format: its version, the envelope and the objects.
    /// `None` while this collection is not complete or does not cover that one.
    #[must_use]
    pub fn upstream_part(&self, narrower: &CollectionSpec) -> Option<(u64, Envelope, Vec<Object>)> {
        if !self.complete || !self.spec.covers(narrower) {
            return None;
        }
        let filter = Filter::new(&self.spec, &Selection::own(narrower)).ok()?;
        let index = self.upstream_index();
        let objects = index.values().filter(|object| filter.matches(object));
        Some((self.upstream_version, self.envelope.clone(), objects.map(|o| Object::clone(o)).collect()))
    }

    /// Upstream's version rose. Clients are told that one, unless they have seen a later one or it is the hub's own.
    pub(super) fn advance(&mut self, upstream_version: u64) {
        self.upstream_version = upstream_version;
        if upstream_version > self.resource_version.max(self.overlaid.last()) {
            self.resource_version = upstream_version;
            self.overlaid.note(upstream_version);
        }
    }

    /// A relist led from one of upstream's versions past those that clients were led past before.
    pub(super) fn skip(&mut self, upstream_version: u64, resource_version: u64) {
        if upstream_version >= resource_version {
            return;
        }
        let skipped = &mut self.overlaid.skipped;
        skipped.push_back((upstream_version, resource_version));
        if skipped.len() > SKIPPED
            && let (Some((after, _)), Some((_, upto))) = (skipped.pop_front(), skipped.pop_front())
        {
            skipped.push_front((after, upto));
        }
    }

    /// A first state, or one that does not follow from what clients saw.
    pub(super) fn begin_anew(&mut self, upstream_version: u64) {
        let is_ahead = self.resource_version > self.upstream_version;
        self.overlaid.truths.clear();
        if upstream_version < self.upstream_version {
            self.overlaid.set_back_from = self.upstream_version;
        }
        self.upstream_version = upstream_version;
        self.resource_version = match is_ahead || upstream_version <= self.overlaid.last() {
            true => self.overlaid.take(self.resource_version.max(upstream_version)),
            false => upstream_version,
        };
        self.overlaid.note(self.resource_version);
        self.overlaid.since = self.resource_version;
        self.ring.restart(self.resource_version);
    }

    /// Applies one of upstream's events to index, tombstones and ring.
    pub(super) fn record(&mut self, now: Now, step: Step) -> Change {
        let Step { event_type, object, .. } = step;
        self.tell(now, event_type, &object);
        if event_type == EventType::Deleted {
            Change::Delete(Tombstone { object, deleted_unix: now.unix })
        } else {
            Change::Put(object)
        }
    }

    /// Tells clients of an object of upstream's, as they are to see it. Only what is upstream's word for word goes out
    /// under upstream's version: a client may have that state from elsewhere.
    fn tell(&mut self, now: Now, event_type: EventType, object: &Arc<Object>) {
        let version = object.resource_version;
        let amended = self.overlaid.amendments.amend(self.spec.format, object);
        let is_fit = amended.is_none() && version > self.resource_version.max(self.overlaid.last());
        let previous = self.index.get(&object.key).cloned();
        let shown = if is_fit { Some(Arc::clone(object)) } else { self.under_own_version(object, amended) };
        let Some(shown) = shown else {
            // An object that was read has metadata that can be written; if not, nobody can be told of it as an event.
            self.generation += 1;
            self.take_in(now, event_type, object, Arc::clone(object));
            return;
        };
        self.resource_version = shown.resource_version;
        self.overlaid.note(self.resource_version);
        self.take_in(now, event_type, object, Arc::clone(&shown));
        self.ring.push(now.monotonic, event_type, shown, previous);
    }

    /// An object of upstream's, perhaps with other bytes, under the next version of the hub's own.
    fn under_own_version(&mut self, object: &Object, amended: Option<Bytes>) -> Option<Arc<Object>> {
        // Never below upstream's: who has that state from elsewhere must not take it for this one.
        let version = self.overlaid.take(self.resource_version.max(object.resource_version));
        with_version(self.spec.format, &with_bytes(object, amended), version).map(Arc::new)
    }

    fn take_in(&mut self, now: Now, event_type: EventType, object: &Arc<Object>, shown: Arc<Object>) {
        self.overlaid.truths.remove(&object.key);
        if event_type == EventType::Deleted {
            if let Some(gone) = self.index.remove(&object.key) {
                self.bytes -= gone.raw.len();
            }
            let tombstone = Tombstone { object: shown, deleted_unix: now.unix };
            self.tombstones.insert(now, tombstone, object.resource_version);
            return;
        }
        if !Arc::ptr_eq(object, &shown) {
            self.overlaid.truths.insert(object.key.clone(), Arc::clone(object));
        }
        self.hold(shown);
    }

    /// Tells what the amendments make of objects that are shown otherwise.
    pub(super) fn amend_all(&mut self, now: Now) {
        if self.overlaid.amendments.is_empty() && self.overlaid.truths.is_empty() {
            return;
        }
        let objects: Vec<(Arc<Object>, Arc<Object>)> = self
            .index
            .iter()
            .map(|(key, shown)| (self.overlaid.truths.get(key).unwrap_or(shown), shown))
            .map(|(object, shown)| (Arc::clone(object), Arc::clone(shown)))
            .collect();
        for (object, shown) in objects {
            let amended = self.overlaid.amendments.amend(self.spec.format, &object);
            let due = with_bytes(&object, amended.clone());
            let is_shown = with_version(self.spec.format, &due, shown.resource_version)
                .is_none_or(|due| due.raw == shown.raw);
            if is_shown {
                continue;
            }
            let Some(due) = self.under_own_version(&object, amended) else { continue };
            self.resource_version = due.resource_version;
            self.take_in(now, EventType::Modified, &object, Arc::clone(&due));
            self.ring.push(now.monotonic, EventType::Modified, due, Some(shown));
        }
    }
}

/// The object with other bytes, where there are any.
fn with_bytes(object: &Object, raw: Option<Bytes>) -> Object {
    Object { raw: raw.unwrap_or_else(|| object.raw.clone()), ..object.clone() }
}
