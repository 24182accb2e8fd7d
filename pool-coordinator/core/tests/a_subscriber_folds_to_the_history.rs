//! Whatever happens at the cloud, to the copy and to a member's stream: what the member holds when it is told a version is
//! the state that the cloud had at that version, and nothing is ever missing from it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pool_coordinator_core::{Envelope, Item, Limits, Replica, Subscription, What};
use proptest::prelude::*;
use proto::coordinator::{Encoding, Kind, Said};
use proto_kube::object::ObjectKey;

type State = BTreeMap<String, u64>;

/// What happens next.
#[derive(Clone, Debug)]
enum Op {
    /// The cloud writes this key.
    Put(u8),
    /// The cloud deletes this key.
    Delete(u8),
    /// Something else is written: the version rises.
    Elsewhere,
    /// The copy hears so many events.
    Hear(u8),
    /// The copy hears all and a bookmark.
    Bookmark,
    /// The history is compacted and the copy lists.
    Relist,
    /// The cloud is set back to how it was some versions ago, and the copy reads its newest state.
    Restore(u8),
    /// The coordinator restarts: the copy is empty, and lists.
    Restart,
    /// A member draws so many frames.
    Draw(u8, u8),
    /// A member's stream breaks; it comes again with what it holds.
    Reconnect(u8),
    /// A member goes on at the cloud itself, from what it holds, and then comes again.
    GoDirect(u8),
    /// Time passes, in seconds.
    Pass(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..6_u8).prop_map(Op::Put),
        3 => (0..6_u8).prop_map(Op::Delete),
        1 => Just(Op::Elsewhere),
        5 => (1..6_u8).prop_map(Op::Hear),
        2 => Just(Op::Bookmark),
        1 => Just(Op::Relist),
        1 => (1..8_u8).prop_map(Op::Restore),
        1 => Just(Op::Restart),
        8 => (0..3_u8, 1..6_u8).prop_map(|(member, frames)| Op::Draw(member, frames)),
        2 => (0..3_u8).prop_map(Op::Reconnect),
        2 => (0..3_u8).prop_map(Op::GoDirect),
        2 => (1..15_u8).prop_map(Op::Pass),
    ]
}

/// The cloud: its state at each version, and what led there.
struct Cloud {
    version: u64,
    state: State,
    events: BTreeMap<u64, (What, String)>,
    /// Every state that was true at a version in this life of the cloud.
    states: BTreeMap<u64, State>,
}

fn name(key: u8) -> String {
    format!("object-{key}")
}

fn item(name: &str, version: u64) -> Item {
    // The bytes say all that there is to compare.
    let raw = Bytes::from(format!("{name} {version} {}", "x".repeat(90_000)));
    let key = ObjectKey { namespace: "".into(), name: name.into() };
    Item { key, version, raw }
}

fn read(raw: &Bytes) -> (String, u64) {
    let text = std::str::from_utf8(raw).expect("it was text");
    let mut words = text.split(' ');
    let name = words.next().expect("a name").to_owned();
    (name, words.next().expect("a version").parse().expect("a number"))
}

impl Cloud {
    fn new() -> Self {
        let states = [(1, State::new())].into();
        Self { version: 1, state: State::new(), events: BTreeMap::new(), states }
    }

    fn write(&mut self, change: impl FnOnce(&mut State, u64) -> Option<(What, String)>) {
        self.version += 1;
        if let Some(event) = change(&mut self.state, self.version) {
            self.events.insert(self.version, event);
        }
        self.states.insert(self.version, self.state.clone());
    }

    fn items(&self) -> Vec<Item> {
        self.state.iter().map(|(name, version)| item(name, *version)).collect()
    }

    fn restore(&mut self, back: u8) {
        let target = self.version.saturating_sub(u64::from(back)).max(1);
        self.states.retain(|version, _| *version <= target);
        self.events.retain(|version, _| *version <= target);
        self.version = target;
        self.state = self.states[&target].clone();
    }
}

/// A member: what a hub makes of its frames.
struct Member {
    held: State,
    version: u64,
    complete: bool,
    gathered: State,
    stream: Subscription,
    opened: bool,
    rolled_back: bool,
}

impl Member {
    fn new() -> Self {
        let stream = Subscription::new(0, Encoding::Protobuf);
        Self {
            held: State::new(),
            version: 0,
            complete: false,
            gathered: State::new(),
            stream,
            opened: false,
            rolled_back: false,
        }
    }

    fn reconnect(&mut self) {
        self.gathered.clear();
        (self.opened, self.rolled_back) = (false, false);
        self.stream = Subscription::new(if self.complete { self.version } else { 0 }, Encoding::Protobuf);
    }

