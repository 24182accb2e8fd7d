//! The one place of the tunnel that looks at a clock or draws a random number; everything else is handed them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto_daemon::tls;

/// A monotonic clock that starts at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Zero is now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The time since the start.
    #[must_use]
    pub fn now(self) -> Duration {
        self.origin.elapsed()
    }

    /// The instant at which the clock shows `time`.
    #[must_use]
    pub fn instant(self, time: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin.checked_add(time).unwrap_or(self.origin))
    }
}

/// The wall clock, since 1970; zero for a machine that does not know the time.
#[must_use]
pub fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// A fresh random number, for jitter.
#[must_use]
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    // Jitter only: without entropy all agents merely share one rhythm.
    let _ = tls::provider().secure_random.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
