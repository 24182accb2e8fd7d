//! The pool coordinator: one upstream list-watch of each pool-scoped kind for all nodes of a pool, told on to their hubs,
//! and the way to the API server for a node whose own link is cut. GUIDE.md beside this folder leads through it.

pub mod clock;
pub mod cloud;
pub mod config;
pub mod coordinator;
pub mod feed;
pub mod follow;
pub mod metrics;
pub mod relay;
pub mod room;
pub mod run;
pub mod server;
pub mod service;
pub mod status;

pub use run::main_with;

/// How the coordinator names itself to the API server.
pub const USER_AGENT: &str = concat!("pool-coordinator/", env!("CARGO_PKG_VERSION"));
