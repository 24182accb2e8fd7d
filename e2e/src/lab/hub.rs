//! The edge-hub of one node: its certificate and configuration, its start, and whether it is ready.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::certificates::{Authority, KeyPairFiles, LIFETIME, Subject};
use super::error::{LabError, Result};
use super::objects::ADMIN_USER;
use super::probe;
use super::process::{Processes, Start};

/// Where every node's hub listens, in that node's namespace.
pub(crate) const LISTEN: &str = "127.0.0.1:10261";

/// How long a hub may take to be ready while the cloud answers.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(60);

/// The hub of one node.
pub(crate) struct Hub<'a> {
    /// The lab's folder.
    pub(crate) dir: &'a Path,
    /// The node's name.
    pub(crate) node: &'a str,
    /// The node's network namespace.
    pub(crate) namespace: &'a str,
    /// The node's address on the lab's subnet.
    pub(crate) address: Ipv4Addr,
    /// The lab's process table.
    pub(crate) processes: &'a Processes,
    /// What it is told of its pool.
    pub(crate) pool: Option<serde_json::Value>,
}

impl Hub<'_> {
    /// The hub's URL for clients in the node's namespace.
    pub(crate) fn server() -> String {
        format!("https://{LISTEN}")
    }

    /// The name of the hub's process record.
    pub(crate) fn process(&self) -> String {
        format!("{}.hub", self.node)
    }

    fn folder(&self) -> PathBuf {
        self.dir.join("nodes").join(self.node)
    }

    fn config(&self) -> PathBuf {
        self.folder().join("hub.yaml")
    }

    fn admin_socket(&self) -> PathBuf {
        self.folder().join("hub.sock")
    }

    fn serving(&self) -> KeyPairFiles {
        KeyPairFiles::at(&self.folder(), "hub")
    }

    /// Makes a serving certificate that holds for `lifetime`; returns its end.
    pub(crate) fn issue_serving(
        &self,
        authority: &Authority,
        lifetime: time::Duration,
    ) -> Result<time::OffsetDateTime> {
        let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), self.address.into()];
        let name = format!("edge-hub-{}", self.node);
        let subject = Subject::Server { name: &name, dns: &["localhost", self.node], addresses: &addresses };
        authority.issue_for(&subject, &self.serving(), lifetime)
    }

    /// Makes the hub's serving certificate and its configuration; the node's certificate must exist.
    pub(crate) fn prepare(&self, authority: &Authority, api_server: &str, pki: &Path) -> Result<()> {
        self.issue_serving(authority, LIFETIME)?;
        self.configure(api_server, pki, false)
    }

    /// Writes the hub's configuration. `deny_expired` refuses what ended while cut; the default serves it.
    pub(crate) fn configure(&self, api_server: &str, pki: &Path, deny_expired: bool) -> Result<()> {
        let serving = self.serving();
        let credential = KeyPairFiles::at(&self.folder(), "node");
        let mut config = json!({
            "nodeName": self.node,
            "listen": [LISTEN],
            "apiServers": [api_server],
            "apiServerCA": pki.join("ca.crt"),
            "credential": { "certificate": credential.certificate, "key": credential.key },
            "clientCA": pki.join("ca.crt"),
            "serving": { "certificate": serving.certificate, "key": serving.key },
            "stateDirectory": self.folder().join("hub-state"),
            "adminSocket": self.admin_socket(),
            "offline": { "admit": [ADMIN_USER], "expiredToken": if deny_expired { "deny" } else { "serve" } },
            // Each request of the node's clients has its line, and each answer one that says how long it took: that is the
            // lab's recording.
            "log": { "format": "text", "level": "info,edge_hub::request=debug,edge_hub::answer=debug" },
        });
        if let Some(pool) = &self.pool {
            config["pool"] = pool.clone();
        }
        let text = serde_json::to_string_pretty(&config).expect("strings and lists are JSON");
        fs::write(self.config(), text).map_err(LabError::io("write", self.config()))
    }

    /// Starts the hub; `program` is the `eyot` program, which holds the hub as a hidden command.
    pub(crate) fn start(&self, program: &Path) -> Result<()> {
        self.start_shifted(program, 0)
    }

    /// As [`Hub::start`], with a clock that is `offset` seconds ahead.
    pub(crate) fn start_shifted(&self, program: &Path, offset: i64) -> Result<()> {
        let mut arguments =
            vec!["hub".to_owned(), "--config".to_owned(), self.config().display().to_string()];
        if offset != 0 {
            arguments.push(format!("--clock-offset={offset}"));
        }
        self.processes
            .start(Start {
                name: &self.process(),
                namespace: self.namespace,
                program,
                arguments,
                environment: Vec::new(),
            })
            .map(drop)
    }

    /// Waits until the hub says that it is ready.
    pub(crate) fn wait_ready(&self, limit: Duration) -> Result<()> {
        self.processes.wait_ready(&self.process(), limit, || self.ready())
    }

    /// Whether the hub is ready now; the error is its own answer.
    pub(crate) fn ready(&self) -> std::result::Result<(), String> {
        probe::unix(&self.admin_socket(), "/readyz")
    }

    /// What the hub counts.
    pub(crate) fn metrics(&self) -> Result<String> {
        probe::unix_body(&self.admin_socket(), "/metrics").map_err(LabError::Invalid)
    }

    /// What the hub says of itself.
    pub(crate) fn status(&self) -> Result<serde_json::Value> {
        let answer = probe::unix_body(&self.admin_socket(), "/status").map_err(LabError::Invalid)?;
        serde_json::from_str(&answer).map_err(|error| LabError::Invalid(format!("/status: {error}")))
    }
}
