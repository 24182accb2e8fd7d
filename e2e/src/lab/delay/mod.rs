//! Delay of what passes a node's link. The kernel sends each packet to a queue (NFQUEUE) where a process of the lab lets
//! it go on after a while; without jitter in the order in which packets came, with jitter they overtake one another.
//!
//! The process belongs to the link and not to the node: it lives in the cloud's namespace, so that a reboot or a freeze
//! of the node leaves the link as it is. Should it be killed, what it held is lost, as on a wire that breaks, and all
//! that comes later passes at once (`--queue-bypass`).

mod held;
mod link;
mod queue;
mod wire;

use std::process::Command;
use std::time::Duration;

pub use held::Delay;
pub use link::Link;

use super::Lab;
use super::address::LINK;
use super::command::{run, run_unchecked};
use super::error::{LabError, Result};
use super::namespace::{inside, set};
use super::process::Start;

/// How long the process may take until it has its queues.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// The table of iptables that its rules stand in: before connection tracking, which then sees packets as they arrive.
pub(super) const TABLE: &str = "raw";

/// Messages of neighbour discovery, by their ICMPv6 type: never delayed, as ARP is not, so that a long delay is not an
/// unknown neighbour.
const NEIGHBOUR_DISCOVERY: [u8; 2] = [135, 136];

impl Link {
    fn of(lab: &Lab, node: &str) -> Result<Link> {
        Ok(Link {
            queue: lab.check(node)?.into(),
            node: lab.names.node(node),
            cloud: lab.names.switch(lab.state.subnet),
            port: node.to_owned(),
        })
    }

    fn arguments(&self, delay: Delay) -> Vec<String> {
        let mut words = vec!["delay".to_owned()];
        for (name, value) in [
            ("--queue", self.queue.to_string()),
            ("--node", self.node.clone()),
            ("--cloud", self.cloud.clone()),
            ("--port", self.port.clone()),
            ("--mean", format!("{}us", delay.mean().as_micros())),
            ("--jitter", format!("{}us", delay.jitter().as_micros())),
        ] {
            words.extend([name.to_owned(), value]);
        }
        words
    }

    /// The rules: namespace, program, and what they match.
    fn rules(&self) -> Vec<(&str, &str, Vec<String>)> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut rules = Vec::new();
        for (namespace, matching) in [
            (self.node.as_str(), words(&format!("-i {LINK}"))),
            // What comes in by a port of a bridge is met before the bridge decides where it goes.
            (self.cloud.as_str(), words(&format!("-m physdev --physdev-in {}", self.port))),
        ] {
            for kind in NEIGHBOUR_DISCOVERY {
                let pass = words(&format!("-p icmpv6 --icmpv6-type {kind} -j ACCEPT"));
                rules.push((namespace, "ip6tables", [matching.clone(), pass].concat()));
            }
            let hold = words(&format!("-j NFQUEUE --queue-num {} --queue-bypass", self.queue));
            for program in ["iptables", "ip6tables"] {
                rules.push((namespace, program, [matching.clone(), hold.clone()].concat()));
            }
        }
        rules
    }

    fn add_rules(&self) -> Result<()> {
        for (namespace, program, rule) in self.rules() {
            run(table(namespace, program, "-A").args(rule), "")?;
        }
        Ok(())
    }

    /// Removes the rules. Does nothing where there are none.
    fn remove_rules(&self) -> Result<()> {
        // Those that send packets to the queue come last, and so go first.
        for (namespace, program, rule) in self.rules().into_iter().rev() {
            if run_unchecked(table(namespace, program, "-C").args(&rule), "")?.status.success() {
                run(table(namespace, program, "-D").args(rule), "")?;
            }
        }
        Ok(())
    }
}

fn table(namespace: &str, program: &str, action: &str) -> Command {
    let mut command = inside(namespace);
    command.args([program, "-w", "-t", TABLE, action, "PREROUTING"]);
    command
}

/// The name of the process's record.
fn process(node: &str) -> String {
    format!("{node}.delay")
}

/// Delays what passes the node's link, each way.
pub(super) fn start(lab: &Lab, node: &str, delay: Delay) -> Result<()> {
    let link = Link::of(lab, node)?;
    let name = process(node);
    for setting in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        set(&link.cloud, &format!("net/bridge/{setting}"), "1")?;
    }
    lab.processes.start(Start {
        name: &name,
        namespace: &link.cloud,
        program: &lab.program(),
        arguments: link.arguments(delay),
        environment: Vec::new(),
    })?;
    lab.processes.wait_ready(&name, READY_LIMIT, || {
        let bound = |namespace: &str| is_bound(namespace, link.queue).map_err(|error| error.to_string());
        if bound(&link.node)? && bound(&link.cloud)? { Ok(()) } else { Err("it has no queue yet".to_owned()) }
    })?;
    link.add_rules().inspect_err(|_| {
        // The first error is the one to tell; heal names what is left again.
        let _ = stop(lab, node);
    })
}

fn is_bound(namespace: &str, queue: u16) -> Result<bool> {
    let queues = run(inside(namespace).args(["cat", "/proc/net/netfilter/nfnetlink_queue"]), "")?;
    Ok(queues.lines().any(|line| line.split_whitespace().next() == Some(&queue.to_string())))
}

/// Ends a delay: what was held goes on at once. Does nothing where there is none.
pub(super) fn stop(lab: &Lab, node: &str) -> Result<()> {
    let name = process(node);
    if !lab.processes.is_recorded(&name) {
        return Ok(());
    }
    lab.processes.stop(&name);
    // The process has removed them itself unless it was killed.
    Link::of(lab, node)?.remove_rules()?;
    lab.processes.forget(&name)
}

/// Whether the node's link is delayed now.
pub(super) fn is_delayed(lab: &Lab, node: &str) -> bool {
    lab.processes.running(&process(node)).is_some()
}

/// Is the process that delays a link; returns when SIGTERM has ended it.
///
/// Errors: another process has the queue; the namespaces are gone.
pub fn run_delay(link: &Link, delay: Delay) -> Result<()> {
    wire::run(link, delay).map_err(LabError::io("delay the link in", format!("/run/netns/{}", link.node)))
}
