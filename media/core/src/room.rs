//! Which streams there are: one publisher and any number of viewers each, take-over by the same subject, and the time that
//! viewers wait for a publisher that vanished.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{SessionId, StreamName};

/// How long a stream whose publisher is gone waits for its return.
pub const WAIT_LIMIT: Duration = Duration::from_secs(15);

/// Why a session was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another subject publishes the stream, or did until a moment ago.
    #[error("another subject publishes this stream")]
    Taken,
    /// Nobody publishes the stream.
    #[error("nobody publishes this stream")]
    Nobody,
}

/// One stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    publisher: Option<SessionId>,
    /// A newer session of the same subject, which takes the publisher's place once it is live.
    next: Option<SessionId>,
    /// Who may publish: the subject of the publisher, also while the stream waits for it; none after an orderly end.
    subject: Option<Box<str>>,
    viewers: BTreeSet<SessionId>,
    waiting_since: Option<Duration>,
}

impl Stream {
    /// The session that publishes; none while the stream waits.
    #[must_use]
    pub fn publisher(&self) -> Option<SessionId> {
        self.publisher
    }

    /// The sessions that play.
    #[must_use]
    pub fn viewers(&self) -> &BTreeSet<SessionId> {
        &self.viewers
    }
}

/// All streams of an engine.
#[derive(Debug, Default)]
pub struct Streams {
    streams: BTreeMap<StreamName, Stream>,
    sessions: BTreeMap<SessionId, StreamName>,
}

impl Streams {
    /// Every stream by its name.
    pub fn iter(&self) -> impl Iterator<Item = (&StreamName, &Stream)> {
        self.streams.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The stream of that name.
    #[must_use]
    pub fn get(&self, name: &StreamName) -> Option<&Stream> {
        self.streams.get(name)
    }

    /// The stream that a session publishes or plays.
    #[must_use]
    pub fn of(&self, session: SessionId) -> Option<(&StreamName, &Stream)> {
        self.streams.get_key_value(self.sessions.get(&session)?)
    }

    /// Whether `subject` may publish `name` now.
    ///
    /// # Errors
    /// [`Conflict::Taken`].
    pub fn may_publish(&self, name: &StreamName, subject: &str) -> Result<(), Conflict> {
        let owner = self.streams.get(name).and_then(|stream| stream.subject.as_deref());
        if owner.is_none_or(|owner| owner == subject) { Ok(()) } else { Err(Conflict::Taken) }
    }

    /// Lets a publisher in. While another session publishes, that one goes on until the new one is live, [`Self::live`].
    /// Returns the session that waited for the same place and has lost it.
    ///
    /// # Errors
    /// [`Conflict::Taken`].
    pub fn publish(
        &mut self,
        name: &StreamName,
        session: SessionId,
        subject: &str,
    ) -> Result<Option<SessionId>, Conflict> {
        self.may_publish(name, subject)?;
        let stream = self.streams.entry(name.clone()).or_default();
        stream.subject = Some(subject.into());
        stream.waiting_since = None;
        let place = if stream.publisher.is_none() { &mut stream.publisher } else { &mut stream.next };
        let former = place.replace(session);
        if let Some(former) = former {
            self.sessions.remove(&former);
        }
        self.sessions.insert(session, name.clone());
        Ok(former)
    }

    /// A session is live. Returns the publisher whose place it takes by that; its viewers stay.
    pub fn live(&mut self, session: SessionId) -> Option<SessionId> {
        let stream = self.streams.get_mut(self.sessions.get(&session)?)?;
        if stream.next != Some(session) {
            return None;
        }
        let former = std::mem::replace(&mut stream.publisher, stream.next.take())?;
        self.sessions.remove(&former);
        Some(former)
    }

    /// Lets a viewer in.
    ///
    /// # Errors
    /// [`Conflict::Nobody`].
    pub fn play(&mut self, name: &StreamName, session: SessionId) -> Result<(), Conflict> {
        let stream = self.streams.get_mut(name).ok_or(Conflict::Nobody)?;
        stream.viewers.insert(session);
        self.sessions.insert(session, name.clone());
        Ok(())
    }

    /// A session has ended. After an orderly end of its publisher anybody may publish the stream; else it is kept for the
    /// same subject. Either way its viewers wait.
    pub fn leave(&mut self, session: SessionId, orderly: bool, now: Duration) {
        let Some(name) = self.sessions.remove(&session) else { return };
        let Some(stream) = self.streams.get_mut(&name) else { return };
        stream.viewers.remove(&session);
        if stream.next == Some(session) {
            stream.next = None;
        }
        if stream.publisher == Some(session) {
            stream.publisher = stream.next.take();
            if stream.publisher.is_none() {
                stream.waiting_since = Some(now);
                if orderly {
                    stream.subject = None;
                }
            }
        }
        if orderly && stream.publisher.is_none() && stream.subject.is_none() && stream.viewers.is_empty() {
            self.streams.remove(&name);
        }
    }

    /// When [`Self::poll`] is to be asked next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.streams.values().filter_map(|stream| stream.waiting_since).min().map(|since| since + WAIT_LIMIT)
    }

