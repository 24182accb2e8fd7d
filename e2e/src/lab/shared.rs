//! One lab for many tests: the first test that needs one builds it, each test takes a node of it for itself, and it
//! goes down by itself when the run of `cargo test` ends, however it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
use nix::fcntl::{Flock, FlockArg};

use super::error::{LabError, Result};
use super::{HubKind, Lab, NodePart, Nodes, UpOptions, real_or_skip};

/// How many nodes a shared lab has: as many tests may run in it at the same time.
const NODES: u8 = 2;

/// How many nodes a shared lab of two pools has: three and one.
const NODES_IN_POOLS: u8 = 4;

/// Which lab tests share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nodes that are empty but for their hubs.
    Hubs,
    /// Whole nodes.
    Nodes,
    /// Whole nodes in two pools.
    Pools,
    /// Whole nodes behind NAT, reached by the tunnel.
    Tunnel,
}

impl Kind {
    /// The end of the folder's name.
    fn word(self) -> &'static str {
        match self {
            Kind::Hubs => "hubs",
            Kind::Nodes => "nodes",
            Kind::Pools => "pools",
            Kind::Tunnel => "nat",
        }
    }
}

/// A node of a shared lab, held by one test. Dropping it heals the node and starts what the test has killed.
#[derive(Debug)]
pub struct ClaimedNode {
    lab: Lab,
    name: String,
    _held: Flock<File>,
}

impl ClaimedNode {
    /// Takes a node of the shared lab for the test `test`; builds the lab if it does not stand yet.
    ///
    /// `program` is the `eyot` program: `env!("CARGO_BIN_EXE_eyot")`. `kubelets` asks for whole nodes. Returns `None`
    /// after saying why, where the machine lacks something (see [`real_or_skip`]).
    ///
    /// # Panics
    /// If the lab does not come up: a test cannot go on without it, and the message says what failed.
    pub fn claim(test: &str, program: &str, kubelets: bool) -> Option<ClaimedNode> {
        real_or_skip(test, kubelets)?;
        let kind = if kubelets { Kind::Nodes } else { Kind::Hubs };
        let claimed = shared(Path::new(program), kind).and_then(|lab| {
            let (name, held) = take(&lab, test)?;
            Ok(ClaimedNode { lab, name, _held: held })
        });
        Some(claimed.unwrap_or_else(|error| panic!("{test}: the shared lab: {error}")))
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn restore(&self) -> Result<()> {
        self.lab.heal(&Nodes::One(self.name.clone()))?;
        let status = self.lab.status()?;
        let Some(node) = status.nodes.iter().find(|node| node.name == self.name) else { return Ok(()) };
        for process in node.processes.iter().filter(|process| process.pid.is_none()) {
            let part = NodePart::from_str(&process.name, false).map_err(LabError::Invalid)?;
            self.lab.restart(&self.name, part)?;
        }
        Ok(())
    }
}

impl Drop for ClaimedNode {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            // The next test on this node will fail and say more; a panic in a drop would hide this one's.
            eprintln!("{}: not restored: {error}", self.name);
        }
    }
}

/// A whole shared lab of nodes with kubelets, held by one test. Dropping it heals every node and starts what the test has
/// killed.
#[derive(Debug)]
pub struct ClaimedLab {
    nodes: Vec<ClaimedNode>,
}

impl ClaimedLab {
    /// Takes every node of the shared lab for the test `test`, in order; waits for those who hold one.
    ///
    /// As [`ClaimedNode::claim`].
    ///
    /// # Panics
    /// If the lab does not come up.
    pub fn claim(test: &str, program: &str) -> Option<ClaimedLab> {
        Self::claim_kind(test, program, Kind::Nodes)
    }

    /// As [`ClaimedLab::claim`], the lab of two pools: `node-1` to `node-3` in `pool-1`, whose coordinator is on `node-1`, and
    /// `node-4` in `pool-2`.
    ///
    /// # Panics
    /// If the lab does not come up.
    pub fn claim_pools(test: &str, program: &str) -> Option<ClaimedLab> {
        Self::claim_kind(test, program, Kind::Pools)
    }

