//! The contract among our own processes: plain data, no runtime, no socket, no clock.

pub mod backoff;
pub mod jwt;
pub mod names;
