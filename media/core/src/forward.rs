//! One viewer's view of a track: sequence numbers and timestamps of its own, without a seam where the source changes.
//!
//! What the publisher lost is lost for the viewer, too, as a gap that it may ask about; nothing else is one. A number is
//! never given twice: with AES-GCM a second packet under it would break the encryption of both.

use std::time::Duration;

use crate::{SessionId, TrackKind};

/// How far back a packet may come after a later one, in packets.
const WINDOW: u64 = 1024;

/// A packet as its publisher numbered it.
#[derive(Debug, Clone, Copy)]
pub struct Incoming {
    /// The publisher.
    pub publisher: SessionId,
    /// The source within it; another SSRC counts anew.
    pub ssrc: u32,
    /// Sequence number without wrap.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Whether a decoder can begin with this packet.
    pub begins: bool,
    /// Ticks of the timestamp a second.
    pub clock_rate: u32,
    /// When it came.
    pub at: Duration,
}

/// What is done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// It goes on under these.
    As {
        /// Sequence number without wrap.
        sequence: u64,
        /// RTP timestamp.
        timestamp: u32,
    },
    /// The viewer needs a key frame first.
    WaitsForKeyFrame,
    /// It came before the one that the viewer began with, too late, or twice.
    Stale,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    publisher: SessionId,
    ssrc: u32,
    /// What its first forwarded packet was and became.
    first: (u64, u32),
    became: (u64, u32),
}

/// The track of one viewer.
#[derive(Debug)]
pub struct Forward {
    kind: TrackKind,
    start: u64,
    source: Option<Source>,
    /// The publisher that `source` took over from: its last packets may still come.
    former: Option<SessionId>,
    /// The last packet in order: (sequence, timestamp, when).
    last: Option<(u64, u32, Duration)>,
    seen: Box<[u64; 16]>,
}

impl Forward {
    /// A track that begins with a sequence number below 2^15, which `random` picks: SRTP's rollover counter begins at 0 for
    /// both sides then.
    #[must_use]
    pub fn new(kind: TrackKind, random: u16) -> Self {
        Self {
            kind,
            start: u64::from(random & 0x7fff),
            source: None,
            former: None,
            last: None,
            seen: Box::new([0; 16]),
        }
    }

    /// Whether the viewer has not got a packet to begin with from `publisher`.
    #[must_use]
    pub fn waits_for(&self, publisher: SessionId) -> bool {
        self.source.is_none_or(|source| source.publisher != publisher)
    }

    /// Where the packet goes.
    pub fn forward(&mut self, packet: &Incoming) -> Forwarded {
        let same = |source: &Source| source.publisher == packet.publisher && source.ssrc == packet.ssrc;
        match self.source.filter(same) {
            Some(source) => self.within(&source, packet),
            None if self.former == Some(packet.publisher) => Forwarded::Stale,
            None if self.kind == TrackKind::Video && !packet.begins => Forwarded::WaitsForKeyFrame,
            None => self.switch(packet),
        }
    }

