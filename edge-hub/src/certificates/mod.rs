//! The hub's own certificates: the authority that it makes where it has none, and when they end.

pub mod authority;
pub mod expiry;
