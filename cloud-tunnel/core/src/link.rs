//! One end of one link: hello and version, silence and death, drain. Both ends are the same machine.
//!
//! The shell reports what comes and when ([`Link::heard`], [`Link::received`]), then does what [`Link::poll`] says
//! until it says nothing, and sleeps until [`Link::poll_timeout`] at the latest. Times are monotonic since any origin.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use proto::tunnel::control::Body;
use proto::tunnel::{Control, Drain, Hello, printable};

/// How long the other end may be silent before it is asked by a PING.
pub const SILENCE: Duration = Duration::from_millis(1300);
/// How long it may stay silent after that.
pub const LAST_CHANCE: Duration = Duration::from_millis(1500);
/// How long the other end may take for its first message.
pub const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// Why a link ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Not a byte came in [`SILENCE`] + [`LAST_CHANCE`].
    Silent,
    /// The connection worked, but nothing introduced itself.
    NoHello,
    /// The ends have no version in common; the text says which there are.
    Version(String),
    /// The other end wants no link with this one, for this reason.
    Refused(String),
    /// The other end broke the wire's rules.
    Protocol(String),
    /// A drain is over.
    Drained,
    /// The connection broke; the text is the system's.
    Broken(String),
}

impl End {
    /// The word for metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Silent => "silence",
            Self::NoHello => "no_hello",
            Self::Version(_) => "version",
            Self::Refused(_) => "refused",
            Self::Protocol(_) => "protocol",
            Self::Drained => "drained",
            Self::Broken(_) => "broken",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => write!(f, "not a byte came in {:?}", SILENCE + LAST_CHANCE),
            Self::NoHello => write!(f, "no hello came in {HELLO_LIMIT:?}; does a tunnel listen there?"),
            Self::Version(text) => f.write_str(text),
            Self::Refused(text) => write!(f, "refused by the other end: {text}"),
            Self::Protocol(text) => write!(f, "the other end broke the protocol: {text}"),
            Self::Drained => f.write_str("drained"),
            Self::Broken(text) => write!(f, "the connection broke: {text}"),
        }
    }
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this control message.
    Send(Control),
    /// Send an HTTP/2 PING.
    Ping,
    /// The link is up: both ends speak this version. Told once.
    Up {
        /// The version.
        version: u32,
        /// How the other end introduced itself.
        peer: Hello,
    },
    /// The other end takes no new streams. Told once.
    PeerDrains {
        /// When it resets those that are left.
        until: Duration,
        /// Its reason.
        reason: String,
    },
    /// Close the link; nothing follows.
    Close(End),
}

/// One end of one link.
#[derive(Debug)]
pub struct Link {
    own: Hello,
    version: Option<u32>,
    opened: Duration,
    heard: Duration,
    /// When the PING went out that nothing has answered yet.
    asked: Option<Duration>,
    /// When an own drain is over.
    drain_ends: Option<Duration>,
    peer_drains: bool,
    inbox: Vec<u8>,
    actions: VecDeque<Action>,
    closed: bool,
}

impl Link {
    /// A link whose connection stands since `now`; it introduces itself as `own`.
    #[must_use]
    pub fn new(now: Duration, own: Hello) -> Self {
        let first = Action::Send(Control::new(Body::Hello(own.clone())));
        Self {
            own,
            version: None,
            opened: now,
            heard: now,
            asked: None,
            drain_ends: None,
            peer_drains: false,
            inbox: Vec::new(),
            actions: VecDeque::from([first]),
            closed: false,
        }
    }

    /// Whether new streams may be opened: both have introduced themselves and neither drains.
    #[must_use]
    pub fn takes_streams(&self) -> bool {
        self.version.is_some() && !self.closed && !self.peer_drains && self.drain_ends.is_none()
    }

    /// Some byte came, of whatever stream, at `now`.
    pub fn heard(&mut self, now: Duration) {
        if now > self.heard {
            self.heard = now;
            self.asked = None;
        }
    }

    /// `bytes` came on the control stream. The one entry for its bytes.
    pub fn received(&mut self, now: Duration, bytes: &[u8]) {
        self.heard(now);
        if self.closed {
            return;
        }
        self.inbox.extend_from_slice(bytes);
        let mut read = 0;
        while !self.closed {
            match Control::from_frames(&self.inbox[read..]) {
                Ok(Some((control, length))) => {
                    read += length;
                    self.message(now, control);
                }
                Ok(None) => break,
                Err(error) => self.close(End::Protocol(error.to_string())),
            }
        }
        self.inbox.drain(..read);
    }

    /// The control stream is over, and so the link: in good order, or with the system's word for what broke it.
    pub fn control_ended(&mut self, error: Option<String>) {
        let draining = self.peer_drains || self.drain_ends.is_some();
        self.close(match error {
            _ if draining => End::Drained,
            Some(error) => End::Broken(error),
            None => End::Broken("the other end closed it".into()),
        });
    }