    /// Begins with the kept packets of a group of pictures, which came in the past: where each goes, in their order. They get
    /// consecutive numbers, and what follows them goes on from there; none if the viewer has this source already.
    ///
    /// Each frame is a millisecond after the one before and the last one is as old as it is: a viewer that took the past at
    /// its own pace would be late for good.
    pub fn catch_up<'a>(
        &mut self,
        packets: impl DoubleEndedIterator<Item = &'a Incoming> + Clone,
    ) -> Vec<(u64, u32)> {
        let (mut ends, mut frames) = (packets.clone(), packets.clone());
        let Some(first) = ends.next() else { return Vec::new() };
        let last = ends.next_back().unwrap_or(first);
        if self.source.is_some_and(|s| s.publisher == first.publisher && s.ssrc == first.ssrc) {
            return Vec::new();
        }
        let mut before = frames.next().map(|packet| packet.timestamp);
        let later =
            frames.filter(|packet| before.replace(packet.timestamp) != Some(packet.timestamp)).count();
        let later = u32::try_from(later).unwrap_or(u32::MAX);
        let (sequence, timestamp) = match self.last {
            None => (self.start, last.timestamp),
            Some((sequence, timestamp, at)) => {
                let ticks = ticks(last.at.saturating_sub(at), last.clock_rate);
                (sequence + 1, timestamp.wrapping_add(ticks.max(later.saturating_add(1))))
            }
        };
        let room = self.last.map_or(u32::MAX, |(_, former, _)| timestamp.wrapping_sub(former) / (later + 1));
        let step = (last.clock_rate / 1000).min(room).max(1);
        self.leave_for(first.publisher);
        let source = Source {
            publisher: first.publisher,
            ssrc: first.ssrc,
            first: (first.sequence, last.timestamp),
            became: (sequence, timestamp),
        };
        self.source = Some(source);
        let (mut frame, mut before) = (0, first.timestamp);
        packets
            .filter_map(|packet| {
                frame += u32::from(std::mem::replace(&mut before, packet.timestamp) != packet.timestamp);
                let sequence = sequence + packet.sequence.checked_sub(first.sequence)?;
                let timestamp = timestamp.wrapping_sub((later - frame.min(later)) * step);
                if !self.mark(sequence) {
                    return None;
                }
                self.last = Some((sequence, timestamp, packet.at));
                Some((sequence, timestamp))
            })
            .collect()
    }

    /// The packets of the publisher so far are not wanted any more once another one's are there.
    fn leave_for(&mut self, publisher: SessionId) {
        if let Some(source) = self.source
            && source.publisher != publisher
        {
            self.former = Some(source.publisher);
        }
    }

    fn within(&mut self, source: &Source, packet: &Incoming) -> Forwarded {
        let Some(distance) = packet.sequence.checked_sub(source.first.0) else { return Forwarded::Stale };
        let Some(sequence) = source.became.0.checked_add(distance) else { return Forwarded::Stale };
        if !self.mark(sequence) {
            return Forwarded::Stale;
        }
        let timestamp = source.became.1.wrapping_add(packet.timestamp.wrapping_sub(source.first.1));
        if self.last.is_none_or(|(last, _, _)| sequence > last) {
            self.last = Some((sequence, timestamp, packet.at));
        }
        Forwarded::As { sequence, timestamp }
    }

    fn switch(&mut self, packet: &Incoming) -> Forwarded {
        let became = match self.last {
            None => (self.start, packet.timestamp),
            Some((sequence, timestamp, at)) => {
                // The viewer's time has gone on by what the clock says, at least by one tick.
                let ticks = ticks(packet.at.saturating_sub(at), packet.clock_rate);
                (sequence + 1, timestamp.wrapping_add(ticks.max(1)))
            }
        };
        self.leave_for(packet.publisher);
        let first = (packet.sequence, packet.timestamp);
        let source = Source { publisher: packet.publisher, ssrc: packet.ssrc, first, became };
        self.source = Some(source);
        self.within(&source, packet)
    }

    /// Notes that `sequence` was given; false if it was before, or is too old to know.
    fn mark(&mut self, sequence: u64) -> bool {
        let highest = self.last.map(|(highest, _, _)| highest);
        if let Some(highest) = highest
            && sequence <= highest
        {
            let (word, bit) = Self::place(sequence);
            let fresh = highest - sequence < WINDOW && self.seen[word] & bit == 0;
            self.seen[word] |= if fresh { bit } else { 0 };
            return fresh;
        }
        // Everything between was not seen yet; beyond a whole window nothing old is left.
        let from = highest.map_or(sequence, |highest| highest + 1).max(sequence.saturating_sub(WINDOW - 1));
        for skipped in from..sequence {
            let (word, bit) = Self::place(skipped);
            self.seen[word] &= !bit;
        }
        let (word, bit) = Self::place(sequence);
        self.seen[word] |= bit;
        true
    }

    fn place(sequence: u64) -> (usize, u64) {
        let slot = sequence % WINDOW;
        (usize::try_from(slot / 64).expect("below 16"), 1 << (slot % 64))
    }
}

