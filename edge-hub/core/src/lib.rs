//! The decisions of the edge hub, pure: no sockets, no clock, no tokio.

pub mod clock;
pub mod collection;
pub mod body;
pub mod documents;
pub mod identity;
pub mod jwt;
pub mod link;
pub mod record;
pub mod reflector;
pub mod token;
pub mod view;
