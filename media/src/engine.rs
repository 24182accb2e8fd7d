//! Every session of a worker and what passes between them, driven by datagrams, offers and the time; whoever drives it has
//! the socket.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use media_core::{
    Role, SessionId, StreamName, TrackKind,
    admission::{HALF_OPEN_PER_ADDRESS, network_of},
    cache::{self, Groups},
    forward::Forward,
    layer::{Choice, FIRST_ESTIMATE, Layers},
    offer,
    room::{Stream, Streams},
    sdpfrag,
    session::{End, Presence, Session, SessionState},
    state::{Life, State, Wish},
    whip::Refusal,
};
use ring::rand::{SecureRandom as _, SystemRandom};

mod fanout;
mod listeners;
mod member;
mod restart;

use self::member::Member;
use crate::{
    call::{Offer, Opened, Snapshot, StreamStatus, retry_after},
    endpoint::{Endpoint, Endpoints, Event, OfferError, Output, Packet},
    events::SessionEvent,
    metrics::{Direction, Metrics},
};

/// Most addresses by which the other side of one session is known; the one that was heard longest ago is forgotten.
const MAX_ADDRESSES: usize = 8;
/// Most turns of one session without the time moving: what wants more is not getting anywhere.
const MAX_TURNS: usize = 32;

/// How many sessions that were taken over are remembered, so that their owners learn it and do not come back.
const MAX_REMEMBERED: usize = 256;

/// Who sends datagrams.
pub trait Sender {
    /// Sends one, or drops it.
    fn send(&mut self, to: SocketAddr, datagram: &[u8]);
}

/// Where an engine stands, for those outside of its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// Whether a restart of the container must not forget it.
    pub outlives_the_process: bool,
    /// Whether the process may go: nobody is left, or has had the time to move.
    pub is_over: bool,
}

/// The sessions of one worker.
pub struct Engine {
    endpoints: Box<dyn Endpoints>,
    max_sessions: usize,
    metrics: Arc<Metrics>,
    began: Instant,
    random: SystemRandom,
    life: Life,
    /// Bytes of all datagrams.
    sent: u64,
    members: BTreeMap<SessionId, Member>,
    timeouts: BTreeSet<(Instant, SessionId)>,
    by_user: HashMap<String, SessionId>,
    by_address: HashMap<SocketAddr, SessionId>,
    streams: Streams,
    layers: BTreeMap<StreamName, Layers>,
    /// What late viewers begin with.
    groups: Groups<Packet>,
    /// Sessions that were taken over, the newest last.
    taken_over: VecDeque<SessionId>,
}

impl Engine {
    /// An engine without sessions.
    #[must_use]
    pub fn new(
        endpoints: Box<dyn Endpoints>,
        max_sessions: usize,
        life: Life,
        metrics: Arc<Metrics>,
        began: Instant,
    ) -> Self {
        Self {
            endpoints,
            max_sessions,
            metrics,
            began,
            random: SystemRandom::new(),
            life,
            sent: 0,
            members: BTreeMap::new(),
            timeouts: BTreeSet::new(),
            by_user: HashMap::new(),
            by_address: HashMap::new(),
            streams: Streams::default(),
            layers: BTreeMap::new(),
            groups: Groups::new(cache::MAX_BYTES),
            taken_over: VecDeque::new(),
        }
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// Where the engine stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.life.state()
    }

