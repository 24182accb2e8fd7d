//! The Kubernetes wire contract, pure: requests, selectors, media types, statuses and their bytes, and the state
//! machine of a list-watch.
//!
//! Nothing here opens a socket or reads a clock: text, bytes and moments in, values out.

pub mod clock;
pub mod descriptor;
mod document;
pub mod edit;
pub mod gvr;
pub mod inflate;
pub mod json;
pub mod list;
pub mod list_options;
pub mod media_type;
pub mod object;
pub mod reflector;
pub mod request_info;
mod resource_request;
pub mod selector;
pub mod status;
pub mod transcode;
pub mod watch;
pub mod wire;
