//! Random histories with cuts, patches of pods' status, heals, restarts and clients that come again with whatever
//! version they were given, at any of two collections. A client that folds its stream holds the cloud's state amended
//! by what the kubelet said, and the cloud's own after all is over. Versions rise on each stream, no request upstream
//! carries one of the hub's own, and 410 is said only where a version was told by somebody else.

#[path = "support/overlay_ops.rs"]
mod overlay_ops;
#[path = "support/slices.rs"]
mod slices;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edge_hub_core::clock::Now;
use edge_hub_core::collection::{
    Change, Collection, Limits, Object, Recovered, Refusal, Selection, Tombstone, Watermark,
};
use edge_hub_core::overlay::{CloudPod, GRACE, OwnVersions, PATIENCE, PodMemory};
use edge_hub_core::record::RecordChange;
use edge_hub_core::view::{Step, WatchRequest, WatchView, open};
use overlay_ops::{Op, op};
use proptest::prelude::*;
use proto_kube::media_type::Format;
use proto_kube::object::{ObjectKey, scan};
use proto_kube::watch::{EventType, WatchDecoder, read_error};
use slices::{Endpoint, NODE, endpoints, own_pod, slice, slice_envelope, slices as spec, status_patch};
use support::at;

const FORMATS: [Format; 2] = [Format::PROTOBUF, Format::JSON];

#[derive(Clone, Debug)]
struct Happening {
    version: u64,
    name: String,
    /// `None`: it was deleted.
    address: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    ip: Option<String>,
    ready: bool,
    known_from: Option<u64>,
}

/// What a slice shows: nothing but its endpoints counts.
type State = BTreeMap<String, Vec<Endpoint>>;

#[derive(Default)]
struct Disk {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    tombstones: BTreeMap<ObjectKey, Tombstone>,
    watermark: Option<Watermark>,
}

impl Disk {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(object) => {
                    self.tombstones.remove(&object.key);
                    self.objects.insert(object.key.clone(), object);
                }
                Change::Delete(tombstone) => {
                    self.objects.remove(&tombstone.object.key);
                    self.tombstones.insert(tombstone.object.key.clone(), tombstone);
                }
                Change::Forget(key, _) => drop(self.tombstones.remove(&key)),
                Change::Watermark { resource_version, horizon, synced_unix, envelope } => {
                    self.watermark = Some(Watermark { resource_version, horizon, synced_unix, envelope });
                }
                Change::Reset => *self = Self::default(),
            }
        }
    }
}

struct Client {
    of: usize,
    view: WatchView,
    held: State,
    last: u64,
    in_burst: bool,
    /// It has the cloud's truth, perhaps in place of the overlay, until it is told of every slice.
    from_cloud: bool,
    /// It came back under a version that may mean nothing here.
    excused: bool,
}

struct World {
    cloud: Vec<Happening>,
    version: u64,
    counter: u64,
    pods: [Object; 3],
    facts: BTreeMap<String, Fact>,
    memory: PodMemory,
    kept_facts: BTreeMap<Vec<u8>, Vec<u8>>,
    versions: Arc<Mutex<OwnVersions>>,
    kept_versions: Option<Vec<u8>>,
    collections: Vec<Collection>,
    disks: Vec<Disk>,
    clients: Vec<Client>,
    now: Now,
    /// What each collection showed at each version that it stood at.
    past: [BTreeMap<u64, State>; 2],
    /// Relists of each collection.
    jumps: [Vec<(u64, u64)>; 2],
}

fn local(name: &str) -> String {
    format!("pod-{}", &name[1..])
}

impl World {
    fn new() -> Self {
        let versions: Arc<Mutex<OwnVersions>> = Arc::default();
        let collections = FORMATS.map(|format| {
            let mut collection = Collection::new(spec(format), Limits::default());
            collection.share_versions(Arc::clone(&versions));
            collection
        });
        let pods = [0, 1, 2].map(|pod| own_pod(&format!("pod-{pod}"), 1, "10.0.0.1", true));
        let mut world = Self {
            cloud: Vec::new(),
            version: 10,
            counter: 0,
            pods,
            facts: BTreeMap::new(),
            memory: PodMemory::new(NODE),
            kept_facts: BTreeMap::new(),
            versions,
            kept_versions: None,
            collections: collections.into(),
            disks: vec![Disk::default(), Disk::default()],
            clients: Vec::new(),
            now: at(0),
            past: Default::default(),
            jumps: Default::default(),
        };
        for of in 0..2 {
            world.relist(of);
        }
        world.note();
        world
    }

