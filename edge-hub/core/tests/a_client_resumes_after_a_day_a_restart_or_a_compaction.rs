//! Whoever was away is told what changed, from the objects' own versions and the tombstones. Where that is
//! not known it is told so before any event, never led on with a hole.

mod support;

use std::sync::Arc;
use std::time::Duration;

use edge_hub_core::collection::{
    Change, Collection, Limits, Lookup, Object, Recovered, Refusal, Selection, Tombstone, TombstoneLimits,
    Watermark,
};
use proto_kube::media_type::Format;
use proto_kube::watch::EventType::{Added, Deleted, Modified};
use support::{Stream, at, briefs, envelope, filled, filled_within, key, labelled, pod, pods, watch_from};

const DAY: u64 = 24 * 3600;

/// What a store would hold after these changes.
fn recovered(changes: &[Change]) -> Recovered {
    let mut objects: Vec<Arc<Object>> = Vec::new();
    let mut tombstones: Vec<Tombstone> = Vec::new();
    let mut watermark = None;
    for change in changes {
        match change.clone() {
            Change::Put(object) => {
                objects.retain(|held| held.key != object.key);
                objects.push(object);
            }
            Change::Delete(tombstone) => {
                objects.retain(|held| held.key != tombstone.object.key);
                tombstones.push(tombstone);
            }
            Change::Watermark { resource_version, horizon, synced_unix, envelope } => {
                watermark = Some(Watermark { resource_version, horizon, synced_unix, envelope });
            }
            Change::Forget(..) | Change::Reset => {}
        }
    }
    Recovered { watermark, objects, tombstones, complete: true }
}

/// The changes of a collection that was filled at 10 with three pods, of which one changed and one went.
fn a_short_life() -> Vec<Change> {
    let mut collection = Collection::new(pods(Format::JSON), Limits::default());
    let initial = vec![pod("a", 3, "x"), pod("b", 4, "x"), pod("c", 5, "x")];
    let mut changes = collection.replace(at(0), 10, envelope(), initial).expect("the first list");
    changes.extend(collection.apply(at(1), Modified, pod("a", 11, "x")));
    changes.extend(collection.apply(at(2), Deleted, pod("b", 12, "x")));
    changes
}

fn restarted(recovered: Recovered) -> Collection {
    Collection::restore(pods(Format::JSON), Limits::default(), at(0), recovered)
}

#[test]
fn a_client_that_was_away_for_a_day_is_told_what_changed() {
    let mut collection = filled(10, vec![pod("a", 3, "x"), pod("b", 4, "x"), pod("c", 5, "x")]);
    for hour in 0..24 {
        let version = 100 + hour * 10;
        collection.apply(at(hour * 3600), Modified, pod("a", version, "x"));
        collection.apply(at(hour * 3600), Added, pod("d", version + 1, "x"));
        collection.apply(at(hour * 3600), Deleted, pod("d", version + 2, "x"));
        collection.expire(at(hour * 3600 + 1800));
    }
    collection.apply(at(DAY - 1), Deleted, pod("b", 900, "x"));
    collection.expire(at(DAY));
    assert!(collection.footprint().ring_events < 5, "the ring has long forgotten");
    let mut stream = Stream::open(&collection, watch_from(10), at(DAY)).expect("no 410 after a day");
    assert_eq!(
        briefs(&stream.drain(&collection, at(DAY))),
        ["MODIFIED a@330", "DELETED d@332", "DELETED b@900"]
    );
    collection.apply(at(DAY + 1), Modified, pod("c", 901, "x"));
    assert_eq!(briefs(&stream.drain(&collection, at(DAY + 1))), ["MODIFIED c@901"]);
}

#[test]
fn a_client_resumes_after_the_hub_restarted() {
    let collection = restarted(recovered(&a_short_life()));
    assert_eq!(collection.resume_from(), Some(12));
    let mut behind = Stream::open(&collection, watch_from(10), at(1)).expect("known");
    assert_eq!(briefs(&behind.drain(&collection, at(1))), ["MODIFIED a@11", "DELETED b@12"]);
    let mut in_between = Stream::open(&collection, watch_from(11), at(1)).expect("known");
    assert_eq!(briefs(&in_between.drain(&collection, at(1))), ["DELETED b@12"]);
    let mut up_to_date = Stream::open(&collection, watch_from(12), at(1)).expect("known");
    assert_eq!(briefs(&up_to_date.drain(&collection, at(1))), Vec::<String>::new());
}

