//! The media engine: WHIP publishers and WHEP viewers in a pod with fixed ports.

pub mod crypto;
pub mod endpoint;
pub mod peer;
