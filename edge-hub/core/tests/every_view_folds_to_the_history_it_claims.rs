//! Random upstream histories against a model. Whatever happens between (relists after compaction, redelivery, hub
//! restarts, cut and slow clients), a client that folds its stream holds exactly the filtered state of the history at
//! each bookmark and at the end, and nobody is told 410 without need.

#[path = "support/history_ops.rs"]
mod history_ops;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use edge_hub_core::clock::Now;
use edge_hub_core::collection::{
    Change, Collection, Limits, Object, Recovered, Refusal, RingLimits, Selection, Tombstone,
    TombstoneLimits, Watermark,
};
use edge_hub_core::view::WatchRequest;
use history_ops::{Kind, Op, op};
use proptest::prelude::*;
use proto_kube::media_type::Format;
use proto_kube::object::ObjectKey;
use proto_kube::watch::EventType;
use support::{Seen, Stream, at, envelope, pod_of_life, pods};

/// What a pod is at some version: its own version, uid and label.
type Pod = (u64, String, String);
type State = BTreeMap<String, Pod>;

#[derive(Clone, Debug)]
struct Happening {
    version: u64,
    name: String,
    app: String,
    life: u64,
    deleted: bool,
}

/// The API server: all that ever happened.
#[derive(Debug)]
struct Upstream {
    format: Format,
    history: Vec<Happening>,
    version: u64,
    lives: u64,
}

impl Upstream {
    fn write(&mut self, name: u8, app: u8, skip: u64) {
        self.version += skip;
        let name = format!("p{name}");
        let app = if app == 0 { "a" } else { "b" }.to_owned();
        let last = self.history.iter().rev().find(|past| past.name == name);
        let life = match last.filter(|past| !past.deleted) {
            Some(past) => past.life,
            None => {
                self.lives += 1;
                self.lives
            }
        };
        self.history.push(Happening { version: self.version, name, app, life, deleted: false });
    }

    fn delete(&mut self, name: u8, skip: u64) {
        let name = format!("p{name}");
        let last = self.history.iter().rev().find(|past| past.name == name);
        let Some(last) = last.filter(|past| !past.deleted).cloned() else { return };
        self.version += skip;
        self.history.push(Happening { version: self.version, deleted: true, ..last });
    }

    fn object(&self, past: &Happening) -> Object {
        pod_of_life(self.format, &past.name, past.version, &past.app, past.life)
    }

    fn latest(&self, version: u64) -> BTreeMap<&str, &Happening> {
        let mut latest = BTreeMap::new();
        for past in self.history.iter().take_while(|past| past.version <= version) {
            if past.deleted {
                latest.remove(past.name.as_str());
            } else {
                latest.insert(past.name.as_str(), past);
            }
        }
        latest
    }

    fn state(&self, version: u64, kind: Kind) -> State {
        let wanted = self.latest(version).into_values().filter(|past| kind.wants(&past.name, &past.app));
        wanted
            .map(|past| {
                let uid = format!("{}-{}", past.name, past.life);
                (past.name.clone(), (past.version, uid, past.app.clone()))
            })
            .collect()
    }

    /// What a watch from `since` to `until` must bring, word for word.
    fn events(&self, since: u64, until: u64, kind: Kind) -> Vec<String> {
        let mut held: BTreeSet<String> = self.state(since, kind).into_keys().collect();
        let mut events = Vec::new();
        for past in &self.history {
            if past.version <= since || past.version > until {
                continue;
            }
            let inside = !past.deleted && kind.wants(&past.name, &past.app);
            let was = if inside { !held.insert(past.name.clone()) } else { held.remove(&past.name) };
            let word = match (was, inside) {
                (false, false) => continue,
                (false, true) => "ADDED",
                (true, true) => "MODIFIED",
                (true, false) => "DELETED",
            };
            events.push(format!("{word} {}@{}", past.name, past.version));
        }
        events
    }
}

/// What is durable.
#[derive(Debug, Default)]
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
                    self.objects.insert(object.key.clone(), object);
                }
                Change::Delete(tombstone) => {
                    self.objects.remove(&tombstone.object.key);
                    self.tombstones.insert(tombstone.object.key.clone(), tombstone);
                }
                Change::Forget(key, version) => {
                    let held = self.tombstones.remove(&key).expect("what is forgotten was remembered");
                    assert_eq!(held.object.resource_version, version);
                }
                Change::Watermark { resource_version, horizon, synced_unix, envelope } => {
                    self.watermark = Some(Watermark { resource_version, horizon, synced_unix, envelope });
                }
                Change::Reset => *self = Self::default(),
            }
        }
    }

    fn recover(&self) -> Recovered {
        Recovered {
            watermark: self.watermark.clone(),
            objects: self.objects.values().cloned().collect(),
            tombstones: self.tombstones.values().cloned().collect(),
            complete: true,
        }
    }
}

