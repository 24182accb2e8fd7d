//! The parts of a lab's nodes that can be killed and started again, each by its name.

use super::agents::Agent;
use super::error::{LabError, Result};
use super::{Lab, hub, media, objects, process, state, tunnel};

/// A part of a node that can be killed; all but the pods can be restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NodePart {
    /// The edge-hub.
    Hub,
    /// The kubelet.
    Kubelet,
    /// The container runtime; the containers live on without it.
    Containerd,
    /// kube-proxy; the rules that it wrote live on without it.
    KubeProxy,
    /// The node's DNS server.
    Coredns,
    /// The coordinator of the node's pool, where it runs on this node.
    Coordinator,
    /// The tunnel's end on the first node.
    TunnelAgent,
    /// The tunnel's end in the cloud, whose node is `cloud`.
    TunnelServer,
    /// The main container of the node's ordinary pod; the kubelet restarts it.
    Pod,
    /// The container of the node's media engine; the kubelet restarts it.
    MediaEngine,
}

impl Lab {
    /// Ends a process of the node by SIGTERM, starts it again and waits until it is ready.
    ///
    /// A hub may honestly be unready when the node is cut off and nothing was cached: that is [`LabError::NotReady`].
    pub fn restart(&self, node: &str, part: NodePart) -> Result<()> {
        let namespace = self.names.node(node);
        let process = self.process_name(node, part)?;
        if part == NodePart::TunnelServer {
            self.processes.stop(&process);
            let cloud = self.names.cloud();
            let tunnel = self.tunnel(&cloud, "")?;
            tunnel.start_server(&self.program())?;
            let agent = self.processes.running(&tunnel::agent_process(tunnel.agent_node()));
            return if agent.is_some() { tunnel.wait_link() } else { Ok(()) };
        }
        let _lock = state::lock_node(&self.dir, node)?;
        self.processes.stop(&process);
        match part {
            NodePart::Hub => {
                let hub = self.hub_of(node, &namespace)?;
                hub.start(&self.program())?;
                hub.wait_ready(hub::READY_LIMIT)
            }
            NodePart::Coordinator => {
                let coordinator = self.coordinator_on(node)?.expect("process_name knows it");
                coordinator.start(&self.program())?;
                coordinator.wait_ready()
            }
            NodePart::Kubelet => self.node_of(node, &namespace)?.start_kubelet(),
            NodePart::Containerd => self.node_of(node, &namespace)?.start_containerd(),
            NodePart::KubeProxy | NodePart::Coredns => {
                let agents = self.agents_of(node, &namespace)?;
                let agent = if part == NodePart::Coredns { Agent::CoreDns } else { Agent::KubeProxy };
                agents.start(agent)?;
                agents.wait_ready(agent)
            }
            NodePart::TunnelAgent => {
                let cloud = self.names.cloud();
                let tunnel = self.tunnel(&cloud, &namespace)?;
                tunnel.start_agent(&self.program())?;
                tunnel.wait_link()
            }
            NodePart::TunnelServer | NodePart::Pod | NodePart::MediaEngine => unreachable!("answered before"),
        }
    }

    /// Kills a part of the node with SIGKILL. [`Lab::restart`] starts it again; a pod comes back by its kubelet.
    pub fn kill(&self, node: &str, part: NodePart) -> Result<()> {
        match part {
            NodePart::Pod => return self.kill_pod(node, &objects::pod_name(node)),
            NodePart::MediaEngine => return media::kill(self, node),
            _ => {}
        }
        if let Some(process) = self.processes.running(&self.process_name(node, part)?) {
            process::kill_all(&[process]);
        }
        Ok(())
    }

    /// The record's name of a node's process; an error if the lab has none.
    pub(super) fn process_name(&self, node: &str, part: NodePart) -> Result<String> {
        let namespace = self.names.node(node);
        match part {
            NodePart::Hub => Ok(self.hub_of(node, &namespace)?.process()),
            NodePart::Kubelet => Ok(self.node_of(node, &namespace)?.kubelet_process()),
            NodePart::Containerd => Ok(self.node_of(node, &namespace)?.containerd_process()),
            NodePart::KubeProxy => Ok(self.agents_of(node, &namespace)?.process(Agent::KubeProxy)),
            NodePart::Coredns => Ok(self.agents_of(node, &namespace)?.process(Agent::CoreDns)),
            NodePart::Coordinator => match self.coordinator_on(node)? {
                Some(coordinator) => Ok(coordinator.process()),
                None => Err(LabError::Invalid(format!(
                    "no coordinator runs on {node}: `eyot lab up --pools` puts one on the first node"
                ))),
            },
            NodePart::TunnelAgent if self.has_agent(node) => Ok(tunnel::agent_process(node)),
            NodePart::TunnelServer if self.state.tunnel && node == "cloud" => Ok(tunnel::SERVER.to_owned()),
            NodePart::TunnelAgent | NodePart::TunnelServer => Err(LabError::Invalid(
                "a lab of `up --tunnel` has one tunnel-agent, on its first node, and one tunnel-server, on `cloud`".to_owned(),
            )),
            NodePart::Pod | NodePart::MediaEngine => Err(LabError::Invalid(
                "a pod cannot be restarted from outside: kill it, and the kubelet starts it again".to_owned(),
            )),
        }
    }
}
