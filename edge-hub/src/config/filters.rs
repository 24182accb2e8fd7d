//! What an operator writes about filters, and the policy that the hub makes of it.

use std::net::SocketAddr;

use edge_hub_core::filter::{HubAddress, Policy, Rule};
use serde::Deserialize;

use super::{ConfigError, refuse};

/// What some clients are shown differently.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct FiltersFile {
    /// Whether the kubelet, kube-proxy, CoreDNS, the ingress controller and flannel get the filters that OpenYurt's
    /// users are used to. Those that lead pods to the hub need `hubAddress`.
    pub usual: bool,
    /// Where pods of this node reach the hub: one of `listen`, not on loopback. Without it nothing leads to the hub.
    pub hub_address: Option<SocketAddr>,
    /// The pool of this node; without it what the Node's label, a NodeBucket or a NodePool says.
    pub node_pool: Option<Box<str>>,
    /// More filters, for more users.
    pub rules: Vec<Rule>,
}

impl Default for FiltersFile {
    fn default() -> Self {
        Self { usual: true, hub_address: None, node_pool: None, rules: Vec::new() }
    }
}

impl FiltersFile {
    /// Where pods reach the hub.
    #[must_use]
    pub fn hub(&self) -> Option<HubAddress> {
        self.hub_address.map(|address| HubAddress { host: address.ip(), port: address.port() })
    }

    /// Who is shown what through which filters on the node called `node`.
    #[must_use]
    pub fn policy(&self, node: &str) -> Policy {
        let mut policy = if self.usual { Policy::usual(node) } else { Policy::default() };
        policy.rules.retain(|rule| self.hub_address.is_some() || !rule.filter.leads_to_hub());
        policy.rules.extend(self.rules.iter().cloned());
        policy
    }

    pub(super) fn check(&self, listen: &[SocketAddr]) -> Result<(), ConfigError> {
        if let Some(address) = self.hub_address {
            check_address(address, listen)?;
        }
        if self.node_pool.as_deref().is_some_and(|pool| pool.trim().is_empty()) {
            return Err(refuse("filters.nodePool", "is empty; name a pool or leave the key out"));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            self.check_rule(rule).map_err(|why| refuse("filters.rules", format!("[{index}] {why}")))?;
        }
        Ok(())
    }

    fn check_rule(&self, rule: &Rule) -> Result<(), String> {
        if rule.user.is_empty() {
            return Err(
                "has no user; write one as the API server names it, for example system:kube-proxy".to_owned()
            );
        }
        if rule.resource.is_empty() || rule.resource.contains('/') {
            return Err("needs a resource by its plural name, for example services".to_owned());
        }
        if let Some((group, version, resource)) = rule.filter.resource()
            && (group, resource) != (&*rule.group, &*rule.resource)
        {
            let group = if group.is_empty() { "the core group" } else { group };
            return Err(format!("names a filter that is for {resource} ({version} of {group}) only"));
        }
        if rule.filter.leads_to_hub() && self.hub_address.is_none() {
            return Err("names a filter that leads pods to the hub; set filters.hubAddress, too".to_owned());
        }
        Ok(())
    }
}

fn check_address(address: SocketAddr, listen: &[SocketAddr]) -> Result<(), ConfigError> {
    let bad = |why: &str| Err(refuse("filters.hubAddress", format!("{address} {why}")));
    let ip = address.ip();
    if ip.is_loopback() {
        return bad("is on loopback, which in a pod is the pod itself; give the hub another address");
    }
    if ip.is_unspecified() || ip.is_multicast() || address.port() == 0 {
        return bad("is no address that a pod can connect to");
    }
    let takes = |own: &SocketAddr| {
        own.port() == address.port()
            && (own.ip() == ip || own.ip().is_unspecified() && own.is_ipv4() == address.is_ipv4())
    };
    if !listen.iter().any(takes) {
        return bad("is not listened on; add it to listen");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use edge_hub_core::{filter::Filter, identity::Principal};
    use proto_kube::gvr::GroupVersionResource;

    use super::*;

    fn file(text: &str) -> FiltersFile {
        proto_daemon::config::parse(std::path::Path::new("test"), text).expect("well formed")
    }

    fn filters(file: &FiltersFile, user: &Principal, group: &str, resource: &str) -> Vec<Filter> {
        let gvr = GroupVersionResource::new(group, "v1", resource);
        file.policy("a").chain(user, &gvr).filters().collect()
    }

    #[test]
    fn nothing_leads_to_a_hub_that_pods_cannot_reach() {
        let kubelet = Principal::node("a");
        let proxy = Principal::service_account("kube-system", "kube-proxy");
        let bare = FiltersFile::default();
        for (group, resource) in [("", "services"), ("", "configmaps"), ("", "pods")] {
            assert_eq!(filters(&bare, &kubelet, group, resource), []);
        }
        let slices = filters(&bare, &proxy, "discovery.k8s.io", "endpointslices");
        assert_eq!(slices, [Filter::ServiceTopology, Filter::ManagedFields]);
        let reached = file("hubAddress: 169.254.2.1:10261\n");
        reached.check(&["0.0.0.0:10261".parse().expect("an address")]).expect("reachable");
        assert_eq!(filters(&reached, &kubelet, "", "services"), [Filter::MasterService]);
        assert_eq!(filters(&reached, &kubelet, "", "pods"), [Filter::ServiceEnvUpdater]);
        let off = file("usual: false\nhubAddress: 169.254.2.1:10261\n");
        assert_eq!(off.policy("a"), Policy::default());
    }

    #[test]
    fn a_rule_of_ones_own_is_added() {
        let file = file("rules: [{user: jo, resource: pods, filter: managedfields}]\n");
        file.check(&[]).expect("good");
        let jo = Principal::new("jo", [""; 0]);
        assert_eq!(filters(&file, &jo, "", "pods"), [Filter::ManagedFields]);
        assert_eq!(filters(&file, &jo, "", "services"), []);
    }

    #[test]
    fn a_mistake_is_named_with_what_to_do() {
        let listen = ["10.0.0.7:10261".parse().expect("an address")];
        for (text, needle) in [
            ("hubAddress: 127.0.0.1:10261\n", "loopback"),
            ("hubAddress: 0.0.0.0:10261\n", "no address that a pod can connect to"),
            ("hubAddress: 10.0.0.8:10261\n", "add it to listen"),
            ("nodePool: ''\n", "name a pool"),
            ("rules: [{user: '', resource: pods, filter: managedfields}]\n", "[0] has no user"),
            ("rules: [{user: jo, resource: '', filter: managedfields}]\n", "plural name"),
            ("rules: [{user: jo, resource: pods, filter: nodeportisolation}]\n", "is for services"),
            ("rules: [{user: jo, resource: services, filter: masterservice}]\n", "filters.hubAddress"),
        ] {
            let error = file(text).check(&listen).expect_err("refused").to_string();
            assert!(error.starts_with("filters.") && error.contains(needle), "{text} {error}");
        }
    }
}
