//! The life of one session: new, connecting, live, ended; and the times after which a silent one is over.

use std::time::Duration;

use crate::Role;

/// How long a session may take from its offer until it is live.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a live session may be without any authentic packet, consent checks included.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionState {
    /// Its offer was answered.
    New,
    /// A first packet came that proved to know our password.
    Connecting,
    /// DTLS is done; of a publisher, media came, too.
    Live,
}

impl SessionState {
    /// Every state, in order.
    pub const ALL: [Self; 3] = [Self::New, Self::Connecting, Self::Live];

    /// The word for metrics and status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Connecting => "connecting",
            Self::Live => "live",
        }
    }
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its owner deleted it.
    Deleted,
    /// The other side said goodbye, or its transport failed.
    Closed,
    /// A newer publisher of the same subject took its place.
    TakenOver,
    /// It was not live in time.
    NeverLive,
    /// It fell silent.
    Silent,
    /// Its stream ended.
    StreamEnded,
    /// The publisher sends by a codec that the viewer does not take: it has to come again with another offer.
    OtherCodec,
    /// The engine ends.
    Shutdown,
}

impl End {
    /// The words for the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted by its owner",
            Self::Closed => "closed by the other side",
            Self::TakenOver => "taken over by the same subject",
            Self::NeverLive => "not live within 10 s: do UDP packets reach the engine's media port?",
            Self::Silent => "no authentic packet for 30 s",
            Self::StreamEnded => "its stream has ended",
            Self::OtherCodec => "its stream has another codec now: a new offer may agree on it",
            Self::Shutdown => "the engine ends",
        }
    }
}

/// What an engine knows of a session by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Here,
    /// A newer publisher of the same subject took its place: who comes back would take it from that one.
    TakenOver,
    /// It is over, or was never there; after a restart nobody is known.
    Unknown,
}

/// One session's life. Times are since the engine's start.
#[derive(Debug, Clone)]
pub struct Session {
    role: Role,
    began: Duration,
    last_authentic: Duration,
    connected: bool,
    media: bool,
    state: SessionState,
}

impl Session {
    /// A session whose offer was answered at `now`.
    #[must_use]
    pub fn new(role: Role, now: Duration) -> Self {
        let state = SessionState::New;
        Self { role, began: now, last_authentic: now, connected: false, media: false, state }
    }

    /// Publisher or viewer.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// When its offer was answered.
    #[must_use]
    pub fn began(&self) -> Duration {
        self.began
    }

    /// A packet came that only the other side can have sent.
    pub fn on_authentic(&mut self, now: Duration) {
        self.last_authentic = self.last_authentic.max(now);
        self.state = self.state.max(SessionState::Connecting);
    }

    /// ICE and DTLS are done. Returns whether the session is live by that.
    pub fn on_connected(&mut self) -> bool {
        self.connected = true;
        self.advance()
    }

    /// Media came in. Returns whether the session is live by that.
    pub fn on_media(&mut self, now: Duration) -> bool {
        self.on_authentic(now);
        self.media = true;
        self.advance()
    }

    fn advance(&mut self) -> bool {
        let live = self.connected && (self.media || self.role == Role::Viewer);
        let newly = live && self.state != SessionState::Live;
        if newly {
            self.state = SessionState::Live;
        }
        newly
    }

    /// When [`Self::poll`] is to be asked next.
    #[must_use]
    pub fn poll_timeout(&self) -> Duration {
        if self.state == SessionState::Live {
            self.last_authentic + SILENCE_LIMIT
        } else {
            self.began + CONNECT_LIMIT
        }
    }

    /// Why the session is over at `now`, if it is.
    #[must_use]
    pub fn poll(&self, now: Duration) -> Option<End> {
        let reason = if self.state == SessionState::Live { End::Silent } else { End::NeverLive };
        (now >= self.poll_timeout()).then_some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_publisher_is_live_with_its_first_media_and_a_viewer_with_dtls() {
        let mut publisher = Session::new(Role::Publisher, at(1));
        publisher.on_authentic(at(2));
        assert_eq!(publisher.state(), SessionState::Connecting);
        assert!(!publisher.on_connected());
        assert!(publisher.on_media(at(3)));
        assert!(!publisher.on_media(at(4)), "told once");
        let mut viewer = Session::new(Role::Viewer, at(1));
        assert!(viewer.on_connected());
        assert_eq!(viewer.state(), SessionState::Live);
    }

    #[test]
    fn who_is_not_live_in_time_or_falls_silent_is_over() {
        let mut session = Session::new(Role::Viewer, at(5));
        session.on_authentic(at(14));
        assert_eq!((session.poll(at(14)), session.poll_timeout()), (None, at(15)));
        assert_eq!(session.poll(at(15)), Some(End::NeverLive));
        session.on_connected();
        assert_eq!((session.poll(at(15)), session.poll_timeout()), (None, at(44)));
        session.on_authentic(at(40));
        session.on_authentic(at(39));
        assert_eq!(session.poll(at(69)), None, "time does not go back");
        assert_eq!(session.poll(at(70)), Some(End::Silent));
    }
}
