//! Pools of a lab: which node is in which, the certificates of their members, and the coordinator of the first pool.
//!
//! `--pools P` makes pools of one node each of the last P-1 nodes and `pool-1` of the others. Each pool is a zone of its
//! own by label. `pool-1` has a coordinator on its first node; its hubs know it, the others have no pool to know.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::member::Member;
use proto_daemon::config;
use serde_json::{Value, json};

use super::certificates::{Authority, KeyPairFiles, LIFETIME, Subject};
use super::error::{LabError, Result};
use super::process::{Processes, Start};
use super::{Lab, objects, probe};

/// Where a coordinator listens on the LAN.
pub(crate) const PORT: u16 = 10_262;

/// How long a coordinator may take to be ready while the cloud answers.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What operators apply for coordinators.
const RIGHTS: &str = include_str!("../../../deploy/pool-coordinator-rbac.yaml");

/// The labels that say where a node is; only an administrator sets them in a lab.
const ZONE: &str = "topology.kubernetes.io/zone";
const POOL: &str = "node-restriction.kubernetes.io/eyot-pool";

/// The pool of the node number `index`, counted from 1, of `nodes` in `pools`.
pub(crate) fn pool_of(index: usize, nodes: usize, pools: usize) -> String {
    let first = nodes - (pools - 1);
    format!("pool-{}", if index <= first { 1 } else { index - first + 1 })
}

/// Gives a Node the labels of its pool.
pub(crate) fn label(node: &mut Value, pool: &str) {
    node["metadata"]["labels"][ZONE] = pool.into();
    node["metadata"]["labels"][POOL] = pool.into();
}

/// The rights of coordinators.
pub(crate) fn rights() -> Vec<Value> {
    let parse = |text| {
        config::parse(Path::new("deploy/pool-coordinator-rbac.yaml"), text).expect("a test reads it, too")
    };
    RIGHTS.split("\n---\n").map(parse).collect()
}

/// The coordinator of a pool.
pub(crate) struct Coordinator<'a> {
    /// The lab's folder.
    dir: &'a Path,
    /// The pool.
    pool: String,
    /// The node that it runs on.
    node: &'a str,
    /// That node's address on the lab's subnet.
    address: Ipv4Addr,
    /// That node's network namespace.
    namespace: String,
    /// The lab's process table.
    processes: &'a Processes,
}

impl Lab {
    /// The node's pool; none where the lab was built without pools.
    pub fn pool(&self, node: &str) -> Result<Option<String>> {
        let index = usize::from(self.check(node)?);
        let pools = usize::from(self.state.pools);
        Ok((pools > 0).then(|| pool_of(index, self.state.nodes.len(), pools)))
    }

    /// The coordinator of the node's pool, if that pool has one.
    pub(crate) fn coordinator_for(&self, node: &str) -> Result<Option<Coordinator<'_>>> {
        let Some(pool) = self.pool(node)?.filter(|pool| pool == "pool-1") else { return Ok(None) };
        let first = self.state.nodes.first().expect("a lab has a node");
        Ok(Some(Coordinator {
            dir: &self.dir,
            pool,
            node: first,
            address: self.state.subnet.node(1),
            namespace: self.names.node(first),
            processes: &self.processes,
        }))
    }

    /// The coordinator that runs on `node`.
    pub(crate) fn coordinator_on(&self, node: &str) -> Result<Option<Coordinator<'_>>> {
        Ok(self.coordinator_for(node)?.filter(|coordinator| coordinator.node == node))
    }

    /// What the hub of `node` is told of its pool.
    pub(crate) fn pool_section(&self, node: &str) -> Result<Option<Value>> {
        Ok(self.coordinator_for(node)?.map(|coordinator| {
            let member = member_files(&self.dir, node);
            json!({
                "name": coordinator.pool,
                "coordinators": [{
                    "node": coordinator.node,
                    "address": format!("{}:{PORT}", coordinator.address),
                }],
                "member": { "certificate": member.certificate, "key": member.key },
                "memberCA": authority_folder(&self.dir, &coordinator.pool).join("ca.crt"),
            })
        }))
    }

    /// What the coordinator on `node` says at `route` of its admin socket, such as `/metrics`.
    pub fn coordinator_says(&self, node: &str, route: &str) -> Result<String> {
        let coordinator = self.coordinator_on(node)?;
        let coordinator = coordinator
            .ok_or_else(|| LabError::Invalid(format!("no coordinator runs on {node}; build with --pools")))?;
        probe::unix_body(&coordinator.admin_socket(), route).map_err(LabError::Invalid)
    }

    /// Makes the authorities of the pools, and every member's certificate.
    pub(crate) fn prepare_members(&self) -> Result<()> {
        for node in &self.state.nodes {
            let Some(pool) = self.pool(node)? else { return Ok(()) };
            let folder = authority_folder(&self.dir, &pool);
            let authority = match folder.join("ca.crt").exists() {
                true => Authority::open(&folder)?,
                false => Authority::create(&folder)?,
            };
            let member = Member::new(&pool, node).expect("names of a lab are names of objects").to_string();
            let files = member_files(&self.dir, node);
            if let Some(folder) = files.certificate.parent() {
                fs::create_dir_all(folder).map_err(LabError::io("create", folder))?;
            }
            authority.issue_for(&Subject::Member { uri: &member }, &files, LIFETIME)?;
        }
        Ok(())
    }
}

