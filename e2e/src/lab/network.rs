//! The wires of a lab: one network namespace for the cloud with a bridge, one per node with a veth to it, and one veth
//! to the host, so that the API server can be reached from there. A cut is an nft table in the node's namespace.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::command::{run, run_unchecked};
use super::error::{LabError, Result};
use super::fault::Cut;
use super::traffic;

/// The table whose presence is the cut.
pub(crate) const CUT_TABLE: &str = "eyot_cut";

/// A node's end of its link.
pub(crate) const LINK: &str = "eth0";

/// The networks of all nodes' pods.
pub(crate) const POD_NETWORKS: &str = "10.244.0.0/16";

/// The cluster's DNS server. Every node has this address on its own loopback, so that names resolve while it is cut.
pub(crate) const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The addresses of one lab: a /24 that overlaps no route of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    /// The second and third byte of 10.x.y.0/24.
    bytes: (u8, u8),
}

impl Subnet {
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
        self.host(10 + index)
    }

    fn host(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.bytes.0, self.bytes.1, last)
    }

    /// Picks a /24 in 10.160.0.0/11 that no route of this host overlaps, beginning where `seed` says.
    pub(crate) fn choose(seed: u16) -> Result<Subnet> {
        let routes = run(Command::new("ip").args(["-4", "route", "show", "table", "all"]), "")?;
        let taken: Vec<(u32, u32)> = routes.lines().filter_map(route_network).collect();
        (0..32 * 256_u16)
            .map(|step| {
                let number = seed.wrapping_add(step) % (32 * 256);
                let [high, low] = number.to_be_bytes();
                Subnet { bytes: (160 + high, low) }
            })
            .find(|subnet| !taken.iter().any(|(network, mask)| u32::from(subnet.cloud()) & mask == *network))
            .ok_or_else(|| {
                LabError::Invalid("every /24 of 10.160.0.0/11 has a route on this host".to_owned())
            })
    }
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

/// The network of the pods on the node number `index`, counted from 1; the same in every lab, seen by no host.
pub(crate) fn pod_network(index: u8) -> String {
    format!("10.244.{index}.0/24")
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

    /// The host's end of the veth into the cloud; at most 15 bytes, as the kernel wants it.
    pub(crate) fn outside_link(&self) -> String {
        format!("eyot-{}", self.lab_id)
    }
}

/// Makes the namespaces, the bridge and the links of all `nodes` (in order; the first has number 1).
pub(crate) fn build(names: &Names, subnet: Subnet, nodes: &[String]) -> Result<()> {
    let cloud = names.cloud();
    let outside = names.outside_link();
    let mut host = format!("netns add {cloud}\n");
    for node in nodes {
        host.push_str(&format!("netns add {}\n", names.node(node)));
    }
    host.push_str(&format!(
        "link add {outside} type veth peer name host netns {cloud}\n\
         link set {outside} addrgenmode none\n\
         addr add {}/24 dev {outside}\n\
         link set {outside} up\n",
        subnet.outside()
    ));
    for node in nodes {
        host.push_str(&format!(
            "link add {LINK} netns {} type veth peer name {node} netns {cloud}\n",
            names.node(node)
        ));
    }
    batch(None, &host)?;

    let mut inside = format!(
        "link set lo up\n\
         link add br0 type bridge\n\
         link set br0 addrgenmode none\n\
         addr add {}/24 dev br0\n\
         link set br0 up\n\
         link set host addrgenmode none\n\
         link set host master br0\n\
         link set host up\n",
        subnet.cloud()
    );
    for node in nodes {
        inside.push_str(&format!("link set {node} addrgenmode none\nlink set {node} master br0\n"));
        inside.push_str(&format!("link set {node} up gso_max_segs 1\n"));
    }
    let count = u8::try_from(nodes.len()).unwrap_or(u8::MAX);
    inside.push_str(&pod_routes(subnet, count, 0));
    batch(Some(&cloud), &inside)?;
    for (index, node) in (1..).zip(nodes) {
        build_node(&names.node(node), subnet, index, count)?;
    }
    forward(&cloud)
}

