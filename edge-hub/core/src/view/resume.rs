//! Resuming from before the event ring (R5): what changed since, told by the objects' own resource versions and the
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
    for gone in collection.tombstones().after(since) {
        replay.extend(former.deleted(gone)?);
    }
    for object in collection.objects().filter(|object| object.resource_version > since) {
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

/// Whether a client saw an object.
enum Membership {
    Inside(Arc<Object>),
    Outside,
    Unknown,
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

    fn membership(&self, key: &ObjectKey) -> Result<Membership, Refusal> {
        let Some(event) = self.earliest.get(key) else { return Ok(Membership::Unknown) };
        Ok(match &event.previous {
            Some(previous) if previous.resource_version <= self.since => {
                if self.sees(previous)? {
                    Membership::Inside(Arc::clone(previous))
                } else {
                    Membership::Outside
                }
            }
            // Created after `since`, and no deletion after `since` says that it existed before.
            None if !self.was_deleted(key) => Membership::Outside,
            _ => Membership::Unknown,
        })
    }

    fn deleted(&self, gone: &Arc<Object>) -> Result<Option<Replayed>, Refusal> {
        let selected = self.sees(gone)?;
        match self.membership(&gone.key)? {
            Membership::Inside(former) if !selected => self.left(&former, gone.resource_version).map(Some),
            Membership::Inside(_) => Ok(Some((EventType::Deleted, Arc::clone(gone)))),
            Membership::Outside => Ok(None),
            Membership::Unknown if selected => Ok(Some((EventType::Deleted, Arc::clone(gone)))),
            Membership::Unknown if self.lens.is_by_key() => Ok(None),
            Membership::Unknown => Err(self.expired()),
        }
    }

    fn changed(&self, object: &Arc<Object>) -> Result<Option<Replayed>, Refusal> {
        let selected = self.sees(object)?;
        if self.was_deleted(&object.key) {
            // The deletion is told by its tombstone; this is a new object.
            return Ok(selected.then(|| (EventType::Added, Arc::clone(object))));
        }
        match self.membership(&object.key)? {
            Membership::Inside(former) if !selected => self.left(&former, object.resource_version).map(Some),
            Membership::Outside if !selected => Ok(None),
            Membership::Outside => Ok(Some((EventType::Added, Arc::clone(object)))),
            Membership::Inside(_) => Ok(Some((EventType::Modified, Arc::clone(object)))),
            // A client that never saw the object takes a MODIFIED for its creation.
            Membership::Unknown if selected => Ok(Some((EventType::Modified, Arc::clone(object)))),
            Membership::Unknown if self.lens.is_by_key() => Ok(None),
            Membership::Unknown => Err(self.expired()),
        }
    }

    fn left(&self, former: &Object, version: u64) -> Result<Replayed, Refusal> {
        let object =
            with_version(self.collection.spec().format, former, version).ok_or_else(|| self.expired())?;
        Ok((EventType::Deleted, Arc::new(object)))
    }
}
