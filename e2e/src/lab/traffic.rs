//! What crosses a node's link, counted by the kernel: in all by the link itself, and by class by rules that only count.
//! Nothing is sampled, and without segmentation offload nothing is counted as larger than a wire would carry.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::{LINK, POD_NETWORKS, POD_NETWORKS_V6};
use super::command::run;
use super::error::{LabError, Result};
use super::namespace::{in_namespace, inside};

/// The table with the counters. It is the lab's own and outlives a reboot of the node.
const COUNT_TABLE: &str = "eyot_count";

/// An Ethernet header, which the link counts and a rule does not see, in bytes.
const ETHERNET: u64 = 14;

/// The header of a TCP segment with timestamps down to Ethernet, in bytes; a SYN has 8 more, and IPv6 20.
const HEADERS: u64 = 66;
const SYN_EXTRA: u64 = 8;
const IPV6_EXTRA: u64 = 20;

/// What IPv6 says by itself, by ICMPv6 type: routers, neighbours and members of groups are asked for and announced.
const DISCOVERY: &str = "{ 130, 131, 132, 133, 134, 135, 136, 137, 143 }";

/// The known transfer, in bytes.
const KNOWN: usize = 1 << 20;

/// How often it is made, at most.
const TRANSFERS: usize = 40;

/// How long the known transfer may pause.
const PATIENCE: Duration = Duration::from_secs(10);

/// What crossed a link, or a part of it, as the node sees it; bytes with Ethernet headers (14 a packet).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkTraffic {
    /// Bytes from the link to the node.
    pub received_bytes: u64,
    /// Bytes from the node to the link.
    pub sent_bytes: u64,
    /// Packets from the link to the node.
    pub received_packets: u64,
    /// Packets from the node to the link.
    pub sent_packets: u64,
}

impl LinkTraffic {
    /// Bytes both ways.
    pub fn bytes(&self) -> u64 {
        self.received_bytes + self.sent_bytes
    }

    /// What came on top since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &LinkTraffic) -> LinkTraffic {
        LinkTraffic {
            received_bytes: self.received_bytes.saturating_sub(earlier.received_bytes),
            sent_bytes: self.sent_bytes.saturating_sub(earlier.sent_bytes),
            received_packets: self.received_packets.saturating_sub(earlier.received_packets),
            sent_packets: self.sent_packets.saturating_sub(earlier.sent_packets),
        }
    }
}

/// The traffic of one link by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// All of it.
    pub link: LinkTraffic,
    /// With the API server (TCP port 6443).
    pub api: LinkTraffic,
    /// With the kubelet's own port (TCP 10250): logs and exec that come by the API server.
    pub kubelet: LinkTraffic,
    /// Between pods of different nodes.
    pub pods: LinkTraffic,
    /// What is left: ARP and IPv6's neighbour discovery above all.
    pub other: LinkTraffic,
}

/// The nft script that makes a node's counters.
pub(crate) fn rules() -> String {
    let mut rules = format!("table inet {COUNT_TABLE} {{\n");
    for class in ["api", "kubelet", "pods", "discovery"] {
        rules.push_str(&format!("counter {class}_in {{}}\ncounter {class}_out {{}}\n"));
    }
    for (hook, priority, way, device) in
        [("prerouting", -500, "in", "iifname"), ("postrouting", 500, "out", "oifname")]
    {
        rules.push_str(&format!(
            "chain {hook} {{\ntype filter hook {hook} priority {priority}; policy accept;\n"
        ));
        rules.push_str(&format!("{device} != \"{LINK}\" return\n"));
        for (class, port) in [("api", 6443), ("kubelet", 10_250)] {
            rules.push_str(&format!("tcp sport {port} counter name {class}_{way} return\n"));
            rules.push_str(&format!("tcp dport {port} counter name {class}_{way} return\n"));
        }
        rules.push_str(&format!("icmpv6 type {DISCOVERY} counter name discovery_{way} return\n"));
        for end in ["saddr", "daddr"] {
            rules.push_str(&format!("ip {end} {POD_NETWORKS} counter name pods_{way} return\n"));
            rules.push_str(&format!("ip6 {end} {POD_NETWORKS_V6} counter name pods_{way} return\n"));
        }
        rules.push_str("}\n");
    }
    rules.push_str("}\n");
    rules
}

/// Reads all counters of a node.
pub(crate) fn read(namespace: &str) -> Result<Traffic> {
    let link = link(namespace)?;
    let [api, kubelet, pods, _] = classes(namespace)?;
    let other = [api, kubelet, pods].iter().fold(link, |rest, class| rest.since(class));
    Ok(Traffic { link, api, kubelet, pods, other })
}

