//! The layers of a stream's pictures, as its publisher sends them by simulcast, and which of them a viewer gets.
//!
//! A layer is what has a rid (RFC 8852), or the one source of a publisher without simulcast. How large it is is measured; what
//! a packet says of spatial layers inside it plays no part.

use std::{collections::BTreeMap, time::Duration};

use crate::{SessionId, keyframe::KeyFrameRequests};

/// Which part of what a viewer's link is thought to carry is used.
const USED_PERCENT: u64 = 85;
/// What a viewer's link is taken to carry before anything is known of it, in bit/s.
pub const FIRST_ESTIMATE: u64 = 1_500_000;
/// How long a higher layer has to fit before a viewer is moved up.
const UP_AFTER: Duration = Duration::from_secs(3);
/// A layer without a packet for so long, while packets of others came, is taken for stopped: of a still picture none may come.
const STOPPED_AFTER: Duration = Duration::from_millis(400);
/// Over which time a layer is measured.
const MEASURED_OVER: Duration = Duration::from_millis(500);
/// Steps of what is asked of a link, in bit/s.
const STEP: u64 = 100_000;
/// Most sources of a stream that are told apart: layers, and those of publishers before.
const MAX_SOURCES: usize = 8;

/// One layer, as viewers choose by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its SSRC at the publisher.
    pub source: u32,
    /// Its rid; none without simulcast.
    pub rid: Option<Box<str>>,
    /// What it takes, in bit/s.
    pub bitrate: u64,
    /// Whether packets come.
    pub active: bool,
}

#[derive(Debug)]
struct Measured {
    publisher: SessionId,
    rid: Option<Box<str>>,
    bitrate: u64,
    bits: u64,
    since: Duration,
    last: Duration,
    requests: KeyFrameRequests,
}

/// The layers of one stream.
#[derive(Debug, Default)]
pub struct Layers {
    sources: BTreeMap<u32, Measured>,
    /// For a key frame of a publisher that has sent nothing yet.
    first: KeyFrameRequests,
}

impl Layers {
    /// A packet of `bytes` came. Sources of another publisher are forgotten.
    pub fn packet(
        &mut self,
        publisher: SessionId,
        source: u32,
        rid: Option<&str>,
        bytes: usize,
        now: Duration,
    ) {
        if !self.sources.contains_key(&source) {
            self.sources.retain(|_, measured| measured.publisher == publisher);
            // A layer that begins anew by another SSRC is the same layer.
            self.sources.retain(|_, measured| measured.rid.as_deref() != rid);
            if self.sources.len() >= MAX_SOURCES {
                return;
            }
            let requests = std::mem::take(&mut self.first);
            let rid = rid.map(Box::from);
            let new = Measured { publisher, rid, bitrate: 0, bits: 0, since: now, last: now, requests };
            self.sources.insert(source, new);
        }
        let Some(measured) = self.sources.get_mut(&source) else { return };
        measured.last = now;
        measured.bits += bytes as u64 * 8;
        let passed = now.saturating_sub(measured.since);
        // The first packets say little, and more than nothing.
        if passed >= MEASURED_OVER || (measured.bitrate == 0 && passed >= MEASURED_OVER / 4) {
            let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
            let rate = measured.bits.saturating_mul(1000) / millis;
            measured.bitrate = if measured.bitrate == 0 { rate } else { (measured.bitrate + rate) / 2 };
            (measured.bits, measured.since) = (0, now);
        }
    }

    /// The layers, the smallest first.
    #[must_use]
    pub fn all(&self) -> Vec<Layer> {
        let newest = self.sources.values().map(|measured| measured.last).max().unwrap_or_default();
        let layer = |(source, measured): (&u32, &Measured)| Layer {
            source: *source,
            rid: measured.rid.clone(),
            bitrate: measured.bitrate,
            active: newest.saturating_sub(measured.last) < STOPPED_AFTER,
        };
        let mut layers: Vec<Layer> = self.sources.iter().map(layer).collect();
        layers.sort_by_key(|layer| layer.bitrate);
        layers
    }

    /// Whether there is this source.
    #[must_use]
    pub fn has(&self, source: u32) -> bool {
        self.sources.contains_key(&source)
    }

    /// A key frame of this source has begun.
    pub fn key_frame(&mut self, source: u32) {
        self.first.arrived();
        if let Some(measured) = self.sources.get_mut(&source) {
            measured.requests.arrived();
        }
    }

    /// Somebody cannot go on without a key frame of `source`; of whichever comes first without one.
    pub fn want_key_frame(&mut self, source: Option<u32>) {
        if let Some(measured) = source.and_then(|source| self.sources.get_mut(&source)) {
            measured.requests.want();
        } else if self.sources.is_empty() {
            self.first.want();
        } else {
            self.sources.values_mut().for_each(|measured| measured.requests.want());
        }
    }

    /// The layers that the publisher is to be asked for a key frame of now, by their rids. It is taken to have been.
    pub fn poll(&mut self, now: Duration) -> Vec<Option<Box<str>>> {
        let mut due = Vec::new();
        if self.first.poll(now) {
            due.push(None);
        }
        let due_now = self.sources.values_mut().filter_map(|m| m.requests.poll(now).then(|| m.rid.clone()));
        due.extend(due_now);
        due
    }
}

