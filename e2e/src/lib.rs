//! The roof: what runs the houses together and proves them. [`lab`] puts a real Kubernetes around edge-hubs on one
//! machine; [`cloud`] is a model of one; [`demo`] shows a cut in a minute; [`cli`] is the `eyot` command.

pub mod cli;
pub mod cloud;
pub mod demo;
pub mod lab;
pub mod random;
