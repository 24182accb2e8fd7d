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
//! It is checked: one script of requests is played to it and to a real kube-apiserver, and the transcripts are compared
//! (`e2e/tests/the_model_cloud_speaks_like_the_real_server/`). What it does not do is listed there, with the reason.

mod administrator;
mod admission;
mod answer;
mod authorization;
mod defaults;
mod delete;
mod discovery;
mod dispatch;
mod encoding;
mod fault;
mod labels;
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
mod time;
mod token;
mod validate;
mod watch;
mod write;

pub use answer::{Answer, AnswerKind, Response};
pub use authorization::{Policy, Principal, Rule};
pub use encoding::{Encoding, Form, Format};
pub use fault::{Fault, FaultRule, RequestMatch};
pub use labels::LabelSelector;
pub use options::{ListOptions, VersionMatch};
pub use record::{Credential, RequestRecord};
pub use request::{Identity, Request, ResourceTarget, Target};
pub use resource::{Gvr, PrinterColumn, Registry, ResourceKind};
pub use selector::FieldSelector;
pub use server::{Cloud, Replica};
pub use status::Status;
pub use store::{Event, EventType, Key, Store};
pub use table::RowObject;
pub use token::TokenSigner;
pub use watch::WatchCursor;
