//! The Kubernetes wire contract, pure: requests, selectors, media types, statuses and their bytes.
//!
//! Nothing here opens a socket, reads a clock or keeps state: text and bytes in, values out.

pub mod gvr;
pub mod media_type;
pub mod status;