/// A reflector: what it holds, and what it may rightly expect.
struct Client {
    kind: Kind,
    stream: Option<Stream>,
    held: State,
    last: u64,
    /// Before the marked bookmark.
    in_burst: bool,
    /// Its state is another server's, and this stream has not yet brought a bookmark.
    from_elsewhere: bool,
    /// It resumed or may have been led on by a replay, so single events may have been collapsed.
    collapsed: bool,
    /// Where the exact record of events began, while it is exact.
    exact_since: Option<u64>,
    record: Vec<String>,
}

struct World {
    upstream: Upstream,
    collection: Collection,
    disk: Disk,
    clients: Vec<Client>,
    now: Now,
    limits: Limits,
    /// Nothing ever leaves ring or tombstones.
    roomy: bool,
    /// Jumps over which no exact state is known, and the version from which on the ring reaches.
    gaps: Vec<(u64, u64)>,
    reach: u64,
}

impl World {
    fn new(format: Format, roomy: bool) -> Self {
        let limits = if roomy {
            Limits {
                ring: RingLimits { age: Duration::from_secs(1 << 30), ..RingLimits::default() },
                ..Limits::default()
            }
        } else {
            let relist_grace = Duration::from_secs(5);
            Limits {
                ring: RingLimits { events: 4, relist_grace, ..RingLimits::default() },
                tombstones: TombstoneLimits { count: 2, ..TombstoneLimits::default() },
            }
        };
        let mut world = Self {
            upstream: Upstream { format, history: Vec::new(), version: 10, lives: 0 },
            collection: Collection::new(pods(format), limits),
            disk: Disk::default(),
            clients: Vec::new(),
            now: at(0),
            limits,
            roomy,
            gaps: Vec::new(),
            reach: 10,
        };
        world.relist();
        world
    }

    fn request(&self, kind: Kind, since: Option<u64>, streamed: bool) -> WatchRequest {
        WatchRequest {
            selection: kind.selection(),
            resource_version: since,
            send_initial_events: streamed.then_some(true),
            allow_bookmarks: true,
            timeout: Duration::from_secs(3600),
            format: match kind {
                // Where the collection is protobuf, made of it.
                Kind::AppA => Format::JSON,
                Kind::All | Kind::Name => self.upstream.format,
            },
        }
    }

    fn do_op(&mut self, op: &Op) {
        match *op {
            Op::Write { name, app, skip } => self.upstream.write(name, app, skip),
            Op::Delete { name, skip } => self.upstream.delete(name, skip),
            Op::Deliver(count) => self.deliver(count),
            Op::Bookmark => self.bookmark(),
            Op::Redeliver(count) => self.redeliver(count),
            Op::Relist => self.relist(),
            Op::OldRelist => self.old_relist(),
            Op::Restart => self.restart(),
            Op::Open { kind, streamed } => self.open(kind, streamed),
            Op::OpenAhead(kind) => self.open_ahead(kind),
            Op::Read { client, frames } => {
                if let Some(client) = client.checked_rem(self.clients.len()) {
                    self.read(client, frames);
                }
            }
            Op::Cut(client) => {
                if let Some(client) = client.checked_rem(self.clients.len()) {
                    self.resume(client);
                }
            }
            Op::Wait(seconds) => {
                self.now.monotonic += Duration::from_secs(seconds);
                self.now.unix += Duration::from_secs(seconds);
                let changes = self.collection.expire(self.now);
                self.disk.apply(changes);
            }
            Op::Exact { back, kind } => self.exact(back, kind),
        }
    }

    fn undelivered(&self) -> Vec<Happening> {
        let held = self.collection.resource_version();
        self.upstream.history.iter().filter(|past| past.version > held).cloned().collect()
    }

    fn feed(&mut self, past: &Happening) -> Vec<Change> {
        // The type upstream gives does not matter: the collection knows what it holds.
        let event_type = if past.deleted { EventType::Deleted } else { EventType::Modified };
        self.collection.apply(self.now, event_type, self.upstream.object(past))
    }

    fn deliver(&mut self, count: usize) {
        for past in self.undelivered().iter().take(count) {
            let changes = self.feed(past);
            assert!(!changes.is_empty());
            self.disk.apply(changes);
        }
    }

