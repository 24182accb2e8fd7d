//! What can be done to a node on purpose: its link cut or slowed, its processes stopped, the whole node restarted. All of
//! it lives in the lab's own namespaces and processes, so `down` removes it with them, whatever was killed before.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use super::address::LINK;
use super::command::run;
use super::delay::{self, Delay};
use super::error::{LabError, Result};
use super::namespace::{self, inside};
use super::process::{Identity, kill_all};
use super::sweep::{own_line, remove_shim_sockets_of, unmount_below};
use super::{Lab, control_group, state};

/// What a slow link does to all that passes it, each way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slow {
    /// The most that it lets through, as tc writes it: `256kbit`, `10mbit`. What comes faster waits for up to 400 ms.
    pub rate: Option<String>,
    /// How long a packet is under way.
    pub delay: Option<Delay>,
}

/// Makes the node's link slow, in place of an older slowness.
pub(super) fn slow(lab: &Lab, node: &str, slow: &Slow) -> Result<()> {
    if let Some(rate) = slow.rate.as_ref().filter(|rate| !is_rate(rate)) {
        return Err(LabError::Invalid(format!("{rate}: no rate; write it like 256kbit or 10mbit")));
    }
    unslow(lab, node)?;
    if let Some(rate) = &slow.rate {
        shape(lab, node, rate)?;
    }
    slow.delay.map_or(Ok(()), |delay| delay::start(lab, node, delay))
}

fn shape(lab: &Lab, node: &str, rate: &str) -> Result<()> {
    for (namespace, device) in ends(lab, node) {
        let shape = ["root", "tbf", "rate", rate, "burst", "32kb", "latency", "400ms"];
        run(Command::new("tc").args(["-n", &namespace, "qdisc", "replace", "dev", &device]).args(shape), "")?;
    }
    Ok(())
}

/// Ends a slowness. Does nothing where there is none.
pub(super) fn unslow(lab: &Lab, node: &str) -> Result<()> {
    delay::stop(lab, node)?;
    for (namespace, device) in ends(lab, node) {
        if is_shaped(&namespace, &device)? {
            run(Command::new("tc").args(["-n", &namespace, "qdisc", "delete", "dev", &device, "root"]), "")?;
        }
    }
    Ok(())
}

/// Whether the node's link has a rate or a delay now.
pub(super) fn is_slow(lab: &Lab, node: &str) -> Result<bool> {
    let [(namespace, device), _] = ends(lab, node);
    Ok(delay::is_delayed(lab, node) || is_shaped(&namespace, &device)?)
}

fn is_shaped(namespace: &str, device: &str) -> Result<bool> {
    let shown = run(Command::new("tc").args(["-n", namespace, "qdisc", "show", "dev", device]), "")?;
    Ok(shown.contains("qdisc tbf"))
}

/// Both ends of a node's link, as (namespace, device): what leaves one end arrives at the other.
fn ends(lab: &Lab, node: &str) -> [(String, String); 2] {
    [(lab.names.node(node), LINK.to_owned()), (lab.names.switch(lab.state.subnet), node.to_owned())]
}

fn is_rate(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (1..=6).contains(&digits) && ["kbit", "mbit", "gbit"].contains(&&text[digits..]) && !text.starts_with('0')
}

/// Every process of a node, its containers' too, but not this one and its callers.
fn processes(lab: &Lab, node: &str) -> Vec<Identity> {
    let inside = namespace::processes_inside(&lab.names.node(node));
    let contained = control_group::processes_of(&lab.state.id, node);
    let own = own_line();
    let ids: BTreeSet<i32> = inside.into_iter().chain(contained).filter(|pid| !own.contains(pid)).collect();
    ids.into_iter().filter_map(Identity::of).collect()
}

/// Stops every process of the node where it stands, as a host that hangs would.
pub(super) fn freeze(lab: &Lab, node: &str) {
    let mut stopped = BTreeSet::new();
    // What is stopped starts nothing new, so a round without a new process is the last.
    loop {
        let found = processes(lab, node);
        let new: Vec<_> = found.into_iter().filter(|process| stopped.insert(process.pid)).collect();
        if new.is_empty() {
            return;
        }
        new.iter().for_each(|process| process.signal(Signal::SIGSTOP));
    }
}

/// Lets a frozen node go on. Nothing happens to one that is not frozen.
pub(super) fn thaw(lab: &Lab, node: &str) {
    processes(lab, node).iter().for_each(|process| process.signal(Signal::SIGCONT));
}

