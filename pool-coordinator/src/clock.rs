//! The one place of the coordinator that looks at a clock or at chance; everything else is handed what they show.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto_kube::clock::Now;

/// Reads both clocks of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// The monotonic clock starts at zero here.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The time.
    #[must_use]
    pub fn now(self) -> Now {
        // A clock before 1970 is a machine that does not know the time; zero says the same.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
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
    // Jitter only: without entropy all coordinators merely share one rhythm.
    let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
