//! What a relist says, told as events: the difference between two states, in an order that a watch may be cut at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proto_kube::edit::with_resource_version;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::ObjectKey;
use proto_kube::watch::EventType;

use super::object::Object;

/// How far below a new object's version a free one is looked for, to place the deletion of its predecessor.
const RECREATE_REACH: u64 = 8;

/// The index of a collection.
pub(crate) type Index = BTreeMap<ObjectKey, Arc<Object>>;

/// One synthetic event of a relist.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) event_type: EventType,
    /// State after the event, carrying the event's resource version.
    pub(crate) object: Arc<Object>,
}

/// The two states cannot be joined by events: history was lost or rewritten between them.
#[derive(Debug)]
pub(crate) struct Discontinuity;

/// The events that lead from `index`, the state at `held`, to `listed`, the state at `offered`; in strictly rising
/// order of resource version, all above `held` and none above `offered`.
///
/// A deletion's own version is not known. It gets the highest one that no other event has, `offered` first: a client
/// whose stream is cut after any event resumes from that event's version, so no two events may share one.
pub(crate) fn diff(
    format: Format,
    index: &Index,
    held: u64,
    listed: &BTreeMap<ObjectKey, Object>,
    offered: u64,
) -> Result<Vec<Step>, Discontinuity> {
    let mut steps: BTreeMap<u64, Step> = BTreeMap::new();
    let mut recreated = Vec::new();
    for (key, object) in listed {
        let previous = index.get(key);
        if let Some(previous) = previous {
            if previous.is_same_state(object) {
                if shows_the_same(format, previous, object) {
                    continue;
                }
                return Err(Discontinuity);
            }
            if object.resource_version <= previous.resource_version {
                return Err(Discontinuity);
            }
        }
        let version = object.resource_version;
        if version <= held || version > offered {
            return Err(Discontinuity);
        }
        let event_type = if previous.is_some() { EventType::Modified } else { EventType::Added };
        if let Some(previous) = previous.filter(|previous| previous.uid != object.uid) {
            recreated.push((version, Arc::clone(previous)));
        }
        let object = Arc::new(object.clone().detached());
        if steps.insert(version, Step { event_type, object }).is_some() {
            return Err(Discontinuity);
        }
    }
    place_recreations(format, recreated, held, &mut steps)?;
    place_deletions(format, index, listed, (held, offered), &mut steps)?;
    Ok(steps.into_values().collect())
}

/// Whether two states of equal version say the same. JSON of a list lacks the type that JSON of a watch leads with, and
/// a table row's cells move on by themselves, so those differences are none.
fn shows_the_same(format: Format, held: &Object, listed: &Object) -> bool {
    if held.raw == listed.raw || format.form == Form::Table {
        return true;
    }
    let content = |object: &Object| {
        let mut content: serde_json::Value = serde_json::from_slice(&object.raw).ok()?;
        let members = content.as_object_mut()?;
        members.remove("kind");
        members.remove("apiVersion");
        Some(content)
    };
    format.encoding == Encoding::Json && content(held).is_some_and(|held| content(listed) == Some(held))
}

/// Puts the deletion of the former object of a key right before its successor. Where no version is free there the
/// successor stays a MODIFIED, which client libraries handle: it is what their own relist makes of it.
fn place_recreations(
    format: Format,
    recreated: Vec<(u64, Arc<Object>)>,
    held: u64,
    steps: &mut BTreeMap<u64, Step>,
) -> Result<(), Discontinuity> {
    for (successor, previous) in recreated {
        let lowest = held.saturating_add(1).max(successor.saturating_sub(RECREATE_REACH));
        let Some(free) = (lowest..successor).rev().find(|version| !steps.contains_key(version)) else {
            continue;
        };
        if let Some(step) = steps.get_mut(&successor) {
            step.event_type = EventType::Added;
        }
        steps.insert(free, deletion(format, &previous, free)?);
    }
    Ok(())
}

fn place_deletions(
    format: Format,
    index: &Index,
    listed: &BTreeMap<ObjectKey, Object>,
    (held, offered): (u64, u64),
    steps: &mut BTreeMap<u64, Step>,
) -> Result<(), Discontinuity> {
    let taken: BTreeSet<u64> = steps.keys().copied().collect();
    let mut free = (held..=offered)
        .rev()
        .take_while(|version| *version > held)
        .filter(|version| !taken.contains(version));
    for (_, previous) in index.iter().filter(|(key, _)| !listed.contains_key(*key)) {
        let version = free.next().ok_or(Discontinuity)?;
        steps.insert(version, deletion(format, previous, version)?);
    }
    Ok(())
}

fn deletion(format: Format, previous: &Arc<Object>, version: u64) -> Result<Step, Discontinuity> {
    let object = Arc::new(with_version(format, previous, version).ok_or(Discontinuity)?);
    Ok(Step { event_type: EventType::Deleted, object })
}

/// The object carrying another resource version; `None` when its bytes cannot be edited.
pub(crate) fn with_version(format: Format, object: &Object, version: u64) -> Option<Object> {
    let raw = with_resource_version(format, &object.raw, &version.to_string()).ok()?;
    Some(Object {
        key: object.key.clone(),
        uid: object.uid.clone(),
        resource_version: version,
        raw: Bytes::from(raw),
    })
}
