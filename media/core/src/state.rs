//! Whether an engine may be removed: initialised until its first session, then allocated, a tombstone once it is to end, and
//! waiting to be deleted when nobody is left.

use std::time::Duration;

/// By how much egress has to pass what it was when the engine became a tombstone, in percent, and for how long without a
/// break, until it is taken for a sign that the engine is needed.
const REVIVING_PERCENT: u64 = 120;
const REVIVING_TIME: Duration = Duration::from_secs(30);
/// How long whoever is left at the deadline has to move, after being told.
pub const MOVING_TIME: Duration = Duration::from_secs(5);
/// Over which time egress is measured.
const SAMPLE: Duration = Duration::from_secs(1);

/// Where an engine stands. From [`Self::WaitingToBeDeleted`] there is no way back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No session came yet.
    #[default]
    Initialised,
    /// It has, or had, sessions.
    Allocated,
    /// It is to end: no new rooms, viewers of streams that are here still come in.
    Tombstone,
    /// Nobody is left, or its time is over; it may be removed.
    WaitingToBeDeleted,
}

impl State {
    /// Every state, in order.
    pub const ALL: [Self; 4] =
        [Self::Initialised, Self::Allocated, Self::Tombstone, Self::WaitingToBeDeleted];

    /// The word for logs, metrics, status and files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialised => "initialised",
            Self::Allocated => "allocated",
            Self::Tombstone => "tombstone",
            Self::WaitingToBeDeleted => "waiting-to-be-deleted",
        }
    }

    /// The state of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether a stream that is not here yet may come.
    #[must_use]
    pub fn takes_new_streams(self) -> bool {
        self < Self::Tombstone
    }

    /// Whether viewers of a stream that is here may come.
    #[must_use]
    pub fn takes_viewers(self) -> bool {
        self < Self::WaitingToBeDeleted
    }
}

/// Why an engine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The process got SIGTERM: sessions have until then, and nothing calls it back.
    Signal {
        /// Time since the engine's start.
        deadline: Duration,
    },
    /// An operator's, by the admin socket: it holds until the engine is needed.
    Operator,
}

/// An engine's way through its states. Times are since the engine's start.
#[derive(Debug, Clone)]
pub struct Life {
    state: State,
    /// How long a tombstone without sessions waits for one.
    quiet: Duration,
    sessions: usize,
    /// Since when there has been no session.
    empty_since: Duration,
    deadline: Option<Duration>,
    /// Bytes a second, and when and at which count of bytes that was measured.
    egress: u64,
    sampled: (Duration, u64),
    /// Egress on entering, and since when it has been passed.
    entered_with: u64,
    passed_since: Option<Duration>,
}

impl Life {
    /// An engine that starts in `state`, as a file kept it over a restart.
    #[must_use]
    pub fn new(state: State, quiet: Duration) -> Self {
        Self {
            state,
            quiet,
            sessions: 0,
            empty_since: Duration::ZERO,
            deadline: None,
            egress: 0,
            sampled: (Duration::ZERO, 0),
            entered_with: 0,
            passed_since: None,
        }
    }

    /// Where the engine stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the state is one that a restart of the container must not forget: a signal's end is the process's alone, and
    /// whoever starts it again wants it to work.
    #[must_use]
    pub fn outlives_the_process(&self) -> bool {
        self.deadline.is_none()
    }

    /// There are so many sessions now.
    pub fn with_sessions(&mut self, sessions: usize, now: Duration) {
        if sessions > 0 {
            self.state = self.state.max(State::Allocated);
        } else if self.sessions > 0 {
            self.empty_since = now;
        }
        self.sessions = sessions;
    }

    /// The engine is to end.
    pub fn end(&mut self, wish: Wish, now: Duration) {
        if let Wish::Signal { deadline } = wish {
            self.deadline = Some(self.deadline.map_or(deadline, |known| known.min(deadline)));
            if self.state == State::Initialised {
                // Nobody knows it, so nobody comes back to it.
                self.state = State::WaitingToBeDeleted;
            }
        }
        if self.state < State::Tombstone {
            // An engine that never had a session has been empty from its start; whoever may come has not begun to.
            if self.state == State::Allocated && self.sessions == 0 && wish == Wish::Operator {
                self.empty_since = now;
            }
            self.state = State::Tombstone;
            self.entered_with = self.egress;
            self.passed_since = None;
        }
        self.advance(now);
    }

    /// The engine has sent `bytes` since its start.
    pub fn sent(&mut self, bytes: u64, now: Duration) {
        let (at, before) = self.sampled;
        let passed = now.saturating_sub(at);
        if passed < SAMPLE {
            return;
        }
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
        self.egress = bytes.saturating_sub(before).saturating_mul(1000) / millis;
        self.sampled = (now, bytes);
        let passes = self.egress.saturating_mul(100) > self.entered_with.saturating_mul(REVIVING_PERCENT);
        if !passes || self.state != State::Tombstone {
            self.passed_since = None;
        } else if self.passed_since.is_none() {
            self.passed_since = Some(now);
        }
    }

    /// Goes on as far as the time says. Returns whether the state is another one than before.
    pub fn advance(&mut self, now: Duration) -> bool {
        let before = self.state;
        if self.state == State::Tombstone {
            let is_over = self.deadline.is_some_and(|deadline| now >= deadline);
            let is_quiet = self.sessions == 0 && now >= self.empty_since.saturating_add(self.quiet);
            let is_needed = self.passed_since.is_some_and(|since| now >= since.saturating_add(REVIVING_TIME));
            if is_over || is_quiet {
                self.state = State::WaitingToBeDeleted;
            } else if is_needed && self.deadline.is_none() {
                self.state = State::Allocated;
                self.passed_since = None;
            }
        }
        self.state != before
    }

