//! Whatever happens to objects, to the inputs of filters and to connections, a client that lists and watches
//! behind filters holds what filtering the cloud's history gives. What it never saw is not mentioned, and what leaves
//! it leaves in the form that it saw.

#[path = "support/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edge_hub_core::clock::Now;
use edge_hub_core::collection::{
    Collection, CollectionSpec, Envelope, Limits, Lookup, Object, Refusal, RingLimits, Selection, Uncovered,
};
use edge_hub_core::filter::{
    CERTIFICATES_KEY, Chain, Filter, Inputs, NODE_POOL_LABEL, NODE_PORT_LISTEN, Outcome, ROOT_CERTIFICATES,
    Subject, TOPOLOGY_KEYS,
};
use edge_hub_core::view::{Step, WatchRequest, WatchView, open_filtered};
use proptest::prelude::*;
use proto_kube::edit::with_resource_version;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Form, Format};
use proto_kube::object::{ObjectKey, TypeMeta, scan};
use proto_kube::watch::{EventType, WatchDecoder};
use trees::{Tree, message, metadata, strings, text};

const FILTERS: [Filter; 4] =
    [Filter::NodePortIsolation, Filter::ServiceTopology, Filter::RootCertificates, Filter::ManagedFields];

#[derive(Clone, Debug)]
enum Op {
    /// Writes an object in one of its variants.
    Write(u8, u8),
    Delete(u8),
    /// The node moves to this pool (0 is none) and services ask for this reach; the hub's authority is the one of this
    /// reach, too (0 is none).
    Inputs(u8, u8),
    /// Upstream's version moves on without an event for this collection.
    Bookmark,
    /// Some writes went unseen; then the whole state is listed.
    Relist(Vec<(u8, u8)>),
    /// A client reads at most so many frames.
    Read(u8, u8),
    /// A client's connection breaks; it resumes from the last version it saw.
    Cut(u8),
    /// A client throws away what it has and lists.
    Anew(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let write = || (0..4_u8, 0..4_u8);
    prop_oneof![
        5 => write().prop_map(|(name, variant)| Op::Write(name, variant)),
        2 => (0..4_u8).prop_map(Op::Delete),
        3 => (0..3_u8, 0..3_u8).prop_map(|(pool, reach)| Op::Inputs(pool, reach)),
        1 => Just(Op::Bookmark),
        1 => prop::collection::vec(write(), 0..3).prop_map(Op::Relist),
        4 => (0..2_u8, 0..4_u8).prop_map(|(client, frames)| Op::Read(client, frames)),
        2 => (0..2_u8).prop_map(Op::Cut),
        1 => (0..2_u8).prop_map(Op::Anew),
    ]
}

fn services() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "services")
}

fn slices() -> GroupVersionResource {
    GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices")
}

fn config_maps() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "configmaps")
}

fn at(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), unix: Duration::from_secs(1_800_000_000 + seconds) }
}

fn object(gvr: &GroupVersionResource, format: Format, name: u8, variant: u8, version: u64) -> Object {
    let (namespace, name) = match *gvr == config_maps() {
        true => (format!("o{name}"), ROOT_CERTIFICATES.to_owned()),
        false => ("ns".to_owned(), format!("o{name}")),
    };
    let listen = ["", "p1", "p2", "p1,p2"][usize::from(variant)];
    let annotations: &[(&str, &str)] = if variant == 0 { &[] } else { &[(NODE_PORT_LISTEN, listen)] };
    let service = [("kubernetes.io/service-name", "web")];
    let (number, meta_name, meta) = metadata(&namespace, &name, version, &service, annotations);
    let Tree::Message(mut meta) = meta else { panic!("metadata is a message") };
    meta.push((17, "managedFields", Tree::List(vec![message([(1, "manager", text("canary"))])])));
    let meta = (number, meta_name, Tree::Message(meta));
    let endpoint = |node: &str| {
        message([(1, "addresses", Tree::List(vec![text("10.0.0.1")])), (6, "nodeName", text(node))])
    };
    let nodes = [&["here"][..], &["n1"], &["n1", "n2"], &["here", "n2"]][usize::from(variant)];
    let certificates = ["", "cluster", "cluster\n", "cluster\nauthority 1\n"][usize::from(variant)];
    let tree = if *gvr == config_maps() {
        message([meta, (2, "data", strings(&[("a", "b"), (CERTIFICATES_KEY, certificates)]))])
    } else if *gvr == services() {
        message([meta, (2, "spec", message([(4, "type", text("NodePort"))]))])
    } else {
        message([meta, (2, "endpoints", Tree::List(nodes.iter().map(|node| endpoint(node)).collect()))])
    };
    tree.object(format)
}

