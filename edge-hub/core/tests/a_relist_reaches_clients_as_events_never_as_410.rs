//! When history upstream is lost, clients see what changed as ordinary events, and a bookmark after them.

mod support;

use edge_hub_core::collection::{Limits, Refusal, RingLimits, Rollback, Selection};
use proto_kube::media_type::Format;
use proto_kube::watch::EventType::{self, Added, Deleted, Error, Modified};
use support::{
    Seen, Stream, at, briefs, envelope, filled, filled_within, labelled, pod, pod_of_life, watch_from,
};

fn before() -> Vec<edge_hub_core::collection::Object> {
    vec![pod("changed", 5, "x"), pod("gone", 6, "x"), pod("lost", 7, "x"), pod("same", 8, "x")]
}

fn after() -> Vec<edge_hub_core::collection::Object> {
    vec![pod("changed", 25, "x"), pod("new", 30, "x"), pod("same", 8, "x")]
}

#[test]
fn a_relist_is_told_in_order_of_version_and_ends_with_a_bookmark() {
    let mut collection = filled(10, before());
    let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
    collection.replace(at(2), 30, envelope(), after()).expect("newer");
    let seen = stream.drain(&collection, at(2));
    // The newest object has the list's own version, so the deletions get the free ones right below.
    let expected =
        ["MODIFIED changed@25", "DELETED lost@28", "DELETED gone@29", "ADDED new@30", "BOOKMARK@30"];
    assert_eq!(briefs(&seen), expected);
}

#[test]
fn a_deletion_found_by_a_relist_carries_the_version_of_the_list() {
    let mut collection = filled(10, vec![pod("gone", 6, "x")]);
    let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
    collection.replace(at(2), 30, envelope(), vec![]).expect("newer");
    assert_eq!(briefs(&stream.drain(&collection, at(2))), ["DELETED gone@30", "BOOKMARK@30"]);
}

#[test]
fn a_client_cut_between_any_two_events_of_a_relist_loses_none() {
    let mut collection = filled(10, before());
    collection.replace(at(2), 30, envelope(), after()).expect("newer");
    let whole =
        Stream::open(&collection, watch_from(10), at(2)).expect("in the ring").drain(&collection, at(2));
    assert_eq!(whole.len(), 4);
    for cut in 0..whole.len() {
        let since = whole[cut].version;
        let rest =
            Stream::open(&collection, watch_from(since), at(2)).expect("known").drain(&collection, at(2));
        assert_eq!(rest, whole[cut + 1..], "resumed after {}", whole[cut].brief());
    }
}

#[test]
fn a_version_from_elsewhere_that_a_relist_jumped_over_is_410_because_nobody_knows_what_came_and_went() {
    // This client listed in the cloud at 20, and holds a pod that was made at 15 and deleted at 25: the hub never
    // hears of it.
    let mut collection = filled(10, before());
    let mut ahead = Stream::open(&collection, watch_from(20), at(1)).expect("held open");
    let mut far_ahead = Stream::open(&collection, watch_from(40), at(1)).expect("held open");
    let mut exactly = Stream::open(&collection, watch_from(30), at(1)).expect("held open");
    collection.replace(at(2), 30, envelope(), after()).expect("newer");
    assert_eq!(briefs(&ahead.drain(&collection, at(2))), ["ERROR@410"]);
    assert_eq!(far_ahead.drain(&collection, at(2)), vec![]);
    assert_eq!(briefs(&exactly.drain(&collection, at(2))), ["BOOKMARK@30"]);
    let refusal = Stream::open(&collection, watch_from(20), at(2)).err().expect("a refusal");
    assert_eq!(refusal, Refusal::Expired { requested: 20, oldest: 30 });
}

#[test]
fn a_recreated_object_is_deleted_before_it_is_added() {
    let mut collection = filled(10, vec![pod_of_life(Format::JSON, "p", 5, "x", 1)]);
    let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
    collection
        .replace(at(2), 30, envelope(), vec![pod_of_life(Format::JSON, "p", 20, "x", 2)])
        .expect("newer");
    let seen = stream.drain(&collection, at(2));
    assert_eq!(briefs(&seen), ["DELETED p@19", "ADDED p@20", "BOOKMARK@30"]);
    assert_eq!([&*seen[0].uid, &*seen[1].uid], ["p-1", "p-2"]);
}

#[test]
fn a_selector_sees_its_part_of_a_relist_however_large() {
    let ring = RingLimits { events: 8, bytes: 1000, ..RingLimits::default() };
    let limits = Limits { ring, ..Limits::default() };
    let names: Vec<String> = (0..500).map(|number| format!("p{number:03}")).collect();
    let pods =
        |app| names.iter().zip(100..).map(|(name, version)| pod(name, version, app)).collect::<Vec<_>>();
    let mut collection = filled_within(limits, 1, vec![]);
    let mut request = watch_from(1);
    request.selection = labelled("app=x");
    let mut stream = Stream::open(&collection, request, at(1)).expect("current");
    collection.replace(at(2), 1000, envelope(), pods("x")).expect("newer");
    let seen = stream.drain(&collection, at(2));
    assert_eq!(seen.iter().filter(|seen| seen.event_type == Added).count(), 500);
    assert!(seen.iter().all(|seen| seen.event_type != Error));
    collection.apply(at(60), Modified, pod("p000", 1001, "x"));
    assert!(collection.footprint().ring_bytes <= 1000, "the grace is over");
}

#[test]
fn a_reconnect_upstream_that_repeats_events_is_invisible() {
    let mut collection = filled(10, before());
    let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
    for _ in 0..2 {
        collection.apply(at(2), Modified, pod("changed", 11, "x"));
        collection.apply(at(2), Deleted, pod("gone", 12, "x"));
    }
    assert_eq!(briefs(&stream.drain(&collection, at(2))), ["MODIFIED changed@11", "DELETED gone@12"]);
}