/// How many ticks of a timestamp pass in `time`; they wrap.
fn ticks(time: Duration, clock_rate: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "timestamps wrap")]
    let ticks = (time.as_millis() * u128::from(clock_rate) / 1000) as u32;
    ticks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn packet(publisher: u128, sequence: u64, timestamp: u32, begins: bool, at: u64) -> Incoming {
        let (publisher, at) = (SessionId(publisher), Duration::from_millis(at));
        Incoming { publisher, ssrc: 1, sequence, timestamp, begins, clock_rate: 90_000, at }
    }

    fn sent(forwarded: Forwarded) -> (u64, u32) {
        match forwarded {
            Forwarded::As { sequence, timestamp } => (sequence, timestamp),
            other => panic!("not sent: {other:?}"),
        }
    }

    #[test]
    fn a_viewer_begins_with_a_key_frame_and_keeps_the_publishers_gaps() {
        let mut track = Forward::new(TrackKind::Video, 0x8005);
        assert_eq!(track.forward(&packet(1, 99, 0, false, 0)), Forwarded::WaitsForKeyFrame);
        assert!(track.waits_for(SessionId(1)));
        assert_eq!(sent(track.forward(&packet(1, 100, 9000, true, 1))), (5, 9000));
        assert!(!track.waits_for(SessionId(1)));
        assert_eq!(sent(track.forward(&packet(1, 103, 9100, false, 2))), (8, 9100));
        assert_eq!(sent(track.forward(&packet(1, 101, 9000, false, 3))), (6, 9000), "late, not lost");
        assert_eq!(track.forward(&packet(1, 101, 9000, false, 3)), Forwarded::Stale, "twice");
        assert_eq!(track.forward(&packet(1, 99, 0, false, 4)), Forwarded::Stale, "before the key frame");
        assert_eq!(sent(track.forward(&packet(1, 102, 9100, false, 5))), (7, 9100));
    }

    #[test]
    fn a_take_over_has_no_seam() {
        let mut track = Forward::new(TrackKind::Video, 0);
        sent(track.forward(&packet(1, 500, 1000, true, 1000)));
        sent(track.forward(&packet(1, 502, 1500, false, 1010)));
        assert_eq!(track.forward(&packet(2, 7, 70, false, 1050)), Forwarded::WaitsForKeyFrame);
        assert_eq!(
            sent(track.forward(&packet(1, 501, 1000, false, 1060))),
            (1, 1000),
            "it goes on meanwhile"
        );
        // 100 ms at 90 kHz after the last packet in order.
        assert_eq!(sent(track.forward(&packet(2, 8, 100, true, 1110))), (3, 10_500));
        assert_eq!(sent(track.forward(&packet(2, 9, 3100, false, 1143))), (4, 13_500));
        assert_eq!(track.forward(&packet(1, 503, 2000, true, 1150)), Forwarded::Stale, "of the former one");
    }

    #[test]
    fn sound_needs_no_key_frame_and_a_new_ssrc_counts_on() {
        let mut track = Forward::new(TrackKind::Audio, 7);
        assert_eq!(sent(track.forward(&packet(1, 65_535, 4_294_967_295, false, 0))), (7, 4_294_967_295));
        assert_eq!(sent(track.forward(&packet(1, 65_536, 959, false, 20))), (8, 959), "timestamps wrap");
        let other = Incoming { ssrc: 2, ..packet(1, 3, 0, false, 20) };
        assert_eq!(sent(track.forward(&other)), (9, 960), "by one tick at least");
    }

    #[test]
    fn a_late_viewer_gets_the_group_so_far_and_goes_on_without_a_gap() {
        let mut track = Forward::new(TrackKind::Video, 100);
        let group: Vec<Incoming> =
            [(50, 1000, true), (51, 1000, false), (52, 4000, false), (53, 7000, false)]
                .iter()
                .map(|(sequence, timestamp, begins)| packet(1, *sequence, *timestamp, *begins, 5))
                .collect();
        assert_eq!(
            track.catch_up(group.iter()),
            [(100, 6820), (101, 6820), (102, 6910), (103, 7000)],
            "a millisecond apart, the last as it is"
        );
        assert!(track.catch_up(group.iter()).is_empty(), "it has this source");
        assert_eq!(track.forward(&packet(1, 53, 7000, false, 6)), Forwarded::Stale, "it was in the group");
        assert_eq!(sent(track.forward(&packet(1, 54, 10_000, false, 38))), (104, 10_000));
        // Another publisher takes over 10 ms later: there is room for three frames in 10 ms.
        let group: Vec<Incoming> = group.iter().map(|p| Incoming { publisher: SessionId(2), ..*p }).collect();
        let group: Vec<Incoming> =
            group.iter().map(|p| Incoming { at: Duration::from_millis(48), ..*p }).collect();
        assert_eq!(
            track.catch_up(group.iter()),
            [(105, 10_720), (106, 10_720), (107, 10_810), (108, 10_900)]
        );
        assert_eq!(track.forward(&packet(1, 55, 13_000, false, 50)), Forwarded::Stale, "of the former one");
        assert_eq!(sent(track.forward(&packet(2, 54, 10_000, false, 81))), (109, 13_900));
    }

    #[test]
    fn a_group_never_goes_back_in_time() {
        let mut track = Forward::new(TrackKind::Video, 0);
        sent(track.forward(&packet(1, 1, u32::MAX, true, 1000)));
        let group: Vec<Incoming> = (0..50)
            .map(|n| packet(2, 10 + n, 3000 * u32::try_from(n).expect("small"), n == 0, 1000))
            .collect();
        let given = track.catch_up(group.iter());
        let times: Vec<u32> = given.iter().map(|(_, timestamp)| timestamp.wrapping_sub(u32::MAX)).collect();
        assert_eq!(times, (1..=50).collect::<Vec<u32>>(), "a tick each where no time has passed");
    }

    proptest! {
        /// Whatever is lost, comes late or twice, and whoever takes over: no number is given twice, numbers are missing
        /// only where the publisher's are, and each stands for the packet that it should.
        #[test]
        fn the_output_has_no_repeat_and_no_gap_of_its_own(
            steps in prop::collection::vec((0_u64..6, 0_u64..4, any::<bool>(), 0_u32..20), 1..400),
            start in any::<u16>(),
        ) {
            let mut track = Forward::new(TrackKind::Audio, start);
            let (mut publisher, mut next, mut at) = (1_u128, 1000_u64, 0);
            let mut given = BTreeSet::new();
            let mut epoch: Option<(u64, u64)> = None;
            let mut highest: Option<u64> = None;
            for (skip, back, again, turn) in steps {
                at += 20;
                if turn == 0 {
                    (publisher, next, epoch) = (publisher + 1, u64::from(turn) + 50, None);
                }
                next += skip;
                let sequence = next.saturating_sub(back * 3);
                for _ in 0..=usize::from(again) {
                    let forwarded = track.forward(&packet(publisher, sequence, 0, false, at));
                    let Forwarded::As { sequence: out, .. } = forwarded else { continue };
                    prop_assert!(given.insert(out), "{out} twice");
                    let (first, became) = *epoch.get_or_insert((sequence, out));
                    prop_assert_eq!(out - became, sequence - first, "as far from the first as at the publisher");
                    if out == became {
                        let begin = u64::from(start & 0x7fff);
                        let expected = highest.map_or(begin, |highest| highest + 1);
                        prop_assert_eq!(out, expected, "a new source follows at once");
                    }
                    highest = highest.max(Some(out));
                }
            }
        }
    }
}