#[test]
fn a_client_that_was_ahead_of_the_restarted_hub_hears_nothing_twice() {
    let mut collection = restarted(recovered(&a_short_life()));
    let mut stream = Stream::open(&collection, watch_from(14), at(1)).expect("the stream is held open");
    collection.apply(at(2), Modified, pod("a", 13, "x"));
    collection.apply(at(2), Modified, pod("a", 14, "x"));
    assert_eq!(briefs(&stream.drain(&collection, at(2))), Vec::<String>::new());
    collection.apply(at(3), Modified, pod("a", 15, "x"));
    assert_eq!(briefs(&stream.drain(&collection, at(3))), ["MODIFIED a@15"]);
}

#[test]
fn a_client_resumes_after_a_compaction_in_the_cloud() {
    let mut collection = filled(10, vec![pod("a", 3, "x"), pod("b", 4, "x")]);
    collection.replace(at(DAY), 5000, envelope(), vec![pod("a", 4000, "x")]).expect("newer");
    let mut stream = Stream::open(&collection, watch_from(10), at(DAY)).expect("the relist is absorbed");
    assert_eq!(briefs(&stream.drain(&collection, at(DAY))), ["MODIFIED a@4000", "DELETED b@5000"]);
}

#[test]
fn what_lies_before_the_first_list_is_410_before_any_event() {
    let collection = filled(10, vec![pod("a", 3, "x")]);
    let refusal = Stream::open(&collection, watch_from(9), at(0)).err().expect("a refusal");
    assert_eq!(refusal, Refusal::Expired { requested: 9, oldest: 10 });
    assert_eq!(refusal.status().code, 410);
}

#[test]
fn a_forgotten_deletion_raises_the_horizon_instead_of_leaving_a_hole() {
    let limits =
        Limits { tombstones: TombstoneLimits { count: 1, ..Default::default() }, ..Default::default() };
    let mut collection = filled_within(limits, 10, vec![pod("a", 3, "x"), pod("b", 4, "x")]);
    collection.apply(at(1), Deleted, pod("a", 11, "x"));
    let changes = collection.apply(at(2), Deleted, pod("b", 12, "x"));
    assert_eq!(collection.horizon(), 11);
    let forgotten = changes.iter().position(|change| *change == Change::Forget(key("ns", "a"), 11));
    let raised = changes.iter().position(|change| matches!(change, Change::Watermark { horizon: 11, .. }));
    assert!(raised.expect("a watermark") < forgotten.expect("a forgotten tombstone"));
    let mut restarted = recovered(&changes);
    restarted.tombstones.retain(|tombstone| tombstone.object.resource_version == 12);
    let restarted = self::restarted(restarted);
    assert!(Stream::open(&restarted, watch_from(10), at(3)).is_err());
    assert!(Stream::open(&restarted, watch_from(11), at(3)).is_ok());
}

#[test]
fn a_selector_whose_former_members_are_unknown_gets_410_and_one_by_key_does_not() {
    let mut collection = filled(10, vec![pod("a", 3, "x"), pod("b", 4, "y")]);
    collection.apply(at(1), Modified, pod("b", 11, "y"));
    collection.apply(at(1), Modified, pod("a", 12, "x"));
    collection.apply(at(DAY), Modified, pod("a", 13, "x"));
    collection.expire(at(DAY + 3600));
    let mut narrow = watch_from(10);
    narrow.selection = labelled("app=x");
    assert!(matches!(Stream::open(&collection, narrow, at(DAY + 3600)), Err(Refusal::Expired { .. })));
    let mut by_name = watch_from(10);
    by_name.selection = Selection { name: Some("a".into()), ..Selection::default() };
    let mut stream = Stream::open(&collection, by_name, at(DAY + 3600)).expect("membership is known by name");
    assert_eq!(briefs(&stream.drain(&collection, at(DAY + 3600))), ["MODIFIED a@13"]);
}

#[test]
fn an_object_that_was_deleted_and_made_anew_is_told_as_both() {
    let mut collection = filled(10, vec![pod("a", 3, "x"), pod("b", 4, "x")]);
    for (name, app) in [("a", "x"), ("b", "y")] {
        let version = collection.resource_version();
        collection.apply(at(1), Deleted, pod(name, version + 1, "x"));
        collection.apply(at(1), Added, pod(name, version + 2, app));
    }
    collection.apply(at(DAY), Added, pod("c", 20, "x"));
    let mut all = Stream::open(&collection, watch_from(10), at(DAY)).expect("known");
    let seen = briefs(&all.drain(&collection, at(DAY)));
    // The ring still holds the last event, so that one is known to be new.
    assert_eq!(seen, ["DELETED a@11", "ADDED a@12", "DELETED b@13", "ADDED b@14", "ADDED c@20"]);
    let mut narrow = watch_from(10);
    narrow.selection = labelled("app=x");
    let mut stream =
        Stream::open(&collection, narrow, at(DAY)).expect("what was deleted is outside after it");
    let seen = briefs(&stream.drain(&collection, at(DAY)));
    assert_eq!(seen, ["DELETED a@11", "ADDED a@12", "DELETED b@13", "ADDED c@20"]);
}

