//! One jittered reconnect law for all of ours, so that a healed partition is no thundering herd.
//!
//! Attempt `n` waits for a uniformly random time between half of and all of `first * 2^n`, capped. The random half
//! spreads five hundred nodes that lost the cloud in the same instant; the certain half keeps a server that refuses
//! at once from being asked in a tight loop. Pure: the caller brings the randomness and does the waiting.

use std::time::Duration;

/// How long to wait before each attempt to connect again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// Towards the cloud: 125-250 ms before the first retry, never more than 8 s, so that a heal is noticed soon.
    pub const RECONNECT: Self = Self::new(Duration::from_millis(250), Duration::from_secs(8));

    /// Of the one link of a pool: as above, but never more than 1.5 s. With the time of one attempt that is under way a
    /// link stands again within 3 s of its way; one agent in a pool dials, so that a thousand pools are a thousand
    /// attempts in a second at most.
    pub const LINK: Self = Self::new(Duration::from_millis(250), Duration::from_millis(1500));

    /// `first` is the longest wait before the first retry, `cap` the longest ever. A `cap` below `first` wins.
    #[must_use]
    pub const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap }
    }

    /// The wait before retry `attempt`, which counts from 0 and starts again after a success. `random` is uniform
    /// over all of `u64`.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let doublings = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        let longest = self.first.saturating_mul(doublings).min(self.cap);
        let certain = longest / 2;
        // 53 bits of the random number: what a float holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a float's mantissa")]
        let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
        certain + (longest - certain).mul_f64(fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

    #[test]
    fn every_wait_lies_between_half_and_all_of_its_step() {
        let steps = [100, 200, 400, 800, 1600, 3200, 5000, 5000];
        for (attempt, step) in (0_u32..).zip(steps) {
            let step = Duration::from_millis(step);
            assert_eq!(LAW.delay(attempt, 0), step / 2);
            let longest = LAW.delay(attempt, u64::MAX);
            assert!(longest <= step && longest > step - Duration::from_millis(1), "{attempt}: {longest:?}");
        }
    }

    #[test]
    fn no_attempt_however_late_exceeds_the_cap() {
        for attempt in [20, 31, 32, 33, 64, u32::MAX] {
            for random in [0, 1 << 63, u64::MAX] {
                let wait = LAW.delay(attempt, random);
                assert!(wait <= LAW.cap && wait >= LAW.cap / 2, "{attempt}: {wait:?}");
            }
        }
        let widest = Backoff::new(Duration::MAX, Duration::MAX);
        assert!(widest.delay(u32::MAX, u64::MAX) >= Duration::MAX / 2);
        assert_eq!(Backoff::new(Duration::ZERO, Duration::MAX).delay(3, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn nodes_with_different_randomness_spread_over_the_random_half() {
        let waits: Vec<Duration> = (0..10_u64).map(|node| LAW.delay(5, node * (u64::MAX / 10))).collect();
        for pair in waits.windows(2) {
            let gap = pair[1].checked_sub(pair[0]).expect("in the order of the random numbers");
            assert!(gap > Duration::from_millis(155) && gap < Duration::from_millis(165), "{gap:?}");
        }
    }
}
