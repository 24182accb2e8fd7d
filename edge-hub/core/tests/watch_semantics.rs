//! The API server's own table of what a WATCH begins with: bookmarks allowed or not, initial events asked for, refused
//! or not mentioned, from no, any, an old or the current resource version.

mod support;

use std::time::Duration;

use edge_hub_core::collection::Selection;
use edge_hub_core::view::WatchRequest;
use proto_kube::media_type::Format;
use proto_kube::watch::EventType;
use support::{Seen, Stream, at, briefs, filled, pod};

/// Where a case starts from.
#[derive(Clone, Copy, Debug)]
enum From {
    Unset,
    Zero,
    Old,
    Current,
}

/// What must come before anything new happens.
#[derive(Clone, Copy, Debug)]
enum Initial {
    /// Nothing.
    Nothing,
    /// Each existing pod as ADDED.
    Pods,
    /// The same, then the marked bookmark.
    PodsAndMark,
}

const BOTH: [Option<bool>; 2] = [Some(true), Some(false)];

/// All cases with their expectation: 4 starts x bookmarks x initial events, and the two of old clients.
fn cases() -> Vec<(From, bool, Option<bool>, Initial)> {
    let mut cases = vec![(From::Zero, false, None, Initial::Pods), (From::Unset, false, None, Initial::Pods)];
    for from in [From::Unset, From::Zero, From::Old, From::Current] {
        for bookmarks in [true, false] {
            for initial in BOTH {
                let expected = match (initial, bookmarks, from) {
                    (Some(true), true, _) => Initial::PodsAndMark,
                    (Some(true), false, _) => Initial::Pods,
                    // The pods were created after the old version, so they are ordinary events of this watch.
                    (_, _, From::Old) => Initial::Pods,
                    _ => Initial::Nothing,
                };
                cases.push((from, bookmarks, initial, expected));
            }
        }
    }
    cases
}

#[test]
fn a_watch_begins_as_the_api_server_begins_it() {
    let cases = cases();
    assert_eq!(cases.len(), 18);
    for (from, allow_bookmarks, send_initial_events, expected) in cases {
        let case = format!("{from:?}, bookmarks {allow_bookmarks}, initial events {send_initial_events:?}");
        let mut collection = filled(1, vec![]);
        for (name, version) in [("p1", 2), ("p2", 3), ("p3", 4)] {
            collection.apply(at(1), EventType::Added, pod(name, version, "a"));
        }
        let resource_version = match from {
            From::Unset => None,
            From::Zero => Some(0),
            From::Old => Some(1),
            From::Current => Some(collection.resource_version()),
        };
        let request = WatchRequest {
            selection: Selection::default(),
            resource_version,
            send_initial_events,
            allow_bookmarks,
            timeout: Duration::from_secs(3600),
            format: Format::JSON,
        };
        let mut stream = Stream::open(&collection, request, at(2)).expect(&case);
        let pods = ["ADDED p1@2", "ADDED p2@3", "ADDED p3@4"];
        let initial = briefs(&stream.drain(&collection, at(2)));
        match expected {
            Initial::Nothing => assert!(initial.is_empty(), "{case}: {initial:?}"),
            Initial::Pods => assert_eq!(initial, pods, "{case}"),
            Initial::PodsAndMark => {
                assert_eq!(initial[..3], pods, "{case}");
                assert_eq!(initial[3..], ["MARK@4"], "{case}");
            }
        }
        collection.apply(at(3), EventType::Added, pod("p4", 5, "a"));
        collection.apply(at(3), EventType::Added, pod("p5", 6, "a"));
        let after = stream.drain(&collection, at(3));
        let no_bookmarks = |seen: &&Seen| seen.event_type != EventType::Bookmark;
        let after: Vec<_> = after.iter().filter(no_bookmarks).map(Seen::brief).collect();
        assert_eq!(after, ["ADDED p4@5", "ADDED p5@6"], "{case}");
    }
}

#[test]
fn the_mark_carries_the_version_of_the_whole_collection_not_of_its_newest_object() {
    let mut collection = filled(1, vec![pod("p1", 1, "a")]);
    collection.bookmark(at(1), 90);
    let request = WatchRequest {
        selection: Selection::default(),
        resource_version: None,
        send_initial_events: Some(true),
        allow_bookmarks: true,
        timeout: Duration::from_secs(60),
        format: Format::JSON,
    };
    let mut stream = Stream::open(&collection, request, at(2)).expect("a complete collection");
    assert_eq!(briefs(&stream.drain(&collection, at(2))), ["ADDED p1@1", "MARK@90"]);
}

#[test]
fn initial_events_from_a_version_not_reached_yet_are_refused_not_faked() {
    let collection = filled(10, vec![]);
    let mut request = support::watch_from(11);
    request.send_initial_events = Some(true);
    let refusal = Stream::open(&collection, request, at(0)).err().expect("a refusal");
    assert_eq!(refusal.status().code, 504);
}
