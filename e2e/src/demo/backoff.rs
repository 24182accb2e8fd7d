//! How long an informer waits before it tries again: the numbers of client-go's reflector.

use std::time::Duration;

use tokio::time::Instant;

use crate::random::Random;

const FIRST: Duration = Duration::from_millis(800);
const LONGEST: Duration = Duration::from_secs(30);
/// After so long without a failure the waits begin anew.
const FORGET: Duration = Duration::from_mins(2);

/// Waits that double, each up to twice as long by chance.
pub(super) struct Backoff {
    next: Duration,
    last: Option<Instant>,
    random: Random,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self { next: FIRST, last: None, random: Random::new(seed) }
    }

    /// The next wait.
    fn step(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > FORGET) {
            self.next = FIRST;
        }
        self.last = Some(now);
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait + wait * u32::try_from(self.random.within(0, 1000)).unwrap_or(0) / 1000
    }

    /// Wait.
    pub(super) async fn pause(&mut self) {
        let wait = self.step(Instant::now());
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_quiet_time() {
        let mut backoff = Backoff::new(1);
        let now = Instant::now();
        for least in [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0] {
            let wait = backoff.step(now).as_secs_f64();
            assert!((least..2.0 * least).contains(&wait), "{wait} after {least}");
        }
        let wait = backoff.step(now + FORGET + Duration::from_secs(1));
        assert!(wait < FIRST * 2, "{wait:?}");
    }
}