    /// Whether those who are left after the deadline have had their time to move.
    #[must_use]
    pub fn is_moving_over(&self, now: Duration) -> bool {
        let over = |deadline: Duration| now >= deadline.saturating_add(MOVING_TIME);
        self.state == State::WaitingToBeDeleted && (self.sessions == 0 || self.deadline.is_some_and(over))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An engine that sends 1000 bytes a second to two sessions, 100 s after its start.
    fn busy() -> Life {
        let mut life = Life::new(State::default(), QUIET);
        life.with_sessions(2, at(1));
        for second in 1..=100 {
            life.sent(second * 1000, at(second));
        }
        assert_eq!(life.state(), State::Allocated);
        life
    }

    #[test]
    fn an_engine_is_allocated_by_its_first_session_and_stays_so() {
        let mut life = Life::new(State::default(), QUIET);
        assert_eq!(life.state().as_str(), "initialised");
        life.with_sessions(1, at(1));
        life.with_sessions(0, at(2));
        assert!(!life.advance(at(1000)));
        assert_eq!(life.state(), State::Allocated, "empty is not the end of a running engine");
        assert!(State::ALL.iter().all(|state| State::parse(state.as_str()) == Some(*state)));
        assert_eq!(State::parse("gone"), None);
    }

    #[test]
    fn a_signal_ends_an_engine_that_nobody_uses_and_waits_for_whoever_does() {
        let mut unused = Life::new(State::default(), QUIET);
        unused.end(Wish::Signal { deadline: at(200) }, at(1));
        assert!(unused.state() == State::WaitingToBeDeleted && unused.is_moving_over(at(1)));
        let mut life = busy();
        life.end(Wish::Signal { deadline: at(200) }, at(100));
        assert_eq!(life.state(), State::Tombstone);
        assert!(!life.state().takes_new_streams() && life.state().takes_viewers());
        life.with_sessions(0, at(110));
        assert!(!life.advance(at(139)));
        life.with_sessions(1, at(139));
        assert!(!life.advance(at(150)), "a viewer came back in time");
        life.with_sessions(0, at(160));
        assert!(life.advance(at(190)));
        assert_eq!(life.state(), State::WaitingToBeDeleted);
        assert!(life.is_moving_over(at(190)) && !life.outlives_the_process());
    }

    #[test]
    fn at_the_deadline_whoever_is_left_has_five_seconds() {
        let mut life = busy();
        life.end(Wish::Signal { deadline: at(200) }, at(100));
        life.end(Wish::Signal { deadline: at(300) }, at(101));
        assert!(!life.advance(at(199)) && life.advance(at(200)), "the first deadline counts");
        assert!(!life.state().takes_viewers() && !life.is_moving_over(at(204)));
        assert!(life.is_moving_over(at(205)));
    }

    #[test]
    fn traffic_calls_a_tombstone_back_unless_the_process_ends() {
        let mut life = busy();
        life.end(Wish::Operator, at(100));
        let mut sent = 100_000;
        let mut send = |life: &mut Life, from: u64, to: u64, each: u64| {
            for second in from..=to {
                sent += each;
                life.sent(sent, at(second));
                if life.advance(at(second)) {
                    return Some(second);
                }
            }
            None
        };
        assert_eq!(send(&mut life, 101, 200, 1200), None, "120 percent is not passed");
        assert_eq!(send(&mut life, 201, 229, 1300), None);
        assert_eq!(send(&mut life, 230, 230, 1000), None, "a break begins it anew");
        assert_eq!(send(&mut life, 231, 300, 1300), Some(261));
        assert_eq!(life.state(), State::Allocated);
        life.end(Wish::Signal { deadline: at(1000) }, at(300));
        assert_eq!(send(&mut life, 301, 400, 9000), None, "a signal is final");
        assert_eq!(life.state(), State::Tombstone);
    }

    #[test]
    fn an_operators_tombstone_has_no_deadline_and_is_kept() {
        let mut life = busy();
        life.end(Wish::Operator, at(100));
        assert!(!life.advance(at(100_000)) && life.outlives_the_process());
        life.with_sessions(0, at(100_000));
        assert!(life.advance(at(100_030)));
        let mut again = Life::new(State::WaitingToBeDeleted, QUIET);
        again.with_sessions(1, at(1));
        again.end(Wish::Operator, at(2));
        assert_eq!(again.state(), State::WaitingToBeDeleted, "final");
    }

    proptest! {
        /// The order of the states is never left, except from tombstone to allocated, and only without a signal.
        #[test]
        fn there_is_one_way_back(steps in prop::collection::vec((0_u8..5, 0_u64..40, 0_u64..100_000), 1..200)) {
            let mut life = Life::new(State::default(), QUIET);
            let (mut now, mut sent, mut signalled) = (Duration::ZERO, 0, false);
            for (what, pause, value) in steps {
                now += Duration::from_secs(pause);
                let before = life.state();
                match what {
                    0 => life.with_sessions(usize::try_from(value % 3).expect("small"), now),
                    1 => life.end(Wish::Operator, now),
                    2 if value % 10 == 0 => {
                        signalled = true;
                        life.end(Wish::Signal { deadline: now + at(60) }, now);
                    }
                    3 => {
                        sent += value;
                        life.sent(sent, now);
                    }
                    _ => {
                        life.advance(now);
                    }
                }
                let back = before == State::Tombstone && life.state() == State::Allocated;
                prop_assert!(life.state() >= before || (back && !signalled), "{:?} to {:?}", before, life.state());
            }
        }
    }
}