    fn note(&mut self) {
        for of in 0..2 {
            let shown = self.shown(of);
            self.past[of].insert(self.collections[of].resource_version(), shown);
        }
    }

    /// What the shell does before anything that may need versions.
    fn reserve(&mut self) {
        let mut versions = self.versions.lock().expect("not poisoned");
        if let Some(RecordChange::Put { value, .. }) = versions.reserve(64) {
            self.kept_versions = Some(value);
        }
    }

    fn object(&self, format: Format, past: &Happening) -> Object {
        let address = past.address.clone().unwrap_or_else(|| "10.0.0.1".to_owned());
        slice(format, &past.name, past.version, "IPv4", &cloud_endpoints(&past.name, &address), None)
    }

    fn latest(&self, version: u64) -> BTreeMap<&str, &Happening> {
        let mut latest = BTreeMap::new();
        for past in self.cloud.iter().take_while(|past| past.version <= version) {
            if past.address.is_some() {
                latest.insert(past.name.as_str(), past);
            } else {
                latest.remove(past.name.as_str());
            }
        }
        latest
    }

    fn truth(&self, version: u64) -> State {
        let latest = self.latest(version).into_values();
        latest
            .map(|past| {
                let address = past.address.as_deref().expect("not deleted");
                (past.name.clone(), cloud_endpoints(&past.name, address))
            })
            .collect()
    }

