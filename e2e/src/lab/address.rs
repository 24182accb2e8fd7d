//! The addresses and names of a lab: its subnet, its families, its namespaces and links, by which the system knows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::command::run;
use super::error::{LabError, Result};

/// A node's end of its link.
pub(crate) const LINK: &str = "eth0";

/// The networks of all nodes' pods, of each family.
pub(crate) const POD_NETWORKS: &str = "10.244.0.0/16";
pub(crate) const POD_NETWORKS_V6: &str = "fd00:10:244::/56";

/// The addresses of Services, of each family.
const SERVICE_NETWORK: &str = "10.96.0.0/16";
const SERVICE_NETWORK_V6: &str = "fd00:10:96::/112";

/// The cluster's DNS server. Every node has this address on its own loopback, so that names resolve while it is cut.
const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const DNS_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10);

/// Which families of addresses nodes, pods and Services have. IPv4 comes first everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Families {
    /// IPv4 alone.
    #[default]
    Ipv4,
    /// IPv4 and IPv6.
    DualStack,
}

impl Families {
    /// One of both, or both.
    fn pick<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Families::Ipv4 => vec![v4],
            Families::DualStack => vec![v4, v6],
        }
    }

    /// The addresses of all pods, as flags and configurations take them.
    pub(crate) fn pod_networks(self) -> String {
        self.pick(POD_NETWORKS, POD_NETWORKS_V6).join(",")
    }

    /// The addresses of all Services, as flags take them.
    pub(crate) fn service_networks(self) -> String {
        self.pick(SERVICE_NETWORK, SERVICE_NETWORK_V6).join(",")
    }

    /// Where the cluster's DNS server listens.
    pub(crate) fn dns_addresses(self) -> Vec<IpAddr> {
        self.pick(DNS_ADDRESS.into(), DNS_ADDRESS_V6.into())
    }

    /// What the cluster's DNS server answers for.
    pub(crate) fn dns_zones(self) -> Vec<&'static str> {
        let reverse = self.pick("in-addr.arpa:53", "ip6.arpa:53");
        std::iter::once("cluster.local:53").chain(reverse).collect()
    }

    /// The networks of the pods on the node number `index`, counted from 1; the same in every lab, seen by no host.
    pub(crate) fn pod_networks_of(self, index: u8) -> Vec<String> {
        self.pick(format!("10.244.{index}.0/24"), format!("fd00:10:244:{index:x}::/64"))
    }

    /// The routes that lead everywhere.
    pub(crate) fn default_routes(self) -> Vec<&'static str> {
        self.pick("0.0.0.0/0", "::/0")
    }

    /// What a server listens on to be reached at each of its addresses.
    pub(crate) fn any_address(self) -> IpAddr {
        match self {
            Families::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Families::DualStack => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// The addresses of one lab: a /24 that overlaps no route of the host, and with both families a /64 of which the host has
/// no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    /// The second and third byte of 10.x.y.0/24.
    bytes: (u8, u8),
    /// The families; IPv4 alone in records from before there was a choice.
    #[serde(default)]
    pub(super) families: Families,
    /// Whether the nodes stand behind a router, in a private subnet that is the same in every lab.
    #[serde(default)]
    private: bool,
}

impl Subnet {
    /// The families that the lab was built with.
    pub(crate) fn families(self) -> Families {
        self.families
    }

    /// The same subnet with its nodes behind a router that translates their addresses.
    pub(crate) fn behind_router(self) -> Self {
        Subnet { private: true, ..self }
    }

    /// Whether the nodes stand behind a router.
    pub(crate) fn is_private(self) -> bool {
        self.private
    }

    /// The cloud's addresses, IPv4 first.
    pub(crate) fn cloud_addresses(self) -> Vec<IpAddr> {
        self.hosts(1)
    }

    /// The addresses of the node number `index`, counted from 1; IPv4 first.
    pub(crate) fn node_addresses(self, index: u8) -> Vec<IpAddr> {
        if self.private { vec![self.node(index).into()] } else { self.hosts(10 + index) }
    }

    /// Where nodes send what is for the cloud, IPv4 first.
    pub(super) fn gateways(self) -> Vec<IpAddr> {
        if self.private { vec![self.gateway().into()] } else { self.cloud_addresses() }
    }

    /// The router's address in the cloud's subnet.
    pub(crate) fn router(self) -> Ipv4Addr {
        self.host(2)
    }

    /// The router's address in the private subnet.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        private(1)
    }

    fn hosts(self, last: u8) -> Vec<IpAddr> {
        let (high, low) = self.bytes;
        let v6 = Ipv6Addr::new(0xfd00, 0x10, high.into(), low.into(), 0, 0, 0, last.into());
        self.families.pick(self.host(last).into(), v6.into())
    }

    /// The cloud's address; the API server listens there on port 6443.
    pub(crate) fn cloud(self) -> Ipv4Addr {
        self.host(1)
    }

    /// The address of the host's own end.
    pub(crate) fn outside(self) -> Ipv4Addr {
        self.host(254)
    }

    /// The address of the node number `index`, counted from 1.
    pub(crate) fn node(self, index: u8) -> Ipv4Addr {
        if self.private { private(10 + index) } else { self.host(10 + index) }
    }

    fn host(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.bytes.0, self.bytes.1, last)
    }

    /// Picks a /24 in 10.160.0.0/11 that no route of this host overlaps, beginning where `seed` says.
    pub(crate) fn choose(seed: u16, families: Families) -> Result<Subnet> {
        let routes = run(Command::new("ip").args(["-4", "route", "show", "table", "all"]), "")?;
        let taken: Vec<(u32, u32)> = routes.lines().filter_map(route_network).collect();
        (0..32 * 256_u16)
            .map(|step| {
                let number = seed.wrapping_add(step) % (32 * 256);
                let [high, low] = number.to_be_bytes();
                Subnet { bytes: (160 + high, low), families, private: false }
            })
            .find(|subnet| !taken.iter().any(|(network, mask)| u32::from(subnet.cloud()) & mask == *network))
            .ok_or_else(|| {
                LabError::Invalid("every /24 of 10.160.0.0/11 has a route on this host".to_owned())
            })
    }
}