    /// Takes no new streams from here on; the link closes at `now + grace` or when [`Self::idle`] is told.
    pub fn drain(&mut self, now: Duration, grace: Duration, reason: &str) {
        if self.closed || self.drain_ends.is_some() {
            return;
        }
        self.drain_ends = Some(now + grace);
        let seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
        let drain = Drain { seconds, reason: printable(reason) };
        self.actions.push_back(Action::Send(Control::new(Body::Drain(drain))));
    }

    /// No stream is open: a drain, of either end, is over.
    pub fn idle(&mut self) {
        if self.drain_ends.is_some() || self.peer_drains {
            self.close(End::Drained);
        }
    }

    /// What to do next; `None` until something happens or [`Self::poll_timeout`] is reached.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        if !self.closed {
            self.look_at_clock(now);
        }
        self.actions.pop_front()
    }

    /// When to poll again although nothing happened; `None` after the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.closed {
            return None;
        }
        let silence = self.asked.map_or(self.heard + SILENCE, |asked| asked + LAST_CHANCE);
        let hello = self.version.is_none().then(|| self.opened + HELLO_LIMIT);
        [Some(silence), hello, self.drain_ends].into_iter().flatten().min()
    }

    fn look_at_clock(&mut self, now: Duration) {
        if self.drain_ends.is_some_and(|end| now >= end) {
            return self.close(End::Drained);
        }
        if self.version.is_none() && now >= self.opened + HELLO_LIMIT {
            return self.close(End::NoHello);
        }
        match self.asked {
            Some(asked) if now >= asked + LAST_CHANCE => self.close(End::Silent),
            None if now >= self.heard + SILENCE => {
                self.asked = Some(now);
                self.actions.push_back(Action::Ping);
            }
            _ => {}
        }
    }

    fn message(&mut self, now: Duration, control: Control) {
        match control.body {
            Some(Body::Hello(_)) if self.version.is_some() => {
                self.close(End::Protocol("a second hello".into()));
            }
            Some(Body::Hello(peer)) => self.introduced(peer),
            Some(Body::Drain(drain)) => self.peer_drains(now, &drain),
            // Not known here, or not of use on a link that has one agent.
            Some(Body::Order(_) | Body::Load(_)) | None => {}
        }
    }

    fn introduced(&mut self, peer: Hello) {
        let version = self.own.version_max.min(peer.version_max);
        if version < self.own.version_min.max(peer.version_min) || version == 0 {
            let text = format!(
                "no common version: {} to {} here, {} to {} there; update the older end",
                self.own.version_min, self.own.version_max, peer.version_min, peer.version_max
            );
            let drain = Drain { seconds: 0, reason: printable(&text) };
            self.actions.push_back(Action::Send(Control::new(Body::Drain(drain))));
            return self.close(End::Version(text));
        }
        self.version = Some(version);
        self.actions.push_back(Action::Up { version, peer });
    }

    fn peer_drains(&mut self, now: Duration, drain: &Drain) {
        if self.version.is_none() {
            return self.close(End::Refused(printable(&drain.reason)));
        }
        if !self.peer_drains {
            self.peer_drains = true;
            let until = now + Duration::from_secs(drain.seconds.into());
            self.actions.push_back(Action::PeerDrains { until, reason: printable(&drain.reason) });
        }
    }

    fn close(&mut self, end: End) {
        if !self.closed {
            self.closed = true;
            self.actions.push_back(Action::Close(end));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn hello(version_min: u32, version_max: u32) -> Hello {
        Hello { version_min, version_max, id: "x".into(), max_streams: 2048, ..Hello::default() }
    }

    fn frame(body: Body) -> Vec<u8> {
        Control::new(body).to_frame()
    }

    fn up() -> Link {
        let mut link = Link::new(ms(0), hello(1, 1));
        assert!(matches!(link.poll(ms(0)), Some(Action::Send(_))));
        link.received(ms(0), &frame(Body::Hello(hello(1, 1))));
        assert!(matches!(link.poll(ms(0)), Some(Action::Up { version: 1, .. })));
        assert_eq!(link.poll(ms(0)), None);
        link
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        for (own, peer, version) in [((1, 1), (1, 2), 1), ((1, 3), (2, 5), 3), ((2, 3), (1, 2), 2)] {
            let mut link = Link::new(ms(0), hello(own.0, own.1));
            link.poll(ms(0));
            link.received(ms(1), &frame(Body::Hello(hello(peer.0, peer.1))));
            assert!(matches!(link.poll(ms(1)), Some(Action::Up { version: v, .. }) if v == version));
            assert!(link.takes_streams());
        }
    }

    #[test]
    fn without_a_common_version_the_other_end_is_told_why() {
        for (min, max) in [(0, 0), (2, 2), (7, 3)] {
            let mut link = Link::new(ms(0), hello(1, 1));
            link.poll(ms(0));
            link.received(ms(1), &frame(Body::Hello(hello(min, max))));
            let Some(Action::Send(Control { body: Some(Body::Drain(drain)) })) = link.poll(ms(1)) else {
                panic!("a drain first");
            };
            assert!(drain.reason.contains("update the older end"), "{drain:?}");
            assert!(matches!(link.poll(ms(1)), Some(Action::Close(End::Version(_)))));
            assert!(!link.takes_streams());
        }
    }

    #[test]
    fn a_silent_end_is_asked_once_and_dead_within_three_seconds() {
        let mut link = up();
        assert_eq!(link.poll_timeout(), Some(ms(1300)));
        assert_eq!(link.poll(ms(1299)), None);
        assert_eq!(link.poll(ms(1300)), Some(Action::Ping));
        assert_eq!((link.poll(ms(1400)), link.poll_timeout()), (None, Some(ms(2800))));
        assert_eq!(link.poll(ms(2800)), Some(Action::Close(End::Silent)));
        assert_eq!((link.poll(ms(9000)), link.poll_timeout()), (None, None));
    }

    #[test]
    fn any_byte_is_life() {
        let mut link = up();
        assert_eq!(link.poll(ms(1300)), Some(Action::Ping));
        link.heard(ms(2700));
        assert_eq!((link.poll(ms(2800)), link.poll_timeout()), (None, Some(ms(4000))));
        assert_eq!(link.poll(ms(4000)), Some(Action::Ping));
    }

    #[test]
    fn what_answers_pings_but_never_introduces_itself_is_no_tunnel() {
        let mut link = Link::new(ms(0), hello(1, 1));
        link.poll(ms(0));
        for time in (0..5000).step_by(100) {
            link.heard(ms(time));
            assert_eq!(link.poll(ms(time)), None);
        }
        assert_eq!(link.poll(ms(5000)), Some(Action::Close(End::NoHello)));
    }

    #[test]
    fn a_drain_stops_new_streams_at_both_ends_and_ends_when_idle_or_late() {
        let (mut here, mut there) = (up(), up());
        here.drain(ms(10), ms(30_000), "restart");
        let Some(Action::Send(control)) = here.poll(ms(10)) else { panic!("a drain") };
        there.received(ms(20), &control.to_frame());
        let told = Action::PeerDrains { until: ms(30_020), reason: "restart".into() };
        assert_eq!(there.poll(ms(20)), Some(told));
        assert!(!here.takes_streams() && !there.takes_streams());
        there.idle();
        assert_eq!(there.poll(ms(21)), Some(Action::Close(End::Drained)));
        here.heard(ms(30_000));
        assert_eq!(here.poll(ms(30_010)), Some(Action::Close(End::Drained)));
        let mut busy = up();
        busy.idle();
        assert_eq!(busy.poll(ms(1)), None, "idle alone is no end");
    }

    #[test]
    fn what_breaks_the_rules_ends_the_link() {
        for bytes in [frame(Body::Hello(hello(1, 1))), vec![0xff; 5], vec![0, 0, 0, 1, 0xff]] {
            let mut link = up();
            link.received(ms(1), &bytes);
            assert!(matches!(link.poll(ms(1)), Some(Action::Close(End::Protocol(_)))), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_from_outside_never_panic_and_hold_no_more_than_a_frame(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40)
        ) {
            let mut link = up();
            for piece in pieces {
                link.received(ms(1), &piece);
                prop_assert!(link.inbox.len() <= 4 + proto::tunnel::MAX_CONTROL_BYTES + 300);
            }
        }

        #[test]
        fn a_mutated_conversation_is_read_alike_however_it_is_cut(at in 0..200_usize, byte: u8, cut in 1..7_usize) {
            let mut bytes = frame(Body::Hello(hello(1, 1)));
            bytes.extend(frame(Body::Load(proto::tunnel::Load { streams: 1, buffered_bytes: 2 })));
            bytes.extend(frame(Body::Drain(Drain { seconds: 30, reason: "restart".into() })));
            let at = at % bytes.len();
            bytes[at] = byte;
            let run = |chunk: usize| {
                let mut link = Link::new(ms(0), hello(1, 1));
                bytes.chunks(chunk).for_each(|piece| link.received(ms(1), piece));
                std::iter::from_fn(|| link.poll(ms(1))).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(bytes.len()), run(cut));
        }

        #[test]
        fn a_link_ends_once_and_a_live_one_always_has_a_time_to_look_again(
            steps in proptest::collection::vec((0..5_u8, 0..2000_u64), 0..80)
        ) {
            let (mut link, mut now, mut closes) = (up(), 0, 0);
            for (step, later) in steps {
                now += later;
                match step {
                    0 => link.heard(ms(now)),
                    1 => link.received(ms(now), &frame(Body::Load(proto::tunnel::Load::default()))),
                    2 => link.drain(ms(now), ms(5000), "x"),
                    3 => link.idle(),
                    _ => {}
                }
                while let Some(action) = link.poll(ms(now)) {
                    prop_assert_eq!(closes, 0, "nothing follows the end");
                    closes += usize::from(matches!(action, Action::Close(_)));
                }
                prop_assert_eq!(link.poll_timeout().is_none(), closes == 1);
                if let Some(timeout) = link.poll_timeout() {
                    prop_assert!(timeout > ms(now));
                }
            }
        }
    }
}
