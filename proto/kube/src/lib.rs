//! The Kubernetes wire contract, pure: requests, selectors, media types, statuses and their bytes.
//!
//! Nothing here opens a socket, reads a clock or keeps state: text and bytes in, values out.

pub mod descriptor;
mod document;
pub mod edit;
pub mod gvr;
pub mod json;
pub mod list;
pub mod list_options;
pub mod media_type;
pub mod object;
pub mod request_info;
pub mod selector;
pub mod status;
pub mod transcode;
pub mod watch;
pub mod wire;
