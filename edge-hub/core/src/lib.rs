//! The decisions of the edge hub, pure: no sockets, no clock, no tokio.

pub mod clock;
pub mod collection;
pub mod identity;
pub mod jwt;
pub mod documents;
pub mod link;
pub mod reflector;
