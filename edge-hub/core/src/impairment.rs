//! Decides whether a server that is there fails this node: it answers pings, and requests get 5xx or no answer (etcd
//! without quorum, a balancer without backends, overload). Pure: no socket, no clock.

use std::time::Duration;

use crate::clock::Now;

/// Requests of this node that fail one after another before the servers count as impaired, and over which time.
const FAILURES: u32 = 3;
const LASTING: Duration = Duration::from_secs(2);

/// What came of the requests of this node.
#[derive(Debug, Default)]
pub struct Impairment {
    failures: u32,
    first: Duration,
    since_unix: Option<Duration>,
}

impl Impairment {
    /// Wall clock of the moment when they began to fail; `None` while they answer.
    #[must_use]
    pub fn since_unix(&self) -> Option<Duration> {
        self.since_unix
    }

    /// A request got an answer that is none of a server in trouble. Returns whether that is news.
    pub fn handle_answer(&mut self) -> bool {
        self.failures = 0;
        self.since_unix.take().is_some()
    }

    /// A request got 5xx, or nothing in time. Returns whether that changes the verdict.
    pub fn handle_failure(&mut self, now: Now) -> bool {
        if self.failures == 0 {
            self.first = now.monotonic;
        }
        self.failures = self.failures.saturating_add(1);
        let lasted = now.monotonic.saturating_sub(self.first);
        if self.since_unix.is_some() || self.failures < FAILURES || lasted < LASTING {
            return false;
        }
        self.since_unix = Some(now.unix.saturating_sub(lasted));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Now {
        let monotonic = Duration::from_millis(millis);
        Now { monotonic, unix: Duration::from_secs(1_000) + monotonic }
    }

    #[test]
    fn requests_that_fail_for_a_while_are_told_once_and_dated_to_the_first() {
        let mut impairment = Impairment::default();
        assert!(!impairment.handle_failure(at(100)));
        assert!(!impairment.handle_failure(at(200)));
        assert!(!impairment.handle_failure(at(300)), "three at once are one moment");
        assert!(impairment.handle_failure(at(2100)));
        assert!(!impairment.handle_failure(at(2200)));
        assert_eq!(impairment.since_unix(), Some(Duration::from_millis(1_000_100)));
        assert!(impairment.handle_answer());
        assert!(!impairment.handle_answer());
        assert_eq!(impairment.since_unix(), None);
    }

    #[test]
    fn one_answer_between_them_begins_the_count_anew() {
        let mut impairment = Impairment::default();
        for round in 0..20 {
            assert!(!impairment.handle_failure(at(round * 2000)));
            assert!(!impairment.handle_failure(at(round * 2000 + 1000)));
            assert!(!impairment.handle_answer());
        }
    }
}
