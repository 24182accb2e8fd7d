//! Decides whether this node is cut off from the cloud. Pure: no socket, no clock.
//!
//! Connected --probe lost--> Cut; one answered probe leads back, through a coordinator of the pool if not by the own link:
//! then the link is relayed, until the own one has answered for [`PROOF`]. At start the link counts as cut until the first
//! answer, so that a node that boots without a cloud waits for nobody.

use std::time::Duration;

use crate::clock::Now;

/// A probe goes out when nothing was received for this long. It and its answer are 276 bytes on the wire, which is most of
/// what an idle node's hub costs beyond what its clients would send by themselves.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(1600);
/// An unanswered probe is a cut after this long; with [`PROBE_INTERVAL`] a cut is seen within 3 s.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(1400);
/// How long one attempt to reach a server may take, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long the own link must answer again before it takes the place of a relay.
pub const PROOF: Duration = Duration::from_secs(10);
/// How often the own link is tried while it is relayed.
pub const TRY_OWN: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// What the link is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// A server answers.
    Connected,
    /// A server answers through a coordinator of the pool; this node's own link is cut.
    Relayed {
        /// Which one, by its place in the configuration.
        via: usize,
    },
    /// No server answers.
    Cut {
        /// Wall clock of the moment when the last proof of the link was seen; zero if there never was one.
        since_unix: Duration,
    },
}

impl LinkState {
    /// Whether requests may go to the cloud.
    #[must_use]
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Connected | Self::Relayed { .. })
    }
}

/// Whether this process was there to hear an answer to a probe. Its one thread may have been busy when the answer came; the
/// timer of the probe, which is looked at first, has then run out before the answer is read.
#[derive(Debug)]
pub struct Attendance {
    last: Duration,
    /// When the last absence ended.
    returned: Option<Duration>,
}

impl Attendance {
    /// How often [`Self::note`] is to be called.
    pub const TICK: Duration = Duration::from_millis(250);

    /// Begins at `now`, on the monotonic clock.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { last: now, returned: None }
    }

    /// The prober runs. It was away if it should have run long before.
    pub fn note(&mut self, now: Duration) {
        if now.saturating_sub(self.last) >= Self::TICK * 2 {
            self.returned = Some(now);
        }
        self.last = now;
    }

    /// A probe has just run out: whether it may have been answered while nobody looked. It is then no proof of a cut; an
    /// attempt to connect tells.
    pub fn excuses(&mut self, now: Duration) -> bool {
        self.note(now);
        self.returned.is_some_and(|returned| now.saturating_sub(returned) < PROBE_TIMEOUT)
    }
}

/// The judge over one hub's link to its API servers.
#[derive(Debug)]
pub struct LinkDetector {
    state: LinkState,
    attempts: u32,
}

impl LinkDetector {
    /// Starts cut; `last_contact_unix` comes from the store and dates what is served before the first contact.
    #[must_use]
    pub fn new(last_contact_unix: Duration) -> Self {
        Self { state: LinkState::Cut { since_unix: last_contact_unix }, attempts: 0 }
    }

    /// The current verdict.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// A connection to a server stands. Returns whether that is news.
    pub fn handle_connected(&mut self) -> bool {
        self.handle(LinkState::Connected)
    }

    /// A connection to a server stands through the coordinator `via`. Returns whether that is news.
    pub fn handle_relayed(&mut self, via: usize) -> bool {
        self.handle(LinkState::Relayed { via })
    }

    fn handle(&mut self, state: LinkState) -> bool {
        self.attempts = 0;
        std::mem::replace(&mut self.state, state) != state
    }

    /// The proven connection died (`probe_lost`) or an attempt to reach every server failed. A connection that the
    /// server closed politely is no cut until a new attempt fails. Returns whether the verdict changed.
    pub fn handle_lost(&mut self, now: Now, probe_lost: bool) -> bool {
        if !self.state.is_connected() {
            self.attempts = self.attempts.saturating_add(1);
            return false;
        }
        if probe_lost {
            self.state = LinkState::Cut { since_unix: now.unix };
            return true;
        }
        false
    }