fn classes(namespace: &str) -> Result<[LinkTraffic; 4]> {
    let shown =
        run(inside(namespace).args(["nft", "-j", "list", "counters", "table", "inet", COUNT_TABLE]), "")?;
    parse_classes(&shown).ok_or_else(|| {
        LabError::Invalid(format!("`nft -j list counters` in {namespace} shows no counters: {shown}"))
    })
}

/// Reads the counters of a node's link without what IPv6 says by itself, which may come at any time.
fn link_but_discovery(namespace: &str) -> Result<LinkTraffic> {
    let [.., mut discovery] = classes(namespace)?;
    let mut counted = link(namespace)?;
    // The two are read one after the other: what comes between them would be in one alone.
    for _ in 0..10 {
        let [.., again] = classes(namespace)?;
        if again == discovery {
            break;
        }
        (discovery, counted) = (again, link(namespace)?);
    }
    Ok(counted.since(&discovery))
}

/// Reads the counters of a node's link.
pub(crate) fn link(namespace: &str) -> Result<LinkTraffic> {
    let text = run(Command::new("ip").args(["-n", namespace, "-s", "-j", "link", "show", "dev", LINK]), "")?;
    parse_link(&text)
        .ok_or_else(|| LabError::Invalid(format!("`ip -s -j link` in {namespace} shows no counters: {text}")))
}

fn parse_link(text: &str) -> Option<LinkTraffic> {
    let links: serde_json::Value = serde_json::from_str(text).ok()?;
    let counters = links.get(0)?.get("stats64")?;
    let read = |way: &str, what: &str| counters.get(way)?.get(what)?.as_u64();
    Some(LinkTraffic {
        received_bytes: read("rx", "bytes")?,
        sent_bytes: read("tx", "bytes")?,
        received_packets: read("rx", "packets")?,
        sent_packets: read("tx", "packets")?,
    })
}

/// The classes api, kubelet, pods and discovery.
fn parse_classes(text: &str) -> Option<[LinkTraffic; 4]> {
    let listed: serde_json::Value = serde_json::from_str(text).ok()?;
    let counters = listed.get("nftables")?.as_array()?;
    let read = |name: String| {
        let counter = counters
            .iter()
            .filter_map(|each| each.get("counter"))
            .find(|each| each["name"] == name.as_str())?;
        let packets = counter.get("packets")?.as_u64()?;
        Some((counter.get("bytes")?.as_u64()? + packets * ETHERNET, packets))
    };
    let class = |name: &str| {
        let ((received_bytes, received_packets), (sent_bytes, sent_packets)) =
            (read(format!("{name}_in"))?, read(format!("{name}_out"))?);
        Some(LinkTraffic { received_bytes, sent_bytes, received_packets, sent_packets })
    };
    Some([class("api")?, class("kubelet")?, class("pods")?, class("discovery")?])
}

/// Sends a known number of bytes through a node's link while nothing else does, and fails unless the link counted
/// exactly these and the headers of their packets. Returns what it counted.
pub(crate) fn calibrate(cloud: &str, address: IpAddr, node: &str) -> Result<LinkTraffic> {
    let io = LabError::io("calibrate", format!("/run/netns/{node}"));
    let measured = || -> std::io::Result<std::result::Result<LinkTraffic, String>> {
        // The first transfer resolves addresses. On a busy machine TCP sends a packet twice now and then: a transfer of
        // which the kernel says so proves nothing, and neither do the first ones, which ARP may meet.
        transfer(cloud, address, node)?;
        let mut seen = Err(String::new());
        for attempt in 1..=TRANSFERS {
            let resent = resent_segments(cloud).map_err(std::io::Error::other)?;
            let before = link_but_discovery(node).map_err(std::io::Error::other)?;
            transfer(cloud, address, node)?;
            let counted = link_but_discovery(node).map_err(std::io::Error::other)?.since(&before);
            seen = judge(&counted, if address.is_ipv6() { HEADERS + IPV6_EXTRA } else { HEADERS });
            let is_certain = attempt >= 3 && resent_segments(cloud).map_err(std::io::Error::other)? == resent;
            if seen.is_ok() || is_certain {
                break;
            }
        }
        Ok(seen)
    };
    measured()
        .map_err(io)?
        .map_err(|why| LabError::Invalid(format!("the link of {node} does not count exactly: {why}")))
}

