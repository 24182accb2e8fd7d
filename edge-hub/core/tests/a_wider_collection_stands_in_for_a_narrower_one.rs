//! Selectors that only exclude are answered from the collection without them, and what a narrower collection takes of a wider
//! one is what the server would have sent it.

mod support;

use std::collections::BTreeMap;

use edge_hub_core::collection::{Collection, CollectionSpec};
use edge_hub_core::view::{WatchRequest, open};
use proptest::prelude::*;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::Format;
use proto_kube::selector::{FieldSelector, LabelSelector};
use proto_kube::watch::EventType;
use support::{Stream, at, envelope, labelled, pod_of_life, pods, watch_from};

fn narrowed(labels: &str, fields: &str) -> CollectionSpec {
    CollectionSpec {
        labels: LabelSelector::parse(labels).expect("valid"),
        fields: FieldSelector::parse(fields).expect("valid"),
        ..pods(Format::PROTOBUF)
    }
}

#[test]
fn only_selectors_that_exclude_are_left_out() {
    let whole = Some(pods(Format::PROTOBUF));
    for (labels, fields) in [
        ("!k", ""),
        ("k!=v", ""),
        ("k notin (a,b)", ""),
        ("!a,b!=c,d notin (e)", ""),
        ("", "status.phase!=Failed"),
        ("!k", "metadata.name!=x,spec.nodeName!=n1"),
    ] {
        assert_eq!(narrowed(labels, fields).without_exclusions(), whole, "{labels} {fields}");
    }
    for (labels, fields) in [
        ("", ""),
        ("k", ""),
        ("k=v", ""),
        ("k in (a,b)", ""),
        ("!a,k=v", ""),
        ("", "spec.nodeName=n1"),
        ("!k", "metadata.name=x"),
        // What cannot be read from the objects cannot be left out later.
        ("", "spec.unknown!=x"),
    ] {
        assert_eq!(narrowed(labels, fields).without_exclusions(), None, "{labels} {fields}");
    }
    for resource in ["secrets", "events"] {
        let gvr = GroupVersionResource::new("", "v1", resource);
        assert_eq!(CollectionSpec { gvr, ..narrowed("!k", "") }.without_exclusions(), None, "{resource}");
    }
    let services = CollectionSpec {
        gvr: GroupVersionResource::new("", "v1", "services"),
        fields: FieldSelector::parse("spec.clusterIP!=None").expect("valid"),
        ..pods(Format::PROTOBUF)
    };
    let in_namespace = CollectionSpec { namespace: Some("ns".into()), ..services.clone() };
    for narrow in [services, in_namespace] {
        let whole = narrow.without_exclusions().expect("it only excludes");
        assert_eq!((&whole.namespace, whole.fields.requirements().len()), (&narrow.namespace, 0));
    }
}

const APPS: [&str; 3] = ["a", "b", "c"];
const SELECTORS: [&str; 5] = ["app!=a", "app notin (a,b)", "!app", "app=a", ""];

proptest! {
    /// A narrow collection that begins with what the server sent it, and from then on takes its part of a wider one at any
    /// moments, holds what the server would send it now; whoever watches it sees how that came about, in order.
    #[test]
    fn a_follower_holds_what_the_server_would_send(
        steps in prop::collection::vec((0_u8..6, 0_usize..3, any::<bool>(), any::<bool>()), 1..60),
        selector in 0_usize..5,
        json in any::<bool>(),
    ) {
        let format = if json { Format::JSON } else { Format::PROTOBUF };
        let spec = CollectionSpec { labels: LabelSelector::parse(SELECTORS[selector]).expect("valid"), ..pods(format) };
        let selects = |app: &str| spec.labels.matches(|key| (key == "app").then(|| app.into()));
        let mut wide = Collection::new(pods(format), Default::default());
        let mut narrow = Collection::new(spec.clone(), Default::default());
        let mut truth: BTreeMap<String, (u64, usize)> = BTreeMap::new();
        wide.replace(at(0), 10, envelope(), Vec::new()).expect("the first list");
        narrow.replace(at(0), 10, envelope(), Vec::new()).expect("the first list");
        let request = |since| WatchRequest { selection: labelled(SELECTORS[selector]), format, ..watch_from(since) };
        let mut stream = Stream::open(&narrow, request(10), at(0)).expect("current");
        let mut seen: BTreeMap<String, (u64, String)> = BTreeMap::new();
        let mut version = 10;
        for (number, app, deleted, takes) in steps {
            version += 1;
            let name = format!("p{number}");
            let life = u64::from(number);
            if deleted && truth.contains_key(&name) {
                let (_, app) = truth.remove(&name).expect("it is there");
                wide.apply(at(1), EventType::Deleted, pod_of_life(format, &name, version, APPS[app], life));
            } else {
                truth.insert(name.clone(), (version, app));
                wide.apply(at(1), EventType::Modified, pod_of_life(format, &name, version, APPS[app], life));
            }
            if !takes {
                continue;
            }
            let (at_version, envelope, objects) = wide.upstream_part(&spec).expect("it covers it");
            prop_assert_eq!(at_version, version);
            narrow.replace(at(1), at_version, envelope, objects).expect("not older");
            for event in stream.drain(&narrow, at(1)) {
                let app = event.app.clone().unwrap_or_default();
                match event.event_type {
                    EventType::Deleted => {
                        prop_assert!(seen.remove(&*event.key.name).is_some());
                    }
                    EventType::Added | EventType::Modified => {
                        let former = seen.insert(event.key.name.to_string(), (event.version, app));
                        prop_assert!(former.is_none_or(|(former, _)| former < event.version));
                    }
                    _ => {}
                }
            }
            let expected: BTreeMap<String, (u64, String)> = truth
                .iter()
                .filter(|(_, (_, app))| selects(APPS[*app]))
                .map(|(name, (version, app))| (name.clone(), (*version, APPS[*app].to_owned())))
                .collect();
            prop_assert_eq!(&seen, &expected);
            prop_assert_eq!(narrow.len(), expected.len());
            prop_assert!(open(&narrow, request(version), at(1)).is_ok(), "who was here may come again");
        }
    }
}

#[test]
fn nothing_is_taken_of_what_is_not_complete_or_does_not_cover() {
    let wide = Collection::new(pods(Format::JSON), Default::default());
    assert!(wide.upstream_part(&pods(Format::JSON)).is_none(), "it is not complete");
    let mut narrow = Collection::new(narrowed("app=a", ""), Default::default());
    narrow.replace(at(0), 1, envelope(), Vec::new()).expect("the first list");
    assert!(narrow.upstream_part(&pods(Format::PROTOBUF)).is_none(), "it holds less");
}
