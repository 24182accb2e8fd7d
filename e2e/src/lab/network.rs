//! The wires of a lab: one network namespace for the cloud with a bridge, one per node with a veth to it, and one veth
//! to the host, so that the API server can be reached from there. A cut is an nft table in the node's namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use super::address::{Families, LINK, Names, Subnet, link_address, pod_routes};
use super::command::run;
use super::error::Result;
use super::namespace::{batch, inside, set};
use super::router;
use super::traffic;

/// Makes the namespaces, the bridge and the links of all `nodes` (in order; the first has number 1).
pub(crate) fn build(names: &Names, subnet: Subnet, nodes: &[String]) -> Result<()> {
    let (cloud, switch) = (names.cloud(), names.switch(subnet));
    let outside = names.outside_link();
    let mut host = format!("netns add {cloud}\n");
    if switch != cloud {
        host.push_str(&format!("netns add {switch}\n"));
    }
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
            "link add {LINK} netns {} type veth peer name {node} netns {switch}\n",
            names.node(node)
        ));
    }
    batch(None, &host)?;
    let namespaces = nodes.iter().map(|node| names.node(node)).chain([cloud.clone(), switch]);
    // First of all: what does not forward would ask for routers as soon as it has a link.
    namespaces.into_iter().try_for_each(|namespace| forward(&namespace, subnet.families))?;

    let mut inside = format!(
        "link set lo up\n\
         link add br0 type bridge\n\
         link set br0 addrgenmode none\n\
         {}link set br0 up\n\
         link set host addrgenmode none\n\
         link set host master br0\n\
         link set host up\n",
        addresses("br0", &subnet.cloud_addresses(), 1)
    );
    let count = u8::try_from(nodes.len()).unwrap_or(u8::MAX);
    if subnet.is_private() {
        batch(Some(&cloud), &inside)?;
        router::build(names, subnet, nodes)?;
    } else {
        for node in nodes {
            inside.push_str(&format!("link set {node} addrgenmode none\nlink set {node} master br0\n"));
            inside.push_str(&format!("link set {node} up gso_max_segs 1\n"));
        }
        inside.push_str(&pod_routes(subnet, count, 0));
        batch(Some(&cloud), &inside)?;
    }
    for (index, node) in (1..).zip(nodes) {
        build_node(&names.node(node), subnet, index, count)?;
    }
    Ok(())
}

/// The commands that give one end of a link its addresses. With IPv6 that includes an address of the link itself, without
/// which neighbours are not asked for on behalf of others; all are known to be unique.
fn addresses(device: &str, addresses: &[IpAddr], last: u8) -> String {
    let commands = addresses.iter().map(|address| match address {
        IpAddr::V4(v4) => format!("addr add {v4}/24 dev {device}\n"),
        IpAddr::V6(v6) => format!(
            "addr add {v6}/64 dev {device} nodad\naddr add {}/64 dev {device} nodad\n",
            link_address(last)
        ),
    });
    commands.collect()
}

/// The inside of one node: its link without segmentation offload, so that the counters hold what a wire would carry,
/// and without the chatter of IPv6 autoconfiguration.
fn build_node(namespace: &str, subnet: Subnet, index: u8, count: u8) -> Result<()> {
    let mut lines = "link set lo up\n".to_owned();
    for address in subnet.families.dns_addresses() {
        lines.push_str(&format!("addr add {address} dev lo\n"));
    }
    lines.push_str(&format!(
        "link set {LINK} addrgenmode none\n{}link set {LINK} up gso_max_segs 1\n",
        addresses(LINK, &subnet.node_addresses(index), 10 + index)
    ));
    for (route, gateway) in subnet.families.default_routes().iter().zip(subnet.gateways()) {
        lines.push_str(&format!("route add {route} via {gateway}\n"));
    }
    lines.push_str(&pod_routes(subnet, count, index));
    batch(Some(namespace), &lines)?;
    run(inside(namespace).args(["nft", "-f", "-"]), &traffic::rules()).map(drop)
}

fn forward(namespace: &str, families: Families) -> Result<()> {
    set(namespace, "net/ipv4/ip_forward", "1")?;
    match families {
        Families::Ipv4 => Ok(()),
        Families::DualStack => set(namespace, "net/ipv6/conf/all/forwarding", "1"),
    }
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
