//! The roof: what runs the houses together and proves them. [`lab`] puts a real Kubernetes around edge-hubs on one
//! machine; [`cli`] is the `eyot` command.

pub mod cli;
pub mod cloud;
pub mod lab;