    /// The same, and what follows from it.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        Standing {
            state: self.life.state(),
            outlives_the_process: self.life.outlives_the_process(),
            is_over: self.life.is_moving_over(self.since(now)),
        }
    }

    /// Whether nothing has to be looked at.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.members.is_empty() && self.streams.is_empty()
    }

    /// What is known of a session.
    #[must_use]
    pub fn presence(&self, session: SessionId) -> Presence {
        if self.members.contains_key(&session) {
            Presence::Here
        } else if self.taken_over.contains(&session) {
            Presence::TakenOver
        } else {
            Presence::Unknown
        }
    }

    /// What there is.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let status = |(name, stream): (&StreamName, &Stream)| {
            let publisher = stream.publisher().and_then(|id| self.members.get(&id));
            StreamStatus {
                room: name.room.clone(),
                stream: name.stream.clone(),
                live: publisher.is_some_and(|member| member.session.state() == SessionState::Live),
                viewers: stream.viewers().len(),
                codecs: publisher.iter().flat_map(|m| m.codecs.values().map(|codec| codec.name)).collect(),
            }
        };
        Snapshot { sessions: self.members.len(), streams: self.streams.iter().map(status).collect() }
    }

    /// Answers an offer.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn open(&mut self, offer: Offer, now: Instant, wire: &mut dyn Sender) -> Result<Opened, Refusal> {
        self.admit(&offer)?;
        let sdp = offer::check(&offer.sdp, offer.role)?;
        let remote = sdpfrag::of_offer(&sdp);
        let publisher = self.streams.get(&offer.stream).and_then(Stream::publisher);
        let layered = publisher.and_then(|id| self.members.get(&id)).is_some_and(|m| m.endpoint.is_layered());
        let answered =
            self.endpoints.answer(&sdp, offer.role, layered, now).map_err(|error| refusal(&error))?;
        if offer.role == Role::Viewer {
            self.codecs_in_common(&offer.stream, &*answered.endpoint)?;
        }
        let session = SessionId(u128::from_be_bytes(self.random_bytes()?));
        let since = self.since(now);
        let [first, second, third, fourth] = self.random_bytes()?;
        let mut former = None;
        match offer.role {
            Role::Publisher => {
                former = self.streams.publish(&offer.stream, session, &offer.subject)?;
                self.layers.entry(offer.stream.clone()).or_default();
            }
            Role::Viewer => {
                self.streams.play(&offer.stream, session)?;
            }
        }
        let member = Member {
            endpoint: answered.endpoint,
            session: Session::new(offer.role, since),
            subject: offer.subject.clone(),
            offer: sdp,
            remote,
            user: answered.user.clone(),
            former_user: None,
            client: network_of(offer.address),
            addresses: Vec::new(),
            timeout: now,
            audio: Forward::new(TrackKind::Audio, u16::from_be_bytes([first, second])),
            video: Forward::new(TrackKind::Video, u16::from_be_bytes([third, fourth])),
            choice: Choice::default(),
            estimate: FIRST_ESTIMATE,
            codecs: BTreeMap::new(),
            listeners: Vec::new(),
            told_layers: Vec::new(),
        };
        self.members.insert(session, member);
        self.timeouts.insert((now, session));
        self.by_user.insert(answered.user.clone(), session);
        self.life.with_sessions(self.members.len(), since);
        // The new member is there first: a tombstone that nobody is left in ends.
        if let Some(former) = former {
            self.end(former, End::TakenOver, now, wire);
        }
        let (stream, subject) = (offer.stream, offer.subject);
        tracing::info!(role = offer.role.as_str(), %stream, %subject, %session, "a session begins");
        Ok(Opened { session, sdp: answered.sdp, tag: answered.user })
    }

    fn admit(&self, offer: &Offer) -> Result<(), Refusal> {
        let (here, state) = (self.streams.get(&offer.stream).is_some(), self.life.state());
        let taken = match offer.role {
            Role::Publisher => state.takes_new_streams() || (here && state.takes_viewers()),
            Role::Viewer => state.takes_viewers(),
        };
        if !taken {
            return Err(Refusal::ends(retry_after()));
        }
        if self.members.len() >= self.max_sessions {
            return Err(Refusal::full(retry_after()));
        }
        let client = network_of(offer.address);
        let half_open =
            |member: &&Member| member.client == client && member.session.state() != SessionState::Live;
        if self.members.values().filter(half_open).count() >= HALF_OPEN_PER_ADDRESS {
            return Err(Refusal::too_many_half_open());
        }
        match offer.role {
            Role::Publisher => self.streams.may_publish(&offer.stream, &offer.subject)?,
            Role::Viewer if here => {}
            Role::Viewer => return Err(media_core::room::Conflict::Nobody.into()),
        }
        Ok(())
    }

    /// A viewer must be able to decode what is sent; of a track that sends nothing yet, something that may be sent.
    fn codecs_in_common(&self, stream: &StreamName, viewer: &dyn Endpoint) -> Result<(), Refusal> {
        let publisher = self.streams.get(stream).and_then(|stream| self.members.get(&stream.publisher()?));
        let Some(publisher) = publisher else { return Ok(()) };
        for kind in TrackKind::ALL {
            let mut sent = publisher.endpoint.codecs(kind);
            if let Some(codec) = publisher.codecs.get(&kind) {
                sent = vec![codec.clone()];
            }
            let played = viewer.codecs(kind);
            if !sent.is_empty() && !played.is_empty() && !sent.iter().any(|codec| played.contains(codec)) {
                let names: Vec<&str> = sent.iter().map(|codec| codec.name).collect();
                return Err(Refusal::no_codec(format!(
                    "the stream has {}, which the offer has not",
                    names.join(", ")
                )));
            }
        }
        Ok(())
    }

    fn random_bytes<const N: usize>(&self) -> Result<[u8; N], Refusal> {
        let mut bytes = [0; N];
        let filled = self.random.fill(&mut bytes);
        filled.map_err(|_| Refusal::new(500, "random", "the system gives no randomness"))?;
        Ok(bytes)
    }

    /// Ends a session at its owner's word; false if there is none.
    pub fn close(&mut self, session: SessionId, now: Instant, wire: &mut dyn Sender) -> bool {
        let there = self.members.contains_key(&session);
        self.end(session, End::Deleted, now, wire);
        there
    }

    /// The engine is to end: by a signal until `deadline`, else for an operator.
    pub fn end_wanted(&mut self, deadline: Option<Instant>, now: Instant) {
        let wish = match deadline {
            Some(deadline) => Wish::Signal { deadline: self.since(deadline) },
            None => Wish::Operator,
        };
        self.life.end(wish, self.since(now));
        tracing::info!(state = self.life.state().as_str(), "the engine is to end");
    }

    /// Says goodbye to everybody.
    pub fn end_all(&mut self, now: Instant, wire: &mut dyn Sender) {
        let sessions: Vec<SessionId> = self.members.keys().copied().collect();
        for session in sessions {
            self.end(session, End::Shutdown, now, wire);
        }
    }

    fn end(&mut self, session: SessionId, why: End, now: Instant, wire: &mut dyn Sender) {
        let Some(mut member) = self.members.remove(&session) else { return };
        member.endpoint.close();
        for _ in 0..MAX_TURNS {
            match member.endpoint.poll() {
                Output::Transmit { to, datagram } => wire.send(to, &datagram),
                Output::Event(_) => {}
                Output::Timeout(_) => break,
            }
        }
        self.timeouts.remove(&(member.timeout, session));
        for user in [Some(&member.user), member.former_user.as_ref()].into_iter().flatten() {
            self.by_user.remove(user);
        }
        for address in &member.addresses {
            self.forget(*address, session);
        }
        let lasted = self.since(now).saturating_sub(member.session.began());
        let (role, why_text) = (member.session.role().as_str(), why.as_str());
        tracing::info!(role, %session, ?lasted, why = why_text, "a session ends");
        if why == End::TakenOver {
            self.taken_over.push_back(session);
            while self.taken_over.len() > MAX_REMEMBERED {
                self.taken_over.pop_front();
            }
        }
        let stream = self.streams.of(session).map(|(name, _)| name.clone());
        self.streams.leave(session, why == End::Deleted, self.since(now));
        if let Some(stream) = stream.filter(|_| member.session.role() == Role::Publisher) {
            self.tell_viewers(&stream);
        }
        self.life.with_sessions(self.members.len(), self.since(now));
    }

    /// Takes a datagram in.
    pub fn datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant, wire: &mut dyn Sender) {
        // RFC 7983: 0 to 3 is STUN, which alone may come from an address that is not known.
        let is_stun = datagram.first().is_some_and(|first| *first < 4);
        let session = if is_stun {
            self.endpoints.user(datagram).and_then(|user| self.by_user.get(user)).copied()
        } else {
            self.by_address.get(&from).copied()
        };
        let Some(session) = session else { return self.metrics.dropped("no_session") };
        let since = self.since(now);
        let Some(member) = self.members.get_mut(&session) else { return };
        if !member.endpoint.accepts(from, datagram, now) {
            return self.metrics.dropped("not_authentic");
        }
        if is_stun {
            member.session.on_authentic(since);
            if !self.locate(session, from) {
                return self.metrics.dropped("address_taken");
            }
        }
        let Some(member) = self.members.get_mut(&session) else { return };
        member.endpoint.receive(from, datagram, now);
        self.drain(session, now, wire);
    }

    fn is_live(&self, session: SessionId) -> bool {
        self.members.get(&session).is_some_and(|member| member.session.state() == SessionState::Live)
    }

    /// Notes that `session` was heard from `address`. False if a live session is there and this one is not live: a source is
    /// easily forged, and whoever takes a live session's address takes its media.
    fn locate(&mut self, session: SessionId, address: SocketAddr) -> bool {
        let owner = self.by_address.get(&address).copied().filter(|owner| *owner != session);
        if owner.is_some_and(|owner| self.is_live(owner)) && !self.is_live(session) {
            return false;
        }
        let Some(member) = self.members.get_mut(&session) else { return false };
        member.addresses.retain(|known| *known != address);
        member.addresses.push(address);
        let oldest = (member.addresses.len() > MAX_ADDRESSES).then(|| member.addresses.remove(0));
        self.by_address.insert(address, session);
        if let Some(oldest) = oldest {
            self.forget(oldest, session);
        }
        true
    }

    /// `session` is not at `address` any more; another session may be.
    fn forget(&mut self, address: SocketAddr, session: SessionId) {
        if self.by_address.get(&address) == Some(&session) {
            self.by_address.remove(&address);
        }
    }

    /// When [`Self::handle_timeouts`] is to be called next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timeouts.first().map(|(at, _)| *at)
    }

    /// Lets every session act whose time has come.
    pub fn handle_timeouts(&mut self, now: Instant, wire: &mut dyn Sender) {
        let due: Vec<SessionId> =
            self.timeouts.iter().take_while(|(at, _)| *at <= now).map(|(_, session)| *session).collect();
        for session in due {
            let Some(member) = self.members.get_mut(&session) else { continue };
            member.endpoint.handle_timeout(now);
            self.drain(session, now, wire);
        }
    }

    /// Ends what is over, goes on in the engine's own life, and asks for key frames again.
    pub fn look_around(&mut self, now: Instant, wire: &mut dyn Sender) {
        let since = self.since(now);
        self.life.sent(self.sent, since);
        if self.life.advance(since) {
            tracing::info!(state = self.life.state().as_str(), "the engine's state is another one");
            if self.life.state() == State::WaitingToBeDeleted {
                self.tell_all(&SessionEvent::Moved);
            }
        }
        let over: Vec<(SessionId, End)> =
            self.members.iter().filter_map(|(id, member)| Some((*id, member.session.poll(since)?))).collect();
        for (session, why) in over {
            self.end(session, why, now, wire);
        }
        for viewer in self.streams.poll(since) {
            self.end(viewer, End::StreamEnded, now, wire);
        }
        self.layers.retain(|stream, _| self.streams.get(stream).is_some());
        self.groups.retain(|stream| self.streams.get(stream).is_some());
        let streams: Vec<StreamName> = self.layers.keys().cloned().collect();
        for stream in streams {
            self.choose_layers(&stream, now);
            self.request_key_frames(&stream, now);
        }
        self.count();
    }

    fn count(&self) {
        for role in Role::ALL {
            for state in SessionState::ALL {
                let alike = |m: &&Member| m.session.role() == role && m.session.state() == state;
                self.metrics.set_sessions(role, state, self.members.values().filter(alike).count());
            }
        }
        self.metrics.streams.set(i64::try_from(self.streams.len()).unwrap_or(i64::MAX));
        self.metrics.state.set(self.life.state() as i64);
    }

    /// Does all that `session` wants now, and what follows from it for others.
    fn drain(&mut self, session: SessionId, now: Instant, wire: &mut dyn Sender) {
        let mut events = Vec::new();
        self.poll(session, now, wire, &mut events);
        for event in events {
            self.event(session, event, now, wire);
        }
    }

    fn poll(&mut self, session: SessionId, now: Instant, wire: &mut dyn Sender, events: &mut Vec<Event>) {
        let Some(member) = self.members.get_mut(&session) else { return };
        let mut turns = 0;
        let next = loop {
            match member.endpoint.poll() {
                Output::Transmit { to, datagram } => {
                    self.sent += datagram.len() as u64;
                    wire.send(to, &datagram);
                }
                Output::Event(event) => events.push(event),
                Output::Timeout(at) if at > now || turns == MAX_TURNS => break at,
                Output::Timeout(_) => {
                    turns += 1;
                    member.endpoint.handle_timeout(now);
                }
            }
        };
        if !member.endpoint.is_alive() && !events.iter().any(|event| matches!(event, Event::Closed)) {
            events.push(Event::Closed);
        }
        // One that wants to act at once, again and again, acts after the others.
        let next = next.max(now + Duration::from_millis(1));
        if next != member.timeout {
            self.timeouts.remove(&(member.timeout, session));
            member.timeout = next;
            self.timeouts.insert((next, session));
        }
    }

    fn event(&mut self, session: SessionId, event: Event, now: Instant, wire: &mut dyn Sender) {
        let since = self.since(now);
        match event {
            Event::Connected => {
                let Some(member) = self.members.get_mut(&session) else { return };
                if member.session.on_connected() {
                    self.goes_live(session, now, wire);
                }
            }
            Event::Packet(packet) => {
                let Some(member) = self.members.get_mut(&session) else { return };
                if member.session.role() != Role::Publisher {
                    return self.metrics.dropped("not_a_publisher");
                }
                member.codecs.insert(packet.kind, packet.codec.clone());
                if member.session.on_media(since) {
                    self.goes_live(session, now, wire);
                }
                self.forward(session, &packet, now, wire);
            }
            Event::KeyFrameWanted => {
                self.metrics.pli(Direction::In);
                let source = self.members.get(&session).and_then(|member| member.choice.current());
                let stream = self.streams.of(session).map(|(name, _)| name.clone());
                if let Some(stream) = stream {
                    self.want_key_frame(&stream, source, now);
                }
            }
            Event::Estimate(estimate) => {
                tracing::debug!(%session, estimate, "what the way to a viewer carries, in bit/s");
                if let Some(member) = self.members.get_mut(&session) {
                    member.estimate = estimate;
                }
            }
            Event::Settled => {
                let former = self.members.get_mut(&session).and_then(|member| member.former_user.take());
                if let Some(former) = former {
                    self.by_user.remove(&former);
                }
            }
            Event::Closed => self.end(session, End::Closed, now, wire),
        }
    }

    fn goes_live(&mut self, session: SessionId, now: Instant, wire: &mut dyn Sender) {
        let Some(member) = self.members.get(&session) else { return };
        let took = self.since(now).saturating_sub(member.session.began());
        self.metrics.join.observe(took.as_secs_f64());
        let role = member.session.role();
        tracing::info!(role = role.as_str(), %session, ?took, "a session is live");
        if let Some(former) = self.streams.live(session) {
            self.end(former, End::TakenOver, now, wire);
        }
        match role {
            Role::Viewer => self.begin_to_play(session, now, wire),
            Role::Publisher => {
                // Its viewers wait for the first picture.
                let stream = self.streams.of(session).map(|(name, _)| name.clone());
                if let Some(stream) = stream {
                    self.want_key_frame(&stream, None, now);
                    self.tell_viewers(&stream);
                }
            }
        }
    }
}

