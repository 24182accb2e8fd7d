//! The last group of pictures of each stream, for viewers that come in the middle of it: they need no key frame of their own.
//!
//! A group begins with a key frame and ends with the next one. It is kept only while it is whole, short and small; what is kept
//! of all streams together has a bound, too, and the group that began first goes first.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{SessionId, StreamName, forward::Incoming};

/// Longest group that is kept: a viewer would see more of the past than it waits for a key frame.
pub const MAX_SPAN: Duration = Duration::from_secs(2);
/// Largest group that is kept, in bytes of RTP payload.
pub const MAX_GROUP_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of all groups of an engine.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Most packets of a group, whatever their size: small ones cost memory, too.
const MAX_PACKETS: usize = 8192;

/// One source of a stream: of simulcast, each layer is one.
type Key = (StreamName, u32);

#[derive(Debug)]
struct Group<P> {
    publisher: SessionId,
    /// In order of their sequence numbers, none twice. Empty after the group was too long or too large.
    packets: VecDeque<(Incoming, P)>,
    bytes: usize,
}

impl<P> Group<P> {
    fn began(&self) -> Option<Duration> {
        self.packets.front().map(|(first, _)| first.at)
    }

    /// Whether no packet is missing.
    fn is_whole(&self) -> bool {
        match (self.packets.front(), self.packets.back()) {
            (Some((first, _)), Some((last, _))) => {
                last.sequence - first.sequence + 1 == self.packets.len() as u64
            }
            _ => false,
        }
    }

    /// Whether `packet` begins another key frame than the one that the group began with.
    fn is_over_with(&self, packet: &Incoming) -> bool {
        let follows = self.packets.back().is_none_or(|(last, _)| packet.sequence > last.sequence);
        let another = self.packets.front().is_none_or(|(first, _)| first.timestamp != packet.timestamp);
        packet.begins && follows && another
    }

    fn clear(&mut self) -> usize {
        self.packets = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }

    /// Puts the packet in its place; false if it is there already, or is of a former group.
    fn insert(&mut self, packet: Incoming, content: P) -> bool {
        let Some((first, _)) = self.packets.front() else { return false };
        if packet.sequence < first.sequence {
            return false;
        }
        let place = self.packets.partition_point(|(known, _)| known.sequence < packet.sequence);
        if self.packets.get(place).is_some_and(|(known, _)| known.sequence == packet.sequence) {
            return false;
        }
        self.packets.insert(place, (packet, content));
        true
    }
}

/// The groups of all streams. `P` is what the shell needs to send a packet again.
#[derive(Debug)]
pub struct Groups<P> {
    groups: BTreeMap<Key, Group<P>>,
    bytes: usize,
    limit: usize,
}

