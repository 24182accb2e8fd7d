//! The contract between a process of ours and what runs it: systemd, the kubelet, Prometheus, an operator.
//!
//! The only room of `proto` that does IO. Shells import it; cores may not.

pub mod admin;
pub mod api_server;
pub mod config;
pub mod exit;
pub mod member;
pub mod metrics;
pub mod shutdown;
pub mod signature;
pub mod telemetry;
pub mod tls;
