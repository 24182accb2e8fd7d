//! Resource versions of the hub's own making: one line for all collections of the kind, and what is kept of it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::record::{self, DamagedRecord, RecordChange};

/// Versions reserved at a time. What is reserved and not used counts as given out after a restart.
const BLOCK: u64 = 256;
/// Spans and ranges remembered; of more, the two oldest become one that reaches over both.
const REMEMBERED: usize = 64;
/// How far clients may have been told of versions that had not reached the disk when the process ended.
const UNWRITTEN: u64 = 1024;
/// Key of the record inside its class; no pod's uid is that short.
const KEY: &[u8] = b"versions";

/// Versions above the first up to the second.
type Range = (u64, u64);

fn within(version: u64, (after, upto): Range) -> bool {
    after < version && version <= upto
}

fn push_bounded(ranges: &mut VecDeque<Range>, range: Range) {
    ranges.push_back(range);
    if ranges.len() > REMEMBERED
        && let (Some((after, _)), Some((_, upto))) = (ranges.pop_front(), ranges.pop_front())
    {
        ranges.push_front((after, upto));
    }
}

/// Which versions the hub gave out itself, and may still give out.
///
/// From the first of an overlay to the last they make a *span*. A client that stands within one may hold amended
/// objects even if its version is the cloud's own.
///
/// A version is given out only while a durable record covers it, so that no later process gives it out again or takes
/// it for the cloud's. The shell sees to that: [`Self::reserve`], wait for the disk, then change collections.
#[derive(Debug, Default)]
pub struct OwnVersions {
    spans: VecDeque<Range>,
    /// Something is amended now.
    active: bool,
    /// The next version begins a span of its own.
    begins: bool,
    /// Given out by this process, exactly.
    given: VecDeque<Range>,
    /// The newest version that clients of any collection of the kind were told.
    seen: u64,
    reserved: Option<Range>,
    /// A former process ended while something was amended.
    unfinished: bool,
}

/// How it lies in the store.
#[derive(Serialize, Deserialize)]
struct Kept {
    spans: Vec<Range>,
    unfinished: bool,
}

impl OwnVersions {
    /// Whether this version lies in a span.
    #[must_use]
    pub fn holds(&self, version: u64) -> bool {
        self.spans.iter().any(|span| within(version, *span))
    }

    /// Whether this process made this version up.
    #[must_use]
    pub fn gave(&self, version: u64) -> bool {
        self.given.iter().any(|range| within(version, *range))
    }

