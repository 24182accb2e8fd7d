//! A view has no queue. A reader that falls off the ring is led on by the final state of each key where that is
//! honest and gets 410 where not; what a collection holds for all its readers stays within its limits.

mod support;

use edge_hub_core::collection::{Limits, RingLimits, TombstoneLimits};
use proto_kube::watch::EventType::{Added, Deleted, Modified};
use support::{Stream, at, briefs, filled, filled_within, labelled, pod, watch_from};

fn small() -> Limits {
    Limits { ring: RingLimits { events: 3, ..RingLimits::default() }, ..Limits::default() }
}

#[test]
fn a_reader_that_fell_off_the_ring_gets_the_final_state_of_each_key() {
    let mut collection = filled_within(small(), 10, vec![pod("a", 5, "x"), pod("b", 6, "x")]);
    let mut stream = Stream::open(&collection, watch_from(10), at(0)).expect("current");
    for version in 11..20 {
        collection.apply(at(1), Modified, pod("a", version, "x"));
    }
    collection.apply(at(1), Deleted, pod("b", 20, "x"));
    let expected = ["MODIFIED a@19", "DELETED b@20"];
    assert_eq!(briefs(&stream.drain(&collection, at(1))), expected);
    collection.apply(at(2), Modified, pod("a", 21, "x"));
    assert_eq!(briefs(&stream.drain(&collection, at(2))), ["MODIFIED a@21"]);
}

#[test]
fn a_reader_that_is_cut_inside_such_a_replay_resumes_without_a_hole() {
    let mut collection = filled_within(small(), 10, vec![]);
    for (number, name) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        collection.apply(at(1), Added, pod(name, 11 + number as u64, "x"));
    }
    let whole = Stream::open(&collection, watch_from(10), at(1)).expect("known").drain(&collection, at(1));
    assert_eq!(whole.len(), 6);
    for cut in 0..whole.len() {
        let request = watch_from(whole[cut].version);
        let rest = Stream::open(&collection, request, at(1)).expect("known").drain(&collection, at(1));
        let versions = |seen: &[support::Seen]| seen.iter().map(|seen| seen.version).collect::<Vec<_>>();
        assert_eq!(versions(&rest), versions(&whole[cut + 1..]));
    }
}

#[test]
fn a_reader_by_selector_whose_members_are_no_longer_known_gets_410() {
    let mut collection = filled_within(small(), 10, vec![pod("a", 5, "x")]);
    let mut request = watch_from(10);
    request.selection = labelled("app=x");
    let mut stream = Stream::open(&collection, request, at(0)).expect("current");
    collection.apply(at(1), Modified, pod("a", 11, "y"));
    for version in 12..20 {
        collection.apply(at(1), Modified, pod("b", version, "x"));
    }
    assert_eq!(briefs(&stream.drain(&collection, at(1))), ["ERROR@410"]);
    assert!(stream.ended);
}

#[test]
fn a_slow_start_sees_the_state_of_its_opening_and_then_what_changed() {
    let mut collection = filled_within(small(), 10, vec![pod("a", 5, "x"), pod("b", 6, "x")]);
    let mut request = watch_from(0);
    request.send_initial_events = Some(true);
    let mut stream = Stream::open(&collection, request, at(0)).expect("complete");
    assert_eq!(stream.next(&collection, at(0)).expect("a frame").brief(), "ADDED a@5");
    for version in 11..20 {
        collection.apply(at(1), Modified, pod("a", version, "x"));
    }
    collection.apply(at(1), Deleted, pod("b", 20, "x"));
    let expected = ["ADDED b@6", "MARK@10", "MODIFIED a@19", "DELETED b@20"];
    assert_eq!(briefs(&stream.drain(&collection, at(1))), expected);
}

#[test]
fn what_a_collection_holds_beside_its_objects_stays_within_its_limits() {
    let ring = RingLimits { bytes: 20_000, ..RingLimits::default() };
    let tombstones = TombstoneLimits { bytes: 10_000, ..TombstoneLimits::default() };
    let mut collection = filled_within(Limits { ring, tombstones }, 10, vec![]);
    for version in (11..4000).step_by(2) {
        let name = format!("p{version}");
        collection.apply(at(1), Added, pod(&name, version, "x"));
        collection.apply(at(1), Deleted, pod(&name, version + 1, "x"));
        let footprint = collection.footprint();
        assert!(footprint.ring_bytes <= 20_000 && footprint.tombstone_bytes <= 10_000, "{footprint:?}");
    }
    assert_eq!((collection.len(), collection.footprint().object_bytes), (0, 0));
}

#[test]
fn an_item_does_not_keep_the_list_body_it_was_cut_from() {
    let body = bytes::Bytes::from(vec![b' '; 1 << 20]);
    let mut small = pod("a", 11, "x");
    small.raw = body.slice(..100);
    let mut collection = filled(10, vec![]);
    collection.apply(at(1), Added, small);
    drop(collection.list(&Default::default()));
    assert!(body.is_unique(), "a slice of a list body would keep all of it in memory");
}