    /// As [`ClaimedLab::claim`], of a lab whose nodes stand behind NAT.
    ///
    /// # Panics
    /// If the lab does not come up.
    pub fn claim_tunnel(test: &str, program: &str) -> Option<ClaimedLab> {
        Self::claim_kind(test, program, Kind::Tunnel)
    }

    fn claim_kind(test: &str, program: &str, kind: Kind) -> Option<ClaimedLab> {
        real_or_skip(test, true)?;
        let claimed = || {
            let lab = shared(Path::new(program), kind)?;
            let hold = |name: &String| {
                let held = hold(&lab, name)?;
                Ok(ClaimedNode { lab: Lab::open(lab.dir())?, name: name.clone(), _held: held })
            };
            let nodes = lab.nodes().iter().map(hold).collect::<Result<Vec<_>>>()?;
            Ok(ClaimedLab { nodes })
        };
        Some(claimed().unwrap_or_else(|error: LabError| panic!("{test}: the shared lab: {error}")))
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        self.nodes.first().expect("a lab has a node").lab()
    }
}

/// The lab of this run: opened if it stands, else built.
fn shared(program: &Path, kind: Kind) -> Result<Lab> {
    // Only one test program has pools: that lab need not stay up for the programs after it.
    let owner = if kind == Kind::Pools { nix::unistd::getpid().as_raw() } else { owner() };
    let (nodes, pools) = if kind == Kind::Pools { (NODES_IN_POOLS, 2) } else { (NODES, 0) };
    let dir: PathBuf = std::env::temp_dir().join(format!("eyot-test-{owner}-{}", kind.word()));
    fs::create_dir_all(&dir).map_err(LabError::io("create", &dir))?;
    let path = dir.join("shared.lock");
    let file = File::create(&path).map_err(LabError::io("create", &path))?;
    // Whoever comes second waits here until the first has built it.
    let _building = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| LabError::Io {
        what: "lock",
        path,
        source: errno.into(),
    })?;
    match Lab::open(&dir) {
        Ok(lab) => Ok(lab),
        Err(LabError::NoLab(_)) => Lab::up(&UpOptions {
            kubelets: kind != Kind::Hubs,
            pools,
            tunnel: kind == Kind::Tunnel,
            hub: HubKind::EdgeHub,
            program: Some(program.to_owned()),
            bound_to: Some(owner),
            verbose: true,
            ..UpOptions::new(dir, nodes)
        }),
        Err(error) => Err(error),
    }
}

/// The process whose end is the end of the run: cargo, where cargo started this test, else this process.
fn owner() -> i32 {
    let parent = nix::unistd::getppid().as_raw();
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    if name.starts_with("cargo") { parent } else { nix::unistd::getpid().as_raw() }
}

fn claim_file(lab: &Lab, node: &str) -> Result<File> {
    let path = lab.node_file(node, "claim.lock");
    File::create(&path).map_err(LabError::io("create", path))
}

/// Holds this very node; waits for whoever holds it.
fn hold(lab: &Lab, node: &str) -> Result<Flock<File>> {
    Flock::lock(claim_file(lab, node)?, FlockArg::LockExclusive).map_err(|(_, errno)| LabError::Io {
        what: "lock",
        path: lab.node_file(node, "claim.lock"),
        source: errno.into(),
    })
}

/// Holds a free node; if all are held, waits for one that the test's name picks.
fn take(lab: &Lab, test: &str) -> Result<(String, Flock<File>)> {
    for node in lab.nodes() {
        if let Ok(held) = Flock::lock(claim_file(lab, node)?, FlockArg::LockExclusiveNonblock) {
            return Ok((node.clone(), held));
        }
    }
    let picked = test.bytes().map(usize::from).sum::<usize>() % lab.nodes().len();
    let node = &lab.nodes()[picked];
    Ok((node.clone(), hold(lab, node)?))
}