fn inputs(pool: u8, reach: u8) -> Inputs {
    let mut inputs = Inputs::new("here", None);
    let nodes = GroupVersionResource::new("", "v1", "nodes");
    let pool = ["", "p1", "p2"][usize::from(pool)];
    for (node, pool) in [("here", pool), ("n1", "p1"), ("n2", "p2")] {
        let labels: &[(&str, &str)] = if pool.is_empty() { &[] } else { &[(NODE_POOL_LABEL, pool)] };
        let node = message([metadata("", node, 1, labels, &[])]).object(Format::JSON);
        inputs.put(&nodes, Format::JSON, &node).expect("a node");
    }
    let authority = (reach > 0).then(|| format!("authority {reach}\n").into());
    let mut inputs = inputs.with_authority(authority);
    let reach = ["", "kubernetes.io/hostname", "openyurt.io/nodepool"][usize::from(reach)];
    let web = message([metadata("ns", "web", 1, &[], &[(TOPOLOGY_KEYS, reach)])]).object(Format::JSON);
    inputs.put(&services(), Format::JSON, &web).expect("a service");
    inputs
}

/// What is seen of a state: each object's bytes without its version and what surrounds it.
type State = BTreeMap<ObjectKey, Vec<u8>>;

fn unversioned(format: Format, raw: &[u8]) -> Vec<u8> {
    let raw = with_resource_version(format, raw, "0").expect("an object");
    assert!(!raw.windows(6).any(|window| window == b"canary"), "what a filter removes left the hub");
    if format == Format::PROTOBUF {
        return raw;
    }
    let mut object: serde_json::Value = serde_json::from_slice(&raw).expect("JSON");
    let members = object.as_object_mut().expect("an object");
    members.retain(|name, _| name != "kind" && name != "apiVersion");
    object.to_string().into_bytes()
}

/// The history, filtered by the pure function alone.
fn filtered(world: &World) -> State {
    let mut seen = State::new();
    for object in world.state.values() {
        let subject = Subject { gvr: &world.gvr, format: world.format, key: &object.key, raw: &object.raw };
        match world.chain.apply(&world.inputs, &subject).expect("a good object") {
            Outcome::Keep => panic!("managed fields are always left out"),
            Outcome::Replace(raw) => drop(seen.insert(object.key.clone(), unversioned(world.format, &raw))),
            Outcome::Drop => {}
        }
    }
    seen
}

struct World {
    gvr: GroupVersionResource,
    format: Format,
    chain: Chain,
    collection: Collection,
    state: BTreeMap<u8, Object>,
    version: u64,
    inputs: Inputs,
    /// Version of the collection at the last change of inputs.
    changed_at: u64,
    /// The ring keeps everything; without it a client is told of the last state of each key only.
    is_remembered: bool,
}

struct Client {
    view: WatchView,
    decoder: WatchDecoder,
    held: State,
    last: u64,
    /// The client's state is beyond doubt, so every event must fit it.
    strict: bool,
    expired: bool,
}

