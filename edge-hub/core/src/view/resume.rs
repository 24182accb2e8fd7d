//! Resuming from before the event ring: what changed since, told by the objects' own resource versions and the
//! tombstones. Between two states of one key nothing is known any more; the last one is what counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto_kube::object::ObjectKey;
use proto_kube::watch::EventType;

use crate::collection::{Collection, Lens, Object, Refusal, RingEvent, with_version};

/// One event of a replay. The object carries the event's resource version.
pub(crate) type Replayed = (EventType, Arc<Object>);

/// The events that lead a client which saw everything up to `since` to the current state, in order of resource
/// version.
///
/// # Errors
/// [`Refusal::Expired`] when deletions after `since` may be forgotten, or when an object changed of which nobody knows
/// whether the client saw it before.
pub(crate) fn replay_since(
    collection: &Collection,
    lens: &Lens,
    since: u64,
) -> Result<Vec<Replayed>, Refusal> {
    let former = Former::new(collection, lens, since);
    if since < collection.horizon() {
        return Err(former.expired());
    }
    let mut replay = Vec::new();
    // Of a key whose whole way is known each step is told: a client that is cut amid the replay resumes from there, and
    // a step that was told later than it came would then be lost.
    for event in collection.ring().events().filter(|event| event.resource_version > since) {
        if former.is_known(&event.object.key) {
            replay.extend(former.stepped(event)?);
        }
    }
    for gone in collection.tombstones().after(since).filter(|gone| !former.is_known(&gone.key)) {
        replay.extend(former.deleted(gone)?);
    }
    let changed = collection.objects().filter(|object| object.resource_version > since);
    for object in changed.filter(|object| !former.is_known(&object.key)) {
        replay.extend(former.changed(object)?);
    }
    replay.sort_by_key(|(_, object)| object.resource_version);
    Ok(replay)
}

/// What is known of the state at the version a client resumes from.
struct Former<'a> {
    collection: &'a Collection,
    lens: &'a Lens,
    since: u64,
    /// First event of each key that the ring still holds; what it replaced may be the state that the client saw.
    earliest: BTreeMap<&'a ObjectKey, &'a RingEvent>,
}

impl<'a> Former<'a> {
    fn new(collection: &'a Collection, lens: &'a Lens, since: u64) -> Self {
        let mut earliest = BTreeMap::new();
        for event in collection.ring().events() {
            if event.resource_version > since {
                earliest.entry(&event.object.key).or_insert(&**event);
            }
        }
        Self { collection, lens, since, earliest }
    }

    fn expired(&self) -> Refusal {
        Refusal::Expired { requested: self.since, oldest: self.collection.horizon().max(self.since + 1) }
    }

    fn was_deleted(&self, key: &ObjectKey) -> bool {
        self.collection.tombstones().get(key).is_some_and(|gone| gone.resource_version > self.since)
    }

    fn sees(&self, object: &Object) -> Result<bool, Refusal> {
        Ok(self.lens.see(object)?.is_some())
    }

    /// Whether the ring holds all that happened to this key after `since`.
    fn is_known(&self, key: &ObjectKey) -> bool {
        self.earliest.get(key).is_some_and(|event| match &event.previous {
            Some(previous) => previous.resource_version <= self.since,
            // Created after `since`, and no deletion after `since` says that it existed before.
            None => !self.was_deleted(key),
        })
    }

    /// One event of a known key, as the client sees it.
    fn stepped(&self, event: &RingEvent) -> Result<Option<Replayed>, Refusal> {
        let before = match &event.previous {
            Some(previous) if self.sees(previous)? => Some(previous),
            _ => None,
        };
        let is_deletion = event.event_type == EventType::Deleted;
        Ok(match (before, self.sees(&event.object)?) {
            (None, true) if !is_deletion => Some((EventType::Added, Arc::clone(&event.object))),
            (None, _) => None,
            (Some(_), true) if is_deletion => Some((EventType::Deleted, Arc::clone(&event.object))),
            (Some(_), true) => Some((EventType::Modified, Arc::clone(&event.object))),
            (Some(before), false) => Some(self.left(before, event.resource_version)?),
        })
    }

    /// A deletion of a key of which it is not known whether the client saw it.
    fn deleted(&self, gone: &Arc<Object>) -> Result<Option<Replayed>, Refusal> {
        if self.sees(gone)? {
            return Ok(Some((EventType::Deleted, Arc::clone(gone))));
        }
        if self.lens.is_by_key() { Ok(None) } else { Err(self.expired()) }
    }

    /// The current state of a key of which it is not known whether the client saw it.
    fn changed(&self, object: &Arc<Object>) -> Result<Option<Replayed>, Refusal> {
        let selected = self.sees(object)?;
        if self.was_deleted(&object.key) {
            // The deletion is told by its tombstone; this is a new object.
            return Ok(selected.then(|| (EventType::Added, Arc::clone(object))));
        }
        if selected {
            // A client that never saw the object takes a MODIFIED for its creation.
            return Ok(Some((EventType::Modified, Arc::clone(object))));
        }
        if self.lens.is_by_key() { Ok(None) } else { Err(self.expired()) }
    }

    fn left(&self, former: &Object, version: u64) -> Result<Replayed, Refusal> {
        let object =
            with_version(self.collection.spec().format, former, version).ok_or_else(|| self.expired())?;
        Ok((EventType::Deleted, Arc::new(object)))
    }
}