    /// No server could be reached. Returns whether the verdict changed.
    pub fn handle_unreachable(&mut self, now: Now) -> bool {
        self.handle_lost(now, true)
    }

    /// How long to pause before the next attempt; `random` spreads the nodes of a pool.
    #[must_use]
    pub fn retry_delay(&self, random: u64) -> Duration {
        if self.state.is_connected() {
            return Duration::ZERO;
        }
        let delay = FIRST_RETRY.saturating_mul(1 << self.attempts.min(4)).min(LONGEST_RETRY);
        let per_mille = u32::try_from(random % 1000).unwrap_or(0);
        delay / 2 + delay / 2 * per_mille / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { monotonic: Duration::from_secs(5), unix: Duration::from_secs(1000) };

    #[test]
    fn a_probe_that_ran_out_while_the_process_was_busy_proves_nothing() {
        let at = Duration::from_millis;
        let ticks = |attendance: &mut Attendance, from: u64, upto: u64| {
            (from..=upto).step_by(250).for_each(|tick| attendance.note(at(tick)));
        };
        // There all the time, somewhat late as timers are.
        let mut attendance = Attendance::new(at(0));
        ticks(&mut attendance, 250, 3000);
        assert!(!attendance.excuses(at(3000 + 499)));
        // Away for 1.5 s until the very moment when the probe's timer was looked at.
        let mut attendance = Attendance::new(at(0));
        ticks(&mut attendance, 250, 1000);
        assert!(attendance.excuses(at(2500)));
        // Away earlier in the time of the same probe, and there since.
        ticks(&mut attendance, 2750, 3750);
        assert!(attendance.excuses(at(3800)));
        // Of a probe that was sent after it had come back the silence is the link's.
        ticks(&mut attendance, 4000, 4000);
        assert!(!attendance.excuses(at(4100)));
        // Nor does it make a cut of a connection that could be made anew.
        let mut detector = LinkDetector::new(Duration::ZERO);
        detector.handle_connected();
        let now = Now { monotonic: at(2500), unix: at(2500) };
        assert!(!detector.handle_lost(now, false));
        assert!(detector.handle_unreachable(now));
    }

    #[test]
    fn a_lost_probe_is_a_cut_told_once() {
        let mut link = LinkDetector::new(Duration::ZERO);
        assert!(link.handle_connected());
        assert!(!link.handle_connected());
        assert!(link.handle_lost(NOW, true));
        assert!(!link.handle_lost(NOW, true));
        assert_eq!(link.state(), LinkState::Cut { since_unix: NOW.unix });
    }

    #[test]
    fn a_relay_is_a_link_and_each_change_of_the_way_is_news() {
        let mut link = LinkDetector::new(Duration::ZERO);
        assert!(link.handle_relayed(0));
        assert!(link.state().is_connected());
        assert!(!link.handle_relayed(0));
        assert!(link.handle_relayed(1));
        assert!(link.handle_connected());
        assert!(link.handle_relayed(1));
        assert!(link.handle_lost(NOW, true));
        assert_eq!(link.state(), LinkState::Cut { since_unix: NOW.unix });
    }

    #[test]
    fn a_polite_close_is_no_cut_until_nobody_answers() {
        let mut link = LinkDetector::new(Duration::ZERO);
        link.handle_connected();
        assert!(!link.handle_lost(NOW, false));
        assert!(link.state().is_connected());
        assert!(link.handle_unreachable(NOW));
        assert!(!link.state().is_connected());
    }

    #[test]
    fn a_cut_is_seen_within_three_seconds() {
        assert!(PROBE_INTERVAL + PROBE_TIMEOUT <= Duration::from_secs(3));
    }

    #[test]
    fn attempts_slow_down_to_two_seconds() {
        let mut link = LinkDetector::new(Duration::ZERO);
        for _ in 0..20 {
            link.handle_unreachable(NOW);
        }
        assert!(link.retry_delay(999) <= LONGEST_RETRY);
        assert!(link.retry_delay(0) >= LONGEST_RETRY / 2);
    }
}
