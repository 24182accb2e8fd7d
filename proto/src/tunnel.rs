//! The wire of the tunnel's link: names, sizes, versions, and the control messages that both ends exchange.
//!
//! A link is one TLS 1.3 connection (ALPN [`ALPN`]) that the edge's agent dials and on which the cloud's server is the
//! HTTP/2 *client*: it opens the streams. The first is `POST` [`LINK_PATH`]; both directions of its body carry frames,
//! each a `u32` big-endian length of at most [`MAX_CONTROL_BYTES`] and a [`Control`]. Every later stream is a
//! `CONNECT HOST:PORT` with the headers [`HEADER_NODE`] and [`HEADER_CLASS`].

use prost::Message;

/// The protocol that both ends name in their TLS handshake.
pub const ALPN: &[u8] = b"eyot-tunnel/1";
/// The newest version of the wire that this program speaks.
pub const VERSION: u32 = 1;
/// The oldest version of the wire that this program still speaks.
pub const VERSION_MIN: u32 = 1;
/// The path of the stream that carries [`Control`] frames.
pub const LINK_PATH: &str = "/v1/link";
/// Header of a dial: the name of the node that it is meant for.
pub const HEADER_NODE: &str = "eyot-node";
/// Header of a dial: `control`, `interactive` or `bulk`.
pub const HEADER_CLASS: &str = "eyot-class";
/// Header of a refusal: why, at most [`MAX_REASON_BYTES`] printable ASCII bytes.
pub const HEADER_REASON: &str = "eyot-reason";

/// The largest [`Control`] on the wire, in bytes, without its length.
pub const MAX_CONTROL_BYTES: usize = 64 * 1024;
/// The longest reason, in bytes.
pub const MAX_REASON_BYTES: usize = 200;
/// The most streams of one link.
pub const MAX_STREAMS: u32 = 2048;
/// How many bytes of one stream may be under way without having been taken by its reader.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// How many bytes of all streams of a link may be under way without having been taken. More streams than this holds
/// windows may stall before the others wait; the budget resets one long before that.
pub const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
/// The largest frame of HTTP/2.
pub const MAX_FRAME_BYTES: u32 = 64 * 1024;

/// What the two ends of a link tell each other beside the streams. Fields and members that a reader does not know are
/// skipped.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Control {
    /// One of the messages.
    #[prost(oneof = "control::Body", tags = "1, 2, 3, 4")]
    pub body: Option<control::Body>,
}

/// The members of [`Control`].
pub mod control {
    /// One control message.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Body {
        /// The first of each end.
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        /// Who dials the cloud in a pool.
        #[prost(message, tag = "2")]
        Order(super::Order),
        /// No new streams, please.
        #[prost(message, tag = "3")]
        Drain(super::Drain),
        /// What an end holds.
        #[prost(message, tag = "4")]
        Load(super::Load),
    }
}

/// Who speaks, and what they understand.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Hello {
    /// The oldest version that the sender speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// The newest version that the sender speaks.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// The sender's name for this link, for logs of both ends; decides nothing.
    #[prost(string, tag = "3")]
    pub id: String,
    /// The sender's start, a number that changes with each; decides nothing.
    #[prost(uint64, tag = "4")]
    pub boot: u64,
    /// How many streams the sender bears at a time.
    #[prost(uint32, tag = "5")]
    pub max_streams: u32,
    /// The pool's name, for metrics; decides nothing.
    #[prost(string, tag = "6")]
    pub pool: String,
    /// What the sender can do beyond its version.
    #[prost(string, repeated, tag = "7")]
    pub features: Vec<String>,
}

/// In which order the agents of a pool dial the cloud.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Order {
    /// The sender's own place, counted from 0.
    #[prost(uint32, tag = "1")]
    pub rank: u32,
    /// The nodes' names, the first one dials.
    #[prost(string, repeated, tag = "2")]
    pub peers: Vec<String>,
}

/// The sender takes no new streams on this link; those that stand may end by themselves.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Drain {
    /// After how many seconds they are reset.
    #[prost(uint32, tag = "1")]
    pub seconds: u32,
    /// Why, for people.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// What the sender holds now.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Load {
    /// Open streams.
    #[prost(uint32, tag = "1")]
    pub streams: u32,
    /// Bytes that no reader has taken yet.
    #[prost(uint64, tag = "2")]
    pub buffered_bytes: u64,
}