/// Which layer a viewer gets.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// What is sent.
    current: Option<u32>,
    /// What is to be sent from its next key frame on.
    target: Option<u32>,
    /// The rid that the viewer asked for.
    wish: Option<Box<str>>,
    /// A higher layer that fits, and since when.
    fits: Option<(u32, Duration)>,
}

/// What is done with a packet of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// It is of the layer that the viewer gets.
    Current,
    /// With it the viewer goes to another layer.
    Switch,
    /// It is of another layer, or the viewer waits for a key frame.
    Skip,
}

impl Choice {
    /// The source that is sent.
    #[must_use]
    pub fn current(&self) -> Option<u32> {
        self.current
    }

    /// The source that the viewer waits for, if it is another one.
    #[must_use]
    pub fn awaited(&self) -> Option<u32> {
        self.target.filter(|target| self.current != Some(*target))
    }

    /// The viewer wants the layer of that rid as long as there is one; the engine chooses again without.
    pub fn wish(&mut self, rid: Option<Box<str>>) {
        (self.wish, self.fits) = (rid, None);
    }

    /// Chooses among `layers`, the smallest first, for a link that carries `estimate` bit/s. Returns whether another layer is
    /// waited for than before.
    pub fn choose(&mut self, layers: &[Layer], estimate: u64, now: Duration) -> bool {
        let before = self.awaited();
        let active: Vec<&Layer> = layers.iter().filter(|layer| layer.active).collect();
        let Some(smallest) = active.first() else { return false };
        let wished =
            self.wish.as_deref().and_then(|wish| active.iter().find(|l| l.rid.as_deref() == Some(wish)));
        if let Some(wished) = wished {
            self.target = Some(wished.source);
            return self.awaited().is_some() && self.awaited() != before;
        }
        let room = estimate.saturating_mul(USED_PERCENT) / 100;
        let best = active.iter().rev().find(|layer| layer.bitrate <= room).unwrap_or(smallest);
        let held = self.target.or(self.current).and_then(|held| active.iter().find(|l| l.source == held));
        let goes_up = held.is_some_and(|held| best.source != held.source && best.bitrate >= held.bitrate);
        if !goes_up {
            (self.target, self.fits) = (Some(best.source), None);
        } else {
            match self.fits.filter(|(source, _)| *source == best.source) {
                Some((_, since)) if now >= since.saturating_add(UP_AFTER) => {
                    (self.target, self.fits) = (Some(best.source), None);
                }
                Some(_) => {}
                None => self.fits = Some((best.source, now)),
            }
        }
        self.awaited().is_some() && self.awaited() != before
    }

    /// What the viewer's link would have to carry, in bit/s, for the next better layer than the present one and for the best;
    /// with a tenth to spare, and in steps, so that small changes of a layer ask for nothing new. Zeros if there is no better.
    #[must_use]
    pub fn room_wanted(&self, layers: &[Layer]) -> (u64, u64) {
        let active = layers.iter().filter(|layer| layer.active);
        let mut better = active.skip_while(|layer| Some(layer.source) != self.current).skip(1);
        let room = |layer: &Layer| (layer.bitrate * 110 / USED_PERCENT).next_multiple_of(STEP);
        let Some(next) = better.next() else { return (0, 0) };
        (room(next), better.last().map_or_else(|| room(next), room))
    }

    /// What is done with a packet of `source`, with which a key frame `begins` or not.
    pub fn pass(&mut self, source: u32, begins: bool) -> Pass {
        if self.awaited() == Some(source) && begins {
            let first = self.current.replace(source).is_none();
            return if first { Pass::Current } else { Pass::Switch };
        }
        if self.current == Some(source) { Pass::Current } else { Pass::Skip }
    }

