//! A list is everything at one version or refused, never empty for want of knowledge; absent is said only
//! where it is known; and a collection answers only for what it can tell.

mod support;

use edge_hub_core::collection::{Collection, CollectionSpec, Limits, Lookup, Refusal, Selection, Uncovered};
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::selector::{FieldSelector, LabelSelector};
use support::{Stream, at, filled, key, labelled, pod, pods, watch_from};

fn fields(text: &str) -> FieldSelector {
    FieldSelector::parse(text).expect("a valid selector")
}

#[test]
fn a_collection_that_was_never_filled_refuses_everything() {
    let collection = Collection::new(pods(Format::JSON), Limits::default());
    assert_eq!(collection.list(&Selection::default()), Err(Refusal::Incomplete));
    assert_eq!(collection.state_at(0, &Selection::default()), Err(Refusal::Incomplete));
    assert_eq!(Stream::open(&collection, watch_from(0), at(0)).err(), Some(Refusal::Incomplete));
    assert_eq!(collection.get(&key("ns", "a")), Lookup::Unknown);
    assert_eq!((collection.resume_from(), collection.staleness(at(0))), (None, None));
    let status = Refusal::Incomplete.status();
    assert_eq!((status.code, status.retry_after), (429, Some(1)));
}

#[test]
fn an_empty_list_of_a_complete_collection_is_an_answer() {
    let collection = filled(10, vec![]);
    let listing = collection.list(&Selection::default()).expect("complete");
    assert_eq!((listing.resource_version, listing.objects.len()), (10, 0));
    assert_eq!(collection.get(&key("ns", "a")), Lookup::Absent);
}

#[test]
fn a_narrow_collection_does_not_say_that_an_object_is_absent() {
    let narrow = CollectionSpec { fields: fields("spec.nodeName=n1"), ..pods(Format::JSON) };
    let other_namespace = CollectionSpec { namespace: Some("ns".into()), ..pods(Format::JSON) };
    for (spec, asked) in [(narrow, key("ns", "b")), (other_namespace, key("elsewhere", "b"))] {
        let mut collection = Collection::new(spec, Limits::default());
        collection.replace(at(0), 10, support::envelope(), vec![pod("a", 5, "x")]).expect("the first list");
        assert!(matches!(collection.get(&key("ns", "a")), Lookup::Found(_)));
        assert_eq!(collection.get(&asked), Lookup::Unknown);
    }
}

#[test]
fn a_list_is_what_the_selection_says_in_order_of_key() {
    let collection = filled(10, vec![pod("c", 3, "x"), pod("a", 4, "x"), pod("b", 5, "y")]);
    let names = |selection: &Selection| {
        let listing = collection.list(selection).expect("complete");
        assert_eq!(listing.resource_version, 10);
        listing.objects.iter().map(|object| object.key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&Selection::default()), ["a", "b", "c"]);
    assert_eq!(names(&labelled("app=x")), ["a", "c"]);
    assert_eq!(names(&labelled("app notin (x)")), ["b"]);
    assert_eq!(names(&Selection { namespace: Some("other".into()), ..Default::default() }), [""; 0]);
    assert_eq!(names(&Selection { fields: fields("spec.nodeName=n1"), ..Default::default() }).len(), 3);
    assert_eq!(names(&Selection { fields: fields("spec.nodeName!=n1"), ..Default::default() }), [""; 0]);
    assert_eq!(names(&Selection { fields: fields("metadata.name=b"), ..Default::default() }), ["b"]);
}

#[test]
fn a_field_that_cannot_be_read_is_refused_not_taken_for_a_mismatch() {
    let collection = filled(10, vec![pod("a", 4, "x")]);
    let selection = Selection { fields: fields("spec.noSuchField=1"), ..Default::default() };
    let unreadable = Refusal::Uncovered(Uncovered::Path("spec.noSuchField".into()));
    assert_eq!(collection.list(&selection), Err(unreadable.clone()));
    let request = edge_hub_core::view::WatchRequest { selection, ..watch_from(10) };
    assert_eq!(Stream::open(&collection, request, at(0)).err(), Some(unreadable));
}

#[test]
fn a_wider_collection_covers_a_narrower_one_of_the_same_format() {
    let all = pods(Format::PROTOBUF);
    let labels = LabelSelector::parse("app=x").expect("valid");
    let namespace = CollectionSpec { namespace: Some("ns".into()), ..all.clone() };
    let labelled = CollectionSpec { labels: labels.clone(), ..all.clone() };
    let on_node = CollectionSpec { fields: fields("spec.nodeName=n1"), ..all.clone() };
    for narrower in [&all, &namespace, &labelled, &on_node] {
        assert!(all.covers(narrower));
        assert!(narrower.covers(narrower));
    }
    assert!(!namespace.covers(&all) && !labelled.covers(&all) && !on_node.covers(&all));
    assert!(!labelled.covers(&namespace) && !on_node.covers(&labelled));
    let both =
        CollectionSpec { fields: fields("spec.nodeName=n1,metadata.name=p"), labels, ..namespace.clone() };
    assert!(all.covers(&both) && namespace.covers(&both) && labelled.covers(&both) && on_node.covers(&both));
    let unreadable = CollectionSpec { fields: fields("spec.noSuchField=1"), ..all.clone() };
    assert!(!all.covers(&unreadable) && unreadable.covers(&unreadable));
    assert!(!all.covers(&pods(Format::JSON)));
    let table = CollectionSpec { format: Format { encoding: Encoding::Json, form: Form::Table }, ..on_node };
    let tables = CollectionSpec { fields: FieldSelector::default(), ..table.clone() };
    assert!(!tables.covers(&table), "a table's row does not hold the spec");
}

#[test]
fn the_age_of_the_data_grows_with_the_silence_whatever_the_wall_clock_does() {
    let mut collection = filled(10, vec![]);
    let mut later = at(100);
    later.unix = std::time::Duration::ZERO;
    assert_eq!(collection.staleness(later).map(|age| age.as_secs()), Some(100));
    collection.touch(at(100));
    assert_eq!(collection.staleness(at(130)).map(|age| age.as_secs()), Some(30));
}
