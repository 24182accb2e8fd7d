//! The verdict: everything that clients were shown, held against the history of the model cloud.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;

use super::informer::Watched;
use super::objects::{node_name, revision};
use super::protobuf;
use super::tally::{Collection, Counts};
use super::world::{Node, World, selects};
use crate::cloud::model::{Cloud, Encoding, EventType, Form, Format, Gvr, Key};

/// What must not be, in words; nothing when all is well. `last` is what the copies lacked when waiting was over.
pub(super) fn judge(world: &World, last: &[BTreeMap<String, String>]) -> Vec<String> {
    world.cloud.look(|cloud| {
        let mut found: Vec<String> = Vec::new();
        for (index, node) in world.nodes.iter().enumerate() {
            let judge = Judge { cloud, node, name: node_name(index) };
            let counts = node.tally.counts();
            found.extend(counts.violations.iter().cloned());
            found.extend(judge.events(&counts));
            found.extend(judge.lists(&counts));
            found.extend(judge.own_node(&counts));
            found.extend(judge.copies(&counts));
        }
        let differing = last.iter().flatten();
        found.extend(differing.map(|(id, text)| format!("{id}: not what the cloud holds: {text}")));
        found
    })
}

struct Judge<'a> {
    cloud: &'a Cloud,
    node: &'a Node,
    name: String,
}

impl Judge<'_> {
    /// An object as the cloud sends it.
    fn message(&self, gvr: &Gvr, object: &Value) -> Bytes {
        let kind = self.cloud.registry().find(gvr).expect("what is watched is served");
        let format = Format { encoding: Encoding::Protobuf, form: Form::Object };
        let document = format.document(kind, object, std::time::Duration::ZERO);
        protobuf::message(document).expect("the model writes documents")
    }

    /// Each event is what the cloud held at that revision, byte for byte; what came as deleted was deleted by then.
    fn events(&self, counts: &Counts) -> BTreeSet<String> {
        let mut history: BTreeMap<&Gvr, BTreeMap<u64, (&Key, Bytes)>> = BTreeMap::new();
        let mut deleted: BTreeMap<&str, u64> = BTreeMap::new();
        for Watched { gvr, .. } in &self.node.watched {
            if history.contains_key(gvr) {
                continue;
            }
            let mut written = BTreeMap::new();
            for event in self.cloud.store().events(gvr, 0, u64::MAX) {
                if event.event_type == EventType::Deleted {
                    deleted.insert(event.object["metadata"]["uid"].as_str().unwrap_or(""), event.revision);
                } else {
                    written.insert(event.revision, (&event.key, self.message(gvr, &event.object)));
                }
            }
            history.insert(gvr, written);
        }
        let wrong = |shown: &&super::tally::Shown| {
            let held = &shown.held;
            if shown.deleted {
                return deleted.get(held.uid.as_str()).is_none_or(|revision| *revision > held.revision);
            }
            let written = history.get(&shown.gvr).and_then(|written| written.get(&held.revision));
            written.is_none_or(|(key, message)| **key != shown.key || *message != held.message)
        };
        let text = |shown: &super::tally::Shown| {
            let what = if shown.deleted { "deleted" } else { "written" };
            let (id, name, revision) = (&shown.id, &shown.key.1, shown.held.revision);
            format!(
                "{id}: an event says that {name} was {what} at revision {revision}; the cloud knows nothing of it"
            )
        };
        counts.shown.iter().filter(wrong).map(text).collect()
    }

    /// What an informer ought to hold at `revision`.
    fn truth(&self, watched: &Watched, revision: u64) -> BTreeMap<Key, Bytes> {
        let snapshot = self.cloud.store().snapshot(&watched.gvr, revision).unwrap_or_default();
        let selected =
            snapshot.into_iter().filter(|(key, object)| selects(watched, &self.name, &key.1, object));
        selected.map(|(key, object)| (key, self.message(&watched.gvr, &object))).collect()
    }

    /// Each list is whole: it is the collection as it was at its revision, byte for byte.
    fn lists(&self, counts: &Counts) -> Vec<String> {
        let mut found = Vec::new();
        for watched in &self.node.watched {
            for list in counts.lists.iter().filter(|list| list.id == watched.id) {
                if !same(&list.state, &self.truth(watched, list.revision)) {
                    let (id, revision) = (&list.id, list.revision);
                    found.push(format!("{id}: a list is not the collection of its revision {revision}"));
                }
            }
        }
        found
    }

    /// Each copy is in the end what the cloud holds, byte for byte.
    fn copies(&self, counts: &Counts) -> Vec<String> {
        let wrong = |watched: &&Watched| {
            let copy = counts.copies.get(&watched.id).and_then(Option::as_ref);
            copy.is_some_and(|copy| !same(copy, &self.truth(watched, self.cloud.store().revision())))
        };
        let text = |watched: &Watched| format!("{}: in the end not what the cloud holds", watched.id);
        self.node.watched.iter().filter(wrong).map(text).collect()
    }

    /// Reads of the own Node while cut off show a state that it had; reports that were confirmed are in the cloud.
    fn own_node(&self, counts: &Counts) -> Vec<String> {
        let nodes = Gvr::core("nodes");
        let states: BTreeMap<u64, &Value> = self
            .cloud
            .store()
            .events(&nodes, 0, u64::MAX)
            .filter(|event| event.key.1 == self.name)
            .map(|event| (revision(&event.object), &*event.object))
            .collect();
        let name = &self.name;
        let reads = counts.offline_reads.iter().filter(|read| !states.contains_key(&read.revision));
        let reports = counts.reports.iter().filter(|(revision, message)| {
            states.get(revision).is_none_or(|node| node["status"]["conditions"][0]["message"] != **message)
        });
        let reads =
            reads.map(|read| format!("{name}: a read showed revision {}, which it never had", read.revision));
        reads
            .chain(reports.map(|(_, text)| format!("{name}: a report was confirmed, but never made: {text}")))
            .collect()
    }
}

