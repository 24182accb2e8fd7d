//! Lifetimes on purpose: certificates that end soon, a hub whose clock is ahead, a node that joins by a bootstrap token.

use time::{Duration, OffsetDateTime};

use super::certificates::Authority;
use super::error::Result;
use super::kubeconfig::{self, Credential};
use super::{Lab, NodePart, fault, hub, node_certificate, objects, state, up};

/// A certificate of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Certificate {
    /// The node's client certificate: the kubelet shows it to the hub, the hub to the API server. A running kubelet keeps
    /// the one that it was started with.
    Node,
    /// The serving certificate of the kubelet's own port.
    KubeletServing,
    /// The hub's serving certificate.
    HubServing,
}

/// How a hub is started to show what happens to tokens that have ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct HubOptions {
    /// How many seconds its clock is ahead of the machine's.
    pub clock_offset: i64,
    /// `offline.expiredToken: deny`; else it is the default, `serve`.
    pub deny_expired: bool,
}

impl Lab {
    /// Puts a new certificate that holds for `lifetime` from now in the place of a node's; returns its end. Nothing is
    /// restarted.
    pub fn renew(
        &self,
        node: &str,
        certificate: Certificate,
        lifetime: std::time::Duration,
    ) -> Result<OffsetDateTime> {
        let authority = Authority::open(&self.dir.join("pki"))?;
        let namespace = self.names.node(node);
        let lifetime = Duration::try_from(lifetime).unwrap_or(Duration::MAX);
        match certificate {
            Certificate::Node => {
                self.check(node)?;
                let server = up::server(self, &self.cloud_of(&self.names.cloud()));
                let folder = self.dir.join("nodes").join(node);
                node_certificate::issue(&folder, node, &server, &authority, lifetime)
            }
            Certificate::KubeletServing => {
                self.node_of(node, &namespace)?.issue_serving(&authority, lifetime)
            }
            Certificate::HubServing => self.hub_of(node, &namespace)?.issue_serving(&authority, lifetime),
        }
    }

    /// Ends the hub by SIGTERM and starts it with `options`; any other start has none. Returns when it is ready.
    pub fn restart_hub(&self, node: &str, options: &HubOptions) -> Result<()> {
        let namespace = self.names.node(node);
        let hub = self.hub_of(node, &namespace)?;
        let _lock = state::lock_node(&self.dir, node)?;
        self.processes.stop(&hub.process());
        hub.configure(&self.api_server(), &self.dir.join("pki"), options.deny_expired)?;
        hub.start_shifted(&self.program(), options.clock_offset)?;
        hub.wait_ready(hub::READY_LIMIT)
    }

    /// What the hub of `node` says of itself (`/status`).
    pub fn hub_status(&self, node: &str) -> Result<serde_json::Value> {
        self.hub_of(node, &self.names.node(node))?.status()
    }

    /// What the hub of `node` counts (`/metrics`).
    pub fn hub_metrics(&self, node: &str) -> Result<String> {
        self.hub_of(node, &self.names.node(node))?.metrics()
    }

    /// The log of a part of `node`.
    pub fn log(&self, node: &str, part: NodePart) -> Result<String> {
        let path = self.processes.log(&self.process_name(node, part)?);
        std::fs::read_to_string(&path).map_err(super::LabError::io("read", path))
    }

    /// Whether the process of a part of `node` runs.
    pub fn is_running(&self, node: &str, part: NodePart) -> Result<bool> {
        Ok(self.processes.running(&self.process_name(node, part)?).is_some())
    }

    /// Makes the bootstrap token `ID.SECRET` (6 and 16 letters and digits), which holds for `lifetime` from now.
    pub fn make_bootstrap_token(&self, token: &str, lifetime: std::time::Duration) -> Result<OffsetDateTime> {
        let (id, secret) = token.split_once('.').unwrap_or((token, ""));
        let end = OffsetDateTime::now_utc() + lifetime;
        let namespace = self.names.cloud();
        let object = objects::bootstrap_token(id, secret, end);
        objects::apply(self.cloud_of(&namespace).kubectl()?, &[object])?;
        Ok(end)
    }

    /// As [`Lab::reinstall`], but the kubelet has no certificate and asks for one by a bootstrap token, through the hub,
    /// which has this node's. Returns when the kubelet was started.
    pub fn reinstall_to_join(&self, node: &str, token: &str) -> Result<()> {
        self.check(node)?;
        let _lock = state::lock_node(&self.dir, node)?;
        fault::erase(self, node)?;
        self.write_bootstrap(node, token)?;
        fault::power_on_as(self, node, true)
    }

    /// Starts the kubelet once more with another bootstrap token.
    pub fn join_again(&self, node: &str, token: &str) -> Result<()> {
        let namespace = self.names.node(node);
        let machine = self.node_of(node, &namespace)?;
        let _lock = state::lock_node(&self.dir, node)?;
        self.processes.stop(&machine.kubelet_process());
        self.write_bootstrap(node, token)?;
        machine.start_joining_kubelet()
    }

    fn write_bootstrap(&self, node: &str, token: &str) -> Result<()> {
        let authority = Authority::open(&self.dir.join("pki"))?;
        let server = up::server(self, &self.cloud_of(&self.names.cloud()));
        let path = self.node_file(node, "bootstrap.kubeconfig");
        kubeconfig::write(&path, &server, authority.pem(), "default", &Credential::Token(token))
    }
}