fn refusal(error: &OfferError) -> Refusal {
    match error {
        OfferError::Syntax => Refusal::new(400, "offer", error.to_string()),
        OfferError::Unworkable(_) => Refusal::new(422, "offer", error.to_string()),
        OfferError::Codec(_) => Refusal::no_codec(error.to_string()),
        OfferError::Random => Refusal::new(500, "random", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use media_core::whip::IfMatch;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::{
        call::{Patch, Patched},
        endpoint::{Annotations, Answered, Codec, Restarted},
    };

    /// What a session was told, by its number in order of its offer.
    type Log = Arc<Mutex<Vec<String>>>;

    /// Sessions whose other side is the test: a datagram `connected`, `key` or `delta` is what it says.
    struct Fakes {
        log: Log,
    }

    struct Fake {
        user: String,
        log: Log,
        pending: VecDeque<Event>,
        sequence: u64,
    }

    impl Fake {
        fn say(&self, what: &str) {
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(format!("{} {what}", self.user));
        }
    }

    fn h264() -> Codec {
        Codec { name: "H264", clock_rate: 90_000, variant: Some((1, 0x42e0)) }
    }

    fn vp8() -> Codec {
        Codec { name: "VP8", clock_rate: 90_000, variant: None }
    }

    impl Endpoints for Fakes {
        fn answer(&self, offer: &str, _: Role, _: bool, _: Instant) -> Result<Answered, OfferError> {
            let user =
                offer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).expect("checked").to_owned();
            let fake = Fake {
                user: user.clone(),
                log: Arc::clone(&self.log),
                pending: VecDeque::new(),
                sequence: 7,
            };
            Ok(Answered { endpoint: Box::new(fake), sdp: String::new(), user })
        }

        fn user<'a>(&self, datagram: &'a [u8]) -> Option<&'a str> {
            std::str::from_utf8(datagram.get(1..)?).ok()
        }
    }

    impl Endpoint for Fake {
        fn accepts(&self, _source: SocketAddr, _datagram: &[u8], _now: Instant) -> bool {
            true
        }

        fn receive(&mut self, _source: SocketAddr, datagram: &[u8], now: Instant) {
            self.pending.extend(match datagram {
                b"connected" => Some(Event::Connected),
                b"lost" => Some(Event::KeyFrameWanted),
                b"settled" => Some(Event::Settled),
                b"key" | b"delta" | b"h264" => {
                    self.sequence += 1;
                    let (codec, payload) = if datagram == b"h264" {
                        (h264(), vec![0x67, 1])
                    } else {
                        (vp8(), vec![0x10, u8::from(datagram == b"delta")])
                    };
                    Some(Event::Packet(Packet {
                        kind: TrackKind::Video,
                        codec,
                        source: 1,
                        rid: None,
                        sequence: self.sequence,
                        timestamp: 0,
                        marker: true,
                        payload: payload.into(),
                        arrived: now,
                        annotations: Annotations::default(),
                    }))
                }
                _ => None,
            });
        }

        fn handle_timeout(&mut self, _now: Instant) {}

        fn poll(&mut self) -> Output {
            let later = || Output::Timeout(Instant::now() + Duration::from_secs(3600));
            self.pending.pop_front().map_or_else(later, Output::Event)
        }

        fn codecs(&self, kind: TrackKind) -> Vec<Codec> {
            if kind == TrackKind::Video { vec![vp8()] } else { Vec::new() }
        }

        fn send(&mut self, packet: &Packet, _sequence: u64, _timestamp: u32) -> bool {
            self.say("packet");
            packet.codec == vp8()
        }

        fn request_key_frame(&mut self, rid: Option<&str>) -> bool {
            self.say(&rid.map_or_else(|| "asked".to_owned(), |rid| format!("asked {rid}")));
            true
        }

        fn is_layered(&self) -> bool {
            false
        }

        fn want_bitrate(&mut self, _: u64, _: u64) {}

        fn mid(&self, _: TrackKind) -> Option<String> {
            Some("0".to_owned())
        }

        fn restart(&mut self, offer: &str) -> Result<Restarted, OfferError> {
            let theirs = offer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).expect("checked");
            self.say(theirs);
            let sdp = format!("v=0\na=ice-lite\nm=video 9 X 96\na=ice-ufrag:new{}\n", self.user);
            Ok(Restarted { sdp, user: format!("new{}", self.user) })
        }

        fn close(&mut self) {
            self.say("closed");
        }

        fn is_alive(&self) -> bool {
            true
        }
    }

    struct Nowhere;

    impl Sender for Nowhere {
        fn send(&mut self, _to: SocketAddr, _datagram: &[u8]) {}
    }

    struct Stage {
        engine: Engine,
        log: Log,
        now: Instant,
        clients: u16,
    }

    impl Stage {
        fn new() -> Self {
            let (log, now) = (Log::default(), Instant::now());
            let metrics = Arc::new(Metrics::register(&mut Registry::default()));
            let fakes = Box::new(Fakes { log: Arc::clone(&log) });
            let life = Life::new(State::default(), Duration::from_secs(30));
            Self { engine: Engine::new(fakes, 3, life, metrics, now), log, now, clients: 0 }
        }

        fn open(&mut self, role: Role, subject: &str) -> Result<(SessionId, SocketAddr), Refusal> {
            let (session, from) = self.offer(role, subject)?;
            self.stun(from, self.clients);
            self.hears(from, b"connected");
            Ok((session, from))
        }

        /// STUN of the client with this number.
        fn stun(&mut self, from: SocketAddr, client: u16) {
            let stun = [&[1][..], client.to_string().as_bytes()].concat();
            self.hears(from, &stun);
        }

        /// An offer whose client has not been heard on the media port yet.
        fn offer(&mut self, role: Role, subject: &str) -> Result<(SessionId, SocketAddr), Refusal> {
            self.clients += 1;
            let direction = if role == Role::Publisher { "sendonly" } else { "recvonly" };
            let sdp = format!(
                "v=0\na=group:BUNDLE 0\nm=video 9 UDP 96\na=mid:0\na=fingerprint:x\na=ice-pwd:x\n\
                 a=ice-ufrag:{}\na={direction}\n",
                self.clients
            );
            let stream = StreamName { room: "hall".into(), stream: "cam".into() };
            let address = [192, 0, 2, 1].into();
            let offer = Offer { role, stream, subject: subject.into(), sdp, address };
            let opened = self.engine.open(offer, self.now, &mut Nowhere)?;
            Ok((opened.session, SocketAddr::from(([192, 0, 2, 1], self.clients))))
        }

        fn hears(&mut self, from: SocketAddr, datagram: &[u8]) {
            self.engine.datagram(from, datagram, self.now, &mut Nowhere);
        }

        fn pass(&mut self, milliseconds: u64) {
            self.now += Duration::from_millis(milliseconds);
            self.engine.look_around(self.now, &mut Nowhere);
        }

        fn told(&self) -> Vec<String> {
            std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    #[test]
    fn a_silent_publisher_ends_after_30_s_and_its_viewers_15_s_later() {
        let mut stage = Stage::new();
        let (publisher, from) = stage.open(Role::Publisher, "ann").expect("free");
        stage.hears(from, b"key");
        let (viewer, of_viewer) = stage.open(Role::Viewer, "eve").expect("somebody publishes");
        stage.pass(29_900);
        stage.engine.datagram(of_viewer, b"\x012", stage.now, &mut Nowhere);
        assert_eq!(stage.engine.presence(publisher), Presence::Here);
        stage.pass(200);
        assert_eq!(stage.engine.presence(publisher), Presence::Unknown);
        stage.pass(14_900);
        assert_eq!(stage.engine.presence(viewer), Presence::Here, "it waits");
        stage.pass(200);
        assert_eq!(stage.engine.presence(viewer), Presence::Unknown);
        assert!(stage.engine.is_idle());
    }

    #[test]
    fn who_is_not_live_after_10_s_is_ended() {
        let mut stage = Stage::new();
        let (publisher, _) = stage.open(Role::Publisher, "ann").expect("free");
        stage.pass(9_900);
        assert_eq!(stage.engine.presence(publisher), Presence::Here, "no media came yet");
        stage.pass(200);
        assert_eq!(stage.engine.presence(publisher), Presence::Unknown);
        assert_eq!(stage.told(), ["1 closed"]);
    }

    #[test]
    fn a_publisher_is_asked_again_each_half_second_until_a_key_frame_comes() {
        let mut stage = Stage::new();
        let (_, publisher) = stage.open(Role::Publisher, "ann").expect("free");
        stage.hears(publisher, b"delta");
        stage.told();
        stage.pass(1000);
        stage.hears(publisher, b"key");
        stage.pass(2_100);
        stage.told();
        let (_, viewer) = stage.open(Role::Viewer, "eve").expect("somebody publishes");
        assert_eq!(stage.told(), ["1 asked"]);
        for _ in 0..19 {
            stage.pass(50);
            stage.hears(viewer, b"lost");
            stage.hears(publisher, b"delta");
        }
        assert_eq!(stage.told(), ["1 asked"], "950 ms");
        stage.hears(publisher, b"key");
        assert_eq!(stage.told(), ["2 packet"]);
        stage.pass(5_000);
        assert!(stage.told().is_empty());
    }

    #[test]
    fn an_address_is_of_the_session_that_was_heard_there_and_of_no_newcomer() {
        let mut stage = Stage::new();
        let (_, publisher) = stage.open(Role::Publisher, "ann").expect("free");
        stage.hears(publisher, b"key");
        let (one, of_one) = stage.open(Role::Viewer, "eve").expect("somebody publishes");
        let (other, of_other) = stage.offer(Role::Viewer, "eve").expect("somebody publishes");
        let at = |stage: &Stage, address: SocketAddr| stage.engine.by_address.get(&address).copied();
        stage.stun(of_one, 3);
        assert_eq!(at(&stage, of_one), Some(one), "a live session's address is not to be had by a newcomer");
        stage.stun(of_other, 3);
        stage.hears(of_other, b"connected");
        stage.stun(of_other, 2);
        assert_eq!(at(&stage, of_other), Some(one), "both are live");
        stage.stun(of_other, 3);
        assert_eq!(at(&stage, of_other), Some(other), "it is heard there again");
        stage.engine.close(one, stage.now, &mut Nowhere);
        assert_eq!(
            (at(&stage, of_one), at(&stage, of_other)),
            (None, Some(other)),
            "its own goes with it alone"
        );
    }

    #[test]
    fn of_many_addresses_those_that_are_in_use_stay() {
        let mut stage = Stage::new();
        let (session, first) = stage.open(Role::Publisher, "ann").expect("free");
        for port in 1000..1100 {
            stage.stun(SocketAddr::from(([192, 0, 2, 1], port)), 1);
            stage.stun(first, 1);
        }
        assert_eq!(stage.engine.by_address.get(&first), Some(&session));
        assert_eq!(stage.engine.by_address.len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_publisher_goes_on_until_the_one_that_takes_over_sends() {
        let mut stage = Stage::new();
        let (first, of_first) = stage.open(Role::Publisher, "ann").expect("free");
        stage.hears(of_first, b"key");
        let (_, of_viewer) = stage.open(Role::Viewer, "eve").expect("somebody publishes");
        stage.hears(of_first, b"key");
        stage.told();
        let (second, _) = stage.open(Role::Publisher, "ann").expect("the same subject");
        stage.hears(of_first, b"delta");
        assert_eq!(stage.told(), ["2 packet"], "the second has sent nothing yet");
        stage.stun(of_viewer, 2);
        stage.pass(10_100);
        assert_eq!(stage.engine.presence(second), Presence::Unknown, "it never got there");
        let (third, of_third) = stage.open(Role::Publisher, "ann").expect("the same subject");
        stage.told();
        stage.hears(of_third, b"key");
        assert_eq!(
            (stage.engine.presence(first), stage.engine.presence(third)),
            (Presence::TakenOver, Presence::Here)
        );
        assert!(stage.told().ends_with(&["2 packet".to_owned()]));
    }

    #[test]
    fn a_late_viewer_begins_with_what_is_kept_and_asks_nobody() {
        let mut stage = Stage::new();
        let (_, publisher) = stage.open(Role::Publisher, "ann").expect("free");
        stage.hears(publisher, b"key");
        stage.hears(publisher, b"delta");
        stage.told();
        stage.open(Role::Viewer, "eve").expect("somebody publishes");
        assert_eq!(stage.told(), ["2 packet", "2 packet"]);
        stage.hears(publisher, b"delta");
        assert_eq!(stage.told(), ["2 packet"]);
        stage.pass(2_100);
        stage.open(Role::Viewer, "eve").expect("there is room");
        assert_eq!(stage.told(), ["1 asked"], "what is kept is too old");
        stage.hears(publisher, b"delta");
        stage.hears(publisher, b"key");
        let mut told = stage.told();
        told.sort();
        assert_eq!(told, ["2 packet", "2 packet", "3 packet"]);
    }

    #[test]
    fn a_restart_is_found_by_both_names_until_it_has_settled() {
        let mut stage = Stage::new();
        let (session, from) = stage.open(Role::Publisher, "ann").expect("free");
        let pwd = "0123456789abcdefghijkl";
        let patch = |stage: &mut Stage, subject: &str, if_match: &str, body: String| {
            let if_match = IfMatch::parse(Some(if_match)).expect("good");
            let fragment = sdpfrag::parse(&body).expect("good");
            let patch = Patch { session, subject: subject.into(), if_match, fragment };
            stage.engine.patch(patch, stage.now, &mut Nowhere)
        };
        let new = |ufrag: &str| format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n");
        let status = |outcome: Result<Patched, Refusal>| outcome.expect_err("refused").status;
        let candidate = "a=candidate:1 1 udp 1 192.0.2.9 5 typ host".to_owned();
        assert!(matches!(patch(&mut stage, "ann", "\"1\"", candidate.clone()), Ok(Patched::Taken)));
        assert_eq!(status(patch(&mut stage, "ann", "\"2\"", candidate.clone())), 412);
        assert_eq!(status(patch(&mut stage, "ann", "W/\"1\"", candidate.clone())), 412);
        assert_eq!(status(patch(&mut stage, "bob", "\"1\"", candidate.clone())), 403);
        assert_eq!(status(patch(&mut stage, "ann", "*", candidate)), 400);
        assert_eq!(status(patch(&mut stage, "ann", "\"1\"", new("abcd"))), 400, "a restart has to be meant");
        stage.told();
        let Ok(Patched::Restarted { fragment, tag }) = patch(&mut stage, "ann", "*", new("abcd")) else {
            panic!("it is restarted")
        };
        assert_eq!((tag.as_str(), fragment.contains("a=ice-ufrag:new1")), ("new1", true));
        assert_eq!(stage.told(), ["1 abcd"]);
        assert_eq!(status(patch(&mut stage, "ann", "*", new("abcd"))), 400, "these are no new ones");
        assert_eq!(["1", "new1"].map(|user| stage.engine.by_user.get(user)), [Some(&session); 2]);
        stage.hears(from, b"settled");
        assert_eq!(["1", "new1"].map(|user| stage.engine.by_user.get(user)), [None, Some(&session)]);
        stage.engine.close(session, stage.now, &mut Nowhere);
        assert_eq!(status(patch(&mut stage, "ann", "*", new("efgh"))), 404);
        assert!(stage.engine.by_user.is_empty());
    }

    #[test]
    fn a_lone_publisher_that_comes_again_does_not_end_a_tombstone() {
        let mut stage = Stage::new();
        let (_, publisher) = stage.open(Role::Publisher, "ann").expect("free");
        stage.hears(publisher, b"key");
        stage.engine.end_wanted(Some(stage.now + Duration::from_secs(600)), stage.now);
        for _ in 0..2 {
            let (_, again) = stage.open(Role::Publisher, "ann").expect("its stream is here");
            assert_eq!(stage.engine.state(), State::Tombstone);
            stage.hears(again, b"key");
            assert_eq!(stage.engine.state(), State::Tombstone, "it is in a call");
        }
    }

    #[test]
    fn a_viewer_whose_stream_has_another_codec_now_is_ended_to_come_again() {
        let mut stage = Stage::new();
        let (_, of_first) = stage.open(Role::Publisher, "ann").expect("free");
        stage.hears(of_first, b"key");
        let (viewer, _) = stage.open(Role::Viewer, "eve").expect("somebody publishes");
        stage.hears(of_first, b"key");
        assert_eq!(stage.engine.presence(viewer), Presence::Here);
        let (second, of_second) = stage.open(Role::Publisher, "ann").expect("the same subject");
        stage.hears(of_second, b"h264");
        assert_eq!(stage.engine.presence(viewer), Presence::Unknown, "it would stay dark");
        assert_eq!(stage.engine.presence(second), Presence::Here);
        let again = stage.open(Role::Viewer, "eve").expect_err("this offer has VP8 alone");
        assert_eq!((again.status, again.detail.contains("H264")), (406, true));
    }

    #[test]
    fn a_full_engine_and_one_that_ends_say_so() {
        let mut stage = Stage::new();
        let (_, publisher) = stage.open(Role::Publisher, "ann").expect("free");
        stage.hears(publisher, b"key");
        for _ in 0..2 {
            stage.open(Role::Viewer, "eve").expect("there is room");
        }
        let full = stage.open(Role::Viewer, "eve").expect_err("no room");
        assert_eq!((full.status, full.reason), (503, "full"));
        assert!((2..=5).contains(&full.retry_after.expect("a time")));
        stage.engine.end_wanted(Some(stage.now + Duration::from_secs(600)), stage.now);
        assert_eq!(stage.engine.state(), State::Tombstone);
        stage.engine.end_all(stage.now, &mut Nowhere);
        stage.pass(30_000);
        assert_eq!(stage.engine.state(), State::WaitingToBeDeleted);
        let ends = stage.open(Role::Publisher, "ann").expect_err("it ends");
        assert_eq!((ends.status, ends.reason), (503, "tombstone"));
    }
}
