//! A bookmark comes each minute, shortly before the end and after a relist; never above what the client was
//! sent, and a stream ends cleanly at its time.

mod support;

use std::time::Duration;

use edge_hub_core::view::{Step, WatchRequest, open};
use proto_kube::watch::EventType::{Added, Modified};
use support::{Stream, at, briefs, envelope, filled, pod, watch_from};

fn for_seconds(seconds: u64, allow_bookmarks: bool) -> WatchRequest {
    WatchRequest { timeout: Duration::from_secs(seconds), allow_bookmarks, ..watch_from(10) }
}

#[test]
fn a_quiet_stream_gets_a_bookmark_each_minute_and_one_before_its_end() {
    let mut collection = filled(10, vec![]);
    let mut stream = Stream::open(&collection, for_seconds(150, true), at(0)).expect("current");
    let mut bookmarks = Vec::new();
    for second in 0..150 {
        collection.bookmark(at(second), 10 + second);
        for seen in stream.drain(&collection, at(second)) {
            bookmarks.push((second, seen.brief()));
        }
    }
    let expected = [(60, "BOOKMARK@70"), (120, "BOOKMARK@130"), (148, "BOOKMARK@158")];
    assert_eq!(bookmarks, expected.map(|(second, bookmark)| (second, bookmark.to_owned())));
    assert!(!stream.ended);
    assert_eq!(stream.next(&collection, at(150)), None);
    assert!(stream.ended, "a clean end at the time that was asked for");
}

#[test]
fn an_idle_stream_says_when_it_wants_to_be_woken() {
    let collection = filled(10, vec![]);
    let wake = |request, second| {
        let mut view = open(&collection, request, at(0)).expect("current");
        match view.poll(&collection, at(second)) {
            Step::Idle { until } => until.as_secs(),
            step => panic!("nothing to say yet: {step:?}"),
        }
    };
    assert_eq!(wake(for_seconds(300, true), 1), 60);
    assert_eq!(wake(for_seconds(30, true), 1), 28);
    assert_eq!(wake(for_seconds(300, false), 1), 300);
}

#[test]
fn a_client_that_did_not_allow_bookmarks_gets_none() {
    let mut collection = filled(10, vec![]);
    let mut stream = Stream::open(&collection, for_seconds(150, false), at(0)).expect("current");
    collection.replace(at(1), 20, envelope(), vec![]).expect("newer");
    for second in 0..150 {
        assert_eq!(stream.drain(&collection, at(second)), vec![]);
    }
}

#[test]
fn a_bookmark_waits_until_the_events_before_it_were_taken() {
    let mut collection = filled(10, vec![]);
    let mut stream = Stream::open(&collection, for_seconds(300, true), at(0)).expect("current");
    collection.apply(at(59), Added, pod("a", 11, "x"));
    collection.apply(at(59), Modified, pod("a", 12, "x"));
    collection.bookmark(at(59), 20);
    let mut seen = Vec::new();
    while let Some(next) = stream.next(&collection, at(100)) {
        seen.push(next.brief());
    }
    assert_eq!(seen, ["ADDED a@11", "MODIFIED a@12", "BOOKMARK@20"]);
}

#[test]
fn a_client_ahead_of_the_hub_gets_no_bookmark_before_the_hub_has_caught_up() {
    let mut collection = filled(10, vec![]);
    let mut request = for_seconds(3600, true);
    request.resource_version = Some(50);
    let mut stream = Stream::open(&collection, request, at(0)).expect("held open");
    collection.apply(at(61), Added, pod("a", 49, "x"));
    assert_eq!(stream.drain(&collection, at(200)), vec![]);
    collection.bookmark(at(201), 50);
    assert_eq!(briefs(&stream.drain(&collection, at(201))), ["BOOKMARK@50"]);
}

#[test]
fn a_bookmark_follows_a_relist_at_once_even_when_nothing_changed() {
    let mut collection = filled(10, vec![pod("a", 5, "x")]);
    let mut stream = Stream::open(&collection, for_seconds(3600, true), at(0)).expect("current");
    collection.replace(at(1), 900, envelope(), vec![pod("a", 5, "x")]).expect("newer");
    assert_eq!(briefs(&stream.drain(&collection, at(1))), ["BOOKMARK@900"]);
    assert_eq!(stream.drain(&collection, at(2)), vec![]);
}

#[test]
fn a_stream_that_is_to_finish_lives_a_second_and_says_where_it_stands() {
    let mut collection = filled(10, vec![]);
    let mut stream = Stream::open(&collection, for_seconds(3600, true), at(0)).expect("current");
    collection.bookmark(at(0), 15);
    stream.view.finish(at(0));
    assert_eq!(briefs(&stream.drain(&collection, at(0))), ["BOOKMARK@15"]);
    assert!(!stream.ended, "a stream shorter than a second makes clients list anew");
    assert_eq!(stream.next(&collection, at(2)), None);
    assert!(stream.ended);
}
