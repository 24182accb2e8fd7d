//! The tunnel of a lab whose nodes stand behind NAT: `tunnel-server` in the cloud, `tunnel-agent` on the first node, and
//! what kube-apiserver needs to dial by the one and find names.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto_daemon::config;
use serde_json::{Value, json};

use super::address::Subnet;
use super::certificates::{Authority, KeyPairFiles, Subject};
use super::error::{LabError, Result};
use super::probe;
use super::process::{Processes, Start};

/// The pool's name.
pub(crate) const POOL: &str = "pool-1";

/// Where agents arrive.
pub(crate) const PORT: u16 = 10_264;

/// The process record of the server.
pub(crate) const SERVER: &str = "cloud.tunnel-server";

/// How long the server may take until it is ready, and the link until it is up.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What operators give kube-apiserver.
const EGRESS: &str = include_str!("../../../deploy/egress-selector-configuration.yaml");

/// The two ends.
pub(crate) struct Tunnel<'a> {
    /// The lab's folder.
    pub(crate) dir: &'a Path,
    /// The cloud's namespace.
    pub(crate) cloud: &'a str,
    /// The agent's namespace: that of the first node.
    pub(crate) edge: &'a str,
    /// The lab's addresses.
    pub(crate) subnet: Subnet,
    /// The nodes, the first of which has the agent.
    pub(crate) nodes: &'a [String],
    /// The lab's process table.
    pub(crate) processes: &'a Processes,
}

/// The process record of the agent on `node`.
pub(crate) fn agent_process(node: &str) -> String {
    format!("{node}.tunnel-agent")
}

/// The files that kube-apiserver is given: its egress selector, and its own `/etc/hosts`.
pub(crate) struct ApiServerFiles {
    pub(crate) egress: PathBuf,
    pub(crate) hosts: PathBuf,
}

/// Where [`ApiServerFiles`] stand below the lab's folder `dir`.
pub(crate) fn api_server_files(dir: &Path) -> ApiServerFiles {
    let folder = dir.join("cloud");
    ApiServerFiles { egress: folder.join("egress.yaml"), hosts: folder.join("hosts") }
}

impl Tunnel<'_> {
    fn folder(&self) -> PathBuf {
        self.dir.join("cloud")
    }

    fn server_config(&self) -> PathBuf {
        self.folder().join("tunnel-server.yaml")
    }

    /// The server's admin socket.
    pub(crate) fn server_socket(&self) -> PathBuf {
        self.folder().join("tunnel-server.sock")
    }

    /// The door that kube-apiserver dials.
    pub(crate) fn door(&self) -> PathBuf {
        self.folder().join("http-connect.sock")
    }

    /// The node that the agent runs on.
    pub(crate) fn agent_node(&self) -> &str {
        self.nodes.first().map_or("node-1", String::as_str)
    }

    fn agent_file(&self, name: &str) -> PathBuf {
        self.dir.join("nodes").join(self.agent_node()).join(name)
    }

    /// The agent's admin socket.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.agent_file("tunnel-agent.sock")
    }

    /// Makes the server's certificate, its configuration, and the files of kube-apiserver.
    pub(crate) fn prepare_server(&self, authority: &Authority) -> Result<()> {
        let folder = self.folder();
        fs::create_dir_all(&folder).map_err(LabError::io("create", &folder))?;
        let serving = KeyPairFiles::at(&self.dir.join("pki"), "tunnel-server");
        let addresses = self.subnet.cloud_addresses();
        let subject =
            Subject::Server { name: "tunnel-server", dns: &["tunnel-server"], addresses: &addresses };
        authority.issue(&subject, &serving)?;
        let server = json!({
            "listen": [format!("{}:{PORT}", self.subnet.cloud())],
            "serving": { "certificate": serving.certificate, "key": serving.key },
            "clientCA": self.dir.join("pki/ca.crt"),
            "pool": { "name": POOL, "nodes": self.nodes },
            "doors": { "httpConnect": self.door() },
            "adminSocket": self.server_socket(),
            "log": { "level": "info,cloud_tunnel=debug" },
        });
        write(&self.server_config(), &server)?;
        let files = api_server_files(self.dir);
        write(&files.egress, &self.egress()?)?;
        // kube-apiserver looks a node's name up before it dials `nodes/NAME/proxy` by that name; any address will do.
        let numbered = (1..).zip(self.nodes);
        let names: String =
            numbered.map(|(index, node)| format!("{} {node}\n", self.subnet.node(index))).collect();
        fs::write(&files.hosts, format!("127.0.0.1 localhost\n{names}"))
            .map_err(LabError::io("write", files.hosts))
    }

    /// The shipped configuration with the path of this lab's door.
    fn egress(&self) -> Result<Value> {
        let parsed: std::result::Result<Value, _> =
            config::parse(Path::new("deploy/egress-selector-configuration.yaml"), EGRESS);
        let mut egress = parsed.map_err(|error| LabError::Invalid(error.to_string()))?;
        egress["egressSelections"][0]["connection"]["transport"]["uds"]["udsName"] =
            self.door().display().to_string().into();
        Ok(egress)
    }

    /// Writes the agent's configuration; the node's certificate must exist.
    pub(crate) fn prepare_agent(&self) -> Result<()> {
        let credential = KeyPairFiles::at(&self.dir.join("nodes").join(self.agent_node()), "node");
        let numbered = (1..).zip(self.nodes);
        let nodes: Vec<Value> = numbered
            .map(|(index, node)| json!({ "name": node, "address": self.subnet.node(index).to_string() }))
            .collect();
        let agent = json!({
            "nodeName": self.agent_node(),
            "pool": POOL,
            "servers": [format!("{}:{PORT}", self.subnet.cloud())],
            "serverCA": self.dir.join("pki/ca.crt"),
            "credential": { "certificate": credential.certificate, "key": credential.key },
            "nodes": nodes,
            "adminSocket": self.agent_socket(),
            "log": { "level": "info,cloud_tunnel=debug" },
        });
        write(&self.agent_file("tunnel-agent.yaml"), &agent)
    }

    /// Starts the server; `program` is `eyot`, which holds it as a hidden command. Returns when its door is open.
    pub(crate) fn start_server(&self, program: &Path) -> Result<()> {
        self.start(SERVER, self.cloud, program, "tunnel-server", &self.server_config())?;
        self.processes.wait_ready(SERVER, READY_LIMIT, || probe::unix(&self.server_socket(), "/readyz"))
    }

    /// Starts the agent and does not wait for its link.
    pub(crate) fn start_agent(&self, program: &Path) -> Result<()> {
        let name = agent_process(self.agent_node());
        self.start(&name, self.edge, program, "tunnel-agent", &self.agent_file("tunnel-agent.yaml"))
    }

    /// Waits until the agent has a link.
    pub(crate) fn wait_link(&self) -> Result<()> {
        let name = agent_process(self.agent_node());
        self.processes.wait_ready(&name, READY_LIMIT, || probe::unix(&self.agent_socket(), "/readyz"))
    }

    fn start(&self, name: &str, namespace: &str, program: &Path, command: &str, config: &Path) -> Result<()> {
        let arguments = [command.to_owned(), "--config".to_owned(), config.display().to_string()];
        let start = Start { name, namespace, program, arguments: arguments.into(), environment: Vec::new() };
        self.processes.start(start).map(drop)
    }
}

fn write(path: &Path, content: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(content).expect("strings and lists are JSON");
    fs::write(path, text).map_err(LabError::io("write", path))
}
