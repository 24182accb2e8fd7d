//! A pocket API server and a pocket client for the tests of the collection and its views.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use bytes::Bytes;
use edge_hub_core::clock::Now;
use edge_hub_core::collection::{Collection, CollectionSpec, Envelope, Limits, Object, Refusal, Selection};
use edge_hub_core::view::{Step, WatchRequest, WatchView, open};
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::{ObjectKey, TypeMeta, label, scan};
use proto_kube::selector::{FieldSelector, LabelSelector};
use proto_kube::watch::{EventType, WatchDecoder, bookmark_marks_initial_events_end, read_error};
use proto_kube::wire;

/// Both clocks, this many seconds after the start.
pub(crate) fn at(seconds: u64) -> Now {
    Now {
        monotonic: Duration::from_secs(seconds),
        unix: Duration::from_secs(1_800_000_000) + Duration::from_secs(seconds),
    }
}

pub(crate) fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { namespace: namespace.into(), name: name.into() }
}

/// All pods in this format.
pub(crate) fn pods(format: Format) -> CollectionSpec {
    CollectionSpec {
        gvr: GroupVersionResource::new("", "v1", "pods"),
        namespace: None,
        labels: LabelSelector::default(),
        fields: FieldSelector::default(),
        format,
    }
}

pub(crate) fn envelope() -> Envelope {
    Envelope { type_meta: TypeMeta::new("v1", "Pod"), list_kind: "PodList".into(), columns: None }
}

/// A pod of namespace `ns` as the splitters cut it out; its uid is made of its name and `life`.
pub(crate) fn pod_of_life(format: Format, name: &str, version: u64, app: &str, life: u64) -> Object {
    let uid = format!("{name}-{life}");
    let raw: Bytes = match format.encoding {
        Encoding::Json => format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"ns","uid":"{uid}","resourceVersion":"{version}","labels":{{"app":"{app}"}}}},"spec":{{"nodeName":"n1"}}}}"#
        )
        .into(),
        Encoding::Protobuf => {
            let mut label = Vec::new();
            wire::put_bytes(&mut label, 1, b"app");
            wire::put_bytes(&mut label, 2, app.as_bytes());
            let mut meta = Vec::new();
            wire::put_bytes(&mut meta, 1, name.as_bytes());
            wire::put_bytes(&mut meta, 3, b"ns");
            wire::put_bytes(&mut meta, 5, uid.as_bytes());
            wire::put_bytes(&mut meta, 6, version.to_string().as_bytes());
            wire::put_bytes(&mut meta, 11, &label);
            let mut spec = Vec::new();
            wire::put_bytes(&mut spec, 10, b"n1");
            let mut pod = Vec::new();
            wire::put_bytes(&mut pod, 1, &meta);
            wire::put_bytes(&mut pod, 2, &spec);
            pod.into()
        }
    };
    Object { key: key("ns", name), uid: uid.into(), resource_version: version, raw }
}

/// A JSON pod of its first life.
pub(crate) fn pod(name: &str, version: u64, app: &str) -> Object {
    pod_of_life(Format::JSON, name, version, app, 0)
}

/// A complete JSON collection with these pods at this resource version.
pub(crate) fn filled(version: u64, objects: Vec<Object>) -> Collection {
    filled_within(Limits::default(), version, objects)
}

pub(crate) fn filled_within(limits: Limits, version: u64, objects: Vec<Object>) -> Collection {
    let mut collection = Collection::new(pods(Format::JSON), limits);
    collection.replace(at(0), version, envelope(), objects).expect("the first list is never a rollback");
    collection
}

/// A plain WATCH of everything from `since`, with bookmarks, for an hour.
pub(crate) fn watch_from(since: u64) -> WatchRequest {
    WatchRequest {
        selection: Selection::default(),
        resource_version: Some(since),
        send_initial_events: None,
        allow_bookmarks: true,
        timeout: Duration::from_secs(3600),
        format: Format::JSON,
    }
}

/// The objects with this label.
pub(crate) fn labelled(text: &str) -> Selection {
    Selection { labels: LabelSelector::parse(text).expect("a valid selector"), ..Selection::default() }
}

/// One frame, as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) event_type: EventType,
    pub(crate) key: ObjectKey,
    /// Resource version; of an ERROR its code.
    pub(crate) version: u64,
    pub(crate) uid: String,
    pub(crate) app: Option<String>,
    /// The bookmark that ends the initial events.
    pub(crate) marked: bool,
}

impl Seen {
    /// Type, name and version: what most tests compare.
    pub(crate) fn brief(&self) -> String {
        match self.event_type {
            EventType::Bookmark if self.marked => format!("MARK@{}", self.version),
            EventType::Bookmark | EventType::Error => {
                format!("{}@{}", self.event_type.as_str(), self.version)
            }
            _ => format!("{} {}@{}", self.event_type.as_str(), self.key.name, self.version),
        }
    }
}

pub(crate) fn briefs(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(Seen::brief).collect()
}

/// One open stream and the decoder on its other end.
pub(crate) struct Stream {
    pub(crate) view: WatchView,
    decoder: WatchDecoder,
    format: Format,
    pub(crate) ended: bool,
}

impl Stream {
    pub(crate) fn open(collection: &Collection, request: WatchRequest, now: Now) -> Result<Self, Refusal> {
        let format = request.format;
        let view = open(collection, request, now)?;
        Ok(Self { view, decoder: WatchDecoder::new(format, 1 << 20), format, ended: false })
    }

    /// At most one frame.
    pub(crate) fn next(&mut self, collection: &Collection, now: Now) -> Option<Seen> {
        match self.view.poll(collection, now) {
            Step::Frame(frame) => {
                self.decoder.push(&frame);
                let event = self.decoder.next().expect("a well-formed frame").expect("a whole frame");
                assert!(!self.decoder.is_mid_frame(), "one frame per step");
                Some(read(self.format, event.event_type, &event.raw))
            }
            Step::Idle { until } => {
                assert!(until > now.monotonic, "an idle view must not be polled in a loop");
                None
            }
            Step::End => {
                self.ended = true;
                None
            }
        }
    }

    /// Everything there is to read now.
    pub(crate) fn drain(&mut self, collection: &Collection, now: Now) -> Vec<Seen> {
        std::iter::from_fn(|| self.next(collection, now)).collect()
    }
}

fn read(format: Format, event_type: EventType, raw: &[u8]) -> Seen {
    if event_type == EventType::Error {
        let code = read_error(format.encoding, raw).expect("a Status").code;
        let key = key("", "");
        return Seen { event_type, key, version: code.into(), uid: String::new(), app: None, marked: false };
    }
    let meta = scan(format, raw).expect("an object with metadata");
    Seen {
        event_type,
        key: meta.key(),
        version: meta.resource_version.parse().expect("a numeric resource version"),
        uid: meta.uid.to_string(),
        app: label(format, raw, "app").expect("readable labels").map(|value| value.to_string()),
        marked: event_type == EventType::Bookmark && bookmark_marks_initial_events_end(format, raw),
    }
}