    /// The viewer has begun with a whole group of `source`.
    pub fn began_with(&mut self, source: u32) {
        (self.current, self.target) = (Some(source), Some(source));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn layers(active: [bool; 3]) -> Vec<Layer> {
        let rates = [100_000, 400_000, 1_200_000];
        let layer = |n: usize| Layer {
            source: u32::try_from(n).expect("small") + 1,
            rid: Some(["l", "m", "h"][n].into()),
            bitrate: rates[n],
            active: active[n],
        };
        (0..3).map(layer).collect()
    }

    #[test]
    fn layers_are_measured_and_stop() {
        let mut layers = Layers::default();
        layers.want_key_frame(None);
        assert_eq!(layers.poll(at(0)), [None], "whichever comes first");
        for millis in (0..2000).step_by(10) {
            layers.packet(SessionId(1), 7, Some("h"), 1250, at(millis));
            if millis < 1000 {
                layers.packet(SessionId(1), 8, Some("l"), 125, at(millis));
            }
        }
        let found = layers.all();
        assert_eq!(found[0].rid.as_deref(), Some("l"));
        assert!((90_000..110_000).contains(&found[0].bitrate) && !found[0].active, "{found:?}");
        assert!((900_000..1_100_000).contains(&found[1].bitrate) && found[1].active, "{found:?}");
        layers.packet(SessionId(1), 9, Some("h"), 1, at(2000));
        assert!(!layers.has(7), "the same layer by another SSRC");
        layers.packet(SessionId(2), 7, None, 1, at(2001));
        assert_eq!(layers.all().len(), 1, "another publisher");
    }

    #[test]
    fn each_layer_is_asked_for_by_itself_twice_a_second_at_most() {
        let mut layers = Layers::default();
        layers.packet(SessionId(1), 7, Some("h"), 1, at(0));
        layers.packet(SessionId(1), 8, Some("l"), 1, at(0));
        layers.want_key_frame(Some(7));
        assert_eq!(layers.poll(at(0)), [Some("h".into())]);
        layers.want_key_frame(None);
        assert_eq!(layers.poll(at(100)), [Some("l".into())]);
        assert_eq!(layers.poll(at(500)), [Some("h".into())], "again");
        layers.key_frame(7);
        layers.key_frame(8);
        assert!(layers.poll(at(5000)).is_empty());
    }

    #[test]
    fn a_viewer_goes_down_at_once_and_up_after_three_seconds() {
        let mut choice = Choice::default();
        let all = layers([true; 3]);
        assert!(choice.choose(&all, 2_000_000, at(0)), "the first one needs no time");
        assert_eq!((choice.pass(3, false), choice.pass(1, true)), (Pass::Skip, Pass::Skip));
        assert_eq!((choice.pass(3, true), choice.awaited()), (Pass::Current, None));
        assert!(choice.choose(&all, 480_000, at(1000)));
        assert_eq!(choice.awaited(), Some(2), "400 of 408 kbit/s");
        assert_eq!(choice.pass(3, false), Pass::Current, "until the other one's key frame");
        assert_eq!((choice.pass(2, true), choice.pass(3, true)), (Pass::Switch, Pass::Skip));
        assert!(!choice.choose(&all, 2_000_000, at(2000)) && !choice.choose(&all, 2_000_000, at(4999)));
        assert!(choice.choose(&all, 2_000_000, at(5000)));
        assert_eq!(choice.awaited(), Some(3));
        assert!(choice.choose(&all, 10_000, at(5100)));
        assert_eq!(choice.awaited(), Some(1), "the smallest, however little fits");
        choice.choose(&all, 480_000, at(6000));
        choice.choose(&all, 10_000, at(7000));
        assert!(!choice.choose(&all, 480_000, at(9000)), "three seconds without a break");
    }

    #[test]
    fn a_link_is_tried_for_the_layers_above() {
        let mut choice = Choice::default();
        assert_eq!(choice.room_wanted(&layers([true; 3])), (0, 0));
        choice.began_with(1);
        assert_eq!(choice.room_wanted(&layers([true; 3])), (600_000, 1_600_000));
        assert_eq!(choice.room_wanted(&layers([true, true, false])), (600_000, 600_000));
        choice.began_with(3);
        assert_eq!(choice.room_wanted(&layers([true; 3])), (0, 0));
    }

    #[test]
    fn a_layer_that_stops_is_left_and_a_wish_holds_while_its_layer_is_there() {
        let mut choice = Choice::default();
        choice.began_with(3);
        assert!(choice.choose(&layers([true, true, false]), 2_000_000, at(0)));
        assert_eq!(choice.awaited(), Some(2));
        choice.wish(Some("l".into()));
        assert!(choice.choose(&layers([true; 3]), 2_000_000, at(1)));
        assert_eq!(choice.awaited(), Some(1));
        choice.choose(&layers([false, true, true]), 2_000_000, at(2));
        assert_ne!(choice.awaited(), Some(1), "nobody waits for what does not come");
        choice.wish(None);
        assert!(!choice.choose(&layers([false; 3]), 2_000_000, at(3)), "nothing to choose from");
    }

    proptest! {
        /// Whatever the estimates are and whichever layers come and go, a viewer gets one layer at a time, begins each with a
        /// key frame, and waits only for a layer whose packets come.
        #[test]
        fn a_viewer_is_of_one_layer(steps in prop::collection::vec((0_u8..4, any::<[bool; 3]>(), 0_u64..3_000_000, 1_u32..4, any::<bool>()), 1..300)) {
            let mut choice = Choice::default();
            let mut now = 0;
            for (what, active, estimate, source, begins) in steps {
                now += 100;
                if what == 0 {
                    let wish = [None, Some("l".into()), Some("x".into())][usize::try_from(estimate % 3).expect("small")].clone();
                    choice.wish(wish);
                }
                if choice.choose(&layers(active), estimate, at(now)) {
                    let awaited = choice.awaited().expect("it said so");
                    prop_assert!(active[usize::try_from(awaited).expect("small") - 1]);
                }
                let before = choice.current();
                match choice.pass(source, begins) {
                    Pass::Current => prop_assert!(before == Some(source) || (before.is_none() && begins)),
                    Pass::Switch => prop_assert!(begins && before != Some(source) && choice.current() == Some(source)),
                    Pass::Skip => prop_assert!(before != Some(source)),
                }
            }
        }
    }
}