#[test]
fn a_deletion_is_remembered_a_day_however_long_the_hub_has_run() {
    let year = 365 * DAY;
    let mut collection = filled(10, vec![pod("a", 3, "x")]);
    collection.apply(at(year), Deleted, pod("a", 11, "x"));
    assert_eq!(collection.expire(at(year + DAY)), vec![]);
    assert_eq!(collection.horizon(), 10);
    let forgotten = collection.expire(at(year + 3 * DAY));
    assert!(forgotten.contains(&Change::Forget(key("ns", "a"), 11)), "and not for ever");
}

#[test]
fn a_break_of_history_tells_the_store_to_drop_all_before_it_keeps_the_new_state() {
    let mut collection = filled(10, vec![pod("a", 3, "x")]);
    let changes = collection.reset(at(1), 5, envelope(), vec![pod("b", 4, "x")]);
    assert_eq!(changes[0], Change::Reset);
    assert!(matches!(&changes[1], Change::Put(object) if object.key == key("ns", "b")));
    assert!(matches!(changes[2], Change::Watermark { resource_version: 5, horizon: 5, .. }));
    assert_eq!(changes.len(), 3);
}

#[test]
fn a_version_of_before_a_restore_is_gone_until_the_sequence_has_passed_it() {
    let mut collection = filled(10, vec![pod("a", 3, "x")]);
    collection.apply(at(1), Modified, pod("a", 20, "x"));
    collection.reset(at(2), 12, envelope(), vec![pod("a", 3, "x")]);
    for before in [13, 20] {
        let refusal = Stream::open(&collection, watch_from(before), at(2)).err();
        assert!(
            matches!(refusal, Some(Refusal::Expired { requested, .. }) if requested == before),
            "{refusal:?}"
        );
        assert!(collection.has_reached(before), "a list not older than it need not wait for what is gone");
    }
    let ahead = Stream::open(&collection, watch_from(21), at(2)).expect("a client of another server");
    let mut stream = Stream::open(&collection, watch_from(12), at(2)).expect("of the list after the restore");
    collection.apply(at(3), Modified, pod("a", 21, "x"));
    assert_eq!(briefs(&stream.drain(&collection, at(3))), ["MODIFIED a@21"]);
    drop(ahead);
    assert!(Stream::open(&collection, watch_from(21), at(3)).is_ok());
}

#[test]
fn a_wall_clock_that_jumps_a_year_forgets_no_deletion() {
    let mut collection = filled(10, vec![pod("a", 3, "x")]);
    collection.apply(at(1), Deleted, pod("a", 11, "x"));
    let mut now = at(2);
    for jump in [now.unix + Duration::from_secs(365 * DAY), Duration::ZERO] {
        now.unix = jump;
        assert_eq!(collection.expire(now), vec![]);
        let mut stream = Stream::open(&collection, watch_from(10), now).expect("known");
        assert_eq!(briefs(&stream.drain(&collection, now)), ["DELETED a@11"]);
    }
}

#[test]
fn a_store_that_lost_records_is_never_listed() {
    let mut lost = recovered(&a_short_life());
    lost.complete = false;
    let mut torn = recovered(&a_short_life());
    torn.watermark.as_mut().expect("a watermark").resource_version = 11;
    for recovered in [lost, torn] {
        let mut collection = restarted(recovered);
        assert!(!collection.is_complete());
        assert_eq!(collection.resume_from(), None);
        assert_eq!(collection.list(&Selection::default()), Err(Refusal::Incomplete));
        assert_eq!(Stream::open(&collection, watch_from(10), at(0)).err(), Some(Refusal::Incomplete));
        assert!(matches!(collection.get(&key("ns", "a")), Lookup::Found(_)), "a checked record may be read");
        assert_eq!(collection.get(&key("ns", "nobody")), Lookup::Unknown);
        collection.replace(at(1), 20, envelope(), vec![pod("a", 11, "x")]).expect("newer than the watermark");
        assert_eq!(collection.list(&Selection::default()).expect("complete").objects.len(), 1);
        assert!(Stream::open(&collection, watch_from(12), at(1)).is_err(), "what was lost cannot be told");
    }
}