/// Why bytes are no control frame. Nothing after it on the same stream can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length says more than [`MAX_CONTROL_BYTES`].
    TooLarge(u32),
    /// The bytes are no [`Control`].
    Malformed,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge(length) => {
                write!(f, "a control frame of {length} bytes; at most {MAX_CONTROL_BYTES} are allowed")
            }
            Self::Malformed => f.write_str("a control frame that is no Control message"),
        }
    }
}

impl std::error::Error for FrameError {}

impl Control {
    /// `body` as a message.
    #[must_use]
    pub fn new(body: control::Body) -> Self {
        Self { body: Some(body) }
    }

    /// The frame: length and message. Texts that could make it too large are cut by whoever fills them in.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        let message = self.encode_to_vec();
        let length = u32::try_from(message.len()).expect("a control message is far smaller than 4 GiB");
        [&length.to_be_bytes()[..], &message].concat()
    }

    /// Reads the first frame of `bytes`: the message and how many bytes it took, or `None` while some are missing.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn from_frames(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let announced = u32::from_be_bytes(*length);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > MAX_CONTROL_BYTES {
            return Err(FrameError::TooLarge(announced));
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let message = Self::decode(message).map_err(|_| FrameError::Malformed)?;
        Ok(Some((message, 4 + length)))
    }
}

/// `text` as a header or a reason phrase may carry it: printable ASCII, at most [`MAX_REASON_BYTES`] bytes.
#[must_use]
pub fn printable(text: &str) -> String {
    let bytes = text.bytes().map(|byte| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '?' });
    bytes.take(MAX_REASON_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Control {
        Control::new(control::Body::Hello(Hello {
            version_min: 1,
            version_max: 2,
            id: "node-1/7".into(),
            boot: 300,
            max_streams: 2048,
            pool: "hangzhou".into(),
            features: vec!["a".into()],
        }))
    }

    #[test]
    fn the_bytes_are_those_that_older_and_newer_programs_read() {
        let golden: &[u8] =
            b"\x00\x00\x00\x23\x0a\x21\x08\x01\x10\x02\x1a\x08node-1/7\x20\xac\x02\x28\x80\x10\x32\x08hangzhou\x3a\x01a";
        assert_eq!(hello().to_frame(), golden[..], "{:?}", hello().to_frame());
        assert_eq!(Control::from_frames(golden), Ok(Some((hello(), golden.len()))));
        let order = Order { rank: 1, peers: vec!["node-2".into(), "node-1".into()] };
        let order = Control::new(control::Body::Order(order));
        assert_eq!(order.to_frame(), b"\0\0\0\x14\x12\x12\x08\x01\x12\x06node-2\x12\x06node-1");
        let drain = Control::new(control::Body::Drain(Drain { seconds: 30, reason: "bye".into() }));
        assert_eq!(drain.to_frame(), b"\0\0\0\x09\x1a\x07\x08\x1e\x12\x03bye");
        let load = Control::new(control::Body::Load(Load { streams: 3, buffered_bytes: 4096 }));
        assert_eq!(load.to_frame(), b"\0\0\0\x07\x22\x05\x08\x03\x10\x80\x20");
    }

    #[test]
    fn what_a_newer_end_adds_is_skipped() {
        // Field 9 of Control, and field 15 inside of Drain.
        let newer = b"\0\0\0\x09\x1a\x04\x08\x1e\x78\x07\x4a\x01x";
        let drain = Control::new(control::Body::Drain(Drain { seconds: 30, reason: String::new() }));
        assert_eq!(Control::from_frames(newer), Ok(Some((drain, newer.len()))));
        let unknown = b"\0\0\0\x03\x4a\x01x";
        assert_eq!(Control::from_frames(unknown), Ok(Some((Control { body: None }, unknown.len()))));
    }

    #[test]
    fn a_frame_that_comes_in_pieces_is_waited_for_and_a_large_one_is_not() {
        let frame = hello().to_frame();
        for end in 0..frame.len() {
            assert_eq!(Control::from_frames(&frame[..end]), Ok(None), "{end}");
        }
        assert_eq!(Control::from_frames(b"\x01\0\0\0"), Err(FrameError::TooLarge(1 << 24)));
        assert_eq!(Control::from_frames(b"\0\0\0\x01\xff"), Err(FrameError::Malformed));
    }

    #[test]
    fn reasons_are_printable_and_short() {
        assert_eq!(printable("no\r\nlink to ö"), "no??link to ??");
        assert_eq!(printable(&"x".repeat(500)).len(), MAX_REASON_BYTES);
    }
}
