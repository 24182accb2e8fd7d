//! What a node makes of its pods' addresses: the pod itself, the hub that tells of it, and the rules of kube-proxy. Each is
//! asked on the node, so that a cut changes nothing; what the cloud takes for true may be something else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::command::run;
use super::error::{LabError, Result};
use super::objects::POD_NAMESPACE;

/// Word for word what kube-proxy asks, but for the time: to the same question its user is known to have a right.
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless\
                      &resourceVersion=0&timeoutSeconds=1&watch=true";

/// The label by which a slice says whose it is.
const SERVICE: &str = "kubernetes.io/service-name";

impl super::Lab {
    /// The addresses of the pod `pod` on `node`, by the file that the kubelet gives each of its containers; IPv4 first,
    /// none while it does not run.
    pub fn own_addresses(&self, node: &str, pod: &str) -> Vec<IpAddr> {
        // A pod that is just being made again has no such file yet.
        let hosts = self.run_in_pod(node, pod, &["cat", "/etc/hosts"]).unwrap_or_default();
        let lines = hosts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let own = lines.filter(|words| words.get(1) == Some(&pod));
        let mut own: Vec<IpAddr> = own.filter_map(|words| words[0].parse().ok()).collect();
        own.sort();
        own
    }

    /// The ready addresses behind `service` in the pods' namespace, in order, as the node's hub tells them to kube-proxy's
    /// user.
    ///
    /// Errors: the hub refuses or does not answer.
    pub fn endpoints_told(&self, node: &str, service: &str) -> Result<Vec<IpAddr>> {
        let mut kubectl = self.node_kubectl(node, "kube-proxy.kubeconfig")?;
        let told = run(kubectl.args(["get", "--raw", SLICES]), "")?;
        let mut slices = BTreeMap::new();
        let events = serde_json::Deserializer::from_str(&told).into_iter::<Value>();
        // The last event may be cut short by the end of the watch.
        for mut event in events.map_while(std::result::Result::ok) {
            if event["type"] == "ERROR" {
                return Err(LabError::Invalid(format!("the hub of {node}: {event}")));
            }
            let (object, gone) = (event["object"].take(), event["type"] == "DELETED");
            let name = |member: &str| object["metadata"][member].to_string();
            slices.insert((name("namespace"), name("name")), (!gone).then_some(object));
        }
        Ok(ready(slices.values().flatten(), service))
    }

    /// The same as the cloud has it, asked by the administrator beside every cut.
    ///
    /// Errors: the API server refuses or does not answer.
    pub fn endpoints_in_cloud(&self, service: &str) -> Result<Vec<IpAddr>> {
        let mut kubectl = self.kubectl()?;
        let list = run(kubectl.args(["get", "endpointslices", "-o", "json", "-n", POD_NAMESPACE]), "")?;
        let list: Value = serde_json::from_str(&list)
            .map_err(|error| LabError::Invalid(format!("kubectl: no JSON: {error}")))?;
        Ok(ready(list["items"].as_array().into_iter().flatten(), service))
    }

    /// Whether kube-proxy of the node sends the traffic of any Service to `address`.
    ///
    /// Errors: nft fails.
    pub fn kube_proxy_sends_to(&self, node: &str, address: IpAddr) -> Result<bool> {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let rules = run(self.command(node, "nft")?.args(["list", "table", family, "kube-proxy"]), "")?;
        let target = format!(" {address} . ");
        Ok(rules.lines().any(|line| line.contains(" dnat ") && line.contains(&target)))
    }
}

fn ready<'a>(slices: impl Iterator<Item = &'a Value>, service: &str) -> Vec<IpAddr> {
    let own = slices.filter(|slice| {
        let metadata = &slice["metadata"];
        metadata["namespace"] == POD_NAMESPACE && metadata["labels"][SERVICE] == service
    });
    let endpoints = own.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let addresses = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str());
    let mut addresses: Vec<IpAddr> = addresses.filter_map(|address| address.parse().ok()).collect();
    addresses.sort();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_ready_addresses_of_the_service_count() {
        let slice = |service: &str, address: &str, ready: bool| {
            json!({
                "metadata": { "namespace": POD_NAMESPACE, "labels": { SERVICE: service } },
                "endpoints": [{ "addresses": [address], "conditions": { "ready": ready } }],
            })
        };
        let mut elsewhere = slice("web", "10.0.0.6", true);
        elsewhere["metadata"]["namespace"] = "kube-system".into();
        let slices = [
            slice("web", "fd00::2", true),
            slice("web", "10.0.0.3", true),
            slice("web", "10.0.0.4", false),
            slice("other", "10.0.0.5", true),
            json!({ "metadata": { "namespace": POD_NAMESPACE, "labels": { SERVICE: "web" } }, "endpoints": null }),
            elsewhere,
        ];
        let expected: Vec<IpAddr> =
            ["10.0.0.3", "fd00::2"].iter().map(|text| text.parse().expect("an address")).collect();
        assert_eq!(ready(slices.iter(), "web"), expected);
    }
}