    /// Takes one frame; the version at which the state is said to be true, if it says one.
    fn take(&mut self, said: Said) -> Option<u64> {
        match said {
            Said::Start(_) => {
                self.opened = true;
                None
            }
            Said::Refused(_) => {
                self.reconnect();
                None
            }
            Said::Rollback(_) => {
                self.rolled_back = true;
                self.gathered.clear();
                None
            }
            Said::Snapshot(snapshot) => {
                self.gathered.extend(snapshot.objects.iter().map(read));
                if !snapshot.last {
                    return None;
                }
                assert!(
                    !self.complete || snapshot.version >= self.version || self.rolled_back,
                    "a state at {} after {} without a word of a rollback",
                    snapshot.version,
                    self.version
                );
                self.held = std::mem::take(&mut self.gathered);
                (self.version, self.complete, self.rolled_back) = (snapshot.version, true, false);
                Some(snapshot.version)
            }
            Said::Changes(changes) => {
                assert!(self.complete, "changes of nothing");
                for change in &changes.changes {
                    let (name, version) = read(&change.object);
                    // As a collection does: what is not newer was known.
                    if version <= self.version {
                        continue;
                    }
                    self.version = version;
                    match change.kind() {
                        Kind::Put => self.held.insert(name, version),
                        Kind::Deleted => self.held.remove(&name),
                        Kind::Unknown => panic!("an unknown change"),
                    };
                }
                self.version = self.version.max(changes.upto);
                (changes.upto > 0).then_some(self.version)
            }
            Said::Progress(progress) => {
                assert!(self.complete, "progress of nothing");
                self.version = self.version.max(progress.version);
                Some(self.version)
            }
        }
    }
}

