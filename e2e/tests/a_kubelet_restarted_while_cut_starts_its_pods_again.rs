//! A real kubelet behind the hub: what it runs survives the cut, and it comes back from a restart with the cloud away.

use std::time::{Duration, Instant};

use e2e::lab::{ClaimedNode, NodePart, Nodes, wait_until};

/// A promised bound of seconds, at three times its value: the kubelet's own back-off is up to 20 s after a kill.
const LIMIT: Duration = Duration::from_secs(90);

/// Looks until `holds` and returns how long that took; panics with `what` when the promise is broken.
fn promised(what: &str, holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    assert!(wait_until(LIMIT, holds), "not within {LIMIT:?}: {what}");
    started.elapsed()
}

/// The ids of the running containers of the node's ordinary pod, asked of containerd itself: the cloud cannot know.
fn running(node: &ClaimedNode) -> Vec<String> {
    let containers = node.lab().pod_containers(node.name()).expect("containerd answers");
    containers.into_iter().filter(|container| container.running).map(|container| container.id).collect()
}

fn restarted(node: &ClaimedNode, before: &[String]) -> bool {
    running(node).iter().any(|id| !before.contains(id))
}

#[test]
fn a_kubelet_restarted_while_cut_starts_its_pods_again() {
    let name = "a_kubelet_restarted_while_cut_starts_its_pods_again";
    let Some(node) = ClaimedNode::claim(name, env!("CARGO_BIN_EXE_eyot"), true) else { return };
    let (lab, this) = (node.lab(), Nodes::One(node.name().to_owned()));
    assert_eq!(running(&node).len(), 1, "the ordinary pod runs before the cut");

    lab.cut(&this).expect("cut");
    let before = running(&node);
    lab.kill(node.name(), NodePart::Pod).expect("the container runs");
    let took = promised("a container killed while cut comes back", || restarted(&node, &before));
    eprintln!("a container killed while cut ran again after {took:?}");

    // The container dies while nobody watches: only a kubelet that learns its pods from the hub brings it back.
    let before = running(&node);
    lab.kill(node.name(), NodePart::Kubelet).expect("killed");
    lab.kill(node.name(), NodePart::Pod).expect("the container runs");
    lab.restart(node.name(), NodePart::Hub).expect("a hub with a store is ready while cut");
    lab.restart(node.name(), NodePart::Kubelet).expect("the kubelet is healthy while cut");
    let took = promised("a kubelet restarted while cut starts its pod", || restarted(&node, &before));
    eprintln!("a kubelet restarted while cut had its pod running after {took:?}");
    assert!(lab.is_cut(node.name()).expect("nft answers"), "all of this happened before the heal");
}