impl World {
    fn new(gvr: GroupVersionResource, format: Format, ring_events: usize) -> Self {
        let spec = CollectionSpec {
            gvr: gvr.clone(),
            namespace: None,
            labels: Default::default(),
            fields: Default::default(),
            format,
        };
        let ring = RingLimits { events: ring_events, relist_grace: Duration::ZERO, ..RingLimits::default() };
        let mut collection = Collection::new(spec, Limits { ring, ..Limits::default() });
        collection.replace(at(0), 10, envelope(), Vec::new()).expect("the first list");
        collection.set_filter_inputs(&Arc::new(inputs(0, 0)));
        let chain = Chain::new(&gvr, FILTERS);
        Self {
            gvr,
            format,
            chain,
            collection,
            state: BTreeMap::new(),
            version: 10,
            inputs: inputs(0, 0),
            changed_at: 0,
            is_remembered: ring_events >= 100,
        }
    }

    fn request(&self, since: u64) -> WatchRequest {
        WatchRequest {
            selection: Selection::default(),
            resource_version: Some(since),
            send_initial_events: None,
            allow_bookmarks: false,
            timeout: Duration::from_secs(3600),
            format: self.format,
        }
    }

    fn watch(&self, since: u64) -> Result<WatchView, Refusal> {
        open_filtered(&self.collection, self.request(since), self.chain.clone(), at(1))
    }

    fn list(&self) -> Client {
        let listing = self.collection.list_filtered(&Selection::default(), &self.chain).expect("complete");
        let seen = |object: &Arc<Object>| (object.key.clone(), unversioned(self.format, &object.raw));
        let held: State = listing.objects.iter().map(seen).collect();
        assert_eq!(held, filtered(self), "a list is the filtered state");
        let last = listing.resource_version;
        let view = self.watch(last).expect("the version of a list can be watched from");
        let strict = self.is_remembered && last > self.changed_at;
        let decoder = WatchDecoder::new(self.format, 1 << 20);
        Client { view, decoder, held, last, strict, expired: false }
    }

    fn write(&mut self, name: u8, variant: u8) -> Object {
        self.version += 1;
        let written = object(&self.gvr, self.format, name, variant, self.version);
        self.state.insert(name, written.clone());
        written
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Write(name, variant) => {
                let object = self.write(*name, *variant);
                self.collection.apply(at(1), EventType::Modified, object);
            }
            Op::Delete(name) => {
                if let Some(last) = self.state.remove(name) {
                    self.version += 1;
                    let version = self.version;
                    let raw = with_resource_version(self.format, &last.raw, &version.to_string());
                    let raw = raw.expect("an object").into();
                    let gone = Object { resource_version: version, raw, ..last };
                    self.collection.apply(at(1), EventType::Deleted, gone);
                }
            }
            Op::Inputs(pool, reach) => {
                self.inputs = inputs(*pool, *reach);
                if self.collection.set_filter_inputs(&Arc::new(self.inputs.clone())) {
                    self.changed_at = self.collection.resource_version();
                }
            }
            Op::Bookmark => {
                self.version += 5;
                self.collection.bookmark(at(1), self.version);
            }
            Op::Relist(writes) => {
                for (name, variant) in writes {
                    self.write(*name, *variant);
                }
                self.version += 3;
                let objects = self.state.values().cloned().collect();
                self.collection.replace(at(1), self.version, envelope(), objects).expect("newer");
            }
            Op::Read(..) | Op::Cut(_) | Op::Anew(_) => {}
        }
    }
}

fn envelope() -> Envelope {
    Envelope { type_meta: TypeMeta::new("v1", "Any"), list_kind: "AnyList".into(), columns: None }
}

impl Client {
    /// Reads at most this many frames, and checks each against what the client holds.
    fn read(&mut self, world: &World, frames: usize) {
        for _ in 0..frames {
            let Step::Frame(frame) = self.view.poll(&world.collection, at(1)) else { return };
            self.decoder.push(&frame);
            let event = self.decoder.next().expect("well formed").expect("a whole frame");
            if event.event_type == EventType::Error {
                self.expired = true;
                return;
            }
            let meta = scan(world.format, &event.raw).expect("an object");
            let version: u64 = meta.resource_version.parse().expect("a number");
            assert!(version >= self.last, "a client never goes back");
            self.last = version;
            let (key, raw) = (meta.key(), unversioned(world.format, &event.raw));
            let former = match event.event_type {
                EventType::Deleted => self.held.remove(&key),
                _ => self.held.insert(key.clone(), raw.clone()),
            };
            if self.strict {
                match event.event_type {
                    EventType::Added => assert_eq!(former, None, "{key:?} is added twice"),
                    EventType::Modified => assert!(former.is_some(), "{key:?} is changed but was never seen"),
                    _ => assert_eq!(former.as_ref(), Some(&raw), "{key:?} leaves in the form that was seen"),
                }
            }
        }
    }

