//! A cut of a node's link: an nft table in the node's namespace whose presence is the cut.

use std::net::IpAddr;

use super::address::{Families, Subnet, link_address};
use super::command::run;
use super::error::Result;
use super::namespace::inside;

/// The table whose presence is the cut.
pub(crate) const CUT_TABLE: &str = "eyot_cut";

/// Which packets a cut swallows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Way {
    /// Both ways.
    #[default]
    Both,
    /// From the cloud to the node.
    In,
    /// From the node to the cloud.
    Out,
}

/// A cut: a black hole, no resets. The default swallows everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Which way.
    pub way: Way,
    /// Only TCP and UDP from or to this port, at either end.
    pub port: Option<u16>,
    /// This many of a hundred packets, at random: 1 to 100.
    pub percent: u8,
}

impl Default for Cut {
    fn default() -> Self {
        Cut { way: Way::Both, port: None, percent: 100 }
    }
}

impl Cut {
    /// The nft script that makes this cut the only one.
    pub(crate) fn rules(&self, cloud: &[IpAddr]) -> String {
        let chance = match self.percent {
            100.. => String::new(),
            percent => format!("numgen random mod 100 < {percent} "),
        };
        let ports = match self.port {
            None => vec![String::new()],
            Some(port) => {
                ["sport", "dport"].map(|end| format!("meta l4proto {{ tcp, udp }} th {end} {port} ")).into()
            }
        };
        let mut rules =
            format!("table inet {CUT_TABLE}\ndelete table inet {CUT_TABLE}\ntable inet {CUT_TABLE} {{\n");
        // The forward hook is for pods, whose packets pass the node.
        for hook in ["input", "output", "forward"] {
            rules.push_str(&format!(
                "chain {hook} {{\ntype filter hook {hook} priority -300; policy accept;\n"
            ));
            for (end, swallowed) in [("saddr", self.way != Way::Out), ("daddr", self.way != Way::In)] {
                for address in cloud.iter().filter(|_| swallowed) {
                    let family = if address.is_ipv6() { "ip6" } else { "ip" };
                    for port in &ports {
                        rules.push_str(&format!("{family} {end} {address} {port}{chance}counter drop\n"));
                    }
                }
            }
            rules.push_str("}\n");
        }
        rules.push_str("}\n");
        rules
    }
}

/// Drops what `cut` says of everything between the node and the cloud, without a word to either side. The newest cut
/// takes the place of an older one.
pub(crate) fn cut(namespace: &str, subnet: Subnet, cut: &Cut) -> Result<()> {
    let mut cloud = subnet.cloud_addresses();
    if subnet.families == Families::DualStack {
        cloud.push(link_address(1).into());
    }
    run(inside(namespace).args(["nft", "-f", "-"]), &cut.rules(&cloud)).map(drop)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud() -> [IpAddr; 2] {
        ["10.161.7.1", "fd00::1"].map(|address| address.parse().expect("an address"))
    }

    #[test]
    fn the_whole_cut_swallows_both_ways_at_every_hook() {
        let rules = Cut::default().rules(&cloud());
        for end in ["ip saddr 10.161.7.1", "ip daddr 10.161.7.1", "ip6 saddr fd00::1", "ip6 daddr fd00::1"] {
            assert_eq!(rules.matches(&format!("{end} counter drop\n")).count(), 3, "{rules}");
        }
        assert!(!Cut::default().rules(&cloud()[..1]).contains("ip6"));
    }

    #[test]
    fn a_partial_cut_swallows_no_more_than_it_says() {
        let cut = Cut { way: Way::In, port: Some(6443), percent: 30 };
        let rules = cut.rules(&cloud());
        assert!(!rules.contains("daddr"), "{rules}");
        let lines: Vec<&str> = rules.lines().filter(|line| line.contains("drop")).collect();
        assert_eq!(lines.len(), 12);
        assert!(lines.iter().all(|line| line.contains(" 6443 numgen random mod 100 < 30 counter drop")));
    }
}
