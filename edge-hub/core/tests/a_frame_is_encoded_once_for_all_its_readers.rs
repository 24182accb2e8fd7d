//! A thousand watchers of a collection cost one encoding of each event; other forms of the same objects are derived.

mod support;

use bytes::Bytes;
use edge_hub_core::clock::Now;
use edge_hub_core::collection::{Collection, Envelope, Object, Refusal, Uncovered};
use edge_hub_core::view::{Step, WatchRequest, WatchView, open};
use proto_kube::json;
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
        let partial = Format { form: Form::PartialMetadata, ..format };
        let request = WatchRequest { format: partial, ..watch_from(10) };
        let mut view = open(&collection, request, at(0)).expect("derivable");
        collection.apply(at(1), Added, pod_of_life(format, "a", 11, "x", 0));
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
fn protobuf_serves_every_format_and_each_is_made_once() {
    let metadata = |encoding| Format { encoding, form: Form::PartialMetadata };
    let formats = [Format::PROTOBUF, Format::JSON, metadata(Encoding::Json), metadata(Encoding::Protobuf)];
    let mut collection = Collection::new(pods(Format::PROTOBUF), Default::default());
    let held = pod_of_life(Format::PROTOBUF, "held", 5, "x", 0);
    collection.replace(at(0), 10, envelope(), vec![held]).expect("the first list");
    let open_all = |collection: &Collection, since: u64| {
        formats.map(|format| {
            open(collection, WatchRequest { format, ..watch_from(since) }, at(0)).expect("derivable")
        })
    };
    for (format, mut view) in formats.into_iter().zip(open_all(&collection, 0)) {
        let mut decoder = WatchDecoder::new(format, 1 << 16);
        decoder.push(&frame(&mut view, &collection, at(0)));
        let event = decoder.next().expect("well-formed").expect("whole");
        assert_eq!(scan(format, &event.raw).expect("metadata").key(), key("ns", "held"), "{format:?}");
    }
    let (mut one, mut other) = (open_all(&collection, 10), open_all(&collection, 10));
    let before = collection.footprint().ring_bytes;
    collection.apply(at(1), Added, pod_of_life(Format::PROTOBUF, "a", 11, "x", 0));
    let pushed = collection.footprint().ring_bytes;
    let mut derived = 0;
    for ((format, one), other) in formats.iter().zip(&mut one).zip(&mut other) {
        let (made, kept) = (frame(one, &collection, at(1)), frame(other, &collection, at(1)));
        assert_eq!(made.as_ptr(), kept.as_ptr(), "{format:?} was made twice");
        derived += if *format == Format::PROTOBUF { 0 } else { made.len() };
    }
    assert_eq!(collection.footprint().ring_bytes, pushed + derived, "what was made is counted");
    assert!(pushed > before);
    let mut decoder = WatchDecoder::new(Format::JSON, 1 << 16);
    decoder.push(&frame(&mut open_all(&collection, 10)[1], &collection, at(1)));
    let event = decoder.next().expect("well-formed").expect("whole");
    assert_eq!(event.type_meta, TypeMeta::new("v1", "Pod"));
    let spec = json::member(&event.raw, "spec").expect("JSON").expect("a spec");
    assert_eq!(spec, br#"{"containers":null,"nodeName":"n1"}"#);
}

#[test]
fn a_form_that_cannot_be_derived_is_refused() {
    let collection = filled(10, vec![]);
    let table = Format { encoding: Encoding::Json, form: Form::Table };
    let request = WatchRequest { format: table, ..watch_from(10) };
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
    let request = WatchRequest { format, ..watch_from(0) };
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
