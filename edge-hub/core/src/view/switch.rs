//! A change of filter inputs as events: what a client saw under the former inputs against what it sees now.
//!
//! The events lead from one picture of one state to the other, so they all carry the resource version of that state:
//! the client's position neither rises nor falls. A client that is cut among them resumes from there and is told
//! again.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto_kube::object::ObjectKey;
use proto_kube::watch::EventType;

use crate::collection::{Collection, Lens, Object, Refusal, with_version};
use crate::filter::Inputs;

/// The events that lead a client at `position`, which saw the objects through `lens` under one of the `former` inputs,
/// to what it sees through it under `inputs`; in key order.
///
/// # Errors
/// [`Refusal::Expired`] when the state at that position is not known any more, and [`Refusal::Unfilterable`].
pub(crate) fn switch(
    collection: &Collection,
    lens: &Lens,
    former: &[Arc<Inputs>],
    inputs: &Arc<Inputs>,
    position: u64,
) -> Result<Vec<(EventType, Object)>, Refusal> {
    let current = collection.resource_version();
    let expired = || Refusal::Expired { requested: position, oldest: current };
    let undo = collection.ring().undo_to(position).filter(|_| position <= current).ok_or_else(expired)?;
    let mut changed: BTreeMap<&ObjectKey, Option<&Object>> = BTreeMap::new();
    for event in undo {
        changed.insert(&event.object.key, event.previous.as_deref());
    }
    let unchanged = collection.objects().filter(|object| !changed.contains_key(&object.key));
    let mut held: Vec<&Object> = unchanged.map(|object| &**object).collect();
    held.extend(changed.values().copied().flatten());
    held.sort_by(|one, other| one.key.cmp(&other.key));

    let after_lens = lens.under(inputs);
    let before_lenses: Vec<Lens> = former.iter().map(|inputs| lens.under(inputs)).collect();
    let mut events = Vec::new();
    for object in held {
        let after = after_lens.see(object)?;
        let mut before = None;
        let mut differs = false;
        for lens in &before_lenses {
            let seen = lens.see(object)?;
            differs |= seen != after;
            before = before.or(seen);
        }
        let (event_type, shown) = match (before, after) {
            _ if !differs => continue,
            (None, None) => continue,
            (None, Some(after)) => (EventType::Added, after),
            // A client that never saw the object takes a MODIFIED for its creation.
            (Some(_), Some(after)) => (EventType::Modified, after),
            (Some(before), None) => (EventType::Deleted, before),
        };
        let format = collection.spec().format;
        events.push((event_type, with_version(format, &shown, position).ok_or_else(expired)?));
    }
    Ok(events)
}
