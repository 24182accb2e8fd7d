//! What an agent dials for the cloud: the kubelet's port of the nodes in its configuration, and nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::connect::Target;

/// The kubelet's port, the one that may be dialled on a node.
pub const KUBELET_PORT: u16 = 10250;

/// The nodes that may be dialled, each with its address on the pool's network.
#[derive(Clone, Debug, Default)]
pub struct AllowList {
    nodes: BTreeMap<String, IpAddr>,
}

impl AllowList {
    /// The list that allows `nodes` by their names.
    pub fn new(nodes: impl IntoIterator<Item = (String, IpAddr)>) -> Self {
        Self {
            nodes: nodes.into_iter().map(|(name, address)| (name.to_ascii_lowercase(), address)).collect(),
        }
    }

    /// How many nodes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it holds none: then nothing may be dialled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The names of its nodes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Where to dial for `target`, which the server means for `node`.
    ///
    /// # Errors
    /// Why it may not be dialled: the reason of a 403.
    pub fn check(&self, node: &str, target: &Target) -> Result<SocketAddr, String> {
        let node = node.to_ascii_lowercase();
        let address = self
            .nodes
            .get(&node)
            .ok_or_else(|| format!("{node} may not be dialled: add it to `nodes` in tunnel-agent.yaml"))?;
        let named = target.host == node || target.host.parse() == Ok(*address);
        if !named {
            return Err(format!("{} is not {node}", target.host));
        }
        if target.port != KUBELET_PORT {
            return Err(format!("{node} {} is not allowed; only port {KUBELET_PORT} is", target.port));
        }
        Ok(SocketAddr::new(*address, target.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_of_the_list_is_allowed_and_nothing_else() {
        let list = AllowList::new([("Node-1".to_owned(), IpAddr::from([192, 168, 77, 11]))]);
        let check = |node: &str, host: &str, port| list.check(node, &Target { host: host.to_owned(), port });
        let kubelet = SocketAddr::from(([192, 168, 77, 11], 10250));
        assert_eq!(check("node-1", "node-1", 10250), Ok(kubelet));
        assert_eq!(check("node-1", "192.168.77.11", 10250), Ok(kubelet));
        for (node, host, port, needle) in [
            ("node-2", "node-2", 10250, "node-2 may not be dialled: add it to `nodes` in tunnel-agent.yaml"),
            ("node-1", "node-2", 10250, "node-2 is not node-1"),
            ("node-1", "127.0.0.1", 10250, "127.0.0.1 is not node-1"),
            ("node-1", "node-1", 22, "node-1 22 is not allowed"),
            ("", "node-1", 10250, "tunnel-agent.yaml"),
        ] {
            let refused = check(node, host, port).expect_err("refused");
            assert!(refused.contains(needle), "{refused}");
        }
        assert!(AllowList::default().is_empty());
    }
}