fn same(copy: &Collection, truth: &BTreeMap<Key, Bytes>) -> bool {
    copy.len() == truth.len()
        && copy
            .iter()
            .zip(truth)
            .all(|((key, held), (wanted, message))| key == wanted && held.message == *message)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::protobuf::Held;
    use super::super::tally::{Listed, Read, Shown};
    use super::*;
    use crate::cloud::pki::Authority;

    /// A world whose clients have not started, and what the first informer of its node ought to hold.
    fn world() -> (World, Watched, Collection) {
        let authority = Authority::new("judge").unwrap();
        let identity = authority.node(&node_name(0)).unwrap();
        let world = World::new(&authority, &[identity], None).unwrap();
        let watched =
            world.nodes[0].watched.iter().find(|watched| watched.gvr.resource == "services").cloned();
        let watched = watched.unwrap();
        let truth = world.cloud.look(|cloud| {
            let judge = Judge { cloud, node: &world.nodes[0], name: node_name(0) };
            let objects = cloud.store().objects(&watched.gvr);
            let held = objects.map(|(key, object)| {
                let uid = object["metadata"]["uid"].as_str().unwrap().to_owned();
                let message = judge.message(&watched.gvr, object);
                (key.clone(), Held { uid, revision: revision(object), message })
            });
            held.collect()
        });
        (world, watched, truth)
    }

    fn found(world: &World) -> usize {
        let found = judge(world, &[]);
        let mut counts = world.nodes[0].tally.counts();
        *counts = Counts::default();
        found.len()
    }

    #[tokio::test]
    async fn the_truth_is_no_violation_and_each_lie_is_one() {
        let (world, Watched { id, gvr, .. }, truth) = world();
        let counts = || world.nodes[0].tally.counts();
        let now = world.cloud.revision();
        let (key, held) = truth.first_key_value().map(|(key, held)| (key.clone(), held.clone())).unwrap();
        let show = |held: &Held, deleted| {
            let (id, gvr, key, held) = (id.clone(), gvr.clone(), key.clone(), held.clone());
            counts().shown.push(Shown { id, gvr, key, held, deleted, came: Instant::now() });
        };
        let list = |state: &Collection| {
            counts().lists.push(Listed { id: id.clone(), revision: now, state: state.clone() });
        };
        show(&held, false);
        list(&truth);
        counts().copies.insert(id.clone(), Some(truth.clone()));
        assert_eq!(found(&world), 0, "the truth");

        show(&held, true);
        assert_eq!(found(&world), 1, "a deletion that never was");
        show(&Held { message: Bytes::from_static(b"other"), ..held.clone() }, false);
        assert_eq!(found(&world), 1, "other bytes");
        show(&Held { revision: now + 1, ..held.clone() }, false);
        assert_eq!(found(&world), 1, "a revision that never was");
        let mut short = truth.clone();
        short.remove(&key);
        list(&short);
        assert_eq!(found(&world), 1, "a short list");
        counts().copies.insert(id.clone(), Some(short));
        assert_eq!(found(&world), 1, "a short copy");
        counts().offline_reads.push(Read { revision: now + 1, came: Instant::now() });
        assert_eq!(found(&world), 1, "a state that the Node never had");
        counts().reports.push((now, "never made".to_owned()));
        assert_eq!(found(&world), 1, "a report that was never made");
    }

    #[tokio::test]
    async fn what_was_confirmed_and_is_not_in_the_cloud_is_owed() {
        let (world, ..) = world();
        let owed = |world: &World| world.differences(0).keys().any(|id| id.ends_with("its own writes"));
        assert!(!owed(&world));
        world.nodes[0].tally.counts().posted.push("an-event".to_owned());
        assert!(owed(&world));
        *world.nodes[0].tally.counts() = Counts::default();
        world.nodes[0].tally.counts().renewed = Some("2026-01-01T00:00:00.000000Z".to_owned());
        assert!(owed(&world));
    }
}
