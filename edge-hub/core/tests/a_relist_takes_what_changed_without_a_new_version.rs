//! A relist in which the API server shows an object otherwise under the version that it had: after it the collection,
//! the store and every client that goes on hold what the list says, and nobody is sent back to a list without need.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use edge_hub_core::collection::{Change, Collection, Envelope, Limits, Object, Selection};
use edge_hub_core::view::WatchRequest;
use proptest::prelude::*;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::TypeMeta;
use proto_kube::watch::EventType;
use support::{Stream, at, briefs, envelope, filled, pod_of_life, pods, watch_from};

/// Name, version and label of each object of a state.
type State = BTreeMap<String, (u64, String)>;

/// What happens to an object between the two lists.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Stays,
    /// Another label, no new version.
    ShownOtherwise,
    Changed,
    Deleted,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Stays),
        1 => Just(Fate::ShownOtherwise),
        2 => Just(Fate::Changed),
        1 => Just(Fate::Deleted),
    ]
}

fn objects(format: Format, state: &State) -> Vec<Object> {
    state.iter().map(|(name, (version, app))| pod_of_life(format, name, *version, app, 0)).collect()
}

fn labels(format: Format, objects: impl IntoIterator<Item = Object>) -> State {
    let app = |object: &Object| {
        let app = proto_kube::object::label(format, &object.raw, "app").expect("labels");
        app.expect("the label").into_owned()
    };
    objects
        .into_iter()
        .map(|object| (object.key.name.to_string(), (object.resource_version, app(&object))))
        .collect()
}

proptest! {
    #[test]
    fn what_a_relist_says_is_held_kept_and_told(
        fates in proptest::collection::vec(fate(), 1..6),
        protobuf in any::<bool>(),
    ) {
        let format = if protobuf { Format::PROTOBUF } else { Format::JSON };
        let count = u64::try_from(fates.len()).unwrap();
        let before: State =
            (0..count).map(|n| (format!("p{n}"), (n + 1, "old".to_owned()))).collect();
        let mut after = before.clone();
        let mut version = count;
        for (n, fate) in fates.iter().enumerate() {
            let name = format!("p{n}");
            match fate {
                Fate::Stays => {}
                Fate::ShownOtherwise => after.get_mut(&name).unwrap().1 = "new".to_owned(),
                Fate::Changed => {
                    version += 1;
                    after.insert(name, (version, "changed".to_owned()));
                }
                Fate::Deleted => {
                    version += 1;
                    after.remove(&name);
                }
            }
        }
        let mut collection = Collection::new(pods(format), Limits::default());
        let mut disk = BTreeMap::new();
        let mut keep = |changes: Vec<Change>| {
            for change in changes {
                match change {
                    Change::Put(object) => {
                        disk.insert(object.key.clone(), (*object).clone());
                    }
                    Change::Delete(gone) => {
                        disk.remove(&gone.object.key);
                    }
                    Change::Reset => disk.clear(),
                    Change::Forget(..) | Change::Watermark { .. } => {}
                }
            }
        };
        keep(collection.replace(at(0), count, envelope(), objects(format, &before)).unwrap());
        let request = WatchRequest { format, ..watch_from(count) };
        let mut stream = Stream::open(&collection, request, at(0)).unwrap();
        keep(collection.replace(at(1), version, envelope(), objects(format, &after)).unwrap());

        let held = collection.list(&Selection::default()).unwrap();
        prop_assert_eq!(held.resource_version, version);
        prop_assert_eq!(labels(format, held.objects.iter().map(|object| (**object).clone())), after.clone());
        prop_assert_eq!(labels(format, disk.into_values()), after.clone());

        let seen = stream.drain(&collection, at(1));
        let is_sent_back = seen.iter().any(|event| event.event_type == EventType::Error);
        let is_rewritten = fates.iter().any(|fate| matches!(fate, Fate::ShownOtherwise));
        prop_assert_eq!(is_sent_back, is_rewritten, "{:?}", briefs(&seen));
        if !is_sent_back {
            let mut told = before;
            for event in seen {
                match event.event_type {
                    EventType::Deleted => {
                        told.remove(&*event.key.name);
                    }
                    EventType::Added | EventType::Modified => {
                        told.insert(event.key.name.to_string(), (event.version, event.app.unwrap()));
                    }
                    EventType::Bookmark | EventType::Error => {}
                }
            }
            prop_assert_eq!(told, after);
        }
    }
}

#[test]
fn the_type_that_a_watch_leads_with_and_the_order_of_members_are_no_change() {
    let mut object = support::pod("a", 1, "x");
    let mut collection = filled(1, vec![object.clone()]);
    let mut stream = Stream::open(&collection, watch_from(1), at(0)).unwrap();
    let text = std::str::from_utf8(&object.raw).unwrap();
    let (metadata, spec) = text.split_once(r#","spec""#).unwrap();
    let rest = metadata.trim_start_matches('{');
    let spec = spec.trim_end_matches('}');
    object.raw = Bytes::from(format!(r#"{{"kind":"Pod","apiVersion":"v1","spec"{spec}}},{rest}}}"#));
    collection.replace(at(1), 2, envelope(), vec![object]).unwrap();
    assert_eq!(briefs(&stream.drain(&collection, at(1))), ["BOOKMARK@2"]);
}

#[test]
fn a_tables_headings_never_stand_over_rows_of_others() {
    let format = Format { encoding: Encoding::Json, form: Form::Table };
    let heading = |names: &[&str]| Envelope {
        type_meta: TypeMeta::new("meta.k8s.io/v1", "Table"),
        list_kind: "Table".into(),
        columns: Some(Bytes::from(serde_json::json!(names).to_string())),
    };
    let row = |cells: &[&str]| {
        let raw = serde_json::json!({"cells": cells, "object": {"metadata": {"name": "a", "namespace": "ns", "uid": "u",
            "resourceVersion": "1"}}});
        Object { raw: raw.to_string().into(), uid: "u".into(), ..support::pod("a", 1, "x") }
    };
    let mut collection = Collection::new(pods(format), Limits::default());
    collection.replace(at(0), 1, heading(&["Name", "Age"]), vec![row(&["a", "1s"])]).unwrap();
    let request = WatchRequest { format, ..watch_from(1) };
    let mut stream = Stream::open(&collection, request.clone(), at(0)).unwrap();
    // A cell that moved on is no reason to send anybody back, and goes to the store.
    let changes = collection.replace(at(1), 2, heading(&["Name", "Age"]), vec![row(&["a", "2s"])]).unwrap();
    assert!(
        matches!(&changes[0], Change::Put(object) if object.raw.windows(4).any(|text| text == b"\"2s\""))
    );
    assert_eq!(stream.drain(&collection, at(1)).len(), 1, "a bookmark");
    let mode = heading(&["Name", "Mode", "Age"]);
    let changes = collection.replace(at(2), 2, mode.clone(), vec![row(&["a", "auto", "3s"])]).unwrap();
    assert_eq!(changes[0], Change::Reset);
    assert_eq!(collection.envelope(), &mode);
    assert_eq!(stream.drain(&collection, at(2))[0].version, 410);
}
