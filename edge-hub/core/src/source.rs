//! Where a pool's collection comes from: a coordinator, or this node's own link. Pure: no socket, no clock.
//!
//! Fed --lost--> Orphan --patience--> Direct --a fresh coordinator--> Fed. All three go on at the version that is held, so
//! that no change of the source costs a list. An orphan serves on. The timers of a pool's hubs end spread over ten
//! seconds, and stand still while a coordinator says that it is filling and gets on with it: a slow line is not hit by
//! all of them at once.

use std::time::Duration;

/// A feed whose coordinator has not seen its own watch stand for this long is no feed.
pub const FRESH: Duration = Duration::from_secs(5);
/// A coordinator says something each second; one that does not for this long is gone.
pub const SILENT_FEED: Duration = Duration::from_secs(5);
/// An orphan looks for a coordinator for this long, and up to [`SPREAD`] more, before it goes on by itself.
const PATIENCE: Duration = Duration::from_secs(5);
const SPREAD: Duration = Duration::from_secs(10);
/// A collection that holds nothing makes its clients wait: it goes on by itself after this.
const EMPTY_PATIENCE: Duration = Duration::from_secs(2);
/// A coordinator that is filling is waited for at most this long.
const FILLING_PATIENCE: Duration = Duration::from_mins(1);

/// When an orphan may go on by itself.
#[derive(Debug)]
pub struct SourceKeeper {
    orphan_since: Duration,
    direct_at: Duration,
    filled: u64,
}

impl SourceKeeper {
    /// An orphan from `now` on. `random` is uniform over all of `u64`.
    #[must_use]
    pub fn new(now: Duration, holds_state: bool, random: u64) -> Self {
        let mut keeper = Self { orphan_since: now, direct_at: now, filled: 0 };
        keeper.handle_lost(now, holds_state, random);
        keeper
    }

    /// The feed ended, fell silent or is no longer fresh.
    pub fn handle_lost(&mut self, now: Duration, holds_state: bool, random: u64) {
        self.orphan_since = now;
        self.filled = 0;
        self.direct_at = now + if holds_state { PATIENCE + spread(random) } else { EMPTY_PATIENCE };
    }

    /// This node's own link answers again. Whoever waited for that does not take it at once.
    pub fn handle_healed(&mut self, now: Duration, holds_state: bool, random: u64) {
        let patience = if holds_state { PATIENCE + spread(random) } else { EMPTY_PATIENCE };
        self.direct_at = self.direct_at.max(now + patience);
    }

    /// A coordinator is filling, and this far.
    pub fn handle_filling(&mut self, now: Duration, filled: u64) {
        if filled > self.filled {
            self.filled = filled;
            let latest = self.orphan_since + FILLING_PATIENCE;
            self.direct_at = self.direct_at.max((now + PATIENCE).min(latest));
        }
    }

    /// From when on this node's own link may be used.
    #[must_use]
    pub fn direct_at(&self) -> Duration {
        self.direct_at
    }
}

fn spread(random: u64) -> Duration {
    let millis = u64::try_from(SPREAD.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % millis.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_orphan_goes_on_by_itself_within_fifteen_seconds_and_not_before_five() {
        for random in [0, 1, 9_999, 10_000, u64::MAX] {
            let keeper = SourceKeeper::new(SECOND * 100, true, random);
            let after = keeper.direct_at() - SECOND * 100;
            assert!(after >= SECOND * 5 && after < SECOND * 15, "{after:?}");
        }
        assert_eq!(SourceKeeper::new(SECOND, false, 7).direct_at(), SECOND * 3);
    }

    #[test]
    fn a_heal_starts_the_clock_anew_and_never_shortens_it() {
        let mut keeper = SourceKeeper::new(SECOND, true, 0);
        keeper.handle_healed(SECOND * 60, true, 0);
        assert_eq!(keeper.direct_at(), SECOND * 65);
        keeper.handle_healed(SECOND * 2, true, 0);
        assert_eq!(keeper.direct_at(), SECOND * 65);
    }

    #[test]
    fn a_coordinator_that_fills_is_waited_for_as_long_as_it_gets_on_but_a_minute_at_most() {
        let mut keeper = SourceKeeper::new(Duration::ZERO, true, 0);
        for second in 1..100 {
            keeper.handle_filling(SECOND * second, u64::from(second));
        }
        assert_eq!(keeper.direct_at(), FILLING_PATIENCE);
        let mut stuck = SourceKeeper::new(Duration::ZERO, true, 0);
        for second in 1..100 {
            stuck.handle_filling(SECOND * second, 7);
        }
        assert_eq!(stuck.direct_at(), SECOND * 6);
    }
}