    fn resume(&mut self, world: &World) {
        match world.watch(self.last) {
            Ok(view) => self.view = view,
            Err(Refusal::Expired { .. }) => self.expired = true,
            Err(other) => panic!("{other}"),
        }
        self.decoder = WatchDecoder::new(world.format, 1 << 20);
        self.strict = false;
    }
}

fn run(mut world: World, ops: &[Op]) {
    let mut clients = [world.list(), world.list()];
    for op in ops {
        world.step(op);
        match op {
            Op::Read(client, frames) => clients[usize::from(*client)].read(&world, usize::from(*frames)),
            Op::Cut(client) => clients[usize::from(*client)].resume(&world),
            Op::Anew(client) => clients[usize::from(*client)] = world.list(),
            _ => {}
        }
        for client in clients.iter_mut().filter(|client| client.expired) {
            *client = world.list();
        }
    }
    for client in &mut clients {
        client.read(&world, usize::MAX);
        if client.expired {
            *client = world.list();
            client.read(&world, usize::MAX);
        }
        assert!(!client.expired, "a fresh list is good");
        assert!(client.held == filtered(&world), "the client holds the filtered history");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn list_and_watch_fold_to_the_filtered_history(
        ops in prop::collection::vec(op(), 0..40),
        is_json: bool,
        gvr in prop_oneof![Just(services()), Just(slices()), Just(config_maps())],
        ring in prop_oneof![Just(2_usize), Just(100)],
    ) {
        let format = if is_json { Format::JSON } else { Format::PROTOBUF };
        run(World::new(gvr, format, ring), &ops);
    }
}

/// A client that was told all of a relist, but stands at the version of its last event, is told of new inputs before
/// what came after them.
#[test]
fn new_inputs_are_told_before_what_came_after_them_though_the_relist_before_was_read_to_its_end() {
    let ops = [
        Op::Write(0, 1),
        Op::Read(1, 1),
        Op::Inputs(0, 1),
        Op::Relist(vec![(0, 0), (1, 2)]),
        Op::Read(1, 2),
        Op::Inputs(1, 2),
        Op::Write(0, 0),
        Op::Read(1, 2),
        Op::Cut(1),
    ];
    for format in [Format::JSON, Format::PROTOBUF] {
        run(World::new(slices(), format, 2), &ops);
    }
}

/// The words of a stream: type, name and version.
fn words(client: &mut Client, world: &World) -> Vec<String> {
    let mut words = Vec::new();
    while let Step::Frame(frame) = client.view.poll(&world.collection, at(1)) {
        client.decoder.push(&frame);
        let event = client.decoder.next().expect("well formed").expect("whole");
        let meta = scan(world.format, &event.raw).expect("an object");
        unversioned(world.format, &event.raw);
        words.push(format!("{} {}@{}", event.event_type.as_str(), meta.name, meta.resource_version));
    }
    words
}

#[test]
fn what_is_hidden_is_not_mentioned_and_a_move_to_another_pool_is_told() {
    for format in [Format::JSON, Format::PROTOBUF] {
        let mut world = World::new(services(), format, 100);
        world.step(&Op::Inputs(1, 0));
        world.step(&Op::Write(0, 1)); // p1, at 11
        world.step(&Op::Write(1, 2)); // p2, at 12
        let mut client = world.list();
        for op in [Op::Write(1, 2), Op::Write(0, 1), Op::Write(0, 2), Op::Write(1, 3), Op::Delete(0)] {
            world.step(&op);
        }
        // 13 is hidden; 15 hides o0, 16 shows o1; the deletion of the hidden o0 at 17 is not mentioned.
        assert_eq!(words(&mut client, &world), ["MODIFIED o0@14", "DELETED o0@15", "ADDED o1@16"]);
        world.step(&Op::Write(2, 2)); // p2, at 18
        world.step(&Op::Write(1, 1)); // p1, at 19
        assert_eq!(words(&mut client, &world), ["MODIFIED o1@19"]);
        world.step(&Op::Inputs(2, 0));
        assert_eq!(words(&mut client, &world), ["DELETED o1@19", "ADDED o2@19"]);
        world.step(&Op::Inputs(2, 1));
        assert_eq!(words(&mut client, &world), [""; 0], "services do not depend on topology");
    }
}

#[test]
fn inputs_that_a_restart_remembers_let_clients_resume() {
    let mut world = World::new(slices(), Format::JSON, 100);
    let spec = world.collection.spec().clone();
    for restored in [true, false] {
        let mut collection = Collection::new(spec.clone(), Limits::default());
        let gvr = slices();
        let o0 = object(&gvr, Format::JSON, 0, 2, 20);
        collection.replace(at(0), 20, envelope(), vec![o0]).expect("the first list");
        let refused = open_filtered(&collection, world.request(20), world.chain.clone(), at(0));
        assert_eq!(refused.err(), Some(Refusal::Incomplete), "inputs are not known yet");
        if restored {
            let mut predecessor = Collection::new(spec.clone(), Limits::default());
            predecessor.replace(at(0), 20, envelope(), Vec::new()).expect("the first list");
            predecessor.set_filter_inputs(&Arc::new(inputs(1, 2)));
            let record = predecessor.filter_inputs_record().expect("a small record");
            collection.restore_filter_inputs(&record).expect("its own record");
        }
        collection.apply(at(1), EventType::Modified, object(&gvr, Format::JSON, 0, 2, 21));
        collection.set_filter_inputs(&Arc::new(inputs(2, 2)));
        world.collection = collection;
        let view = world.watch(20);
        if restored {
            let decoder = WatchDecoder::new(Format::JSON, 1 << 20);
            let view = view.expect("its inputs are known");
            let mut client =
                Client { view, decoder, held: State::new(), last: 20, strict: false, expired: false };
            assert_eq!(words(&mut client, &world), ["MODIFIED o0@20", "MODIFIED o0@21"]);
        } else {
            assert!(matches!(view.err(), Some(Refusal::Expired { requested: 20, .. })));
        }
    }
}

#[test]
fn an_update_of_heartbeats_alone_is_kept_quiet() {
    let gvr = GroupVersionResource::new("", "v1", "nodes");
    let node = |version: u64, beat: u64, ready: &str| {
        let time = message([(1, "seconds", Tree::Number(beat))]);
        let condition = message([(2, "status", text(ready)), (3, "lastHeartbeatTime", time)]);
        let status = message([(4, "conditions", Tree::List(vec![condition]))]);
        message([metadata("", "n", version, &[], &[]), (3, "status", status)]).object(Format::PROTOBUF)
    };
    let mut world = World::new(gvr.clone(), Format::PROTOBUF, 100);
    world.chain = Chain::new(&gvr, [Filter::NodeHeartbeats]);
    world.collection.apply(at(0), EventType::Added, node(11, 1, "True"));
    let mut client = Client {
        view: world.watch(10).expect("current"),
        decoder: WatchDecoder::new(Format::PROTOBUF, 1 << 20),
        held: State::new(),
        last: 10,
        strict: false,
        expired: false,
    };
    world.collection.apply(at(0), EventType::Modified, node(12, 2, "True"));
    world.collection.apply(at(0), EventType::Modified, node(13, 3, "False"));
    world.collection.apply(at(0), EventType::Deleted, node(14, 4, "False"));
    assert_eq!(words(&mut client, &world), ["ADDED n@11", "MODIFIED n@13", "DELETED n@14"]);
}

#[test]
fn a_get_a_list_a_streamed_list_and_a_list_of_the_past_show_the_same() {
    for format in [Format::JSON, Format::PROTOBUF] {
        let mut world = World::new(services(), format, 100);
        world.step(&Op::Inputs(1, 0));
        world.step(&Op::Write(0, 1)); // p1
        world.step(&Op::Write(1, 2)); // p2
        let want = filtered(&world);
        let past = world.version;
        let mut client = world.list();
        assert_eq!(want.len(), 1);
        for (key, is_shown) in [("o0", true), ("o1", false), ("o9", false)] {
            let key = ObjectKey { namespace: "ns".into(), name: key.into() };
            match world.collection.get_filtered(&key, &world.chain).expect("readable") {
                Lookup::Found(object) => assert_eq!(want.get(&key), Some(&unversioned(format, &object.raw))),
                found => assert_eq!((found, is_shown), (Lookup::Absent, false)),
            }
        }
        let request =
            WatchRequest { send_initial_events: Some(true), allow_bookmarks: true, ..world.request(0) };
        let view = open_filtered(&world.collection, request, world.chain.clone(), at(1));
        client = Client { view: view.expect("complete"), held: State::new(), last: 0, ..client };
        client.read(&world, 1);
        assert!(client.held == want, "the streamed list");
        world.step(&Op::Write(0, 2));
        world.step(&Op::Inputs(2, 0));
        let exact = world.collection.state_at_filtered(past, &Selection::default(), &world.chain);
        let seen = |object: &Arc<Object>| (object.key.clone(), unversioned(format, &object.raw));
        let exact: State = exact.expect("remembered").objects.iter().map(seen).collect();
        assert!(exact == want, "the past is shown as it was then");
    }
}

#[test]
fn what_a_filter_leaves_as_it_is_is_encoded_once_and_a_summary_is_filtered_first() {
    let mut world = World::new(services(), Format::PROTOBUF, 100);
    world.step(&Op::Inputs(1, 0));
    world.chain = Chain::new(&world.gvr, [Filter::NodePortIsolation]);
    let mut views = [(); 2].map(|()| world.watch(10).expect("current"));
    let plain = edge_hub_core::view::open(&world.collection, world.request(10), at(1));
    let mut plain = plain.expect("current");
    let format = Format { form: Form::PartialMetadata, ..Format::PROTOBUF };
    let summary = WatchRequest { format, ..world.request(10) };
    let chain = Chain::new(&world.gvr, FILTERS);
    let mut summary = open_filtered(&world.collection, summary, chain, at(1)).expect("made of whole objects");
    world.step(&Op::Write(0, 1));
    world.step(&Op::Write(1, 2));
    let frame = |view: &mut WatchView| match view.poll(&world.collection, at(1)) {
        Step::Frame(frame) => frame,
        other => panic!("{other:?}"),
    };
    let first = frame(&mut plain);
    for view in &mut views {
        assert_eq!(frame(view).as_ptr(), first.as_ptr(), "one encoding for everybody");
        assert!(matches!(view.poll(&world.collection, at(1)), Step::Idle { .. }), "o1 is hidden");
    }
    assert!(!frame(&mut summary).windows(6).any(|window| window == b"canary"));
    assert!(matches!(summary.poll(&world.collection, at(1)), Step::Idle { .. }), "o1 is hidden");

    // A collection of summaries does not carry what the filters read.
    let spec = CollectionSpec { format, ..world.collection.spec().clone() };
    let mut narrow = Collection::new(spec, Limits::default());
    narrow.replace(at(0), 10, envelope(), Vec::new()).expect("the first list");
    narrow.set_filter_inputs(&Arc::new(inputs(1, 0)));
    let refused = narrow.list_filtered(&Selection::default(), &world.chain);
    assert_eq!(refused, Err(Refusal::Uncovered(Uncovered::Form)));
}
