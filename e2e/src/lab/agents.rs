//! The two agents that every Kubernetes node has beside its kubelet: kube-proxy, which makes Services reachable, and
//! CoreDNS, which answers for their names. Both are unmodified and know only what their kubeconfig names: a token of
//! their own ServiceAccount that dies with the Node, and the hub.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::address::Families;
use super::assets::Assets;
use super::error::{LabError, Result};
use super::probe;
use super::process::{Processes, Start};

/// How long an agent may take until it has synced with the API.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    /// kube-proxy in nftables mode.
    KubeProxy,
    /// CoreDNS with its `kubernetes` plugin, at the cluster's DNS address on the node's own loopback.
    CoreDns,
}

impl Agent {
    /// Both, in the order in which they start.
    pub(crate) const ALL: [Agent; 2] = [Agent::KubeProxy, Agent::CoreDns];

    /// The program, the process and the ServiceAccount.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Agent::KubeProxy => "kube-proxy",
            Agent::CoreDns => "coredns",
        }
    }

    /// The kubeconfig's file name below the node's folder.
    pub(crate) fn kubeconfig(self) -> String {
        format!("{}.kubeconfig", self.name())
    }

    /// Where it tells that it has synced.
    fn health(self) -> (u16, &'static str) {
        match self {
            Agent::KubeProxy => (10_256, "/livez"),
            Agent::CoreDns => (10_181, "/ready"),
        }
    }
}

/// The agents of one node.
pub(crate) struct Agents<'a> {
    /// The lab's folder.
    pub(crate) dir: &'a Path,
    /// The node's name.
    pub(crate) node: &'a str,
    /// The node's network namespace.
    pub(crate) namespace: &'a str,
    /// The families of addresses that Services and pods have.
    pub(crate) families: Families,
    /// The binaries.
    pub(crate) assets: &'a Assets,
    /// The lab's process table.
    pub(crate) processes: &'a Processes,
}

impl Agents<'_> {
    fn folder(&self) -> PathBuf {
        self.dir.join("nodes").join(self.node)
    }

    /// The name of an agent's process record.
    pub(crate) fn process(&self, agent: Agent) -> String {
        format!("{}.{}", self.node, agent.name())
    }

    /// Writes the configuration of both.
    pub(crate) fn prepare(&self) -> Result<()> {
        for (file, content) in
            [("kube-proxy.yaml", self.kube_proxy_config()), ("Corefile", self.coredns_config())]
        {
            let path = self.folder().join(file);
            fs::write(&path, content).map_err(LabError::io("write", path))?;
        }
        Ok(())
    }

    /// Starts an agent and does not wait for it.
    pub(crate) fn start(&self, agent: Agent) -> Result<()> {
        let arguments = match agent {
            Agent::KubeProxy => {
                vec![
                    format!("--config={}", self.folder().join("kube-proxy.yaml").display()),
                    "--v=2".to_owned(),
                ]
            }
            Agent::CoreDns => vec!["-conf".to_owned(), self.folder().join("Corefile").display().to_string()],
        };
        self.processes
            .start(Start {
                name: &self.process(agent),
                namespace: self.namespace,
                program: self.assets.path(agent.name())?,
                arguments,
                environment: Vec::new(),
            })
            .map(drop)
    }

    /// Waits until an agent has synced.
    pub(crate) fn wait_ready(&self, agent: Agent) -> Result<()> {
        self.processes.wait_ready(&self.process(agent), READY_LIMIT, || self.ready(agent))
    }

    /// Whether an agent has synced; the error is its own answer.
    pub(crate) fn ready(&self, agent: Agent) -> std::result::Result<(), String> {
        let (port, path) = agent.health();
        probe::inside(self.namespace, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path)
    }

    fn kube_proxy_config(&self) -> String {
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": { "kubeconfig": self.folder().join(Agent::KubeProxy.kubeconfig()) },
            "mode": "nftables",
            "clusterCIDR": self.families.pod_networks(),
            "hostnameOverride": self.node,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            // These limits belong to the whole machine and are not for a namespace to set.
            "conntrack": { "maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
        });
        serde_json::to_string_pretty(&config).expect("strings and lists are JSON")
    }

    fn coredns_config(&self) -> String {
        let addresses: Vec<String> = self.families.dns_addresses().iter().map(ToString::to_string).collect();
        format!(
            "{zones} {{
    bind {addresses}
    errors
    ready 127.0.0.1:10181
    kubernetes {{
        kubeconfig \"{kubeconfig}\"
    }}
}}
",
            zones = self.families.dns_zones().join(" "),
            addresses = addresses.join(" "),
            kubeconfig = self.folder().join(Agent::CoreDns.kubeconfig()).display(),
        )
    }
}
