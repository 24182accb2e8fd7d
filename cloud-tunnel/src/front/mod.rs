//! The doors of the server, each a protocol by which an API server asks for a connection to a node.

pub mod connect;
