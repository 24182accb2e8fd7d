//! The edge hub: the node's Kubernetes API. A caching list-watch server in front of kube-apiserver that goes on
//! answering, with real watch events, when the cloud is cut off.

pub mod certificates;
pub mod clock;
pub mod collections;
pub mod config;
pub mod documents;
pub mod filters;
pub mod hub;
pub mod identity;
pub mod listen;
pub mod metrics;
pub mod outbox;
pub mod overlay;
pub mod persistence;
pub mod pool;
pub mod probe;
pub mod reflect;
pub mod rights;
pub mod run;
pub mod serve;
pub mod shares;
pub mod site;
pub mod status;
pub mod store;
pub mod sync;
pub mod upstream;

pub use run::main_with;

/// How the hub names itself to the API server.
pub const USER_AGENT: &str = concat!("edge-hub/", env!("CARGO_PKG_VERSION"));
