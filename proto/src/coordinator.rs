//! What a pool's coordinator and its members say to each other: one gRPC service over HTTP/2 and mutual TLS, and the
//! CONNECT by which a node that is cut off reaches an API server.
//!
//! ```text
//! service eyot.pool.v1.Pool { rpc Subscribe(SubscribeRequest) returns (stream Frame); }
//! CONNECT kube-apiserver:port   as the coordinator's own configuration names its API servers, nothing else
//! ```
//! Members dial, coordinators listen. Objects travel as the API server's own bytes with its own resource versions.

/// The path of the one method.
pub const SUBSCRIBE: &str = "/eyot.pool.v1.Pool/Subscribe";
/// The version of this protocol that is spoken here. Fields may be added to it; what changes a meaning raises it.
pub const VERSION: u32 = 1;
/// The most bytes of one message, of both directions. A frame with a single object may be as large as the object, of
/// which an API server takes none above 3 MiB.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Frames with more than one object end near this many bytes.
pub const FRAME_BYTES: usize = 256 * 1024;
/// A subscriber hears something at least this often, in milliseconds.
pub const PROGRESS_EVERY_MS: u64 = 1000;

/// The kinds of which a pool keeps one copy: (group, version, resource). Secrets, ConfigMaps and tokens never belong here.
pub const POOL_KINDS: [(&str, &str, &str); 4] = [
    ("", "v1", "services"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("", "v1", "namespaces"),
    ("networking.k8s.io", "v1", "servicecidrs"),
];

/// A member asks for all objects of one kind, from a state that it holds on.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SubscribeRequest {
    /// Oldest [`VERSION`] that the member understands.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Newest one.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// API group; empty for the core.
    #[prost(string, tag = "3")]
    pub group: String,
    /// API version, `v1`.
    #[prost(string, tag = "4")]
    pub version: String,
    /// Resource in the plural.
    #[prost(string, tag = "5")]
    pub resource: String,
    /// The member holds exactly the state at this resource version; 0: it holds nothing.
    #[prost(uint64, tag = "6")]
    pub resume_version: u64,
}

/// What a coordinator sends. A stream is `Start`, then either `Snapshot`s up to one that is `last` or nothing, then
/// `Changes` and `Progress`; a `Rollback` or a `Snapshot` may come in between. Or it is one `Refused`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    /// One of them; a frame without any is of a newer version and may be skipped.
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5, 6")]
    pub said: Option<Said>,
}

/// The contents of a [`Frame`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    /// The subscription stands.
    #[prost(message, tag = "1")]
    Start(Start),
    /// Part of a whole state.
    #[prost(message, tag = "2")]
    Snapshot(Snapshot),
    /// What happened after what was said before.
    #[prost(message, tag = "3")]
    Changes(Changes),
    /// Nothing happened; and how fresh that is.
    #[prost(message, tag = "4")]
    Progress(Progress),
    /// The cloud was set back to an older state, which follows as a snapshot.
    #[prost(message, tag = "5")]
    Rollback(Rollback),
    /// There is no subscription, and why.
    #[prost(message, tag = "6")]
    Refused(Refused),
}

/// How objects are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Encoding {
    /// Never sent.
    Unknown = 0,
    /// Bare Kubernetes protobuf messages, without magic and type.
    Protobuf = 1,
    /// JSON objects as they stand in lists and events.
    Json = 2,
}

/// The first frame of a subscription.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Start {
    /// The [`VERSION`] that is spoken from here on.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// How the objects are encoded.
    #[prost(enumeration = "Encoding", tag = "2")]
    pub encoding: i32,
    /// `apiVersion` of one object.
    #[prost(string, tag = "3")]
    pub api_version: String,
    /// `kind` of one object.
    #[prost(string, tag = "4")]
    pub kind: String,
    /// `kind` of their list.
    #[prost(string, tag = "5")]
    pub list_kind: String,
    /// The coordinator holds the state at this resource version. It may be below the member's own.
    #[prost(uint64, tag = "6")]
    pub version: u64,
    /// As in [`Progress`].
    #[prost(uint64, tag = "7")]
    pub age_ms: u64,
}

/// Objects of a whole state that replaces what the member holds, once the last part is there.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Snapshot {
    /// As the API server sent them.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub objects: Vec<bytes::Bytes>,
    /// With this frame the state is whole.
    #[prost(bool, tag = "2")]
    pub last: bool,
    /// Its resource version; the same in every part.
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Never sent.
    Unknown = 0,
    /// It is now as said.
    Put = 1,
    /// It is gone; the bytes are its last state with the version of its end.
    Deleted = 2,
}

/// One event.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Change {
    /// What happened.
    #[prost(enumeration = "Kind", tag = "1")]
    pub kind: i32,
    /// The object as the API server sent it.
    #[prost(bytes = "bytes", tag = "2")]
    pub object: bytes::Bytes,
}

/// Events in the order of their versions. After a pause only the newest state of each object is told, so that what lies
/// between two states of `upto` is no state that the cloud had.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Changes {
    /// The events.
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<Change>,
    /// With these the member holds the state at this resource version; 0 while more of the same follow.
    #[prost(uint64, tag = "2")]
    pub upto: u64,
}