    fn redeliver(&mut self, count: usize) {
        let held = self.collection.resource_version();
        let known: Vec<_> =
            self.upstream.history.iter().filter(|past| past.version <= held).cloned().collect();
        let revision = self.collection.revision();
        for past in known.iter().rev().take(count) {
            assert!(self.feed(past).is_empty(), "a known event changes nothing");
        }
        assert_eq!(self.collection.revision(), revision);
    }

    fn bookmark(&mut self) {
        let version = self.undelivered().first().map_or(self.upstream.version, |next| next.version - 1);
        let changes = self.collection.bookmark(self.now, version);
        self.disk.apply(changes);
        assert_eq!(self.collection.resource_version(), version);
    }

    fn listed(&self, version: u64) -> Vec<Object> {
        self.upstream.latest(version).into_values().map(|past| self.upstream.object(past)).collect()
    }

    fn relist(&mut self) {
        let (held, version) = (self.collection.resource_version(), self.upstream.version);
        let objects = self.listed(version);
        let changes = self.collection.replace(self.now, version, envelope(), objects).expect("not older");
        self.disk.apply(changes);
        if held == 0 {
            self.reach = version;
            return;
        }
        self.gaps.push((held, version));
        for client in &mut self.clients {
            client.exact_since = None;
            client.collapsed = true;
        }
    }

    fn old_relist(&mut self) {
        let held = self.collection.resource_version();
        let objects = self.listed(held - 1);
        let before = self.collection.list(&Selection::default());
        self.collection.replace(self.now, held - 1, envelope(), objects).expect_err("a rollback");
        assert_eq!(self.collection.list(&Selection::default()), before);
    }

    fn restart(&mut self) {
        let recovered = self.disk.recover();
        self.collection = Collection::restore(pods(self.upstream.format), self.limits, self.now, recovered);
        assert!(self.collection.is_complete());
        self.reach = self.collection.resource_version();
        for client in 0..self.clients.len() {
            self.resume(client);
        }
    }

    fn open(&mut self, kind: Kind, streamed: bool) {
        self.clients.push(Client {
            kind,
            stream: None,
            held: State::new(),
            last: 0,
            in_burst: false,
            from_elsewhere: false,
            collapsed: !self.roomy,
            exact_since: None,
            record: Vec::new(),
        });
        self.start(self.clients.len() - 1, streamed);
    }

    fn open_ahead(&mut self, kind: Kind) {
        let version = self.upstream.version;
        let stream = Stream::open(&self.collection, self.request(kind, Some(version), false), self.now);
        self.clients.push(Client {
            kind,
            stream: Some(stream.expect("a stream from the future is held open")),
            held: self.upstream.state(version, kind),
            last: version,
            in_burst: false,
            from_elsewhere: true,
            collapsed: !self.roomy,
            exact_since: self.roomy.then_some(version),
            record: Vec::new(),
        });
    }

    /// A client gets its first state, by a list or streamed.
    fn start(&mut self, client: usize, streamed: bool) {
        let kind = self.clients[client].kind;
        let listing = self.collection.list(&kind.selection()).expect("complete");
        assert_eq!(listing.resource_version, self.collection.resource_version());
        let since = (!streamed).then_some(listing.resource_version);
        let request = self.request(kind, since, streamed);
        let stream = Stream::open(&self.collection, request, self.now).expect("nothing newer is asked for");
        let held = if streamed { State::new() } else { self.upstream.state(listing.resource_version, kind) };
        let names: Vec<_> = listing.objects.iter().map(|object| object.key.name.to_string()).collect();
        let expected = self.upstream.state(listing.resource_version, kind);
        assert_eq!(names, expected.into_keys().collect::<Vec<_>>(), "a list is the state at its version");
        let roomy = self.roomy;
        let client = &mut self.clients[client];
        client.stream = Some(stream);
        client.held = held;
        client.last = listing.resource_version;
        client.in_burst = streamed;
        client.from_elsewhere = false;
        client.collapsed = !roomy;
        client.exact_since = roomy.then_some(listing.resource_version);
        client.record.clear();
    }