/// The inside of one node: its link without segmentation offload, so that the counters hold what a wire would carry,
/// and without the chatter of IPv6 autoconfiguration.
fn build_node(namespace: &str, subnet: Subnet, index: u8, count: u8) -> Result<()> {
    batch(
        Some(namespace),
        &format!(
            "link set lo up\n\
             addr add {DNS_ADDRESS}/32 dev lo\n\
             link set {LINK} addrgenmode none\n\
             addr add {}/24 dev {LINK}\n\
             link set {LINK} up gso_max_segs 1\n\
             route add default via {}\n{}",
            subnet.node(index),
            subnet.cloud(),
            pod_routes(subnet, count, index)
        ),
    )?;
    run(inside(namespace).args(["nft", "-f", "-"]), &traffic::rules())?;
    forward(namespace)
}

/// Routes to the pods of all nodes but `own`, each by its node.
fn pod_routes(subnet: Subnet, count: u8, own: u8) -> String {
    let others = (1..=count).filter(|index| *index != own);
    others.map(|index| format!("route add {} via {}\n", pod_network(index), subnet.node(index))).collect()
}

fn forward(namespace: &str) -> Result<()> {
    set(namespace, "net/ipv4/ip_forward", "1")
}

/// Sets a kernel setting of the namespace, such as `net/ipv4/ip_forward`.
pub(crate) fn set(namespace: &str, setting: &str, value: &str) -> Result<()> {
    run(inside(namespace).args(["tee", &format!("/proc/sys/{setting}")]), value).map(drop)
}

/// Runs `work` on a thread inside the network namespace: only a whole thread can change its namespace.
pub(crate) fn in_namespace<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<JoinHandle<std::io::Result<T>>> {
    let namespace = File::open(Path::new("/run/netns").join(namespace))?;
    thread::Builder::new().spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// A command that runs its further arguments inside `namespace`.
pub(crate) fn inside(namespace: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--");
    command
}

fn batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(namespace) = namespace {
        ip.args(["-n", namespace]);
    }
    run(ip.args(["-batch", "-"]), lines).map(drop)
}

/// Drops what `cut` says of everything between the node and `cloud`, without a word to either side. The newest cut
/// takes the place of an older one.
pub(crate) fn cut(namespace: &str, cloud: Ipv4Addr, cut: &Cut) -> Result<()> {
    run(inside(namespace).args(["nft", "-f", "-"]), &cut.rules(cloud)).map(drop)
}

/// Ends a cut. Does nothing where there is none.
pub(crate) fn heal(namespace: &str) -> Result<()> {
    let rules = format!("table inet {CUT_TABLE}\ndelete table inet {CUT_TABLE}\n");
    run(inside(namespace).args(["nft", "-f", "-"]), &rules).map(drop)
}

/// Whether the node is cut off.
pub(crate) fn is_cut(namespace: &str) -> Result<bool> {
    let tables = run(inside(namespace).args(["nft", "list", "tables"]), "")?;
    Ok(tables.lines().any(|line| line.trim() == format!("table inet {CUT_TABLE}")))
}

/// The namespaces of this lab that exist.
pub(crate) fn namespaces(names: &Names) -> BTreeSet<String> {
    let prefix = names.prefix();
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// The processes whose network namespace is `namespace`, whoever started them.
pub(crate) fn processes_inside(namespace: &str) -> Vec<i32> {
    let listed = run_unchecked(Command::new("ip").args(["netns", "pids", namespace]), "");
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Removes the namespaces of this lab and the host's link. Links inside vanish with their namespace.
pub(crate) fn remove(names: &Names) -> Result<()> {
    let outside = names.outside_link();
    if Path::new("/sys/class/net").join(&outside).exists() {
        run(Command::new("ip").args(["link", "delete", &outside]), "")?;
    }
    for namespace in namespaces(names) {
        run(Command::new("ip").args(["netns", "delete", &namespace]), "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_overlap_when_it_holds_our_subnet_or_lies_inside_it() {
        let subnet = Subnet { bytes: (161, 7) };
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
    fn interface_names_fit_the_kernels_limit() {
        assert!(Names::new("0a1b2c").outside_link().len() <= 15);
    }
}
