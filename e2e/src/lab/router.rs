//! A pool behind NAT: its nodes stand in a private subnet, and a router namespace with one address in the cloud's subnet
//! masquerades what leaves. The cloud has no route back: whoever is to be reached there has dialled out before.

use std::net::Ipv4Addr;

use super::address::{Names, Subnet, pod_routes};
use super::command::run;
use super::error::Result;
use super::namespace::{batch, inside};

/// The router's end of the pool's uplink.
pub(crate) const UPLINK: &str = "eth0";

/// The cloud's end of it.
const PORT: &str = "router";

/// The router's table.
const TABLE: &str = "eyot_nat";

/// Makes the inside of the router and its uplink; the links of the nodes end in it already, each under its node's name.
pub(super) fn build(names: &Names, subnet: Subnet, nodes: &[String]) -> Result<()> {
    let (router, cloud) = (names.router(), names.cloud());
    batch(None, &format!("link add {UPLINK} netns {router} type veth peer name {PORT} netns {cloud}\n"))?;
    batch(
        Some(&cloud),
        &format!("link set {PORT} addrgenmode none\nlink set {PORT} master br0\nlink set {PORT} up\n"),
    )?;
    let mut lines = format!(
        "link set lo up\n\
         link set {UPLINK} addrgenmode none\n\
         addr add {}/24 dev {UPLINK}\n\
         link set {UPLINK} up\n\
         link add br0 type bridge\n\
         link set br0 addrgenmode none\n\
         addr add {}/24 dev br0\n\
         link set br0 up\n",
        subnet.router(),
        subnet.gateway()
    );
    for node in nodes {
        lines.push_str(&format!("link set {node} addrgenmode none\nlink set {node} master br0\n"));
        lines.push_str(&format!("link set {node} up gso_max_segs 1\n"));
    }
    // Pods' packets keep their own source until here, and answers have to find them.
    lines.push_str(&pod_routes(subnet, u8::try_from(nodes.len()).unwrap_or(u8::MAX), 0));
    batch(Some(&router), &lines)?;
    run(inside(&router).args(["nft", "-f", "-"]), &rules()).map(drop)
}

/// What leaves by the uplink gets its address; what comes in by it and answers nothing is dropped, as home routers do.
fn rules() -> String {
    format!(
        "table ip {TABLE} {{\n\
         chain postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\n\
         oifname \"{UPLINK}\" masquerade\n}}\n\
         chain forward {{\ntype filter hook forward priority filter; policy accept;\n\
         iifname \"{UPLINK}\" ct state established,related accept\n\
         iifname \"{UPLINK}\" drop\n}}\n\
         }}\n"
    )
}

/// The TCP connections that the router translates to `port` of `address`, one line of `conntrack -L` each: those that
/// are established now.
pub(super) fn established(names: &Names, address: Ipv4Addr, port: u16) -> Result<Vec<String>> {
    let mut command = inside(&names.router());
    command.args(["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED"]);
    command.args(["--orig-dst", &address.to_string(), "--dport", &port.to_string()]);
    Ok(run(&mut command, "")?.lines().map(str::to_owned).collect())
}
