//! What `eyot lab status` tells: the state of every part, read now and believed from no record.

use serde::Serialize;

use super::agents::Agent;
use super::error::Result;
use super::state::HubKind;
use super::traffic::LinkTraffic;
use super::{Lab, cloud, probe, tunnel};

/// The state of a whole lab.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The lab's id: six hex digits that its namespaces and links carry.
    pub id: String,
    /// The lab's folder.
    pub dir: std::path::PathBuf,
    /// The API server's URL.
    pub api_server: String,
    /// What stands between the nodes and the API server.
    pub hub: HubKind,
    /// The cloud's network namespace.
    pub namespace: String,
    /// The cloud's processes.
    pub cloud: Vec<ProcessStatus>,
    /// The nodes, in order.
    pub nodes: Vec<NodeStatus>,
}

/// One process of the lab.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// Its name: `kube-apiserver`, `hub`.
    pub name: String,
    /// Its process id; none if it does not run.
    pub pid: Option<i32>,
    /// Whether it says that it is ready; none for those that cannot be asked.
    pub ready: Option<bool>,
}

/// One node of the lab.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// Its network namespace, as `ip netns` knows it.
    pub namespace: String,
    /// Its address on the lab's subnet.
    pub address: std::net::Ipv4Addr,
    /// Its IPv6 address there; none without `--dual-stack`.
    pub address_v6: Option<std::net::IpAddr>,
    /// Whether it is cut off from the cloud.
    pub cut: bool,
    /// Whether its link has a rate or a delay.
    pub slow: bool,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
    /// What crossed its link so far.
    pub link: LinkTraffic,
}

impl Status {
    /// Whether every process of the lab runs and is ready where it can say so.
    pub fn is_healthy(&self) -> bool {
        let mut processes = self.cloud.iter().chain(self.nodes.iter().flat_map(|node| &node.processes));
        processes.all(|process| process.pid.is_some() && process.ready != Some(false))
    }
}

pub(super) fn status(lab: &Lab) -> Result<Status> {
    let process = |record: &str, ready: Option<bool>| ProcessStatus {
        name: record.split_once('.').map_or(record, |(_, name)| name).to_owned(),
        pid: lab.processes.running(record).map(|identity| identity.pid),
        ready,
    };
    let mut nodes = Vec::new();
    for (index, name) in (1..).zip(&lab.state.nodes) {
        let namespace = lab.names.node(name);
        let mut processes = Vec::new();
        if lab.state.hub == HubKind::EdgeHub {
            let hub = lab.hub_of(name, &namespace)?;
            processes.push(process(&hub.process(), Some(hub.ready().is_ok())));
            if let Some(coordinator) = lab.coordinator_on(name)? {
                processes.push(process(&coordinator.process(), Some(coordinator.ready().is_ok())));
            }
        }
        if lab.has_agent(name) {
            let tunnel = lab.tunnel("", &namespace)?;
            let ready = probe::unix(&tunnel.agent_socket(), "/readyz").is_ok();
            processes.push(process(&tunnel::agent_process(name), Some(ready)));
        }
        if lab.state.kubelets {
            let node = lab.node_of(name, &namespace)?;
            processes.push(process(&node.containerd_process(), None));
            processes.push(process(&node.kubelet_process(), Some(node.healthy().is_ok())));
            let agents = lab.agents_of(name, &namespace)?;
            for agent in Agent::ALL {
                processes.push(process(&agents.process(agent), Some(agents.ready(agent).is_ok())));
            }
        }
        nodes.push(NodeStatus {
            name: name.clone(),
            address: lab.state.subnet.node(index),
            address_v6: lab.state.subnet.node_addresses(index).get(1).copied(),
            cut: lab.is_cut(name)?,
            slow: lab.is_slow(name)?,
            link: lab.traffic(name)?,
            namespace,
            processes,
        });
    }
    let mut cloud: Vec<_> = cloud::PROCESSES.iter().map(|record| process(record, None)).collect();
    if lab.state.tunnel {
        let ready = probe::unix(&lab.tunnel("", "")?.server_socket(), "/readyz").is_ok();
        cloud.push(process(tunnel::SERVER, Some(ready)));
    }
    Ok(Status {
        id: lab.state.id.clone(),
        dir: lab.dir.clone(),
        api_server: lab.api_server(),
        hub: lab.state.hub,
        namespace: lab.names.cloud(),
        cloud,
        nodes,
    })
}
