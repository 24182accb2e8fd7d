//! Where a dial of the API server goes: by the node's name, to the pool that has it; and what is said when it cannot.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::connect::Target;

/// The pool that a server knows: its name and its nodes'.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The pool's name, for people.
    pub name: String,
    nodes: BTreeSet<String>,
}

/// A dial that is not made, or failed: the status and the phrase that kubectl shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 502 refused or unreachable, 503 no way there now, 504 no answer in time.
    pub status: u16,
    /// One printable line that names the node.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

impl Refusal {
    /// A refusal in these words.
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    /// No link of `pool` is up, for `down_for` now.
    #[must_use]
    pub fn no_link(node: &str, pool: &str, down_for: Duration) -> Self {
        let seconds = down_for.as_secs();
        Self::new(503, format!("no link to {node} (pool {pool}, down for {seconds} s)"))
    }

    /// The link broke while the dial was under way.
    #[must_use]
    pub fn link_lost(node: &str, pool: &str) -> Self {
        Self::new(503, format!("the link to {node} broke (pool {pool})"))
    }

    /// The link bears no more streams.
    #[must_use]
    pub fn full(node: &str, pool: &str, streams: u32) -> Self {
        Self::new(503, format!("the link to {node} is full: {streams} streams (pool {pool})"))
    }

    /// The kubelet's side said no, or cannot be reached.
    #[must_use]
    pub fn refused(node: &str, port: u16) -> Self {
        Self::new(502, format!("{node} refused {port}"))
    }

    /// There is no way to the node on its own network.
    #[must_use]
    pub fn unreachable(node: &str, why: &str) -> Self {
        Self::new(502, format!("{node} cannot be reached from its pool: {why}"))
    }

    /// Nothing came back within `limit`.
    #[must_use]
    pub fn no_answer(node: &str, limit: Duration) -> Self {
        Self::new(504, format!("{node} did not answer in {} s", limit.as_secs()))
    }
}

impl Pool {
    /// A pool of these nodes.
    pub fn new(name: impl Into<String>, nodes: impl IntoIterator<Item = String>) -> Self {
        Self { name: name.into(), nodes: nodes.into_iter().map(|node| node.to_ascii_lowercase()).collect() }
    }

    /// How many nodes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether `node` is one of its nodes: only their certificates may bring up a link.
    #[must_use]
    pub fn has(&self, node: &str) -> bool {
        self.nodes.contains(&node.to_ascii_lowercase())
    }

    /// The node that `target` names.
    ///
    /// # Errors
    /// 502: no node of this pool has that name. Addresses are no names: two pools may use the same ones.
    pub fn node_of(&self, target: &Target) -> Result<&str, Refusal> {
        let found = self.nodes.get(&target.host).map(String::as_str);
        found.ok_or_else(|| {
            let pool = &self.name;
            Refusal::new(502, format!("{target} is no node of pool {pool}; dials go by the node's name"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_goes_by_the_nodes_name_only() {
        let pool = Pool::new("hangzhou", ["Node-1".to_owned(), "node-2".to_owned()]);
        let target = |host: &str| Target { host: host.to_owned(), port: 10250 };
        assert_eq!(pool.node_of(&target("node-1")), Ok("node-1"));
        let refused = pool.node_of(&target("192.168.77.11")).expect_err("an address");
        assert_eq!(
            refused.to_string(),
            "502 192.168.77.11:10250 is no node of pool hangzhou; dials go by the node's name"
        );
        assert!(pool.has("NODE-2") && !pool.has("node-3"));
    }

    #[test]
    fn refusals_are_the_sentences_that_are_documented() {
        for (refusal, words) in [
            (
                Refusal::no_link("node-1", "hangzhou", Duration::from_millis(42_900)),
                "503 no link to node-1 (pool hangzhou, down for 42 s)",
            ),
            (Refusal::refused("node-1", 10250), "502 node-1 refused 10250"),
            (Refusal::no_answer("node-1", Duration::from_secs(4)), "504 node-1 did not answer in 4 s"),
            (Refusal::link_lost("node-1", "hangzhou"), "503 the link to node-1 broke (pool hangzhou)"),
        ] {
            assert_eq!(refusal.to_string(), words);
        }
    }
}
