//! The messages of konnectivity's `ProxyService`, by which kube-apiserver's egress selector dials with `proxyProtocol: GRPC`.
//!
//! Source: `konnectivity-client/proto/client/client.proto` of kubernetes-sigs/apiserver-network-proxy. The file has no
//! proto package: the method is [`PROXY_METHOD`], a stream of [`Packet`]s both ways.

use prost::Message;

/// The path of the one method.
pub const PROXY_METHOD: &str = "/ProxyService/Proxy";
/// The only protocol that clients dial.
pub const PROTOCOL_TCP: &str = "tcp";

/// What a packet is. Clients read it and not the payload's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum PacketType {
    /// Dial, please.
    DialReq = 0,
    /// The dial's outcome.
    DialRsp = 1,
    /// Close, please.
    CloseReq = 2,
    /// It is closed.
    CloseRsp = 3,
    /// Bytes of the connection.
    Data = 4,
    /// A dial that nobody waits for any more.
    DialCls = 5,
    /// No new dials.
    Drain = 6,
}

/// One message of the stream.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Packet {
    /// What it is.
    #[prost(enumeration = "PacketType", tag = "1")]
    pub r#type: i32,
    /// What it carries.
    #[prost(oneof = "packet::Payload", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub payload: Option<packet::Payload>,
}

/// The payloads of [`Packet`].
pub mod packet {
    /// One of them.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Payload {
        /// Of `DialReq`.
        #[prost(message, tag = "2")]
        DialRequest(super::DialRequest),
        /// Of `DialRsp`.
        #[prost(message, tag = "3")]
        DialResponse(super::DialResponse),
        /// Of `Data`.
        #[prost(message, tag = "4")]
        Data(super::Data),
        /// Of `CloseReq`.
        #[prost(message, tag = "5")]
        CloseRequest(super::CloseRequest),
        /// Of `CloseRsp`.
        #[prost(message, tag = "6")]
        CloseResponse(super::CloseResponse),
        /// Of `DialCls`.
        #[prost(message, tag = "7")]
        CloseDial(super::CloseDial),
        /// Of `Drain`.
        #[prost(message, tag = "8")]
        Drain(super::Drain),
    }
}

/// A dial.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DialRequest {
    /// [`PROTOCOL_TCP`].
    #[prost(string, tag = "1")]
    pub protocol: String,
    /// `HOST:PORT`.
    #[prost(string, tag = "2")]
    pub address: String,
    /// The client's name for this dial; the answer repeats it.
    #[prost(int64, tag = "3")]
    pub random: i64,
}

/// A dial's outcome.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DialResponse {
    /// Why there is no connection; empty if there is one. The user reads it.
    #[prost(string, tag = "1")]
    pub error: String,
    /// The connection's number, which is not 0.
    #[prost(int64, tag = "2")]
    pub connect_id: i64,
    /// That of the request.
    #[prost(int64, tag = "3")]
    pub random: i64,
}

/// Bytes of a connection.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Data {
    /// The connection's number.
    #[prost(int64, tag = "1")]
    pub connect_id: i64,
    /// Unused by clients.
    #[prost(string, tag = "2")]
    pub error: String,
    /// The bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: bytes::Bytes,
}

/// The client wants no more of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CloseRequest {
    /// The connection's number.
    #[prost(int64, tag = "1")]
    pub connect_id: i64,
}

/// A connection is closed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CloseResponse {
    /// Why, if it broke.
    #[prost(string, tag = "1")]
    pub error: String,
    /// The connection's number.
    #[prost(int64, tag = "2")]
    pub connect_id: i64,
}

/// The client waits for a dial no longer.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct CloseDial {
    /// The dial's name.
    #[prost(int64, tag = "1")]
    pub random: i64,
}

/// The sender takes no new dials.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Drain {}

impl Packet {
    /// A packet of this payload; its type follows from it.
    #[must_use]
    pub fn new(payload: packet::Payload) -> Self {
        use packet::Payload;
        let kind = match &payload {
            Payload::DialRequest(_) => PacketType::DialReq,
            Payload::DialResponse(_) => PacketType::DialRsp,
            Payload::Data(_) => PacketType::Data,
            Payload::CloseRequest(_) => PacketType::CloseReq,
            Payload::CloseResponse(_) => PacketType::CloseRsp,
            Payload::CloseDial(_) => PacketType::DialCls,
            Payload::Drain(_) => PacketType::Drain,
        };
        Self { r#type: kind.into(), payload: Some(payload) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_client_proto() {
        let address = "node-1:10250".to_owned();
        let dial = DialRequest { protocol: PROTOCOL_TCP.to_owned(), address, random: 300 };
        let dial = Packet::new(packet::Payload::DialRequest(dial));
        assert_eq!(dial.encode_to_vec(), b"\x12\x16\x0a\x03tcp\x12\x0cnode-1:10250\x18\xac\x02");
        let data = Data { connect_id: 7, error: String::new(), data: bytes::Bytes::from_static(b"hi") };
        let data = Packet::new(packet::Payload::Data(data));
        assert_eq!(data.encode_to_vec(), b"\x08\x04\x22\x06\x08\x07\x1a\x02hi");
        let closed = CloseResponse { error: String::new(), connect_id: 7 };
        let closed = Packet::new(packet::Payload::CloseResponse(closed));
        assert_eq!(closed.encode_to_vec(), b"\x08\x03\x32\x02\x10\x07");
    }
}
