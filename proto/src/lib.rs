//! The contract among our own processes: plain data, no runtime, no socket, no clock.

pub mod backoff;
pub mod coordinator;
pub mod jwt;
pub mod member;
pub mod names;
pub mod tunnel;
