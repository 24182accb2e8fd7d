//! The edge hub: the node's Kubernetes API. A caching list-watch server in front of kube-apiserver that goes on
//! answering, with real watch events, when the cloud is cut off.

pub mod aggregated;
pub mod at_rest;
pub mod authenticate;
pub mod authorize;
pub mod cell;
pub mod certificate;
pub mod clock;
pub mod collections;
pub mod config;
pub mod decode;
pub mod documents;
pub mod expiry;
pub mod filters;
pub mod guest;
pub mod hop;
pub mod hub;
pub mod label;
pub mod list_room;
pub mod metrics;
pub mod outbox;
pub mod overlay;
pub mod peer;
pub mod pool;
pub mod probe;
pub mod records;
pub mod reflect;
pub mod replay;
pub mod restore;
pub mod reviews;
pub mod rights;
pub mod rollback;
pub mod run;
pub mod serve;
pub mod server;
pub mod shares;
pub mod signature;
pub mod site;
pub mod status;
pub mod store;
pub mod store_care;
pub mod sync;
pub mod token_reviews;
pub mod upstream;

pub use run::main_with;

/// How the hub names itself to the API server.
pub const USER_AGENT: &str = concat!("edge-hub/", env!("CARGO_PKG_VERSION"));
