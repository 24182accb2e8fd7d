//! A pod whose sandbox dies while the cloud is away comes back at another address. What the kubelet reports of it nobody
//! in the cloud hears, but the hub does: kube-proxy, CoreDNS and every informer of the node follow, and after healing the
//! cloud's word holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::lab::Nodes;
use serde_json::Value;

use crate::stage::{LIMIT, NODE, READY_WITHIN, Stage};
use crate::watchers::Watchers;

/// The promise is 2 s from the hub's word to the rules of kube-proxy; three times that is a failure.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(6);

/// The pod's own address, by the file that the kubelet gives each of its containers.
fn own_address(stage: &Stage, pod: &str) -> Option<String> {
    let hosts = stage.run_in_pod(NODE, pod, &["cat", "/etc/hosts"]).ok()?;
    let line = hosts.lines().find(|line| line.split_whitespace().nth(1) == Some(pod))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// The addresses behind the Service `web`, as the hub tells kube-proxy's user. Word for word what kube-proxy asks, but
/// for the time: to the same question its user is known to have a right.
fn told(stage: &Stage) -> Vec<String> {
    let mut kubectl = stage.node_kubectl(NODE, "kube-proxy.kubeconfig").expect("kubectl");
    let path = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless\
                &resourceVersion=0&timeoutSeconds=1&watch=true";
    let output = kubectl.args(["get", "--raw", path]).output().expect("kubectl starts");
    let mut slices = BTreeMap::new();
    for event in
        serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>().map_while(Result::ok)
    {
        let object = event["object"].clone();
        if object["metadata"]["labels"]["kubernetes.io/service-name"] == "web" {
            slices.insert(
                object["metadata"]["name"].to_string(),
                (event["type"] != "DELETED").then_some(object),
            );
        }
    }
    let slices = slices.into_values().flatten();
    let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready.filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned)).collect()
}

/// Whether kube-proxy sends the Service's traffic to this address.
fn is_in_rules(stage: &Stage, address: &str) -> bool {
    let mut nft = stage.command(NODE, "nft").expect("a command in the node's namespace");
    let output = nft.args(["list", "table", "ip", "kube-proxy"]).output().expect("nft starts");
    let rules = String::from_utf8_lossy(&output.stdout).into_owned();
    rules.lines().any(|line| line.contains(" dnat ") && line.contains(&format!(" {address} . ")))
}

/// The addresses of the Service's pods, as the node's CoreDNS tells them to `pod`.
fn resolved(stage: &Stage, pod: &str) -> Vec<String> {
    let told = stage.run_in_pod(NODE, pod, &["resolve", "web-pods"]).unwrap_or_default();
    told.split_whitespace().map(str::to_owned).collect()
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
    stage.promised(LIMIT, "kube-proxy knows the pod", || is_in_rules(&stage, &before));
    stage.promised(LIMIT, "CoreDNS knows the pod", || resolved(&stage, &agent).contains(&before));
    let held_before = watchers.digest("lives-through", "slices");

    stage.cut(&Nodes::from(NODE)).expect("cut");
    stage.kill_sandbox(NODE, &web).expect("it runs");
    let mut now = before.clone();
    let took = stage.promised(LIMIT, "the pod comes back at another address", || {
        now = own_address(&stage, &web).unwrap_or_else(|| before.clone());
        now != before
    });
    eprintln!("a pod whose sandbox was killed ran again after {took:?}, at {now} and no longer at {before}");
    stage.promised(LIMIT, "the hub tells the new address", || told(&stage).contains(&now));
    let began = Instant::now();
    stage.promised(FOLLOWS_WITHIN, "the rules of kube-proxy follow", || {
        is_in_rules(&stage, &now) && !is_in_rules(&stage, &before)
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
        let addresses = stage.cloud("get endpointslices -n default -l kubernetes.io/service-name=web -o jsonpath={.items[*].endpoints[*].addresses[0]}");
        let mut of_cloud: Vec<String> = addresses.split_whitespace().map(str::to_owned).collect();
        let mut of_hub = told(&stage);
        of_cloud.sort();
        of_hub.sort();
        of_cloud == of_hub && of_cloud.contains(&now)
    });
    assert!(is_in_rules(&stage, &now));
    watchers.end_where_the_cloud_is();
}
