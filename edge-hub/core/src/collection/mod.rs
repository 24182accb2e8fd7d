//! One upstream list-watch's state: index, event ring, tombstones. The heart of the hub.
//!
//! Upstream answers go in ([`Collection::replace`], [`Collection::apply`], [`Collection::bookmark`]), each returns what
//! the store is to remember; views and lists read. Resource versions are upstream's own and only ever rise; the one
//! exception is [`Collection::reset`], which ends every view. Where the [`overlay`](crate::overlay) amends objects,
//! what clients are told may carry versions of the hub's own; what goes to the store and upstream never does.

mod diff;
mod epochs;
mod lens;
mod object;
mod overlaid;
mod own_line;
mod read;
mod ring;
mod spec;
mod tombstones;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto_kube::media_type::Form;
use proto_kube::object::{ObjectKey, TypeMeta};
use proto_kube::status::Status;
use proto_kube::watch::EventType;

pub(crate) use diff::with_version;
pub(crate) use lens::Lens;
pub use object::{Change, Envelope, Object, Tombstone, Watermark};
pub use overlaid::Origin;
pub use read::Footprint;
pub use ring::{RingEvent, RingLimits};
pub use spec::{CollectionSpec, Selection, Uncovered};
pub use tombstones::TombstoneLimits;

use crate::clock::Now;
use crate::filter::FilterError;
use diff::{Index, Step, diff};
use epochs::Epochs;
use own_line::Overlaid;
use ring::Ring;
use tombstones::Tombstones;

/// What one collection may hold beside its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Recent history.
    pub ring: RingLimits,
    /// Remembered deletions.
    pub tombstones: TombstoneLimits,
}

/// What the store recovered of one collection.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The last watermark; `None` when none was written.
    pub watermark: Option<Watermark>,
    /// Objects that passed their checks.
    pub objects: Vec<Arc<Object>>,
    /// Tombstones that passed their checks.
    pub tombstones: Vec<Tombstone>,
    /// Whether these are all the records that the watermark stands for.
    pub complete: bool,
}

/// A relist that is older than what is held: a lagging replica, or a cluster restored from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the list at resource version {offered} is older than what is held, {held}")]
pub struct Rollback {
    /// Resource version of the collection.
    pub held: u64,
    /// Resource version of the list that was refused.
    pub offered: u64,
}

/// Why a read cannot be answered from a collection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not known to hold every object; answer 429 with Retry-After, never an empty list.
    #[error("the collection is not complete yet")]
    Incomplete,
    /// Another collection is needed for this selection.
    #[error(transparent)]
    Uncovered(#[from] Uncovered),
    /// The history from this resource version on is not known; 410.
    #[error("too old resource version: {requested} ({oldest})")]
    Expired {
        /// What the client asked for, or had reached.
        requested: u64,
        /// Oldest resource version that can be answered.
        oldest: u64,
    },
    /// The collection has not reached this resource version. Wait for it up to 3 s, then 504.
    #[error("too large resource version: {requested}, current: {current}")]
    TooLargeResourceVersion {
        /// What the client asked for.
        requested: u64,
        /// Resource version of the collection.
        current: u64,
    },
    /// An object cannot be filtered for this client, so nothing is shown; 500.
    #[error("a cached object cannot be filtered: {0}")]
    Unfilterable(#[from] FilterError),
}

impl Refusal {
    /// What the API server would say; for a watch it goes into a 200 as one ERROR event.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Incomplete => Status::too_many_requests("the cache of this resource is being filled", 1),
            Self::Uncovered(why) => Status::service_unavailable(why.to_string()),
            Self::Expired { requested, oldest } => Status::expired(*requested, *oldest),
            Self::TooLargeResourceVersion { requested, current } => {
                Status::too_large_resource_version(*requested, *current)
            }
            Self::Unfilterable(_) => Status::internal(&self.to_string()),
        }
    }
}

/// What is known of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The object.
    Found(Arc<Object>),
    /// The collection is complete and does not hold it: an honest 404.
    Absent,
    /// Nobody can tell.
    Unknown,
}

/// Some objects of a collection at one resource version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The collection's resource version at that state; not that of its newest object.
    pub resource_version: u64,
    /// Objects, ordered by namespace and name.
    pub objects: Vec<Arc<Object>>,
}

/// One upstream list-watch's state.
#[derive(Debug)]
pub struct Collection {
    spec: CollectionSpec,
    envelope: Envelope,
    index: Index,
    ring: Ring,
    tombstones: Tombstones,
    /// The index is the state at exactly this resource version, as clients are told it.
    resource_version: u64,
    /// Upstream's resource version of that state.
    upstream_version: u64,
    overlaid: Overlaid,
    horizon: u64,
    complete: bool,
    /// Rises with each break of history; a view of an older generation ends.
    generation: u64,
    /// Relists absorbed; a view sends a bookmark after each.
    relists: u64,
    /// Counts the operations that may give a view something to say.
    revision: u64,
    /// Last word from upstream by the wall clock, and by this process's monotonic clock where it heard it itself.
    synced_unix: Duration,
    heard_at: Option<Duration>,
    bytes: usize,
    /// All objects in key order, shared by the views that open at this state.
    snapshot: OnceLock<Arc<[Arc<Object>]>>,
    /// What filters read besides the objects; `None` before it is known.
    epochs: Option<Epochs>,
}