/// Ends every process of the node at once and forgets what a restart of a machine forgets: mounts, `/run`, pods' links,
/// firewall rules. The disk stays, and so does what is done to the link.
pub(super) fn power_off(lab: &Lab, node: &str) -> Result<()> {
    for _ in 0..5 {
        let found = processes(lab, node);
        if found.is_empty() {
            break;
        }
        kill_all(&found);
    }
    if let Some(process) = processes(lab, node).first() {
        return Err(LabError::Invalid(format!("{node}: process {} survives SIGKILL", process.pid)));
    }
    let folder = lab.dir.join("nodes").join(node);
    remove_shim_sockets_of(&folder);
    unmount_below(&folder)?;
    for volatile in ["containerd/state", "runc"] {
        remove_folder(&folder.join(volatile))?;
    }
    let namespace = lab.names.node(node);
    forget_links(&namespace)?;
    forget_rules(&namespace)?;
    control_group::remove_node(&lab.state.id, node);
    if lab.state.kubelets {
        control_group::create(&lab.state.id, node)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

/// Removes the pods' bridge; the pods' ends of its links went with their namespaces.
fn forget_links(namespace: &str) -> Result<()> {
    let shown = run(Command::new("ip").args(["-n", namespace, "-o", "link", "show", "type", "bridge"]), "")?;
    if shown.contains(": cni0") {
        run(Command::new("ip").args(["-n", namespace, "link", "delete", "cni0"]), "")?;
    }
    Ok(())
}

/// Removes every nft table but those of the lab itself, which stand for things outside the node.
fn forget_rules(namespace: &str) -> Result<()> {
    let tables = run(inside(namespace).args(["nft", "list", "tables"]), "")?;
    let delay = format!(" {}", delay::TABLE);
    let foreign = tables.lines().filter(|line| !line.contains(" eyot_") && !line.ends_with(&delay));
    let script: String = foreign.map(|line| format!("delete {line}\n")).collect();
    if !script.is_empty() {
        run(inside(namespace).args(["nft", "-f", "-"]), &script)?;
    }
    for family in ["ipv4", "ipv6"] {
        run(inside(namespace).args(["conntrack", "-F", "-f", family]), "")?;
    }
    Ok(())
}

/// Starts everything of the node in the order of a boot and does not wait for the cloud, which may be away.
pub(super) fn power_on(lab: &Lab, node: &str) -> Result<()> {
    power_on_as(lab, node, false)
}

/// As [`power_on`]; with `joining` the kubelet has no certificate and asks for one.
pub(super) fn power_on_as(lab: &Lab, node: &str, joining: bool) -> Result<()> {
    let namespace = lab.names.node(node);
    if lab.state.hub == super::HubKind::EdgeHub {
        if let Some(coordinator) = lab.coordinator_on(node)? {
            coordinator.start(&lab.program())?;
        }
        lab.hub_of(node, &namespace)?.start(&lab.program())?;
    }
    if !lab.state.kubelets {
        return Ok(());
    }
    if lab.has_agent(node) {
        lab.tunnel(&lab.names.cloud(), &namespace)?.start_agent(&lab.program())?;
    }
    let machine = lab.node_of(node, &namespace)?;
    machine.start_containerd()?;
    if joining {
        machine.start_joining_kubelet()?
    } else {
        machine.start_kubelet()?
    }
    let agents = lab.agents_of(node, &namespace)?;
    super::agents::Agent::ALL.iter().try_for_each(|agent| agents.start(*agent))
}

/// [`power_off`] and [`power_on`], with the node held.
pub(super) fn reboot(lab: &Lab, node: &str) -> Result<()> {
    let _lock = state::lock_node(&lab.dir, node)?;
    power_off(lab, node)?;
    power_on(lab, node)
}

/// A reboot with an empty disk: only configuration and credentials are left.
pub(super) fn reinstall(lab: &Lab, node: &str) -> Result<()> {
    let _lock = state::lock_node(&lab.dir, node)?;
    erase(lab, node)?;
    power_on(lab, node)
}

/// Powers the node off and empties its disk.
pub(super) fn erase(lab: &Lab, node: &str) -> Result<()> {
    power_off(lab, node)?;
    let folder = lab.dir.join("nodes").join(node);
    let written = ["hub-state", "kubelet", "containerd", "cni-addresses", "pod-logs"];
    written.iter().try_for_each(|written| remove_folder(&folder.join(written)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        for rate in ["1kbit", "256kbit", "10mbit", "1gbit"] {
            assert!(is_rate(rate), "{rate}");
        }
        for rate in ["", "10", "mbit", "0kbit", "10 mbit", "10mbit root", "-1mbit", "1000000mbit0"] {
            assert!(!is_rate(rate), "{rate}");
        }
    }
}
