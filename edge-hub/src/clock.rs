//! The one place of the hub that looks at a clock; everything else is handed a [`Now`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edge_hub_core::clock::Now;

/// Reads both clocks of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    /// Seconds that the wall clock is told ahead of the machine's, or behind it; zero outside of tests.
    offset: i64,
}

impl Clock {
    /// The monotonic clock starts at zero here.
    #[must_use]
    pub fn start() -> Self {
        Self::shifted(0)
    }

    /// As [`Clock::start`], but the wall clock shows `offset` seconds more than the machine's. For tests of what ends
    /// with time: the shortest token that an API server makes lasts ten minutes.
    #[must_use]
    pub fn shifted(offset: i64) -> Self {
        Self { origin: Instant::now(), offset }
    }

    /// The time.
    #[must_use]
    pub fn now(self) -> Now {
        // A clock before 1970 is a machine that does not know the time; zero says the same.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let offset = Duration::from_secs(self.offset.unsigned_abs());
        let unix = if self.offset < 0 { unix.saturating_sub(offset) } else { unix.saturating_add(offset) };
        Now { monotonic: self.origin.elapsed(), unix }
    }

    /// The instant at which the monotonic clock shows `monotonic`.
    #[must_use]
    pub fn instant(self, monotonic: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin.checked_add(monotonic).unwrap_or(self.origin))
    }
}

/// A fresh random number, for jitter.
#[must_use]
pub fn random() -> u64 {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 8];
    // Jitter only: without entropy all nodes merely share one rhythm.
    let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_moves_the_wall_clock_only_and_never_below_zero() {
        let now = Clock::start().now();
        let hour = Duration::from_secs(3600);
        let ahead = Clock::shifted(3600).now();
        assert!(ahead.unix >= now.unix + hour && ahead.unix < now.unix + hour * 2);
        assert!(ahead.monotonic < hour);
        assert!(Clock::shifted(-3600).now().unix < now.unix);
        assert_eq!(Clock::shifted(i64::MIN).now().unix, Duration::ZERO);
    }
}
