//! A thousand watchers of a collection cost one encoding of each event; other forms of the same objects are derived.

mod support;

use bytes::Bytes;
use edge_hub_core::clock::Now;
use edge_hub_core::collection::{Collection, Envelope, Object, Refusal, Uncovered};
use edge_hub_core::view::{Step, WatchRequest, WatchView, open};
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::{TypeMeta, scan};
use proto_kube::watch::EventType::{Added, Modified};
use proto_kube::watch::WatchDecoder;
use support::{at, envelope, filled, key, labelled, pod, pod_of_life, pods, watch_from};

fn frame(view: &mut WatchView, collection: &Collection, now: Now) -> Bytes {
    match view.poll(collection, now) {
        Step::Frame(frame) => frame,
        step => panic!("a frame was due: {step:?}"),
    }
}

#[test]
fn all_readers_share_the_bytes_of_an_event() {
    let mut collection = filled(10, vec![]);
    let narrow = WatchRequest { selection: labelled("app=x"), ..watch_from(10) };
    let mut views: Vec<_> = [watch_from(10), watch_from(10), narrow]
        .into_iter()
        .map(|request| open(&collection, request, at(0)).expect("current"))
        .collect();
    collection.apply(at(1), Added, pod("a", 11, "x"));
    let frames: Vec<_> = views.iter_mut().map(|view| frame(view, &collection, at(1))).collect();
    assert!(frames.iter().all(|frame| frame.as_ptr() == frames[0].as_ptr()));
}

#[test]
fn whole_objects_serve_a_metadata_client() {
    for format in [Format::JSON, Format::PROTOBUF] {
        let mut collection = Collection::new(pods(format), Default::default());
        collection.replace(at(0), 10, envelope(), vec![]).expect("the first list");
        let request = WatchRequest { projection: Form::PartialMetadata, ..watch_from(10) };
        let mut view = open(&collection, request, at(0)).expect("derivable");
        collection.apply(at(1), Added, pod_of_life(format, "a", 11, "x", 0));
        let partial = Format { form: Form::PartialMetadata, ..format };
        let mut decoder = WatchDecoder::new(partial, 1 << 16);
        decoder.push(&frame(&mut view, &collection, at(1)));
        decoder.push(&frame(&mut view, &collection, at(61)));
        let event = decoder.next().expect("well-formed").expect("whole");
        assert_eq!(event.type_meta, TypeMeta::partial_object_metadata());
        assert_eq!(scan(partial, &event.raw).expect("metadata").key(), key("ns", "a"));
        assert!(!event.raw.windows(2).any(|two| two == b"n1"), "the spec stays behind");
        let bookmark = decoder.next().expect("well-formed").expect("whole");
        assert_eq!(bookmark.type_meta, TypeMeta::partial_object_metadata());
    }
}

#[test]
fn a_form_that_cannot_be_derived_is_refused() {
    let collection = filled(10, vec![]);
    let request = WatchRequest { projection: Form::Table, ..watch_from(10) };
    assert_eq!(open(&collection, request, at(0)).err(), Some(Refusal::Uncovered(Uncovered::Form)));
}

#[test]
fn a_table_stream_names_its_columns_once_and_a_relist_freshens_its_cells() {
    let row = |version: u64, age: &str| {
        Object {
        key: key("ns", "a"),
        uid: "u".into(),
        resource_version: version,
        raw: format!(
            r#"{{"cells":["a","{age}"],"object":{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{{"name":"a","namespace":"ns","uid":"u","resourceVersion":"{version}"}}}}}}"#
        )
        .into(),
    }
    };
    let format = Format { encoding: Encoding::Json, form: Form::Table };
    let columns = Bytes::from_static(br#"[{"name":"Name"},{"name":"Age"}]"#);
    let envelope =
        Envelope { type_meta: TypeMeta::table(), list_kind: "Table".into(), columns: Some(columns.clone()) };
    let mut collection = Collection::new(pods(format), Default::default());
    collection.replace(at(0), 10, envelope.clone(), vec![row(5, "1s")]).expect("the first list");
    let request = WatchRequest { projection: Form::Table, ..watch_from(0) };
    let mut view = open(&collection, request, at(0)).expect("complete");
    let mut decoder = WatchDecoder::new(format, 1 << 16);
    decoder.push(&frame(&mut view, &collection, at(0)));
    collection.apply(at(1), Modified, row(11, "2s"));
    decoder.push(&frame(&mut view, &collection, at(1)));
    let seen: Vec<_> =
        (0..2).map(|_| decoder.next().expect("well-formed").expect("whole").columns.is_some()).collect();
    assert_eq!(seen, [true, false]);
    collection.replace(at(3600), 20, envelope, vec![row(11, "60m")]).expect("newer");
    let listing = collection.list(&Default::default()).expect("complete");
    assert_eq!(listing.objects[0].raw, row(11, "60m").raw);
}
