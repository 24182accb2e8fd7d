//! Entering a selector is ADDED, leaving it is DELETED in the last matching state with the new version, and
//! what was never inside is never mentioned.

mod support;

use edge_hub_core::collection::{Collection, Selection};
use edge_hub_core::view::WatchRequest;
use proto_kube::media_type::Format;
use proto_kube::selector::FieldSelector;
use proto_kube::watch::EventType::{Added, Deleted, Modified};
use support::{Seen, Stream, at, briefs, envelope, labelled, pod_of_life, pods, watch_from};

fn selected(selection: Selection) -> WatchRequest {
    WatchRequest { selection, ..watch_from(10) }
}

fn run(format: Format, selection: Selection) -> Vec<Seen> {
    let pod = |name: &str, version, app| pod_of_life(format, name, version, app, 0);
    let mut collection = Collection::new(pods(format), Default::default());
    let initial = vec![pod("in", 3, "a"), pod("out", 4, "b")];
    collection.replace(at(0), 10, envelope(), initial).expect("the first list");
    let mut stream = Stream::open(&collection, selected(selection), at(0)).expect("current");
    for (event_type, name, version, app) in [
        (Modified, "out", 11, "b"),
        (Modified, "out", 12, "a"),
        (Modified, "out", 13, "a"),
        (Modified, "out", 14, "b"),
        (Deleted, "out", 15, "b"),
        (Modified, "in", 16, "a"),
        (Deleted, "in", 17, "a"),
        (Added, "never", 18, "b"),
        (Deleted, "never", 19, "b"),
    ] {
        collection.apply(at(1), event_type, pod(name, version, app));
    }
    stream.drain(&collection, at(1))
}

#[test]
fn an_object_that_leaves_a_selector_is_deleted_in_its_last_matching_state() {
    for format in [Format::JSON, Format::PROTOBUF] {
        let seen = run(format, labelled("app=a"));
        let expected = [
            "ADDED out@12",
            "MODIFIED out@13",
            // The state of 13, the last one that matched, carrying the version at which it left.
            "DELETED out@14",
            "MODIFIED in@16",
            "DELETED in@17",
        ];
        assert_eq!(briefs(&seen), expected);
        assert!(seen.iter().all(|seen| seen.app.as_deref() == Some("a")));
    }
}

#[test]
fn a_selector_that_all_match_sees_all() {
    let fields = FieldSelector::parse("spec.nodeName=n1").expect("valid");
    for format in [Format::JSON, Format::PROTOBUF] {
        let seen = run(format, Selection { fields: fields.clone(), ..Selection::default() });
        assert_eq!(seen, run(format, Selection::default()));
        assert_eq!(seen.len(), 9);
    }
}

#[test]
fn a_watch_of_one_name_sees_only_that_name() {
    let by_path = Selection { name: Some("in".into()), ..Selection::default() };
    let fields = FieldSelector::parse("metadata.name=in").expect("valid");
    let by_field = Selection { fields, ..Selection::default() };
    for selection in [by_path, by_field] {
        assert_eq!(briefs(&run(Format::PROTOBUF, selection)), ["MODIFIED in@16", "DELETED in@17"]);
    }
}
