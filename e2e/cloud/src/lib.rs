//! The model cloud: a Kubernetes API server as a pure state machine.
//!
//! It does what tests of the hub need of an API server and no more: one revision sequence with
//! history and compaction, LIST, WATCH and WatchList with the server's semantics, writes and patches,
//! tokens, reviews, authorization, discovery, replicas that lag, and faults on demand. Every request
//! is recorded. Time comes in as an argument, signatures through [`TokenSigner`]; the same calls in
//! the same order give the same answers.
//!
//! It shares **no code with the hub's own parsers and encoders** (`proto-kube`) on purpose: a mistake
//! made in one of the two shows against the other, which a shared library would hide.
//!
//! What it is not: protobuf answers hold object metadata, the fields that selectors read and one
//! unknown high-numbered field, nothing else; server-side apply is a merge patch without field
//! ownership; there is no admission but the namespace check, and no defaulting or validation of specs.

mod answer;
mod authorization;
mod discovery;
mod encoding;
mod fault;
mod list;
mod options;
mod patch;
mod protobuf;
mod record;
mod request;
mod resource;
mod review;
mod selector;
mod server;
mod status;
mod store;
mod table;
mod token;
mod watch;
mod write;

pub use answer::{Answer, AnswerKind, Response};
pub use authorization::{Policy, Principal, Rule};
pub use encoding::{Encoding, Form, Format};
pub use fault::{Fault, FaultRule, RequestMatch};
pub use options::{ListOptions, VersionMatch};
pub use record::{Credential, RequestRecord};
pub use request::{Identity, Request, ResourceTarget, Target};
pub use resource::{Gvr, Registry, ResourceKind};
pub use selector::{FieldSelector, LabelSelector};
pub use server::{Cloud, Replica};
pub use status::Status;
pub use store::{Event, EventType, Key, Store};
pub use token::TokenSigner;
pub use watch::WatchCursor;
