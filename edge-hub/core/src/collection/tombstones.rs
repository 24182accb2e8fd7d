//! Tombstones: the deletions that a client which was away for a day still has to learn of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto_kube::media_type::Format;
use proto_kube::object::ObjectKey;

use super::diff::with_version;
use super::object::{Object, Tombstone};
use crate::clock::Now;

/// Bookkeeping that one tombstone costs beside its object's bytes; rounded up.
const TOMBSTONE_OVERHEAD: usize = 256;

/// How many deletions are remembered, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TombstoneLimits {
    /// Tombstones.
    pub count: usize,
    /// Bytes of their last states.
    pub bytes: usize,
    /// Age after which a tombstone is dropped.
    pub age: Duration,
}

impl Default for TombstoneLimits {
    fn default() -> Self {
        Self { count: 50_000, bytes: 8 << 20, age: Duration::from_secs(48 * 3600) }
    }
}

#[derive(Debug)]
struct Entry {
    /// Last state, as it was told.
    object: Arc<Object>,
    /// Upstream's resource version of the deletion.
    upstream_version: u64,
    /// Monotonic time from which this process counts the age.
    since: Duration,
    /// Age on arrival here, by the wall clock of the process before.
    age_before: Duration,
}

impl Entry {
    fn cost(&self) -> usize {
        TOMBSTONE_OVERHEAD + self.object.raw.len()
    }
}

/// A deletion that was dropped.
#[derive(Debug)]
pub(crate) struct Dropped {
    pub(crate) key: ObjectKey,
    /// The version under which it was told.
    pub(crate) resource_version: u64,
    /// Upstream's.
    pub(crate) upstream_version: u64,
}

/// The latest deletion of each key, ordered by resource version.
#[derive(Debug)]
pub(crate) struct Tombstones {
    limits: TombstoneLimits,
    entries: BTreeMap<ObjectKey, Entry>,
    by_version: BTreeSet<(u64, ObjectKey)>,
    bytes: usize,
}

impl Tombstones {
    pub(crate) fn new(limits: TombstoneLimits) -> Self {
        Self { limits, entries: BTreeMap::new(), by_version: BTreeSet::new(), bytes: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.by_version.clear();
        self.bytes = 0;
    }

    /// Remembers a deletion. The age is counted on the monotonic clock from here on, so that a jump of the wall clock
    /// forgets nothing; only what a former process recorded is aged by the wall clock, once.
    pub(crate) fn insert(&mut self, now: Now, tombstone: Tombstone, upstream_version: u64) {
        let entry = Entry {
            upstream_version,
            since: now.monotonic,
            age_before: now.unix.saturating_sub(tombstone.deleted_unix),
            object: tombstone.object,
        };
        let key = entry.object.key.clone();
        self.bytes += entry.cost();
        self.by_version.insert((entry.object.resource_version, key.clone()));
        if let Some(older) = self.entries.insert(key.clone(), entry) {
            self.bytes -= older.cost();
            let version = older.object.resource_version;
            if self.entries.get(&key).is_some_and(|entry| entry.object.resource_version != version) {
                self.by_version.remove(&(version, key));
            }
        }
    }

    /// Drops what exceeds the limits, oldest deletion first, and returns what was dropped.
    pub(crate) fn trim(&mut self, now: Duration) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        while let Some((version, key)) = self.by_version.first().cloned() {
            let Some(entry) = self.entries.get(&key) else { break };
            let age = entry.age_before.saturating_add(now.saturating_sub(entry.since));
            let too_much = self.entries.len() > self.limits.count || self.bytes > self.limits.bytes;
            if age <= self.limits.age && !too_much {
                break;
            }
            self.bytes -= entry.cost();
            let upstream_version = entry.upstream_version;
            self.entries.remove(&key);
            self.by_version.pop_first();
            dropped.push(Dropped { key, resource_version: version, upstream_version });
        }
        dropped
    }

    /// Deletions after `resource_version`, in order.
    pub(crate) fn after(&self, resource_version: u64) -> impl Iterator<Item = &Arc<Object>> {
        // The empty key sorts before every other, so the range begins right after `resource_version`.
        let first = (
            resource_version.saturating_add(1),
            ObjectKey { namespace: Box::default(), name: Box::default() },
        );
        self.by_version.range(first..).filter_map(|(_, key)| Some(&self.entries.get(key)?.object))
    }

    /// Whether a remembered deletion has exactly this version.
    pub(crate) fn has(&self, resource_version: u64) -> bool {
        let next = self.after(resource_version.saturating_sub(1)).next();
        next.is_some_and(|gone| gone.resource_version == resource_version)
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        Some(&self.entries.get(key)?.object)
    }

    /// All of them with upstream's versions, dated so that they keep their age.
    pub(crate) fn all(&self, format: Format, now: Now) -> impl Iterator<Item = Tombstone> {
        self.entries.values().filter_map(move |entry| {
            let age = entry.age_before.saturating_add(now.monotonic.saturating_sub(entry.since));
            let object = if entry.object.resource_version == entry.upstream_version {
                Arc::clone(&entry.object)
            } else {
                Arc::new(with_version(format, &entry.object, entry.upstream_version)?)
            };
            Some(Tombstone { object, deleted_unix: now.unix.saturating_sub(age) })
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
