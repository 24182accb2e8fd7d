//! The decisions of the edge hub, pure: no sockets, no clock, no tokio.

pub mod clock;
pub mod identity;