    /// Ends the streams that have waited long enough; returns the viewers that are left without one.
    pub fn poll(&mut self, now: Duration) -> Vec<SessionId> {
        let over = |stream: &Stream| {
            stream.waiting_since.is_some_and(|since| now >= since.saturating_add(WAIT_LIMIT))
        };
        let names: Vec<StreamName> =
            self.streams.iter().filter(|(_, stream)| over(stream)).map(|(name, _)| name.clone()).collect();
        let ended = names.iter().filter_map(|name| self.streams.remove(name));
        let viewers: Vec<SessionId> = ended.flat_map(|stream| stream.viewers).collect();
        for viewer in &viewers {
            self.sessions.remove(viewer);
        }
        viewers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn name() -> StreamName {
        StreamName { room: "hall".into(), stream: "cam".into() }
    }

    const FIRST: SessionId = SessionId(1);
    const SECOND: SessionId = SessionId(2);
    const VIEWER: SessionId = SessionId(3);

    #[test]
    fn the_same_subject_takes_over_and_another_does_not() {
        let mut streams = Streams::default();
        assert_eq!(streams.play(&name(), VIEWER), Err(Conflict::Nobody));
        assert_eq!(streams.publish(&name(), FIRST, "ann"), Ok(None));
        streams.play(&name(), VIEWER).expect("somebody publishes");
        assert_eq!(streams.publish(&name(), SECOND, "bob"), Err(Conflict::Taken));
        assert_eq!(streams.publish(&name(), SECOND, "ann"), Ok(None));
        assert_eq!(
            streams.get(&name()).and_then(Stream::publisher),
            Some(FIRST),
            "the second is not live yet"
        );
        assert_eq!(streams.live(FIRST), None);
        assert_eq!((streams.live(SECOND), streams.live(SECOND)), (Some(FIRST), None));
        streams.leave(FIRST, false, at(1));
        let stream = streams.get(&name()).expect("it is there");
        assert_eq!((stream.publisher(), stream.viewers().len()), (Some(SECOND), 1));
        assert_eq!(streams.poll_timeout(), None);
    }

    #[test]
    fn a_take_over_that_never_gets_there_takes_nothing() {
        let mut streams = Streams::default();
        streams.publish(&name(), FIRST, "ann").expect("free");
        streams.publish(&name(), SECOND, "ann").expect("the same subject");
        let third = SessionId(4);
        assert_eq!(streams.publish(&name(), third, "ann"), Ok(Some(SECOND)), "the newest one is meant");
        streams.leave(SECOND, false, at(1));
        streams.leave(third, false, at(11));
        let publisher = |streams: &Streams| streams.get(&name()).and_then(Stream::publisher);
        assert_eq!((publisher(&streams), streams.poll_timeout()), (Some(FIRST), None));
        streams.publish(&name(), SECOND, "ann").expect("the same subject");
        streams.leave(FIRST, true, at(12));
        assert_eq!((publisher(&streams), streams.poll_timeout()), (Some(SECOND), None), "it need not wait");
        assert_eq!(streams.publish(&name(), FIRST, "bob"), Err(Conflict::Taken));
    }

    #[test]
    fn viewers_wait_for_a_publisher_that_vanished() {
        let mut streams = Streams::default();
        streams.publish(&name(), FIRST, "ann").expect("free");
        streams.play(&name(), VIEWER).expect("somebody publishes");
        streams.leave(FIRST, false, at(10));
        assert_eq!(streams.publish(&name(), SECOND, "bob"), Err(Conflict::Taken), "it may come back");
        assert_eq!(streams.poll_timeout(), Some(at(25)));
        assert!(streams.poll(at(24)).is_empty());
        assert_eq!(streams.publish(&name(), SECOND, "ann"), Ok(None));
        assert!(streams.poll(at(99)).is_empty() && streams.of(VIEWER).is_some(), "it came back");
        streams.leave(SECOND, false, at(100));
        assert_eq!(streams.poll(at(115)), [VIEWER]);
        assert!(streams.is_empty() && streams.of(VIEWER).is_none());
        assert_eq!(streams.publish(&name(), FIRST, "bob"), Ok(None));
    }

    #[test]
    fn after_an_orderly_end_anybody_may_publish() {
        let mut streams = Streams::default();
        streams.publish(&name(), FIRST, "ann").expect("free");
        streams.leave(FIRST, true, at(1));
        assert!(streams.is_empty(), "nobody waits");
        streams.publish(&name(), FIRST, "ann").expect("free");
        streams.play(&name(), VIEWER).expect("somebody publishes");
        streams.leave(FIRST, true, at(2));
        assert_eq!(streams.publish(&name(), SECOND, "bob"), Ok(None));
        assert!(streams.get(&name()).is_some_and(|stream| stream.viewers().contains(&VIEWER)));
    }
}
