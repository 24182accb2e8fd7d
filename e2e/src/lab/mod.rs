//! A whole Kubernetes with cut-off nodes on one machine: an unmodified control plane and N nodes, each in a network
//! namespace of its own with an edge-hub, and faults on purpose. Needs root; needs no images and no internet once the
//! binaries are built. `eyot lab` is its command line, [`Lab`] the same for tests.

mod acts;
mod address;
mod agents;
mod assets;
mod certificates;
mod cloud;
mod command;
mod compare;
mod control_group;
mod cut;
mod delay;
mod endpoints;
mod error;
mod expiry;
mod fault;
mod hex;
mod history;
mod hub;
mod image;
mod informers;
mod judge;
mod kubeconfig;
mod media;
mod namespace;
mod network;
mod node;
mod node_certificate;
mod objects;
mod parts;
mod pool;
mod probe;
mod process;
mod request;
mod requirements;
mod router;
mod samples;
mod shared;
mod state;
mod status;
mod sweep;
mod traffic;
mod tunnel;
mod up;

use std::path::PathBuf;

pub use acts::down_after;
pub use assets::{Assets, MissingAssets, all_programs, cache_root};
pub use compare::{CompareOptions, Row, compare, table};
pub use cut::{Cut, Way};
pub use delay::{Delay, Link, run_delay};
pub use error::{LabError, Result};
pub use expiry::{Certificate, HubOptions};
pub use fault::Slow;
pub use informers::{Board, CacheName, Collection, Informers, Told};
pub use judge::{Judge, build_judges, locate_connect, locate_judges};
pub use media::{EnginePod, Grant};
pub use namespace::in_namespace;
pub use node::Container;
pub use parts::NodePart;
pub use process::wait_until;
pub use request::{Answer, Request, Shape, shapes};
pub use requirements::{connect_or_skip, judges_or_skip, missing, real_or_skip, skip};
pub use shared::{ClaimedLab, ClaimedNode};
pub use state::HubKind;
pub use status::{NodeStatus, ProcessStatus, Status};
pub use sweep::Swept;
pub use traffic::{LinkTraffic, Traffic};
pub use up::UpOptions;

use address::Names;
use process::Processes;
use state::State;

/// A lab that stands, from any process that knows its folder.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    state: State,
    names: Names,
    processes: Processes,
}

/// Which nodes a command means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nodes {
    /// Every node.
    All,
    /// The node of this name.
    One(String),
}

impl From<&str> for Nodes {
    /// `all` means all.
    fn from(name: &str) -> Self {
        if name == "all" { Nodes::All } else { Nodes::One(name.to_owned()) }
    }
}