impl Collection {
    /// An empty collection that is not complete: it must be filled by [`Self::replace`].
    #[must_use]
    pub fn new(spec: CollectionSpec, limits: Limits) -> Self {
        let type_meta = TypeMeta::new("", "");
        Self {
            spec,
            envelope: Envelope { type_meta, list_kind: Box::default(), columns: None },
            index: Index::new(),
            ring: Ring::new(limits.ring, 0),
            tombstones: Tombstones::new(limits.tombstones),
            resource_version: 0,
            upstream_version: 0,
            overlaid: Overlaid::default(),
            horizon: 0,
            complete: false,
            generation: 0,
            relists: 0,
            revision: 0,
            synced_unix: Duration::ZERO,
            heard_at: None,
            bytes: 0,
            snapshot: OnceLock::new(),
            epochs: None,
        }
    }

    /// What the store kept. Clients resume from the objects' own resource versions and the tombstones.
    ///
    /// Without a watermark, or when records are missing or newer than it, the collection is not complete: it answers
    /// for single objects only, until it is filled again.
    #[must_use]
    pub fn restore(spec: CollectionSpec, limits: Limits, now: Now, recovered: Recovered) -> Self {
        let mut collection = Self::new(spec, limits);
        let Recovered { watermark, objects, tombstones, complete } = recovered;
        let Some(watermark) = watermark else { return collection };
        collection.resource_version = watermark.resource_version;
        collection.upstream_version = watermark.resource_version;
        collection.horizon = watermark.horizon.min(watermark.resource_version);
        collection.synced_unix = watermark.synced_unix;
        collection.envelope = watermark.envelope;
        collection.ring.restart(watermark.resource_version);
        let mut newest = 0;
        for tombstone in tombstones {
            newest = newest.max(tombstone.object.resource_version);
            let version = tombstone.object.resource_version;
            collection.tombstones.insert(now, tombstone, version);
        }
        for object in objects {
            newest = newest.max(object.resource_version);
            let buried = collection.tombstones.get(&object.key);
            if buried.is_none_or(|buried| buried.resource_version < object.resource_version) {
                collection.hold(object);
            }
        }
        collection.complete = complete && newest <= watermark.resource_version;
        collection
    }

    /// Takes over the whole state at `resource_version` and tells it as events: clients see what changed, never
    /// that the history upstream was lost. Between the old and the new version no state counts as known.
    ///
    /// Where the list cannot be the outcome of events after what is held (the API server shows an object otherwise
    /// without a new version, as after a CustomResourceDefinition got a default or other printer columns), every view
    /// ends with 410 and the list is taken as it is.
    ///
    /// # Errors
    /// [`Rollback`] when the list is older than what is held; nothing changes then.
    pub fn replace(
        &mut self,
        now: Now,
        resource_version: u64,
        envelope: Envelope,
        objects: Vec<Object>,
    ) -> Result<Vec<Change>, Rollback> {
        if resource_version < self.upstream_version {
            return Err(Rollback { held: self.upstream_version, offered: resource_version });
        }
        if !self.complete {
            return Ok(self.reset(now, resource_version, envelope, objects));
        }
        let listed = by_key(objects);
        let (held, held_here) = (self.upstream_version, self.resource_version);
        let has_same_heading = self.envelope.columns == envelope.columns;
        let steps = diff(self.spec.format, &self.upstream_index(), held, &listed, resource_version);
        let (Ok(steps), true) = (steps, has_same_heading) else {
            return Ok(self.restart(now, resource_version, envelope, listed));
        };
        let first = self.ring.next_sequence();
        let mut changes = Vec::with_capacity(steps.len() + 1);
        for step in steps {
            changes.push(self.record(now, step));
        }
        changes.extend(self.refresh_rows(listed));
        self.skip(held, held_here);
        self.advance(resource_version);
        self.ring.note_jump(held_here, self.resource_version, first, now.monotonic);
        self.envelope = envelope;
        self.relists += 1;
        Ok(self.finish(now, changes))
    }

    /// Takes over a state whatever is held: the first one, or the truth after a rollback upstream. Every open view
    /// ends with 410, and nobody can resume from before.
    pub fn reset(
        &mut self,
        now: Now,
        resource_version: u64,
        envelope: Envelope,
        objects: Vec<Object>,
    ) -> Vec<Change> {
        self.restart(now, resource_version, envelope, by_key(objects))
    }

    fn restart(
        &mut self,
        now: Now,
        resource_version: u64,
        envelope: Envelope,
        listed: BTreeMap<ObjectKey, Object>,
    ) -> Vec<Change> {
        self.index.clear();
        self.bytes = 0;
        self.tombstones.clear();
        self.generation += 1;
        self.begin_anew(resource_version);
        self.horizon = self.resource_version;
        self.envelope = envelope;
        self.complete = true;
        let mut changes = vec![Change::Reset];
        for (_, object) in listed {
            let object = Arc::new(object.detached());
            changes.push(Change::Put(Arc::clone(&object)));
            self.hold(object);
        }
        self.amend_all(now);
        self.finish(now, changes)
    }

