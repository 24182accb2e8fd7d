//! A pod whose sandbox dies while the cloud is away comes back at another address. What the kubelet reports of it nobody
//! in the cloud hears, but the hub does: kube-proxy, CoreDNS and every informer of the node follow, and after healing the
//! cloud's word holds.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use e2e::lab::Nodes;

use crate::stage::{LIMIT, NODE, READY_WITHIN, Stage};
use crate::watchers::Watchers;

/// The promise is 2 s from the hub's word to the rules of kube-proxy; three times that is a failure.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(6);

/// The only address of the pod; `None` while it does not run.
fn own_address(stage: &Stage, pod: &str) -> Option<IpAddr> {
    stage.own_addresses(NODE, pod).first().copied()
}

/// A hub that refuses tells nothing.
fn told(stage: &Stage) -> Vec<IpAddr> {
    stage.endpoints_told(NODE, "web").unwrap_or_default()
}

fn is_in_rules(stage: &Stage, address: IpAddr) -> bool {
    stage.kube_proxy_sends_to(NODE, address).expect("nft answers")
}

/// The addresses of the Service's pods, as the node's CoreDNS tells them to `pod`.
fn resolved(stage: &Stage, pod: &str) -> Vec<IpAddr> {
    let told = stage.run_in_pod(NODE, pod, &["resolve", "web-pods"]).unwrap_or_default();
    told.split_whitespace().filter_map(|address| address.parse().ok()).collect()
}

#[test]
fn a_pods_new_address_reaches_kube_proxy_while_cut() {
    let test = "a_pods_new_address_reaches_kube_proxy_while_cut";
    let Some(stage) = Stage::claim(test) else { return };
    let kinds = [("slices", "discovery.k8s.io", "endpointslices", "")];
    let Some(mut watchers) = Watchers::beside(&stage, test, &kinds) else { return };
    watchers.start_on_node("lives-through");
    let (web, agent) = (stage.pod_of("web", NODE), stage.pod_of("agent", NODE));
    let before = own_address(&stage, &web).expect("it has an address");
    stage.promised(LIMIT, "kube-proxy knows the pod", || is_in_rules(&stage, before));
    stage.promised(LIMIT, "CoreDNS knows the pod", || resolved(&stage, &agent).contains(&before));
    let held_before = watchers.digest("lives-through", "slices");

    stage.cut(&Nodes::from(NODE)).expect("cut");
    stage.kill_sandbox(NODE, &web).expect("it runs");
    let mut now = before;
    let took = stage.promised(LIMIT, "the pod comes back at another address", || {
        now = own_address(&stage, &web).unwrap_or(before);
        now != before
    });
    eprintln!("a pod whose sandbox was killed ran again after {took:?}, at {now} and no longer at {before}");
    stage.promised(LIMIT, "the hub tells the new address", || told(&stage).contains(&now));
    let began = Instant::now();
    stage.promised(FOLLOWS_WITHIN, "the rules of kube-proxy follow", || {
        is_in_rules(&stage, now) && !is_in_rules(&stage, before)
    });
    eprintln!("kube-proxy followed {:?} after the hub had told it, at most", began.elapsed());
    let took = stage.promised(FOLLOWS_WITHIN, "CoreDNS follows", || {
        let addresses = resolved(&stage, &agent);
        addresses.contains(&now) && !addresses.contains(&before)
    });
    eprintln!("CoreDNS had followed {took:?} after kube-proxy");
    // One that has lived through it by events and one that starts from a list are told the same, and no longer the old.
    watchers.start_on_node("started-while-cut");
    watchers.agree("started-while-cut", "lives-through");
    assert_ne!(watchers.digest("lives-through", "slices"), held_before, "informers follow");
    let mut seen = String::new();
    stage.promised(LIMIT, "the Service reaches the pod at its new address", || {
        seen = stage.run_in_pod(NODE, &agent, &["fetch", "web"]).unwrap_or_default();
        seen.contains(&web)
    });
    assert!(stage.is_cut(NODE).expect("nft answers"), "all of this happened while cut");

    stage.heal(&Nodes::All).expect("healed");
    stage.promised(READY_WITHIN + LIMIT, "the lab settles", || stage.is_settled());
    stage.promised(LIMIT, "the cloud's word is the hub's", || {
        let of_cloud = stage.endpoints_in_cloud("web").expect("the cloud answers");
        of_cloud == told(&stage) && of_cloud.contains(&now)
    });
    assert!(is_in_rules(&stage, now));
    watchers.end_where_the_cloud_is();
}