fn authority_folder(dir: &Path, pool: &str) -> PathBuf {
    dir.join("pki").join(pool)
}

fn member_files(dir: &Path, node: &str) -> KeyPairFiles {
    KeyPairFiles::at(&dir.join("nodes").join(node), "member")
}

impl Coordinator<'_> {
    /// The name of its process record.
    pub(crate) fn process(&self) -> String {
        format!("{}.coordinator", self.node)
    }

    fn folder(&self) -> PathBuf {
        self.dir.join("nodes").join(self.node)
    }

    fn admin_socket(&self) -> PathBuf {
        self.folder().join("pool.sock")
    }

    fn config(&self) -> PathBuf {
        self.folder().join("coordinator.yaml")
    }

    /// Makes its client certificate and its configuration; the members' certificates must exist.
    pub(crate) fn prepare(&self, authority: &Authority, api_server: &str) -> Result<()> {
        let user = format!("eyot:pool-coordinator:{}:{}", self.pool, self.node);
        let credential = KeyPairFiles::at(&self.folder(), "coordinator");
        let subject = Subject::Client { user: &user, groups: &["eyot:pool-coordinators"] };
        authority.issue(&subject, &credential)?;
        let member = member_files(self.dir, self.node);
        let config = json!({
            "pool": self.pool,
            "nodeName": self.node,
            "listen": [format!("{}:{PORT}", self.address)],
            "member": { "certificate": member.certificate, "key": member.key },
            "memberCA": authority_folder(self.dir, &self.pool).join("ca.crt"),
            "apiServers": [api_server],
            "apiServerCA": self.dir.join("pki/ca.crt"),
            "credential": { "certificate": credential.certificate, "key": credential.key },
            "adminSocket": self.admin_socket(),
            "log": { "format": "text", "level": "info,pool_coordinator=debug" },
        });
        let text = serde_json::to_string_pretty(&config).expect("strings and lists are JSON");
        fs::write(self.config(), text).map_err(LabError::io("write", self.config()))
    }

    /// Starts it; `program` is the `eyot` program, which holds the coordinator as a hidden command.
    pub(crate) fn start(&self, program: &Path) -> Result<()> {
        self.processes
            .start(Start {
                name: &self.process(),
                namespace: &self.namespace,
                program,
                arguments: vec![
                    "coordinator".to_owned(),
                    "--config".to_owned(),
                    self.config().display().to_string(),
                ],
                environment: Vec::new(),
            })
            .map(drop)
    }

    /// Waits until it holds all of each kind.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        self.processes.wait_ready(&self.process(), READY_LIMIT, || self.ready())
    }

    /// Whether it is ready now; the error is its own answer.
    pub(crate) fn ready(&self) -> std::result::Result<(), String> {
        probe::unix(&self.admin_socket(), "/readyz")
    }
}

/// Gives the coordinators their rights, their members certificates, and starts them.
pub(super) fn start(
    lab: &Lab,
    kubectl: std::process::Command,
    authority: &Authority,
    server: &str,
) -> Result<()> {
    objects::apply(kubectl, &rights())?;
    lab.prepare_members()?;
    for node in &lab.state.nodes {
        if let Some(coordinator) = lab.coordinator_on(node)? {
            coordinator.prepare(authority, server)?;
            coordinator.start(&lab.state.program)?;
            coordinator.wait_ready()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pools_have_a_node_each_and_the_first_has_the_others() {
        let pools = |nodes, pools| (1..=nodes).map(|index| pool_of(index, nodes, pools)).collect::<Vec<_>>();
        assert_eq!(pools(4, 2), ["pool-1", "pool-1", "pool-1", "pool-2"]);
        assert_eq!(pools(4, 3), ["pool-1", "pool-1", "pool-2", "pool-3"]);
        assert_eq!(pools(2, 1), ["pool-1", "pool-1"]);
        assert_eq!(pools(2, 2), ["pool-1", "pool-2"]);
    }
}
