//! The cloud-tunnel: one connection per node pool, dialled from the edge, on which the API server reaches the pool's nodes.
//!
//! `tunnel-server` stands beside kube-apiserver and holds the door that it dials; `tunnel-agent` stands on a node and
//! dials the server. `GUIDE.md` beside this crate leads through a dial's life.

pub mod clock;
pub mod config;
pub mod edge;
pub mod front;
pub mod link;
pub mod metrics;
pub mod run;

pub use run::{agent_main_with, server_main_with};