/// An address of a private pool.
fn private(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 77, last)
}

/// Network and mask of one line of `ip route`; the default route and single addresses of other labs do not count
/// as overlap unless they lie inside.
fn route_network(line: &str) -> Option<(u32, u32)> {
    let mut words = line.split_whitespace();
    let mut first = words.next()?;
    if matches!(first, "local" | "broadcast" | "unreachable" | "blackhole" | "prohibit") {
        first = words.next()?;
    }
    let (address, length) = first.split_once('/').unwrap_or((first, "32"));
    let length: u32 = length.parse().ok().filter(|length| (1..=32).contains(length))?;
    // A narrower route than ours inside our /24 overlaps as well: compare on at most 24 bits.
    let mask = u32::MAX << (32 - length.min(24));
    Some((u32::from(address.parse::<Ipv4Addr>().ok()?) & mask, mask))
}

/// The names that the system knows the parts of one lab by.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    lab_id: String,
}

impl Names {
    pub(crate) fn new(lab_id: &str) -> Self {
        Names { lab_id: lab_id.to_owned() }
    }

    /// The prefix of every namespace of this lab.
    pub(crate) fn prefix(&self) -> String {
        format!("eyot-{}-", self.lab_id)
    }

    pub(crate) fn cloud(&self) -> String {
        format!("eyot-{}-cloud", self.lab_id)
    }

    pub(crate) fn node(&self, name: &str) -> String {
        format!("eyot-{}-{name}", self.lab_id)
    }

    /// The namespace of the router that a private pool stands behind.
    pub(crate) fn router(&self) -> String {
        format!("eyot-{}-router", self.lab_id)
    }

    /// The namespace in which the links of the nodes end, each under its node's name.
    pub(crate) fn switch(&self, subnet: Subnet) -> String {
        if subnet.is_private() { self.router() } else { self.cloud() }
    }

    /// The host's end of the veth into the cloud; at most 15 bytes, as the kernel wants it.
    pub(crate) fn outside_link(&self) -> String {
        format!("eyot-{}", self.lab_id)
    }
}

/// The address of one end that is only good on its link.
pub(super) fn link_address(last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last.into())
}

/// Routes to the pods of all nodes but `own`, each by its node.
pub(super) fn pod_routes(subnet: Subnet, count: u8, own: u8) -> String {
    let others = (1..=count).filter(|index| *index != own);
    let routes = others.flat_map(|index| {
        let networks = subnet.families.pod_networks_of(index);
        networks.into_iter().zip(subnet.node_addresses(index))
    });
    routes.map(|(network, node)| format!("route add {network} via {node}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_overlap_when_it_holds_our_subnet_or_lies_inside_it() {
        let subnet = Subnet { bytes: (161, 7), families: Families::Ipv4, private: false };
        let overlaps = |line: &str| {
            route_network(line).is_some_and(|(network, mask)| u32::from(subnet.cloud()) & mask == network)
        };
        assert!(overlaps("10.161.7.0/24 dev eyot-aa proto kernel scope link src 10.161.7.254"));
        assert!(overlaps("10.0.0.0/8 via 192.168.0.1 dev eth0"));
        assert!(overlaps("local 10.161.7.254 dev eyot-aa table local"));
        assert!(overlaps("10.161.7.128/25 dev x"));
        assert!(!overlaps("10.161.8.0/24 dev x"));
        assert!(!overlaps("default via 192.168.0.1 dev eth0"));
        assert!(!overlaps("fe80::/64 dev eth0"));
    }

    #[test]
    fn both_families_have_networks_of_their_own() {
        let subnet = Subnet { bytes: (161, 7), families: Families::DualStack, private: false };
        let text = |addresses: Vec<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(subnet.cloud_addresses()), ["10.161.7.1", "fd00:10:a1:7::1"]);
        assert_eq!(text(subnet.node_addresses(1)), ["10.161.7.11", "fd00:10:a1:7::b"]);
        assert_eq!(Families::DualStack.pod_networks_of(200), ["10.244.200.0/24", "fd00:10:244:c8::/64"]);
        assert_eq!(
            pod_routes(subnet, 2, 1),
            "route add 10.244.2.0/24 via 10.161.7.12\nroute add fd00:10:244:2::/64 via fd00:10:a1:7::c\n"
        );
        let single = Subnet { families: Families::Ipv4, ..subnet };
        assert_eq!(text(single.node_addresses(1)), ["10.161.7.11"]);
        let record = serde_json::from_str::<Subnet>(r#"{"bytes":[161,7]}"#).expect("an older record");
        assert_eq!(record, single);
    }

    #[test]
    fn interface_names_fit_the_kernels_limit() {
        assert!(Names::new("0a1b2c").outside_link().len() <= 15);
    }
}
