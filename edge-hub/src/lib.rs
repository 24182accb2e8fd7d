//! The edge hub: the node's Kubernetes API. A caching list-watch server in front of kube-apiserver that goes on
//! answering, with real watch events, when the cloud is cut off.

pub mod aggregated;
pub mod at_rest;
pub mod authenticate;
pub mod cell;
pub mod certificate;
pub mod clock;
pub mod config;
pub mod decode;
pub mod documents;
pub mod expiry;
pub mod filters;
pub mod hub;
pub mod metrics;
pub mod overlay;
pub mod pool;
pub mod reflect;
pub mod replay;
pub mod rights;
pub mod rollback;
pub mod run;
pub mod serve;
pub mod server;
pub mod signature;
pub mod status;
pub mod store;
pub mod store_care;
pub mod token_reviews;
pub mod upstream;

pub use run::main_with;

/// How the hub names itself to the API server.
pub const USER_AGENT: &str = concat!("edge-hub/", env!("CARGO_PKG_VERSION"));