#[test]
fn the_deletion_of_an_unknown_object_only_moves_the_version() {
    let mut collection = filled(10, vec![]);
    let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
    collection.apply(at(2), Deleted, pod("never-seen", 11, "x"));
    assert_eq!(collection.resource_version(), 11);
    assert_eq!(briefs(&stream.drain(&collection, at(2))), Vec::<String>::new());
}

#[test]
fn an_older_list_is_refused_and_changes_nothing() {
    let mut collection = filled(10, before());
    let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
    let refused = collection.replace(at(2), 9, envelope(), vec![]);
    assert_eq!(refused, Err(Rollback { held: 10, offered: 9 }));
    assert_eq!(collection.list(&Selection::default()).expect("complete").objects.len(), 4);
    assert_eq!(stream.drain(&collection, at(2)), vec![]);
}

#[test]
fn a_true_rollback_ends_every_stream_with_410() {
    let mut collection = filled(10, before());
    let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
    collection.reset(at(2), 4, envelope(), vec![pod("changed", 3, "x")]);
    let seen = stream.drain(&collection, at(2));
    assert_eq!(briefs(&seen), ["ERROR@410"]);
    assert!(stream.ended, "nothing follows an error");
    assert_eq!(collection.list(&Selection::default()).expect("complete").resource_version, 4);
}

#[test]
fn a_list_that_cannot_follow_from_what_is_held_is_a_break_not_a_lie() {
    // An object that went back, one that is new yet older than the held state, and a deletion that had no version.
    let impossible = [
        (30, vec![pod("changed", 4, "x")]),
        (30, [before(), vec![pod("late", 9, "x")]].concat()),
        (10, vec![]),
        (30, [before(), vec![pod("twin-1", 20, "x"), pod("twin-2", 20, "x")]].concat()),
    ];
    for (version, objects) in impossible {
        let mut collection = filled(10, before());
        let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
        let count = objects.len();
        collection.replace(at(2), version, envelope(), objects).expect("not a rollback");
        assert_eq!(briefs(&stream.drain(&collection, at(2))), ["ERROR@410"]);
        assert_eq!(collection.list(&Selection::default()).expect("complete").objects.len(), count);
        assert_eq!(collection.horizon(), version);
    }
}

#[test]
fn between_a_state_and_its_relist_no_exact_state_is_known() {
    let mut collection = filled(10, before());
    collection.apply(at(1), Modified, pod("same", 12, "x"));
    collection.replace(at(2), 30, envelope(), after_with_same_at(12)).expect("newer");
    let names = |version| {
        let listing = collection.state_at(version, &Selection::default())?;
        Ok(listing.objects.iter().map(|object| object.key.name.to_string()).collect::<Vec<_>>())
    };
    let former = ["changed", "gone", "lost", "same"].map(str::to_owned).to_vec();
    assert_eq!(names(10), Ok(former.clone()));
    assert_eq!(names(12), Ok(former));
    for version in [13, 25, 28, 29] {
        assert!(matches!(names(version), Err(Refusal::Expired { .. })), "{version}");
    }
    assert_eq!(names(30), Ok(["changed", "new", "same"].map(str::to_owned).to_vec()));
    assert!(matches!(names(31), Err(Refusal::TooLargeResourceVersion { .. })));
    assert!(matches!(names(9), Err(Refusal::Expired { .. })));
}

fn after_with_same_at(version: u64) -> Vec<edge_hub_core::collection::Object> {
    after()
        .into_iter()
        .map(|object| if &*object.key.name == "same" { pod("same", version, "x") } else { object })
        .collect()
}

#[test]
fn the_state_of_a_moment_ago_holds_the_objects_of_that_moment() {
    let mut collection = filled(10, vec![pod("a", 5, "x")]);
    collection.apply(at(1), Added, pod("b", 11, "x"));
    collection.apply(at(1), Modified, pod("a", 12, "y"));
    collection.apply(at(1), Deleted, pod("b", 13, "x"));
    let at_version = |version, selection: &Selection| {
        let listing = collection.state_at(version, selection).expect("in the ring");
        listing
            .objects
            .iter()
            .map(|object| format!("{}@{}", object.key.name, object.resource_version))
            .collect::<Vec<_>>()
    };
    assert_eq!(at_version(10, &Selection::default()), ["a@5"]);
    assert_eq!(at_version(11, &Selection::default()), ["a@5", "b@11"]);
    assert_eq!(at_version(12, &Selection::default()), ["a@12", "b@11"]);
    assert_eq!(at_version(13, &Selection::default()), ["a@12"]);
    assert_eq!(at_version(12, &labelled("app=x")), ["b@11"]);
}

#[test]
fn every_event_of_a_long_life_has_a_version_of_its_own() {
    let mut collection = filled(10, before());
    let mut stream = Stream::open(&collection, watch_from(10), at(1)).expect("current");
    let mut seen: Vec<Seen> = Vec::new();
    for round in 1..50 {
        let base = round * 100;
        collection.apply(at(round), Modified, pod("changed", base, "x"));
        let listed =
            if round % 2 == 0 { vec![] } else { vec![pod("changed", base, "x"), pod("gone", base + 1, "x")] };
        collection.replace(at(round), base + 10, envelope(), listed).expect("newer");
        seen.extend(stream.drain(&collection, at(round)));
    }
    seen.retain(|seen| seen.event_type != EventType::Bookmark);
    assert!(seen.len() > 100);
    assert!(seen.windows(2).all(|pair| pair[0].version < pair[1].version));
}
