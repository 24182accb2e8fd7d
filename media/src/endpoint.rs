//! What the engine asks of one WebRTC session, whoever implements it: datagrams and times go in, datagrams, packets and
//! events come out.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use media_core::{Role, TrackKind};

/// A codec as two sides must have it alike. The number of the payload is each side's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codec {
    /// The name, as in SDP: `opus`, `VP8`, `H264`, `VP9`, `AV1`.
    pub name: &'static str,
    /// Samples a second of its timestamps.
    pub clock_rate: u32,
    /// What else must be equal: of H264 the packetization mode and the first two bytes of the profile, of VP9 and
    /// AV1 zero and the profile.
    pub variant: Option<(u8, u16)>,
}

/// The name of a layer: letters and digits, not longer than they can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rid {
    bytes: [u8; Self::MAX],
    length: u8,
}

impl Rid {
    const MAX: usize = 16;

    /// A name of at most 16 bytes of ASCII.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        let length = u8::try_from(name.len()).ok()?;
        name.is_ascii().then_some(Self { bytes, length })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("it was ASCII")
    }
}

/// A packet of a publisher, without anything of its transport.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Which track.
    pub kind: TrackKind,
    /// Its codec.
    pub codec: Codec,
    /// Which source within the track: another one has sequence numbers and timestamps of its own.
    pub source: u32,
    /// The layer of simulcast that the source is, if its publisher sends layers.
    pub rid: Option<Rid>,
    /// Sequence number without wrap.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// The RTP marker.
    pub marker: bool,
    /// RTP payload.
    pub payload: Arc<[u8]>,
    /// When it came.
    pub arrived: Instant,
    /// What header extensions say that is true for every viewer.
    pub annotations: Annotations,
}

/// Header extensions that are passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Loudness in dB below full scale, negative.
    pub audio_level: Option<i8>,
    /// Whether that is a voice.
    pub voice: Option<bool>,
    /// How the picture is turned: the two bits of the CVO extension (3GPP TS 26.114).
    pub turned: Option<u8>,
}

/// What a session has to say.
#[derive(Debug)]
pub enum Event {
    /// ICE and DTLS are done.
    Connected,
    /// A packet of the publisher.
    Packet(Packet),
    /// The viewer cannot decode and asks for a key frame.
    KeyFrameWanted,
    /// What the way to the viewer is thought to carry, in bit/s.
    Estimate(u64),
    /// A pair was nominated by the credentials of the last restart; the former ones are forgotten.
    Settled,
    /// The other side said goodbye, or stopped to answer.
    Closed,
}

/// What a session wants to be done.
#[derive(Debug)]
pub enum Output {
    /// Send these bytes.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        datagram: Vec<u8>,
    },
    /// Something happened.
    Event(Event),
    /// Nothing more until then, or until something is put in.
    Timeout(Instant),
}

/// One WebRTC session. After each call that puts something in, [`Endpoint::poll`] is called until it says
/// [`Output::Timeout`].
pub trait Endpoint: Send {
    /// Whether a datagram from `source` is for this session and proves to come from the other side: of STUN, that its
    /// integrity holds.
    fn accepts(&self, source: SocketAddr, datagram: &[u8], now: Instant) -> bool;
    /// Takes a datagram in. What is no packet of the session is ignored.
    fn receive(&mut self, source: SocketAddr, datagram: &[u8], now: Instant);
    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);
    /// The next thing to do.
    fn poll(&mut self) -> Output;
    /// The codecs that were agreed on for a track, the preferred one first; none without such a track.
    fn codecs(&self, kind: TrackKind) -> Vec<Codec>;
    /// Sends a publisher's packet on to this viewer under another sequence number and timestamp. Returns whether the
    /// viewer takes this codec.
    fn send(&mut self, packet: &Packet, sequence: u64, timestamp: u32) -> bool;
    /// Asks this publisher for a key frame of a layer of its pictures; without layers, of them. Returns whether it was asked.
    fn request_key_frame(&mut self, rid: Option<&str>) -> bool;
    /// Whether this publisher sends its pictures in layers.
    fn is_layered(&self) -> bool;
    /// What the way to this viewer would have to carry for the next better layer and for the best one, in bit/s: it is tried
    /// for that much. 0 if there is none.
    fn want_bitrate(&mut self, next: u64, best: u64);
    /// The media id of a track in the session's SDP.
    fn mid(&self, kind: TrackKind) -> Option<String>;
    /// Answers the offer that the session began with once more, with other ICE credentials of the other side. Until a pair is
    /// nominated by the new ones the former ones hold, too.
    ///
    /// # Errors
    /// [`OfferError`].
    fn restart(&mut self, offer: &str) -> Result<Restarted, OfferError>;
    /// Begins the goodbye; what it takes is polled like everything else.
    fn close(&mut self);
    /// Whether anything may still come out.
    fn is_alive(&self) -> bool;
}

/// What an offer was answered with.
pub struct Answered {
    /// The session.
    pub endpoint: Box<dyn Endpoint>,
    /// The SDP answer.
    pub sdp: String,
    /// The name by which STUN finds the session.
    pub user: String,
}

/// What a restart was answered with.
#[derive(Debug)]
pub struct Restarted {
    /// The SDP answer, of which only what it says of ICE is new.
    pub sdp: String,
    /// The new name by which STUN finds the session.
    pub user: String,
}

/// Why an offer cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// No SDP.
    #[error("the offer is no SDP that can be read: a line is broken, or what it refers to is missing")]
    Syntax,
    /// SDP that makes no session.
    #[error("the offer cannot work: {0}")]
    Unworkable(String),
    /// A track without a codec of ours, or one that was refused.
    #[error("no codec in common for {0}; this engine has Opus, VP8, H264, VP9 and AV1")]
    Codec(&'static str),
    /// No credentials can be made.
    #[error("the system gives no randomness")]
    Random,
}

/// Whoever makes sessions of offers.
pub trait Endpoints: Send {
    /// Answers `offer` in this role: a publisher's media is received, a viewer's sent; with `estimates`, what the way to a
    /// viewer carries is found out.
    ///
    /// # Errors
    /// [`OfferError`].
    fn answer(&self, offer: &str, role: Role, estimates: bool, now: Instant) -> Result<Answered, OfferError>;
    /// The name that a STUN request calls, if the datagram is one; nothing is proven by it.
    fn user<'a>(&self, datagram: &'a [u8]) -> Option<&'a str>;
}