    fn resume(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.collapsed = true;
        client.exact_since = None;
        if client.in_burst {
            return self.start(index, true);
        }
        if client.from_elsewhere {
            // Versions of another server that a relist jumped over can be mistaken for events told here.
            return self.start(index, false);
        }
        let (kind, last) = (client.kind, client.last);
        match Stream::open(&self.collection, self.request(kind, Some(last), false), self.now) {
            Ok(stream) => self.clients[index].stream = Some(stream),
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal}");
                self.excuse_expiry(kind);
                self.start(index, false);
            }
        }
    }

    /// 410 is honest only where deletions were forgotten, or where a selector's former members are not known.
    fn excuse_expiry(&self, kind: Kind) {
        assert!(!self.roomy || kind == Kind::AppA, "410 though everything is known");
    }

    fn read(&mut self, index: usize, frames: usize) {
        for _ in 0..frames {
            let stream = self.clients[index].stream.as_mut().expect("every client has a stream");
            let Some(seen) = stream.next(&self.collection, self.now) else {
                if stream.ended {
                    self.resume(index);
                }
                return;
            };
            if seen.event_type == EventType::Error {
                assert_eq!(seen.version, 410);
                assert!(stream.next(&self.collection, self.now).is_none() && stream.ended);
                if !self.clients[index].from_elsewhere {
                    self.excuse_expiry(self.clients[index].kind);
                }
                self.start(index, false);
                return;
            }
            self.clients[index].take(&self.upstream, &seen);
        }
    }

    fn exact(&self, back: u64, kind: Kind) {
        let current = self.collection.resource_version();
        let version = current.saturating_sub(back);
        let in_gap = self.gaps.iter().any(|(from, to)| *from < version && version < *to);
        match self.collection.state_at(version, &kind.selection()) {
            Ok(listing) => {
                assert!(!in_gap && version >= self.reach, "nobody can know the state at {version}");
                let names: Vec<_> = listing
                    .objects
                    .iter()
                    .map(|object| (object.key.name.to_string(), object.resource_version))
                    .collect();
                let expected = self.upstream.state(version, kind);
                let expected: Vec<_> = expected.into_iter().map(|(name, pod)| (name, pod.0)).collect();
                assert_eq!(names, expected, "the exact state at {version}");
            }
            Err(_) => {
                assert!(in_gap || version < self.reach || !self.roomy, "the state at {version} is known")
            }
        }
    }

    fn settle(&mut self) {
        self.deliver(usize::MAX);
        let version = self.collection.resource_version();
        for index in 0..self.clients.len() {
            self.read(index, usize::MAX);
            self.read(index, usize::MAX);
            let client = &self.clients[index];
            assert_eq!(client.held, self.upstream.state(version, client.kind), "what client {index} holds");
            if let Some(since) = client.exact_since {
                assert_eq!(client.record, self.upstream.events(since, version, client.kind));
            }
        }
    }
}

impl Client {
    fn take(&mut self, upstream: &Upstream, seen: &Seen) {
        if seen.event_type == EventType::Bookmark {
            assert_eq!(seen.marked, self.in_burst, "one mark, and it comes first");
            assert!(seen.version >= self.last, "a bookmark never goes back");
            self.last = seen.version;
            self.in_burst = false;
            self.from_elsewhere = false;
            assert_eq!(
                self.held,
                upstream.state(seen.version, self.kind),
                "the state at bookmark {}",
                seen.version
            );
            return;
        }
        let name = seen.key.name.to_string();
        let app = seen.app.clone().expect("every pod has the label");
        assert!(self.kind.wants(&name, &app), "{} is not for this client", seen.brief());
        let known = self.held.get(&name);
        if self.in_burst {
            assert_eq!(seen.event_type, EventType::Added);
            assert!(known.is_none(), "{} twice", seen.brief());
        } else {
            assert!(seen.version > self.last, "{} after {}", seen.brief(), self.last);
            self.last = seen.version;
            self.record.push(seen.brief());
        }
        match seen.event_type {
            // A client cut amid a replay may have missed an end that was told with a later version; what follows is
            // then a new beginning, and reflectors take it as one. The state at the next bookmark must be right.
            EventType::Added => {
                assert!(known.is_none() || self.collapsed, "{} though it is held", seen.brief());
            }
            _ => assert!(known.is_some() || self.collapsed, "{} though it was never seen", seen.brief()),
        }
        if seen.event_type == EventType::Deleted {
            self.held.remove(&name);
        } else {
            self.held.insert(name, (seen.version, seen.uid.clone(), app));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_view_folds_to_the_history_it_claims(
        ops in proptest::collection::vec(op(), 1..120),
        roomy in any::<bool>(),
        protobuf in any::<bool>(),
    ) {
        let mut world = World::new(if protobuf { Format::PROTOBUF } else { Format::JSON }, roomy);
        for op in &ops {
            world.do_op(op);
        }
        world.settle();
    }
}
