//! The media engine: WHIP publishers and WHEP viewers in a pod with fixed ports.

pub mod admin;
pub mod call;
pub mod config;
pub mod cors;
pub mod crypto;
pub mod endpoint;
pub mod engine;
pub mod error;
pub mod events;
pub mod http;
pub mod ice_servers;
pub mod listener;
pub mod metrics;
pub mod page;
pub mod peer;
pub mod run;
pub mod state_file;
pub mod stun;
pub mod token;
pub mod worker;

pub use run::main_with;