    /// The cloud's state as the collection has it, amended by the model's own rules.
    fn shown(&self, of: usize) -> State {
        let version = self.collections[of].upstream_version();
        let mut state = self.truth(version);
        for (name, endpoints) in &mut state {
            let Some(fact) = self.facts.get(&local(name)) else { continue };
            let written = self.latest(version)[name.as_str()].version;
            if fact.known_from.is_some_and(|known| written > known) {
                continue;
            }
            endpoints.retain(|endpoint| endpoint.node != NODE || fact.ip.is_some());
            for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.node == NODE) {
                endpoint.address = fact.ip.clone().expect("retained");
                endpoint.ready = fact.ready;
                endpoint.serving = fact.ready;
            }
        }
        state
    }

    fn do_op(&mut self, op: &Op) {
        self.reserve();
        match *op {
            Op::Write { slice, skip } => {
                self.version += skip;
                self.counter += 1;
                let address = Some(format!("10.1.{}.{}", self.counter / 250, self.counter % 250 + 1));
                self.cloud.push(Happening { version: self.version, name: format!("s{slice}"), address });
            }
            Op::Delete { slice, skip } => {
                let name = format!("s{slice}");
                if self.latest(u64::MAX).contains_key(name.as_str()) {
                    self.version += skip;
                    self.cloud.push(Happening { version: self.version, name, address: None });
                }
            }
            Op::Deliver { of, count } => self.deliver(of, count),
            Op::Bookmark(of) => self.bookmark(of),
            Op::Relist(of) => self.relist(of),
            Op::Reset(of) => self.reset(of),
            Op::Patch { pod, ip, ready } => self.patch(pod, ip.map(|ip| format!("10.2.0.{ip}")), ready),
            Op::Know { pod } => self.know(pod),
            Op::Outlast => self.outlast(),
            Op::Restart => self.restart(),
            Op::Open { of, streamed } => self.open(of, streamed),
            Op::OpenFromCloud(of) => self.open_from_cloud(of),
            Op::Read { client, frames } => {
                if let Some(client) = client.checked_rem(self.clients.len()) {
                    self.read(client, frames);
                }
            }
            Op::Cut { client, to } => {
                if let Some(client) = client.checked_rem(self.clients.len()) {
                    self.resume(client, to);
                }
            }
        }
        self.note();
        for (collection, disk) in self.collections.iter().zip(&self.disks) {
            let upstream = collection.resume_from().expect("complete");
            let durable = disk.watermark.as_ref().expect("a watermark").resource_version;
            assert_eq!(upstream, durable, "what goes upstream is what came from there");
            assert!(upstream <= self.version, "{upstream} never came from the cloud");
        }
    }

    fn deliver(&mut self, of: usize, count: usize) {
        let held = self.collections[of].upstream_version();
        let new: Vec<_> = self.cloud.iter().filter(|past| past.version > held).take(count).cloned().collect();
        for past in new {
            let event_type = if past.address.is_some() { EventType::Modified } else { EventType::Deleted };
            let object = self.object(FORMATS[of], &past);
            let changes = self.collections[of].apply(self.now, event_type, object);
            for change in &changes {
                if let Change::Put(object) = change {
                    assert_eq!(object.resource_version, past.version, "the store keeps the cloud's word");
                }
            }
            self.disks[of].apply(changes);
            assert_eq!(self.collections[of].upstream_version(), past.version);
        }
    }

    fn bookmark(&mut self, of: usize) {
        let held = self.collections[of].upstream_version();
        let next = self.cloud.iter().find(|past| past.version > held);
        let version = next.map_or(self.version, |next| next.version - 1);
        let changes = self.collections[of].bookmark(self.now, version);
        self.disks[of].apply(changes);
    }

    fn listed(&self, of: usize) -> Vec<Object> {
        self.latest(self.version).into_values().map(|past| self.object(FORMATS[of], past)).collect()
    }

    fn relist(&mut self, of: usize) {
        let objects = self.listed(of);
        let before = self.collections[of].resource_version();
        let changes = self.collections[of].replace(self.now, self.version, slice_envelope(), objects);
        self.disks[of].apply(changes.expect("not older"));
        self.jumps[of].push((before, self.collections[of].resource_version()));
    }

    fn reset(&mut self, of: usize) {
        let objects = self.listed(of);
        let before = self.collections[of].resource_version();
        let changes = self.collections[of].reset(self.now, self.version, slice_envelope(), objects);
        assert!(self.collections[of].resource_version() >= before, "a reset of a cloud that goes on");
        self.disks[of].apply(changes);
        for client in self.clients.iter_mut().filter(|client| client.of == of) {
            client.excused = true;
        }
    }

    fn amend(&mut self) {
        self.reserve();
        let amendments = Arc::new(self.memory.amendments(BTreeSet::new()));
        for collection in &mut self.collections {
            collection.amend(self.now, Arc::clone(&amendments));
        }
    }

    fn keep(&mut self, changes: Vec<RecordChange>) {
        for change in changes {
            match change {
                RecordChange::Put { key, value } => drop(self.kept_facts.insert(key, value)),
                RecordChange::Remove { key } => drop(self.kept_facts.remove(&key)),
            }
        }
    }

    fn patch(&mut self, pod: u8, ip: Option<String>, ready: bool) {
        let held = self.pods[usize::from(pod)].clone();
        let name = held.key.name.to_string();
        let body = status_patch(&name, ip.as_deref(), ready);
        let changes = self.memory.hear(Format::PROTOBUF, &held, &body).expect("a readable patch");
        if !changes.is_empty() {
            self.facts.insert(name, Fact { ip, ready, known_from: None });
        }
        self.keep(changes);
        self.amend();
    }

    fn know(&mut self, pod: u8) {
        let name = format!("pod-{pod}");
        let Some(fact) = self.facts.get_mut(&name).filter(|fact| fact.known_from.is_none()) else { return };
        self.version += 1;
        fact.known_from = Some(self.version);
        self.counter += 1;
        let ip = format!("10.3.0.{}", self.counter % 250 + 1);
        // What the cloud says of it now is what its older slices are to say, too.
        (fact.ip, fact.ready) = (Some(ip.clone()), false);
        self.pods[usize::from(pod)] = own_pod(&name, self.version, &ip, false);
        let pods = &self.pods;
        let of_cloud = |key: &ObjectKey| {
            let pod = pods.iter().find(|pod| pod.key == *key)?;
            Some(CloudPod::Present(Arc::new(pod.clone())))
        };
        let changes = self.memory.compare(self.now, Format::PROTOBUF, of_cloud);
        assert_eq!(changes.len(), 1);
        self.keep(changes);
        self.amend();
    }

    fn outlast(&mut self) {
        let _ = self.memory.tick(self.now, true);
        self.now.monotonic += PATIENCE.max(GRACE);
        self.now.unix += PATIENCE.max(GRACE);
        let changes = self.memory.tick(self.now, true);
        self.keep(changes);
        assert!(self.memory.is_empty());
        let _ = self.memory.tick(self.now, false);
        self.facts.clear();
        self.amend();
        if let Some(RecordChange::Put { value, .. }) = self.versions.lock().expect("not poisoned").release() {
            self.kept_versions = Some(value);
        }
    }

    fn restart(&mut self) {
        self.versions = Arc::default();
        if let Some(kept) = &self.kept_versions {
            self.versions.lock().expect("not poisoned").restore(kept).expect("own record");
        }
        self.memory = PodMemory::new(NODE);
        for (uid, value) in &self.kept_facts {
            self.memory.restore(uid, value).expect("own record");
        }
        for (of, format) in FORMATS.into_iter().enumerate() {
            let disk = &self.disks[of];
            let recovered = Recovered {
                watermark: disk.watermark.clone(),
                objects: disk.objects.values().cloned().collect(),
                tombstones: disk.tombstones.values().cloned().collect(),
                complete: true,
            };
            let former = self.collections[of].resource_version();
            let mut collection = Collection::restore(spec(format), Limits::default(), self.now, recovered);
            assert!(collection.is_complete());
            self.reserve();
            collection.share_versions(Arc::clone(&self.versions));
            assert!(collection.resource_version() >= former, "what was told is never below");
            self.collections[of] = collection;
        }
        self.amend();
        for client in 0..self.clients.len() {
            self.clients[client].excused = true;
            let of = self.clients[client].of;
            self.resume(client, of);
        }
    }

    fn request(format: Format, since: Option<u64>, streamed: bool) -> WatchRequest {
        WatchRequest {
            selection: Selection::default(),
            resource_version: since,
            send_initial_events: streamed.then_some(true),
            allow_bookmarks: true,
            timeout: Duration::from_secs(1 << 30),
            format,
        }
    }

    fn list(&self, of: usize) -> (u64, State) {
        let listing = self.collections[of].list(&Selection::default()).expect("complete");
        let state = listing.objects.iter().map(|object| {
            let meta = scan(FORMATS[of], &object.raw).expect("metadata");
            assert_eq!(meta.resource_version, object.resource_version.to_string());
            (object.key.name.to_string(), endpoints(FORMATS[of].encoding, &object.raw))
        });
        (listing.resource_version, state.collect())
    }

    fn begin(&self, of: usize, streamed: bool) -> Client {
        let (version, held) = self.list(of);
        assert_eq!(held, self.shown(of), "a list of collection {of}");
        let request = Self::request(FORMATS[of], (!streamed).then_some(version), streamed);
        let view =
            open(&self.collections[of], request, self.now).expect("what was just listed can be watched");
        let held = if streamed { State::new() } else { held };
        Client { of, view, held, last: version, in_burst: streamed, from_cloud: false, excused: false }
    }

    fn open(&mut self, of: usize, streamed: bool) {
        self.clients.push(self.begin(of, streamed));
    }

    fn open_from_cloud(&mut self, of: usize) {
        let request = Self::request(FORMATS[of], Some(self.version), false);
        match open(&self.collections[of], request, self.now) {
            Ok(view) => self.clients.push(Client {
                of,
                view,
                held: self.truth(self.version),
                last: self.version,
                in_burst: false,
                from_cloud: true,
                excused: true,
            }),
            Err(refusal) => assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal}"),
        }
    }

    fn start_over(&mut self, index: usize, of: usize) {
        let client = &self.clients[index];
        assert!(client.excused, "410 though this collection told all that the client knows");
        // A list not older than what the client saw must be answered by what is there, or wait.
        if !client.from_cloud && client.of == of {
            assert!(self.collections[of].has_reached(client.last), "a client is turned away twice");
        }
        self.clients[index] = self.begin(of, false);
    }

    fn resume(&mut self, index: usize, to: usize) {
        let client = &mut self.clients[index];
        client.excused |= client.of != to;
        let last = client.last;
        let is_jumped = self.jumps[to].iter().any(|(from, upto)| *from < last && last < *upto);
        if client.in_burst || is_jumped && (client.from_cloud || client.of != to) {
            // Versions of another collection that a relist jumped over can be mistaken for events told here.
            self.clients[index] = self.begin(to, true);
            return;
        }
        let request = Self::request(FORMATS[to], Some(last), false);
        match open(&self.collections[to], request, self.now) {
            Ok(view) => {
                client.view = view;
                client.of = to;
            }
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal}");
                self.start_over(index, to);
            }
        }
    }

    fn read(&mut self, index: usize, frames: usize) {
        for _ in 0..frames {
            let of = self.clients[index].of;
            let frame = match self.clients[index].view.poll(&self.collections[of], self.now) {
                Step::Frame(frame) => frame,
                Step::Idle { .. } => return,
                Step::End => return self.resume(index, of),
            };
            let mut decoder = WatchDecoder::new(FORMATS[of], 1 << 20);
            decoder.push(&frame);
            let event = decoder.next().expect("well formed").expect("whole");
            if event.event_type == EventType::Error {
                assert_eq!(read_error(FORMATS[of].encoding, &event.raw).expect("a Status").code, 410);
                return self.start_over(index, of);
            }
            self.take(index, event.event_type, &event.raw);
        }
    }

    fn take(&mut self, index: usize, event_type: EventType, raw: &[u8]) {
        let of = self.clients[index].of;
        let client = &mut self.clients[index];
        let meta = scan(FORMATS[of], raw).expect("metadata");
        let version: u64 = meta.resource_version.parse().expect("a number");
        if event_type == EventType::Bookmark {
            assert!(version >= client.last, "a bookmark goes back");
            client.last = version;
            client.in_burst = false;
            if !client.from_cloud {
                assert_eq!(client.held, self.past[of][&version], "at bookmark {version}");
            }
            return;
        }
        let name = meta.key().name.to_string();
        if !client.in_burst {
            assert!(version > client.last, "{name}@{version} after {}", client.last);
            client.last = version;
        }
        if event_type == EventType::Deleted {
            client.held.remove(&name);
        } else {
            client.held.insert(name, endpoints(FORMATS[of].encoding, raw));
        }
    }

    fn settle(&mut self) {
        self.note();
        for index in 0..self.clients.len() {
            self.read(index, usize::MAX);
            self.read(index, usize::MAX);
            let client = &self.clients[index];
            let is_ahead = client.last > self.collections[client.of].resource_version();
            if !client.from_cloud && !client.in_burst && !is_ahead {
                assert_eq!(client.held, self.shown(client.of), "client {index} of {}", client.of);
            }
        }
        self.outlast();
        for of in 0..2 {
            self.deliver(of, usize::MAX);
        }
        let last = self.versions.lock().expect("not poisoned").last();
        self.version = self.version.max(last) + 1;
        for of in 0..2 {
            self.bookmark(of);
            assert_eq!(self.collections[of].resource_version(), self.version, "the two lines are one again");
        }
        self.note();
        let truth = self.truth(self.version);
        for index in 0..self.clients.len() {
            self.read(index, usize::MAX);
            self.read(index, usize::MAX);
            assert_eq!(self.clients[index].held, truth, "the truth at last, client {index}");
        }
    }
}

/// The same pod seems to run on two nodes: only the one on this node is amended.
fn cloud_endpoints(name: &str, address: &str) -> Vec<Endpoint> {
    [NODE, "n2"]
        .map(|node| Endpoint {
            node: node.to_owned(),
            pod: local(name),
            address: address.to_owned(),
            ready: true,
            serving: true,
        })
        .into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn an_overlaid_view_folds_to_what_the_kubelet_says(ops in proptest::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in &ops {
            world.do_op(op);
        }
        world.settle();
    }
}
