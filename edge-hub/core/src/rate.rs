//! How often somebody may do something: so many times at once after a pause, and so many times a second from then on.
//!
//! Each is held as the moment at which the whole burst is there again (generic cell rate algorithm), so that whoever
//! paused takes no memory.

use std::collections::BTreeMap;
use std::time::Duration;

/// Those who paused are forgotten when there are more than this.
const FORGET_FROM: usize = 1024;

/// The rates of many.
#[derive(Debug)]
pub struct Rates<K> {
    interval: Duration,
    burst: u32,
    full_at: BTreeMap<K, Duration>,
}

impl<K: Clone + Ord> Rates<K> {
    /// `per_second` and `burst` are at least 1.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            burst: burst.max(1),
            full_at: BTreeMap::new(),
        }
    }

    /// Whether it may be done at this moment of the monotonic clock; then it counts as done.
    pub fn take(&mut self, now: Duration, who: &K) -> bool {
        if !self.could_take(now, who) {
            return false;
        }
        if self.full_at.len() >= FORGET_FROM {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        let full_at = self.full_at.get(who).copied().unwrap_or_default().max(now);
        self.full_at.insert(who.clone(), full_at + self.interval);
        true
    }

    /// Whether it may be done.
    #[must_use]
    pub fn could_take(&self, now: Duration, who: &K) -> bool {
        let debt = self.full_at.get(who).map_or(Duration::ZERO, |full_at| full_at.saturating_sub(now));
        debt <= self.interval * (self.burst - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_rate_and_nobody_takes_anothers() {
        let mut rates = Rates::new(2, 3);
        let at = Duration::from_millis;
        let taken = (0..5).filter(|_| rates.take(at(1000), &"a")).count();
        assert_eq!(taken, 3);
        assert!(rates.take(at(1000), &"b"));
        assert!(!rates.take(at(1499), &"a") && rates.take(at(1500), &"a") && !rates.take(at(1500), &"a"));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate(pauses in proptest::collection::vec(0_u64..400, 1..200)) {
            let mut rates = Rates::new(5, 4);
            let (mut now, mut taken) = (Duration::ZERO, 0_u128);
            for pause in pauses {
                now += Duration::from_millis(pause);
                taken += u128::from(rates.take(now, &()));
                prop_assert!(taken <= 4 + now.as_millis() / 200);
            }
        }
    }
}
