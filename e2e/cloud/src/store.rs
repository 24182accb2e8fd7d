//! Objects under one revision sequence, with the history that watches and old snapshots need.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::resource::Gvr;

/// Namespace (empty for cluster-scoped objects) and name.
pub type Key = (String, String);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// It came into being.
    Added,
    /// It changed.
    Modified,
    /// It went.
    Deleted,
}

/// One entry of the history.
#[derive(Clone, Debug)]
pub struct Event {
    /// Revision of the change.
    pub revision: u64,
    /// What happened.
    pub event_type: EventType,
    /// Which object.
    pub key: Key,
    /// State after the change; for a deletion the last state with the deletion's revision.
    pub object: Arc<Value>,
    /// State before the change.
    pub previous: Option<Arc<Value>>,
}

#[derive(Clone, Debug, Default)]
struct Collection {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Event>,
}

/// All objects of the model.
#[derive(Clone, Debug)]
pub struct Store {
    revision: u64,
    compacted: u64,
    collections: BTreeMap<Gvr, Collection>,
}

impl Default for Store {
    fn default() -> Self {
        // 0 means "any" on the wire, so the first object needs a revision above it.
        Self { revision: 1, compacted: 1, collections: BTreeMap::new() }
    }
}

impl Store {
    /// Revision of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Changes up to and with this revision are gone from the history.
    #[must_use]
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Forget the history up to and with `revision` (at most the current one).
    pub fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision.min(self.revision));
        for collection in self.collections.values_mut() {
            while collection.history.front().is_some_and(|e| e.revision <= self.compacted) {
                collection.history.pop_front();
            }
        }
    }

    /// Let the sequence move on without a change, as writes to other resources do.
    pub fn skip_revisions(&mut self, count: u64) {
        self.revision += count;
    }

    /// The object under a key now.
    #[must_use]
    pub fn get(&self, gvr: &Gvr, key: &Key) -> Option<&Arc<Value>> {
        self.collections.get(gvr)?.objects.get(key)
    }

    /// All objects of a resource now, by key.
    pub fn objects<'a>(&'a self, gvr: &Gvr) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> + use<'a> {
        self.collections.get(gvr).into_iter().flat_map(|c| &c.objects)
    }

    /// The resource as it was at `revision`; `None` when the history does not reach back so far.
    #[must_use]
    pub fn snapshot(&self, gvr: &Gvr, revision: u64) -> Option<BTreeMap<Key, Arc<Value>>> {
        if revision < self.compacted {
            return None;
        }
        let Some(collection) = self.collections.get(gvr) else { return Some(BTreeMap::new()) };
        let mut objects = collection.objects.clone();
        for event in collection.history.iter().rev().take_while(|e| e.revision > revision) {
            match &event.previous {
                Some(previous) => objects.insert(event.key.clone(), previous.clone()),
                None => objects.remove(&event.key),
            };
        }
        Some(objects)
    }

    /// Changes of a resource after `after` up to and with `until`, oldest first.
    pub fn events<'a>(
        &'a self,
        gvr: &Gvr,
        after: u64,
        until: u64,
    ) -> impl Iterator<Item = &'a Event> + use<'a> {
        let history = self.collections.get(gvr).map(|c| &c.history);
        let start = history.map_or(0, |h| h.partition_point(|e| e.revision <= after));
        history.into_iter().flat_map(move |h| h.range(start..)).take_while(move |e| e.revision <= until)
    }

    /// Write an object under the next revision, which is set in its metadata; the stored state.
    pub fn put(&mut self, gvr: &Gvr, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let collection = self.collections.entry(gvr.clone()).or_default();
        let previous = collection.objects.insert(key.clone(), object.clone());
        let event_type = if previous.is_some() { EventType::Modified } else { EventType::Added };
        let event = Event { revision: self.revision, event_type, key, object: object.clone(), previous };
        collection.history.push_back(event);
        object
    }

    /// Let every state of the resource read otherwise from now on, without a new revision: as a default that its
    /// definition got, which the server applies as it reads.
    pub fn show_otherwise(&mut self, gvr: &Gvr, change: impl Fn(&mut Value)) {
        let Some(collection) = self.collections.get_mut(gvr) else { return };
        let events = collection
            .history
            .iter_mut()
            .flat_map(|event| std::iter::once(&mut event.object).chain(event.previous.as_mut()));
        for object in collection.objects.values_mut().chain(events) {
            change(Arc::make_mut(object));
        }
    }

    /// Remove an object; its last state with the deletion's revision, `None` when there was none.
    pub fn delete(&mut self, gvr: &Gvr, key: &Key) -> Option<Arc<Value>> {
        let collection = self.collections.get_mut(gvr)?;
        let previous = collection.objects.remove(key)?;
        self.revision += 1;
        let mut last = (*previous).clone();
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(last);
        collection.history.push_back(Event {
            revision: self.revision,
            event_type: EventType::Deleted,
            key: key.clone(),
            object: object.clone(),
            previous: Some(previous),
        });
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        ("ns".into(), name.into())
    }

    #[test]
    fn a_snapshot_is_what_was_there_at_its_revision() {
        let (mut store, pods) = (Store::default(), Gvr::core("pods"));
        store.put(&pods, key("a"), json!({"v": 1}));
        let first = store.revision();
        store.put(&pods, key("b"), json!({"v": 1}));
        store.put(&pods, key("a"), json!({"v": 2}));
        store.delete(&pods, &key("b"));
        let then = store.snapshot(&pods, first).unwrap();
        assert_eq!(then.keys().collect::<Vec<_>>(), [&key("a")]);
        assert_eq!(then[&key("a")]["v"], 1);
        let middle = store.snapshot(&pods, first + 2).unwrap();
        assert_eq!((middle.len(), &middle[&key("a")]["v"]), (2, &json!(2)));
        store.compact(first + 1);
        assert!(store.snapshot(&pods, first).is_none());
        assert!(store.snapshot(&pods, first + 1).is_some());
    }

    #[test]
    fn a_deletion_carries_its_own_revision() {
        let (mut store, pods) = (Store::default(), Gvr::core("pods"));
        store.put(&pods, key("a"), json!({}));
        let gone = store.delete(&pods, &key("a")).unwrap();
        assert_eq!(gone["metadata"]["resourceVersion"], store.revision().to_string());
        assert!(store.delete(&pods, &key("a")).is_none());
    }
}