    /// One event of the upstream watch. What is not newer than the collection was known already and changes nothing;
    /// the deletion of an unknown key only moves the resource version. Bookmarks and errors are not for here.
    pub fn apply(&mut self, now: Now, event_type: EventType, object: Object) -> Vec<Change> {
        self.touch(now);
        let version = object.resource_version;
        if !self.complete || version <= self.upstream_version {
            return Vec::new();
        }
        let previous = self.upstream_object(&object.key);
        let newer = previous.as_ref().is_none_or(|previous| previous.resource_version < version);
        let kind = match (event_type, &previous) {
            (EventType::Added | EventType::Modified, None) => Some(EventType::Added),
            (EventType::Added | EventType::Modified, Some(_)) if newer => Some(EventType::Modified),
            (EventType::Deleted, Some(_)) if newer => Some(EventType::Deleted),
            (EventType::Bookmark | EventType::Error, _) => return Vec::new(),
            _ => None,
        };
        let mut changes = Vec::with_capacity(2);
        if let Some(kind) = kind {
            let object = Arc::new(object.detached());
            changes.push(self.record(now, Step { event_type: kind, object }));
        }
        self.advance(version);
        self.finish(now, changes)
    }

    /// Upstream says that everything up to `resource_version` was sent.
    pub fn bookmark(&mut self, now: Now, resource_version: u64) -> Vec<Change> {
        self.touch(now);
        if !self.complete || resource_version < self.upstream_version {
            return Vec::new();
        }
        self.advance(resource_version);
        self.finish(now, Vec::new())
    }

    /// Upstream is alive, though it said nothing that changes the state.
    pub fn touch(&mut self, now: Now) {
        self.synced_unix = now.unix;
        self.heard_at = Some(now.monotonic);
    }

    /// Drops what grew too old. To be called now and then, because a quiet collection does nothing by itself.
    pub fn expire(&mut self, now: Now) -> Vec<Change> {
        let horizon = self.horizon;
        let forgotten = self.trim(now);
        if self.horizon == horizon {
            return forgotten;
        }
        let mut changes = vec![self.watermark()];
        changes.extend(forgotten);
        changes
    }

    fn hold(&mut self, object: Arc<Object>) {
        self.bytes += object.raw.len();
        if let Some(former) = self.index.insert(object.key.clone(), object) {
            self.bytes -= former.raw.len();
        }
    }

    /// The cells of a table row (an age, say) move on without a new resource version: a relist brings fresh ones, for
    /// the store, too.
    fn refresh_rows(&mut self, listed: BTreeMap<ObjectKey, Object>) -> Vec<Change> {
        if self.spec.format.form != Form::Table {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (key, object) in listed {
            // One that was told under another version keeps its cells until upstream changes it.
            if self.index.get(&key).is_some_and(|held| {
                held.raw != object.raw && held.resource_version == object.resource_version
            }) {
                let object = Arc::new(object.detached());
                changes.push(Change::Put(Arc::clone(&object)));
                self.hold(object);
            }
        }
        changes
    }

    fn finish(&mut self, now: Now, mut changes: Vec<Change>) -> Vec<Change> {
        self.snapshot.take();
        self.revision += 1;
        self.touch(now);
        let forgotten = self.trim(now);
        changes.push(self.watermark());
        changes.extend(forgotten);
        changes
    }

    fn trim(&mut self, now: Now) -> Vec<Change> {
        self.ring.trim(now.monotonic);
        let dropped = self.tombstones.trim(now.monotonic);
        if let Some(newest) = dropped.last() {
            self.horizon = self.horizon.max(newest.resource_version);
        }
        dropped.into_iter().map(|gone| Change::Forget(gone.key, gone.upstream_version)).collect()
    }

    /// Everything, as changes: for a store that lost its file and begins anew. Empty while nothing is complete.
    #[must_use]
    pub fn all_changes(&self, now: Now) -> Vec<Change> {
        if !self.complete {
            return Vec::new();
        }
        let objects = self.upstream_index().values().cloned().map(Change::Put).collect::<Vec<_>>();
        let tombstones = self.tombstones.all(self.spec.format, now).map(Change::Delete);
        [Change::Reset].into_iter().chain(objects).chain(tombstones).chain([self.watermark()]).collect()
    }

    fn watermark(&self) -> Change {
        Change::Watermark {
            resource_version: self.upstream_version,
            horizon: self.horizon,
            synced_unix: self.synced_unix,
            envelope: self.envelope.clone(),
        }
    }
}

/// Objects by key; of two states of one key the newer counts.
fn by_key(objects: Vec<Object>) -> BTreeMap<ObjectKey, Object> {
    let mut listed: BTreeMap<ObjectKey, Object> = BTreeMap::new();
    for object in objects {
        let newer =
            listed.get(&object.key).is_none_or(|held| held.resource_version <= object.resource_version);
        if newer {
            listed.insert(object.key.clone(), object);
        }
    }
    listed
}
