//! Whether an engine may be removed: initialised until its first session, then allocated, a tombstone once it is told to
//! end, and waiting to be deleted when nobody is left.

/// Where an engine stands. The order is the way that it goes; from [`Self::WaitingToBeDeleted`] there is none back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No session came yet.
    #[default]
    Initialised,
    /// It has, or had, sessions.
    Allocated,
    /// It was told to end: no new rooms, viewers of streams that are here still come in.
    Tombstone,
    /// Nobody is left; the process may go.
    WaitingToBeDeleted,
}

impl State {
    /// The word for logs, metrics and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialised => "initialised",
            Self::Allocated => "allocated",
            Self::Tombstone => "tombstone",
            Self::WaitingToBeDeleted => "waiting-to-be-deleted",
        }
    }

    /// After a session was let in.
    #[must_use]
    pub fn with_session(self) -> Self {
        self.max(Self::Allocated)
    }

    /// After the process was told to end, with this many sessions open.
    #[must_use]
    pub fn told_to_end(self, sessions: usize) -> Self {
        if sessions == 0 { Self::WaitingToBeDeleted } else { self.max(Self::Tombstone) }
    }

    /// After a session ended and left this many.
    #[must_use]
    pub fn with_sessions_left(self, sessions: usize) -> Self {
        if self == Self::Tombstone { self.told_to_end(sessions) } else { self }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_goes_through_its_states_in_order() {
        let state = State::default();
        assert_eq!(state.as_str(), "initialised");
        assert_eq!(state.with_sessions_left(0), State::Initialised);
        assert_eq!(state.told_to_end(0), State::WaitingToBeDeleted);
        let state = state.with_session();
        assert_eq!(state, State::Allocated);
        assert_eq!(state.with_sessions_left(0), State::Allocated, "empty is not the end of a running engine");
        let state = state.told_to_end(2);
        assert_eq!(state, State::Tombstone);
        assert!(!state.takes_new_streams() && state.takes_viewers());
        assert_eq!(state.with_session(), State::Tombstone, "a viewer does not wake it");
        assert_eq!(state.with_sessions_left(1), State::Tombstone);
        let state = state.with_sessions_left(0);
        assert_eq!(state, State::WaitingToBeDeleted);
        assert!(!state.takes_viewers());
        assert_eq!(state.told_to_end(1), State::WaitingToBeDeleted, "final");
    }
}
