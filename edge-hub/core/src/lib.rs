//! The decisions of the edge hub, pure: no sockets, no clock, no tokio.

pub mod access;
pub mod authentication;
pub mod body;
pub mod budget;
pub mod claims;
pub mod client_review;
pub mod collection;
pub mod connections;
pub mod definition;
pub mod documents;
pub mod filter;
pub mod identity;
pub mod impairment;
pub mod lease;
pub mod link;
pub mod node_rights;
pub mod offline;
pub mod overlay;
pub mod plan;
pub mod precondition;
pub mod projection;
pub mod rate;
pub mod record;
pub mod recount;
pub mod refused_tokens;
pub mod review;
pub mod source;
pub mod spool;
pub mod standing;
pub mod table;
pub mod token;
pub mod view;

pub use proto_kube::{clock, reflector};
