//! One `Proxy` stream of konnectivity's protocol, at the proxy's end: which packets a client may send when, and the frames
//! of the answers. One stream carries one connection.
//!
//! A frame is gRPC's: a flag (0: not compressed), a `u32` big-endian length, and a [`Packet`].

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use proto::konnectivity::packet::Payload;
use proto::konnectivity::{CloseResponse, Data, DialResponse, PROTOCOL_TCP, Packet};

use crate::connect::{Target, parse_authority};

/// The largest message that a client may send: gRPC's own default.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// How many bytes of a connection one message to a client carries at most.
pub const MAX_DATA_BYTES: usize = 32 * 1024;
/// Flag and length.
const PREFIX_BYTES: usize = 5;

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection to this target; [`Conversation::opened`] or [`Conversation::refused`] follows.
    Dial(Target),
    /// It dials what cannot be dialled, for this reason; [`Conversation::refused`] follows.
    BadDial(&'static str),
    /// It waits for its dial no longer. The stream is over.
    GaveUp,
    /// Bytes for the other end.
    Bytes(Bytes),
    /// No more of the connection; what came before still counts. The stream is over.
    Close,
}

/// Why a stream cannot go on: it is closed with gRPC's status [`Violation::CODE`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The frame is compressed, which was not offered.
    #[error("a compressed message; none was offered")]
    Compressed,
    /// The frame is longer than is borne.
    #[error("a message of {0} bytes; at most {MAX_MESSAGE_BYTES} are allowed")]
    TooLarge(u32),
    /// The frame holds no packet.
    #[error("a message that is no Packet")]
    Malformed,
    /// The packet names a connection that is not this stream's.
    #[error("connectID {0} is not this stream's")]
    Foreign(i64),
    /// The packet comes out of its turn.
    #[error("{0}")]
    OutOfTurn(&'static str),
}

impl Violation {
    /// `INVALID_ARGUMENT`.
    pub const CODE: u8 = 3;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Silent,
    Dialling { random: i64 },
    Open { random: i64, connection: i64 },
    Over,
}

/// One stream.
#[derive(Debug)]
pub struct Conversation {
    state: State,
    inbox: BytesMut,
}

impl Default for Conversation {
    fn default() -> Self {
        Self { state: State::Silent, inbox: BytesMut::new() }
    }
}

impl Conversation {
    /// Takes bytes of the stream. The one entry for its bytes; [`Self::poll`] says what they mean.
    pub fn received(&mut self, bytes: &[u8]) {
        if self.state != State::Over {
            self.inbox.extend_from_slice(bytes);
        }
    }