impl<P> Groups<P> {
    /// No groups, and room for `limit` bytes of them.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { groups: BTreeMap::new(), bytes: 0, limit }
    }

    /// Bytes of payload that are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in a packet of pictures whose payload has `bytes` bytes.
    pub fn push(&mut self, stream: &StreamName, packet: Incoming, bytes: usize, content: P) {
        let key = (stream.clone(), packet.ssrc);
        if self.groups.get(&key).is_some_and(|group| group.publisher != packet.publisher) {
            self.remove(stream);
        }
        let group = self.groups.entry(key).or_insert_with(|| Group {
            publisher: packet.publisher,
            packets: VecDeque::new(),
            bytes: 0,
        });
        if group.is_over_with(&packet) {
            self.bytes -= group.clear();
            group.packets.push_back((packet, content));
        } else if !group.insert(packet, content) {
            return;
        }
        group.bytes += bytes;
        self.bytes += bytes;
        let span = group.began().map_or(Duration::ZERO, |began| packet.at.saturating_sub(began));
        if span > MAX_SPAN || group.bytes > MAX_GROUP_BYTES || group.packets.len() > MAX_PACKETS {
            self.bytes -= group.clear();
        }
        while self.bytes > self.limit {
            let oldest = self.groups.values_mut().filter(|group| group.bytes > 0).min_by_key(|g| g.began());
            let Some(oldest) = oldest else { return };
            self.bytes -= oldest.clear();
        }
    }

    /// The whole group of a source of the stream that `publisher` sends, in order; none if a packet is missing, or a viewer
    /// at `now` would look too far back.
    pub fn get(
        &self,
        stream: &StreamName,
        publisher: SessionId,
        ssrc: u32,
        now: Duration,
    ) -> Option<&VecDeque<(Incoming, P)>> {
        let group = self.groups.get(&(stream.clone(), ssrc))?;
        let is_fresh = group.began().is_some_and(|began| now.saturating_sub(began) <= MAX_SPAN);
        (group.publisher == publisher && is_fresh && group.is_whole()).then_some(&group.packets)
    }

    /// The sources of a stream.
    pub fn sources(&self, stream: &StreamName) -> impl Iterator<Item = u32> {
        let from = (stream.clone(), 0);
        let to = (stream.clone(), u32::MAX);
        self.groups.range(from..=to).map(|((_, ssrc), _)| *ssrc)
    }

    /// The stream has another publisher, or is over.
    pub fn remove(&mut self, stream: &StreamName) {
        let sources: Vec<u32> = self.sources(stream).collect();
        for ssrc in sources {
            if let Some(group) = self.groups.remove(&(stream.clone(), ssrc)) {
                self.bytes -= group.bytes;
            }
        }
    }

    /// Forgets the streams that `is_there` does not know.
    pub fn retain(&mut self, is_there: impl Fn(&StreamName) -> bool) {
        self.groups.retain(|(stream, _), group| {
            let stays = is_there(stream);
            if !stays {
                self.bytes -= group.bytes;
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(name: &str) -> StreamName {
        StreamName { room: "hall".into(), stream: name.into() }
    }

    fn packet(publisher: u128, ssrc: u32, sequence: u64, at: u64, begins: bool) -> Incoming {
        let at = Duration::from_millis(at);
        #[expect(clippy::cast_possible_truncation, reason = "small")]
        let timestamp = at.as_millis() as u32 * 90;
        let publisher = SessionId(publisher);
        Incoming { publisher, ssrc, sequence, timestamp, begins, clock_rate: 90_000, at }
    }

    fn kept(groups: &Groups<u64>, name: &str, now: u64) -> Vec<u64> {
        let group = groups.get(&stream(name), SessionId(1), 7, Duration::from_millis(now));
        group.into_iter().flatten().map(|(packet, _)| packet.sequence).collect()
    }

    #[test]
    fn a_group_is_given_while_it_is_whole() {
        let mut groups = Groups::new(MAX_BYTES);
        let mut push = |sequence, at, begins| {
            groups.push(&stream("cam"), packet(1, 7, sequence, at, begins), 10, sequence);
            (kept(&groups, "cam", at), groups.bytes())
        };
        assert_eq!(push(5, 0, false), (vec![], 0), "nobody can begin here");
        assert_eq!(push(6, 10, true), (vec![6], 10));
        assert_eq!(push(7, 10, true), (vec![6, 7], 20), "the same frame");
        assert_eq!(push(9, 40, false), (vec![], 30), "8 is missing");
        assert_eq!(push(8, 45, false), (vec![6, 7, 8, 9], 40), "it came late");
        assert_eq!(push(8, 45, false), (vec![6, 7, 8, 9], 40), "it came twice");
        assert_eq!(push(5, 50, false), (vec![6, 7, 8, 9], 40), "of the former group");
        assert_eq!(push(10, 70, true), (vec![10], 10));
        assert_eq!(push(11, 2071, false), (vec![], 0), "too long");
        assert_eq!(push(12, 2080, false), (vec![], 0), "until the next key frame");
        assert_eq!(push(13, 2090, true), (vec![13], 10));
        assert_eq!(kept(&groups, "cam", 4090), [13]);
        assert_eq!(kept(&groups, "cam", 4091), [0; 0], "it ended long ago");
    }

    #[test]
    fn another_publisher_or_a_streams_end_takes_all_of_it() {
        let mut groups = Groups::new(MAX_BYTES);
        for ssrc in [7, 8] {
            groups.push(&stream("cam"), packet(1, ssrc, 1, 0, true), 10, 0);
        }
        groups.push(&stream("b"), packet(1, 7, 1, 0, true), 10, 0);
        assert_eq!(groups.sources(&stream("cam")).collect::<Vec<u32>>(), [7, 8]);
        groups.push(&stream("cam"), packet(2, 7, 1, 0, true), 5, 0);
        assert_eq!((groups.sources(&stream("cam")).count(), groups.bytes()), (1, 15));
        assert!(groups.get(&stream("cam"), SessionId(1), 7, Duration::ZERO).is_none());
        groups.retain(|name| *name == stream("b"));
        assert_eq!(groups.bytes(), 10);
    }

    #[test]
    fn the_group_that_began_first_goes_first() {
        let mut groups = Groups::new(25);
        for (at, name) in ["a", "b", "c"].iter().enumerate() {
            groups.push(&stream(name), packet(1, 7, 1, at as u64, true), 10, 0);
        }
        assert_eq!(["a", "b", "c"].map(|name| kept(&groups, name, 2).len()), [0, 1, 1]);
        groups.push(&stream("c"), packet(1, 7, 2, 3, false), MAX_GROUP_BYTES, 0);
        assert_eq!(
            (groups.bytes(), kept(&groups, "b", 3).len()),
            (10, 1),
            "one that is too large takes none along"
        );
    }

    proptest! {
        /// Whatever comes: the sum is the sum of the parts and within the bound, and a group that is given has no gap, begins
        /// with a key frame and is of one publisher.
        #[test]
        fn the_bounds_hold(
            steps in prop::collection::vec((0_u8..3, 0_u32..2, 0_u64..4, 0_u64..120, any::<bool>(), 1_usize..400_000, 0_u8..20), 1..200),
        ) {
            let mut groups = Groups::new(1_500_000);
            let (mut next, mut at, mut publisher) = (10_u64, 0, 1);
            for (name, ssrc, skip, pause, begins, bytes, turn) in steps {
                at += pause;
                next = (next + skip).saturating_sub(u64::from(turn % 3));
                publisher += u128::from(turn == 0);
                let name = stream(["a", "b", "c"][usize::from(name)]);
                groups.push(&name, packet(publisher, ssrc, next, at, begins), bytes, ());
                let sum: usize = groups.groups.values().map(|group| group.bytes).sum();
                prop_assert_eq!(sum, groups.bytes());
                prop_assert!(sum <= 1_500_000);
                if let Some(group) = groups.get(&name, SessionId(publisher), ssrc, Duration::from_millis(at)) {
                    prop_assert!(group[0].0.begins);
                    for (before, after) in group.iter().zip(group.iter().skip(1)) {
                        prop_assert_eq!(before.0.sequence + 1, after.0.sequence);
                        prop_assert_eq!(before.0.publisher, after.0.publisher);
                    }
                }
            }
        }
    }
}
