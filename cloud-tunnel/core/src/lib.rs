//! The pure core of the cloud-tunnel: where a dial may go and what is said of it, who holds which link, when a link is
//! dead, who has to make room. No clock, no socket: time and bytes are arguments.

pub mod allow;
pub mod budget;
pub mod class;
pub mod connect;
pub mod link;
pub mod registry;
pub mod route;