    /// The newest version given out; 0 when there was none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.spans.back().map_or(0, |(_, upto)| *upto)
    }

    /// A collection tells its clients this version.
    pub(crate) fn note(&mut self, version: u64) {
        self.seen = self.seen.max(version);
    }

    /// A collection that a former process told its clients of joins at this version.
    pub(crate) fn join(&mut self, version: u64) {
        self.note(version);
        if let Some((_, upto)) = self.spans.back_mut().filter(|_| self.unfinished) {
            *upto = version.saturating_add(UNWRITTEN).max(*upto);
        }
    }

    /// Whether something is amended from now on.
    pub(crate) fn set_active(&mut self, active: bool) {
        self.begins |= active && !self.active;
        self.active = active;
    }

    /// A version that nobody was ever told, by whichever collection.
    pub(crate) fn take(&mut self) -> u64 {
        let reserved_after = self.reserved.map_or(0, |(after, _)| after);
        let version = self.seen.max(self.last()).max(reserved_after).saturating_add(1);
        self.seen = version;
        match self.given.back_mut() {
            Some((_, upto)) if upto.saturating_add(1) == version => *upto = version,
            _ => push_bounded(&mut self.given, (version - 1, version)),
        }
        let begins = std::mem::take(&mut self.begins);
        match self.spans.back_mut() {
            Some((_, upto)) if !begins => *upto = version,
            _ => push_bounded(&mut self.spans, (version - 1, version)),
        }
        version
    }

    /// Makes room for `count` versions above all that were told. `None` when there is room already; else a record that
    /// must be durable before [`Collection`](crate::collection::Collection)s are changed.
    pub fn reserve(&mut self, count: u64) -> Option<RecordChange> {
        let from = self.seen.max(self.last());
        let needed = from.saturating_add(count);
        if self.reserved.is_some_and(|(after, upto)| from.max(after).saturating_add(count) <= upto) {
            return None;
        }
        self.reserved = Some((from, needed.saturating_add(BLOCK)));
        Some(self.record())
    }

    /// Gives back what was reserved and not used; `None` when nothing is, or while something is amended.
    pub fn release(&mut self) -> Option<RecordChange> {
        if self.active {
            return None;
        }
        self.reserved.take()?;
        self.unfinished = false;
        Some(self.record())
    }

    /// All that is to be kept, as one record.
    #[must_use]
    pub fn record(&self) -> RecordChange {
        let mut spans: Vec<Range> = self.spans.iter().copied().collect();
        if let Some((after, upto)) = self.reserved {
            match spans.last_mut().filter(|_| !self.begins) {
                Some((_, last)) => *last = upto.max(*last),
                None => spans.push((after, upto)),
            }
        }
        let kept = Kept { spans, unfinished: self.reserved.is_some() || self.unfinished };
        RecordChange::Put { key: KEY.to_vec(), value: record::encode(&kept, b"") }
    }

    /// Whether a record under this key is that of the versions.
    #[must_use]
    pub fn is_key(key: &[u8]) -> bool {
        key == KEY
    }

    /// Takes over what a former process recorded: all that it might have given out.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn restore(&mut self, value: &[u8]) -> Result<(), DamagedRecord> {
        let (mut kept, _): (Kept, _) = record::decode(value)?;
        kept.spans.retain(|(after, upto)| after < upto);
        kept.spans.sort_unstable();
        for span in kept.spans {
            push_bounded(&mut self.spans, span);
        }
        self.unfinished = kept.unfinished;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(change: RecordChange) -> Vec<u8> {
        let RecordChange::Put { value, .. } = change else { panic!("a record") };
        value
    }

    #[test]
    fn a_version_is_above_all_that_anybody_was_told() {
        let mut versions = OwnVersions::default();
        versions.note(100);
        versions.note(40);
        let record = versions.reserve(2).expect("nothing is reserved yet");
        assert_eq!((versions.take(), versions.take()), (101, 102));
        assert!(versions.reserve(2).is_none(), "there is room");
        assert!(versions.holds(101) && versions.holds(102) && !versions.holds(103) && !versions.holds(100));
        versions.note(5000);
        assert!(versions.reserve(1).is_some(), "the room is passed");
        assert_eq!(versions.take(), 5001);
        assert!(versions.holds(5000) && !versions.gave(5000), "a client there may hold what is amended");
        let mut next = OwnVersions::default();
        next.restore(&kept(record)).expect("own record");
        assert!(next.holds(103), "a former process might have given it out");
        assert!(next.take() > 103);
    }

    #[test]
    fn what_was_reserved_in_vain_is_the_clouds_again() {
        let mut versions = OwnVersions::default();
        versions.note(100);
        drop(versions.reserve(1));
        versions.take();
        versions.set_active(true);
        assert!(versions.release().is_none(), "something is amended");
        versions.set_active(false);
        let record = versions.release().expect("something was reserved");
        let mut next = OwnVersions::default();
        next.restore(&kept(record)).expect("own record");
        assert!(next.holds(101) && !next.holds(102));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_version_is_given_twice_whatever_is_kept(
            steps in proptest::collection::vec((0..3u8, 0..400u64, 1..300u64), 1..40),
        ) {
            let mut versions = OwnVersions::default();
            let mut durable: Option<Vec<u8>> = None;
            let mut given = std::collections::BTreeSet::new();
            let mut told = 0;
            for (step, rise, count) in steps {
                told += rise;
                versions.note(told);
                match step {
                    0 => {
                        if let Some(change) = versions.reserve(count) {
                            durable = Some(kept(change));
                        }
                        for _ in 0..count {
                            let version = versions.take();
                            prop_assert!(version > told && given.insert(version), "{version} twice");
                            told = version;
                        }
                    }
                    1 => {
                        if let Some(change) = versions.release() {
                            durable = Some(kept(change));
                        }
                    }
                    _ => {
                        versions = OwnVersions::default();
                        if let Some(record) = &durable {
                            versions.restore(record).expect("own record");
                        }
                    }
                }
            }
            for version in &given {
                prop_assert!(versions.holds(*version), "{version} is forgotten");
            }
        }
    }
}