struct World {
    now: Duration,
    cloud: Cloud,
    replica: Replica,
    /// The copy was told all up to here.
    heard: u64,
    members: Vec<Member>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let mut world = Self {
            now: Duration::from_secs(1),
            cloud: Cloud::new(),
            replica: Replica::new(limits),
            heard: 0,
            members: (0..3).map(|_| Member::new()).collect(),
        };
        world.list();
        world
    }

    fn list(&mut self) {
        self.now += Duration::from_millis(1);
        let (items, version) = (self.cloud.items(), self.cloud.version);
        let taken =
            self.replica.replace(self.now, Some(self.now), version, Envelope::default(), items.clone());
        if taken.is_err() {
            self.replica.reset(self.now, self.now, version, Envelope::default(), items);
        }
        self.heard = version;
    }

    fn hear(&mut self, count: usize) {
        let next: Vec<(u64, (What, String))> =
            self.cloud.events.range(self.heard + 1..).take(count).map(|(v, e)| (*v, e.clone())).collect();
        for (version, (what, name)) in next {
            self.replica.apply(self.now, what, item(&name, version));
            self.heard = version;
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Put(key) => self.cloud.write(|state, version| {
                state.insert(name(key), version);
                Some((What::Put, name(key)))
            }),
            Op::Delete(key) if self.cloud.state.contains_key(&name(key)) => {
                self.cloud.write(|state, _| state.remove(&name(key)).map(|_| (What::Deleted, name(key))));
            }
            Op::Delete(_) | Op::Elsewhere => self.cloud.write(|_, _| None),
            Op::Hear(count) => self.hear(usize::from(count)),
            Op::Bookmark => {
                self.hear(usize::MAX);
                self.replica.bookmark(self.now, self.cloud.version);
                self.heard = self.cloud.version;
            }
            Op::Relist => self.list(),
            Op::Restore(back) => {
                let copied = self.replica.version();
                self.cloud.restore(back);
                self.list();
                for index in 0..self.members.len() {
                    let member = &mut self.members[index];
                    // Who is ahead of the copy, or has no stream, learns it later: another test.
                    if !member.opened || member.version > copied {
                        *member = Member::new();
                    }
                    self.draw(index, 1000);
                }
            }
            Op::Restart => {
                self.replica = Replica::new(Limits::default());
                let early =
                    Subscription::new(7, Encoding::Protobuf).poll(self.now, &self.replica, Duration::ZERO, 3);
                assert!(matches!(early.and_then(|f| f.said), Some(Said::Refused(_))), "an empty start");
                self.list();
                self.members.iter_mut().for_each(Member::reconnect);
            }
            Op::Draw(member, frames) => self.draw(usize::from(member), usize::from(frames)),
            Op::Reconnect(member) => self.members[usize::from(member)].reconnect(),
            Op::GoDirect(member) => {
                let member = &mut self.members[usize::from(member)];
                if member.complete {
                    (member.held, member.version) = (self.cloud.state.clone(), self.cloud.version);
                }
                member.reconnect();
            }
            Op::Pass(seconds) => self.now += Duration::from_secs(u64::from(seconds)),
        }
    }

    fn draw(&mut self, member: usize, frames: usize) {
        for _ in 0..frames {
            let member = &mut self.members[member];
            let Some(frame) = member.stream.poll(self.now, &self.replica, Duration::ZERO, 0) else { return };
            if let Some(version) = member.take(frame.said.expect("something is said")) {
                let truth = self.cloud.states.get(&version);
                assert_eq!(Some(&member.held), truth, "the state at {version}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_version_that_a_member_is_told_is_the_state_of_the_cloud(
        ops in proptest::collection::vec(op(), 1..120),
        ends in 1..4_usize,
    ) {
        // Few ends are remembered, so that members fall behind what can be told.
        let mut world = World::new(Limits { ends, end_bytes: 400_000 });
        for op in &ops {
            world.run(op);
        }
        world.run(&Op::Bookmark);
        for member in 0..world.members.len() {
            world.now += Duration::from_secs(2);
            world.draw(member, 1000);
            world.now += Duration::from_secs(2);
            world.draw(member, 1000);
            prop_assert!(world.members[member].complete);
            prop_assert_eq!(&world.members[member].held, &world.cloud.state);
            prop_assert_eq!(world.members[member].version, world.cloud.version);
        }
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Draws until nothing is said; the words.
fn words(stream: &mut Subscription, replica: &Replica, now: Duration) -> Vec<Said> {
    std::iter::from_fn(|| stream.poll(now, replica, Duration::ZERO, 0).and_then(|frame| frame.said)).collect()
}

#[test]
fn a_member_that_resumes_is_told_only_what_it_missed() {
    let mut replica = Replica::new(Limits::default());
    let items = (0..5).map(|key| item(&name(key), 10 + u64::from(key))).collect();
    replica.replace(at(1), Some(at(1)), 20, Envelope::default(), items).expect("the first list");
    replica.apply(at(2), What::Put, item("object-1", 21));
    replica.apply(at(2), What::Deleted, item("object-2", 22));
    let mut stream = Subscription::new(21, Encoding::Protobuf);
    let said = words(&mut stream, &replica, at(3));
    let [Said::Start(_), Said::Changes(changes)] = &said[..] else { panic!("{said:?}") };
    assert_eq!((changes.changes.len(), changes.upto), (1, 22));
    assert_eq!(changes.changes[0].kind(), Kind::Deleted);
}

#[test]
fn a_list_that_brings_nothing_new_costs_no_member_a_snapshot() {
    let mut replica = Replica::new(Limits::default());
    let items = || vec![item("a", 5), item("b", 6)];
    replica.replace(at(1), Some(at(1)), 10, Envelope::default(), items()).expect("the first list");
    let mut stream = Subscription::new(10, Encoding::Protobuf);
    words(&mut stream, &replica, at(1));
    replica.replace(at(2), None, 30, Envelope::default(), items()).expect("newer");
    let said = words(&mut stream, &replica, at(3));
    assert!(matches!(&said[..], [Said::Progress(progress)] if progress.version == 30), "{said:?}");
    assert_eq!(replica.replace(at(3), None, 29, Envelope::default(), items()).map_err(|e| e.held), Err(30));
}

#[test]
fn a_member_ahead_is_left_in_peace_until_the_cloud_itself_is_known_to_be_behind_it() {
    let mut replica = Replica::new(Limits::default());
    replica.replace(at(1), Some(at(1)), 10, Envelope::default(), vec![item("a", 5)]).expect("the first list");
    let mut stream = Subscription::new(50, Encoding::Protobuf);
    words(&mut stream, &replica, at(2));
    assert!(matches!(&words(&mut stream, &replica, at(4))[..], [Said::Progress(_)]));
    assert!(!stream.doubts(&replica), "a quiet kind moves on once a minute");
    replica.bookmark(at(30), 11);
    assert!(stream.doubts(&replica), "the cloud spoke, and is behind");
    // The newest state was asked for after the member came, and is older than what it holds.
    replica.replace(at(31), Some(at(30)), 12, Envelope::default(), vec![item("a", 5)]).expect("newer");
    let said = words(&mut stream, &replica, at(40));
    assert!(
        matches!(&said[..], [Said::Rollback(_), Said::Snapshot(s)] if s.last && s.version == 12),
        "{said:?}"
    );
    assert!(!stream.doubts(&replica));
}

#[test]
fn a_slow_member_is_told_the_newest_state_of_each_object_and_frames_are_bounded() {
    let mut replica = Replica::new(Limits::default());
    replica.replace(at(1), Some(at(1)), 1, Envelope::default(), Vec::new()).expect("the first list");
    let mut stream = Subscription::new(1, Encoding::Protobuf);
    words(&mut stream, &replica, at(1));
    for version in 2..500 {
        replica.apply(at(2), What::Put, item(&name(u8::try_from(version % 10).expect("a digit")), version));
    }
    let said = words(&mut stream, &replica, at(2));
    let changes: Vec<_> = said
        .iter()
        .map(|said| match said {
            Said::Changes(changes) => changes,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(changes.iter().map(|frame| frame.changes.len()).sum::<usize>(), 10);
    assert!(changes.len() > 3, "90 kB each, 256 kB a frame: {}", changes.len());
    assert_eq!(changes.last().map(|frame| frame.upto), Some(499));
    assert!(changes.iter().rev().skip(1).all(|frame| frame.upto == 0));
}