    /// What the client wants next; `None` until more has come.
    ///
    /// # Errors
    /// [`Violation`]: the stream is over.
    pub fn poll(&mut self) -> Result<Option<Event>, Violation> {
        while self.state != State::Over {
            let Some(packet) = self.packet().inspect_err(|_| self.state = State::Over)? else { break };
            if let Some(event) = self.packet_came(packet).inspect_err(|_| self.state = State::Over)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn packet(&mut self) -> Result<Option<Packet>, Violation> {
        let Some((prefix, rest)) = self.inbox.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        if flag != 0 {
            return Err(Violation::Compressed);
        }
        let announced = u32::from_be_bytes(length);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(Violation::TooLarge(announced));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.inbox.advance(PREFIX_BYTES);
        let message = self.inbox.split_to(length).freeze();
        Packet::decode(message).map(Some).map_err(|_| Violation::Malformed)
    }

    fn packet_came(&mut self, packet: Packet) -> Result<Option<Event>, Violation> {
        match (packet.payload, self.state) {
            (Some(Payload::DialRequest(dial)), State::Silent) => {
                self.state = State::Dialling { random: dial.random };
                if dial.protocol != PROTOCOL_TCP {
                    return Ok(Some(Event::BadDial("only tcp can be dialled")));
                }
                let target = parse_authority(&dial.address);
                Ok(Some(target.map_or(Event::BadDial("a dial needs HOST:PORT"), Event::Dial)))
            }
            (Some(Payload::DialRequest(_)), _) => Err(Violation::OutOfTurn("a second dial on one stream")),
            (Some(Payload::CloseDial(dial)), State::Dialling { random }) if dial.random == random => {
                self.state = State::Over;
                Ok(Some(Event::GaveUp))
            }
            // It gave up while the answer was under way.
            (Some(Payload::CloseDial(dial)), State::Open { random, .. }) if dial.random == random => {
                self.state = State::Over;
                Ok(Some(Event::Close))
            }
            (Some(Payload::Data(data)), State::Open { connection, .. }) => {
                if data.connect_id != connection {
                    return Err(Violation::Foreign(data.connect_id));
                }
                Ok((!data.data.is_empty()).then_some(Event::Bytes(data.data)))
            }
            (Some(Payload::CloseRequest(close)), State::Open { connection, .. }) => {
                if close.connect_id != connection {
                    return Err(Violation::Foreign(close.connect_id));
                }
                self.state = State::Over;
                Ok(Some(Event::Close))
            }
            (Some(Payload::Data(_) | Payload::CloseRequest(_)), _) => {
                Err(Violation::OutOfTurn("bytes or a close before there is a connection"))
            }
            (Some(Payload::DialResponse(_) | Payload::CloseResponse(_)), _) => {
                Err(Violation::OutOfTurn("an answer from a client"))
            }
            // Another dial's end, a drain, and what newer clients know.
            (Some(Payload::CloseDial(_) | Payload::Drain(_)) | None, _) => Ok(None),
        }
    }

    /// The dial was answered: the frame that says so, with the number by which the connection goes.
    ///
    /// # Panics
    /// If nothing was dialled.
    pub fn opened(&mut self, connection: i64) -> Bytes {
        let State::Dialling { random } = self.state else { panic!("answered without a dial") };
        self.state = State::Open { random, connection };
        let opened = DialResponse { error: String::new(), connect_id: connection, random };
        frame(Payload::DialResponse(opened))
    }

    /// The dial failed: the frame that says why. The stream is over.
    ///
    /// # Panics
    /// If nothing was dialled.
    pub fn refused(&mut self, error: String) -> Bytes {
        let State::Dialling { random } = self.state else { panic!("answered without a dial") };
        self.state = State::Over;
        frame(Payload::DialResponse(DialResponse { error, connect_id: 0, random }))
    }
}

/// The frame that carries `data`, at most [`MAX_DATA_BYTES`], of `connection`.
#[must_use]
pub fn data(connection: i64, data: Bytes) -> Bytes {
    frame(Payload::Data(Data { connect_id: connection, error: String::new(), data }))
}

/// The frame that says that `connection` is closed.
#[must_use]
pub fn closed(connection: i64) -> Bytes {
    frame(Payload::CloseResponse(CloseResponse { error: String::new(), connect_id: connection }))
}

/// `payload` as a frame.
#[must_use]
pub fn frame(payload: Payload) -> Bytes {
    let packet = Packet::new(payload);
    let length = packet.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("a packet is far smaller than 4 GiB"));
    packet.encode(&mut frame).expect("there is room for it");
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::konnectivity::{CloseDial, CloseRequest, DialRequest};

    use super::*;

    fn dial(address: &str) -> Bytes {
        let (protocol, address) = (PROTOCOL_TCP.to_owned(), address.to_owned());
        frame(Payload::DialRequest(DialRequest { protocol, address, random: 42 }))
    }

    fn open() -> Conversation {
        let mut conversation = Conversation::default();
        conversation.received(&dial("node-1:10250"));
        let target = Target { host: "node-1".to_owned(), port: 10250 };
        assert_eq!(conversation.poll(), Ok(Some(Event::Dial(target))));
        let answer = Packet::decode(conversation.opened(7).split_off(PREFIX_BYTES)).expect("a packet");
        let opened = DialResponse { error: String::new(), connect_id: 7, random: 42 };
        assert_eq!(answer.payload, Some(Payload::DialResponse(opened)));
        conversation
    }

    #[test]
    fn a_connection_is_dialled_used_and_closed() {
        let mut conversation = open();
        conversation.received(&data(7, Bytes::from_static(b"hello")));
        conversation.received(&frame(Payload::CloseRequest(CloseRequest { connect_id: 7 })));
        assert_eq!(conversation.poll(), Ok(Some(Event::Bytes(Bytes::from_static(b"hello")))));
        assert_eq!(conversation.poll(), Ok(Some(Event::Close)));
        conversation.received(&data(7, Bytes::from_static(b"late")));
        assert_eq!(conversation.poll(), Ok(None), "nothing follows a close");
    }

    #[test]
    fn what_is_not_this_streams_or_out_of_turn_ends_it() {
        let foreign = data(8, Bytes::from_static(b"x"));
        let close = frame(Payload::CloseRequest(CloseRequest { connect_id: 9 }));
        let large = Bytes::from_static(b"\0\x00\x40\x00\x01");
        for (bytes, violation) in [
            (foreign, Violation::Foreign(8)),
            (close, Violation::Foreign(9)),
            (dial("node-2:1"), Violation::OutOfTurn("a second dial on one stream")),
            (Bytes::from_static(b"\x01\0\0\0\0"), Violation::Compressed),
            (large, Violation::TooLarge(4 * 1024 * 1024 + 1)),
            (Bytes::from_static(b"\0\0\0\0\x01\xff"), Violation::Malformed),
        ] {
            let mut conversation = open();
            conversation.received(&bytes);
            assert_eq!(conversation.poll(), Err(violation));
            assert_eq!(conversation.poll(), Ok(None), "told once");
        }
        let mut early = Conversation::default();
        early.received(&data(0, Bytes::from_static(b"x")));
        assert!(matches!(early.poll(), Err(Violation::OutOfTurn(_))));
    }

    #[test]
    fn a_dial_is_given_up_by_its_own_name_only() {
        let mut conversation = Conversation::default();
        conversation.received(&dial("node-1:10250"));
        assert!(matches!(conversation.poll(), Ok(Some(Event::Dial(_)))));
        conversation.received(&frame(Payload::CloseDial(CloseDial { random: 41 })));
        assert_eq!(conversation.poll(), Ok(None));
        conversation.received(&frame(Payload::CloseDial(CloseDial { random: 42 })));
        assert_eq!(conversation.poll(), Ok(Some(Event::GaveUp)));
    }

    #[test]
    fn an_address_that_is_none_is_answered_in_words() {
        let mut conversation = Conversation::default();
        conversation.received(&dial("node-1"));
        assert_eq!(conversation.poll(), Ok(Some(Event::BadDial("a dial needs HOST:PORT"))));
        let answer = Packet::decode(conversation.refused("no".to_owned()).split_off(PREFIX_BYTES));
        let Some(Payload::DialResponse(answer)) = answer.expect("a packet").payload else {
            panic!("an answer")
        };
        assert_eq!((answer.error.as_str(), answer.connect_id, answer.random), ("no", 0, 42));
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in_however_the_stream_is_cut(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..12),
            cut in 1..97_usize,
        ) {
            let mut conversation = open();
            let wire: Vec<u8> =
                pieces.iter().flat_map(|piece| data(7, Bytes::from(piece.clone())).to_vec()).collect();
            let mut read = Vec::new();
            for part in wire.chunks(cut) {
                conversation.received(part);
                while let Some(event) = conversation.poll().expect("a good client") {
                    let Event::Bytes(bytes) = event else { panic!("{event:?}") };
                    read.extend_from_slice(&bytes);
                }
            }
            prop_assert_eq!(read, pieces.concat());
        }

        #[test]
        fn bytes_from_outside_never_panic_and_hold_no_more_than_one_message(
            start in any::<bool>(),
            parts in proptest::collection::vec(proptest::collection::vec(0..9_u8, 0..40), 0..20),
        ) {
            let mut conversation = if start { open() } else { Conversation::default() };
            for part in parts {
                conversation.received(&part);
                while let Ok(Some(event)) = conversation.poll() {
                    if matches!(event, Event::Dial(_) | Event::BadDial(_)) {
                        let _ = conversation.refused("no".to_owned());
                    }
                }
                prop_assert!(conversation.inbox.len() <= PREFIX_BYTES + MAX_MESSAGE_BYTES);
            }
        }
    }
}