/// Comes each [`PROGRESS_EVERY_MS`] at the latest.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Progress {
    /// The coordinator holds the state at this resource version, and has said all of it.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// How long ago its own watch at the cloud was last known to stand; 0 while it stands.
    #[prost(uint64, tag = "2")]
    pub age_ms: u64,
}

/// What follows is older than what was held, and true.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Rollback {
    /// The resource version of the state that follows.
    #[prost(uint64, tag = "1")]
    pub version: u64,
}

/// Why there is no subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Reason {
    /// Of a newer version.
    Unknown = 0,
    /// The coordinator is still reading its first state; `progress` says how far it is.
    Filling = 1,
    /// This kind is not kept for the pool, or the cloud refuses it to the coordinator.
    NotServed = 2,
    /// No version of the protocol that both understand.
    Protocol = 3,
    /// The coordinator is ending.
    Draining = 4,
    /// The coordinator has as many subscriptions as it takes.
    Full = 5,
}

/// The only frame of a stream that is no subscription.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Refused {
    /// Why, for the program.
    #[prost(enumeration = "Reason", tag = "1")]
    pub reason: i32,
    /// Why, for people.
    #[prost(string, tag = "2")]
    pub text: String,
    /// When to ask again, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub retry_after_ms: u64,
    /// While filling: rises as long as the state is coming in.
    #[prost(uint64, tag = "4")]
    pub progress: u64,
}

impl Frame {
    /// A frame that says `said`.
    #[must_use]
    pub fn of(said: Said) -> Self {
        Self { said: Some(said) }
    }
}

/// The newest version of the protocol that a member of these versions and this program both speak.
#[must_use]
pub fn agree(version_min: u32, version_max: u32) -> Option<u32> {
    (version_min..=version_max).contains(&VERSION).then_some(VERSION)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What a program of the first release reads and writes. These bytes never change.
    #[test]
    fn the_bytes_on_the_wire_are_those_of_the_first_release() {
        let request = SubscribeRequest {
            version_min: 1,
            version_max: 1,
            group: "discovery.k8s.io".into(),
            version: "v1".into(),
            resource: "endpointslices".into(),
            resume_version: 300,
        };
        let golden = "080110011a10646973636f766572792e6b38732e696f22027631\
                      2a0e656e64706f696e74736c6963657330ac02";
        assert_eq!(hex(&request.encode_to_vec()), golden);
        assert_eq!(SubscribeRequest::decode(&*request.encode_to_vec()), Ok(request));
        let start = Start {
            protocol: 1,
            encoding: Encoding::Protobuf.into(),
            api_version: "v1".into(),
            kind: "Service".into(),
            list_kind: "ServiceList".into(),
            version: 7,
            age_ms: 5,
        };
        let object = || bytes::Bytes::from_static(b"ab");
        let change = |kind: Kind| Change { kind: kind.into(), object: object() };
        let refused =
            Refused { reason: Reason::Filling.into(), text: "no".into(), retry_after_ms: 250, progress: 3 };
        for (said, golden) in [
            (
                Said::Start(start),
                "0a220801 10011a02 7631220753657276696365 2a0b536572766963654c697374 3007 3805",
            ),
            (
                Said::Snapshot(Snapshot { objects: vec![object()], last: true, version: 7 }),
                "1208 0a026162 1001 1807",
            ),
            (
                Said::Changes(Changes { changes: vec![change(Kind::Put), change(Kind::Deleted)], upto: 9 }),
                "1a12 0a06 0801 12026162 0a06 0802 12026162 1009",
            ),
            (Said::Progress(Progress { version: 9, age_ms: 4 }), "2204 0809 1004"),
            (Said::Rollback(Rollback { version: 5 }), "2a02 0805"),
            (Said::Refused(refused), "320b 0801 12026e6f 18fa01 2003"),
        ] {
            let frame = Frame::of(said);
            assert_eq!(hex(&frame.encode_to_vec()), golden.replace(' ', ""), "{frame:?}");
            assert_eq!(Frame::decode(&*frame.encode_to_vec()), Ok(frame));
        }
    }

    #[test]
    fn what_a_newer_program_says_beside_is_skipped() {
        let newer = [0x22, 0x04, 0x08, 0x09, 0x10, 0x04, 0x7a, 0x01, 0x00];
        let frame = Frame::decode(&newer[..]).expect("unknown fields are no error");
        assert_eq!(frame.said, Some(Said::Progress(Progress { version: 9, age_ms: 4 })));
        let unknown = [0x7a, 0x01, 0x00];
        assert_eq!(Frame::decode(&unknown[..]), Ok(Frame { said: None }));
    }

    #[test]
    fn a_version_is_spoken_that_both_understand_or_none() {
        assert_eq!(agree(1, 1), Some(1));
        assert_eq!(agree(1, 9), Some(1));
        assert_eq!(agree(2, 9), None);
        assert_eq!(agree(0, 0), None);
        assert_eq!(agree(9, 1), None);
    }
}