/// How many TCP segments the namespace has sent again so far, of either family.
fn resent_segments(namespace: &str) -> Result<u64> {
    let text = run(inside(namespace).args(["cat", "/proc/net/snmp"]), "")?;
    parse_resent(&text)
        .ok_or_else(|| LabError::Invalid(format!("/proc/net/snmp in {namespace} has no RetransSegs: {text}")))
}

/// A line of names, and a line of their values.
fn parse_resent(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let at = lines.next()?.split_whitespace().position(|name| name == "RetransSegs")?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// Whether the link counted the known transfer to the byte, in packets no larger than a wire's.
fn judge(counted: &LinkTraffic, headers: u64) -> std::result::Result<LinkTraffic, String> {
    let known = KNOWN as u64;
    let expected = known + counted.received_packets * headers + SYN_EXTRA;
    let smallest = known.div_ceil(1500 - headers + ETHERNET);
    if counted.received_bytes == expected && counted.received_packets > smallest {
        return Ok(*counted);
    }
    Err(format!(
        "{known} bytes in {} packets came as {} bytes and not {expected}",
        counted.received_packets, counted.received_bytes
    ))
}

/// Sends the known bytes from the cloud to the node; returns when both have closed.
fn transfer(cloud: &str, address: IpAddr, node: &str) -> std::io::Result<()> {
    let (sender, port) = std::sync::mpsc::channel();
    let cloud = cloud.to_owned();
    let serve = move || {
        let listener = TcpListener::bind((address, 0))?;
        // The other end has gone only if it failed, which is then its error to tell.
        let _ = sender.send(listener.local_addr()?.port());
        let (mut stream, _) = listener.accept()?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![0; KNOWN])
    };
    let server = std::thread::spawn(move || in_namespace(&cloud, serve));
    let Ok(port) = port.recv_timeout(PATIENCE) else {
        let failed = server.join().expect("the thread only does IO, whose errors it returns");
        return failed.and_then(|()| Err(std::io::ErrorKind::TimedOut.into()));
    };
    in_namespace(node, move || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        if received.len() == KNOWN { Ok(()) } else { Err(std::io::Error::other("the transfer broke off")) }
    })?;
    server.join().expect("the thread only does IO, whose errors it returns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_counters_are_read_from_the_nodes_side() {
        let text =
            r#"[{"ifname":"eth0","stats64":{"rx":{"bytes":10,"packets":1},"tx":{"bytes":20,"packets":2}}}]"#;
        let expected =
            LinkTraffic { received_bytes: 10, sent_bytes: 20, received_packets: 1, sent_packets: 2 };
        assert_eq!(parse_link(text), Some(expected));
        assert_eq!(parse_link("[]"), None);
    }

    #[test]
    fn a_class_counts_ethernet_headers_too() {
        let counter = |name: &str, packets: u64, bytes: u64| serde_json::json!({ "counter": { "name": name, "packets": packets, "bytes": bytes } });
        let mut all = vec![serde_json::json!({ "metainfo": {} })];
        for class in ["kubelet", "pods", "discovery"] {
            all.extend([counter(&format!("{class}_in"), 0, 0), counter(&format!("{class}_out"), 0, 0)]);
        }
        all.extend([counter("api_in", 2, 100), counter("api_out", 1, 52)]);
        let [api, ..] = parse_classes(&serde_json::json!({ "nftables": all }).to_string()).expect("counters");
        let expected =
            LinkTraffic { received_bytes: 128, sent_bytes: 66, received_packets: 2, sent_packets: 1 };
        assert_eq!(api, expected);
        assert_eq!(parse_classes(r#"{"nftables":[]}"#), None);
    }

    #[test]
    fn what_tcp_sent_again_is_read_by_its_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: InSegs OutSegs RetransSegs InErrs\nTcp: 9 8 7 0\n";
        assert_eq!(parse_resent(text), Some(7));
        assert_eq!(parse_resent("Tcp: InSegs\nTcp: 9\n"), None);
    }

    #[test]
    fn only_an_exact_count_of_wire_sized_packets_is_believed() {
        let exact = |packets: u64| LinkTraffic {
            received_bytes: (1 << 20) + packets * 66 + 8,
            received_packets: packets,
            ..LinkTraffic::default()
        };
        assert!(judge(&exact(727), HEADERS).is_ok());
        assert!(judge(&exact(727), HEADERS + IPV6_EXTRA).is_err(), "another family");
        assert!(judge(&exact(20), HEADERS).is_err(), "packets that no wire carries");
        let more = LinkTraffic { received_bytes: exact(727).received_bytes + 1, ..exact(727) };
        assert!(judge(&more, HEADERS).is_err());
    }
}
