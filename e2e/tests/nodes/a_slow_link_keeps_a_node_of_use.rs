//! A node at the end of a long, thin and disorderly link is a node all the same: Ready throughout, its hub ready, new
//! pods are bound to it and run, and a watch through the hub tells of them.

use std::time::Duration;

use e2e::lab::{Delay, Nodes, Slow};

use crate::stage::{LIMIT, NODE, Stage};
use crate::watch::Watch;

/// When the cloud last changed its mind about whether the node is Ready.
fn ready_since(stage: &Stage) -> String {
    let node = stage.cloud_json(&format!("get node {NODE}"));
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|each| each["type"] == "Ready" && each["status"] == "True");
    ready.expect("it is Ready")["lastTransitionTime"].to_string()
}

fn hub_is_ready(stage: &Stage) -> bool {
    let status = stage.status().expect("status");
    let node = status.nodes.into_iter().find(|node| node.name == NODE).expect("it has one");
    node.processes.iter().any(|process| process.name == "hub" && process.ready == Some(true))
}

#[test]
fn a_slow_link_keeps_a_node_of_use() {
    let Some(stage) = Stage::claim("a_slow_link_keeps_a_node_of_use") else { return };
    let watch =
        Watch::begin(&stage, &format!("get pods -n default --field-selector spec.nodeName={NODE} -w"));
    let (old, since) = (stage.pods_on(NODE), ready_since(&stage));
    assert!(watch.hears(LIMIT, &old[0]), "the watch begins with what is there");

    let delay = Delay::new(Duration::from_millis(150), Duration::from_millis(50)).expect("in bounds");
    let slow = Slow { rate: Some("1mbit".to_owned()), delay: Some(delay) };
    stage.slow(&Nodes::from(NODE), &slow).expect("slow");
    stage.cloud("scale deployment web -n default --replicas=4");
    let took = stage.promised(LIMIT, "more pods run on both nodes", || stage.is_settled());
    eprintln!("over 1 Mbit/s and 150 ± 50 ms, two more replicas ran after {took:?}");
    let new = stage.pods_on(NODE).into_iter().find(|pod| !old.contains(pod)).expect("they are spread");
    assert!(watch.hears(LIMIT, &new), "the watch goes on");
    // Longer than the 20 s after which the cloud gives a silent node up.
    let mut beats = 0;
    let mut last = String::new();
    let took = stage.promised(LIMIT, "the node's Lease is renewed three times more", || {
        let now =
            stage.cloud(&format!("get lease {NODE} -n kube-node-lease -o jsonpath={{.spec.renewTime}}"));
        beats += u32::from(now != last);
        last = now;
        beats > 3
    });
    eprintln!("three heartbeats in {took:?}");
    assert_eq!(ready_since(&stage), since, "it was Ready throughout");
    assert!(hub_is_ready(&stage));

    stage.heal(&Nodes::All).expect("healed");
    stage.respread();
}
