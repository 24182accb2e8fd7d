//! A cut ends: the node is Ready within seconds, no pod was deleted or restarted for it, no client of the hub asks for a
//! whole collection again, and what the node had to tell is told once.

use std::time::Duration;

use e2e::lab::{Nodes, wait_until};

use crate::stage::{LIMIT, NODE, Pod, READY_WITHIN, Stage, full_length};

/// Longer than the controller's grace of 20 s: the cloud takes the node for lost.
const CUT: Duration = Duration::from_secs(60);

#[test]
fn healing_costs_no_pod_and_no_client_a_list() {
    let Some(stage) = Stage::claim("healing_costs_no_pod_and_no_client_a_list") else { return };
    let before = stage.pods();
    let running = stage.running(NODE);
    let agent = stage.pod_of("agent", NODE);
    let starts_before = starts_told(&stage, &agent);
    let asked = stage.request_count(NODE);
    assert!(!stage.lists_since(NODE, 0).is_empty(), "the first lists of all are on record");
    stage.cut(&Nodes::from(NODE)).expect("cut");
    // The kubelet has something to tell: an event for each step of a container that dies and comes back.
    stage.kill_pod(NODE, &agent).expect("it runs");
    stage.promised(LIMIT, "the container comes back", || {
        stage.running(NODE).get(&agent).is_some_and(|id| *id != running[&agent])
    });
    stage.promised(CUT, "the cloud takes the node for lost", || !stage.is_ready(NODE));
    if full_length() {
        // Past the five minutes after which pods without a toleration of their own are evicted.
        assert!(!wait_until(Duration::from_secs(600), || !stage.is_cut(NODE).expect("nft answers")));
    }
    assert_eq!(stage.lists_since(NODE, asked), [""; 0], "while cut nobody lists");

    let held = stage.running(NODE);
    stage.heal(&Nodes::All).expect("healed");
    let ready = stage.promised(READY_WITHIN, "the node is Ready", || stage.is_ready(NODE));
    eprintln!("the node was Ready {ready:?} after healing");
    stage.promised(LIMIT, "the lab settles", || stage.is_settled());
    let restarts = restarts(&before, &agent);
    stage.promised(LIMIT, "the restart is told", || self::restarts(&stage.pods(), &agent) == restarts + 1);
    // A client counts the same event up, or makes a new one: either way one more start is told than before.
    stage.promised(LIMIT, "the events arrive", || starts_told(&stage, &agent) == starts_before + 1);

    assert_eq!(stage.running(NODE), held, "healing ends no container");
    let changed: Vec<_> = stage.changed(&before).into_iter().filter(|name| *name != agent).collect();
    assert_eq!(changed, [""; 0], "no other pod was deleted or restarted");
    // What comes late would show within the time that a broken watch, or a replay, waits before it tries again.
    let late =
        || starts_told(&stage, &agent) != starts_before + 1 || !stage.lists_since(NODE, asked).is_empty();
    assert!(!wait_until(Duration::from_secs(5), late), "{:?}", stage.lists_since(NODE, asked));
}

fn restarts(pods: &[Pod], name: &str) -> u64 {
    pods.iter().find(|pod| pod.name == name).map_or(0, |pod| pod.restarts)
}

/// How many starts of a container of `pod` the cloud's events tell of.
fn starts_told(stage: &Stage, pod: &str) -> u64 {
    let selector = format!("involvedObject.name={pod},reason=Started");
    let events = stage.cloud_json(&format!("get events -n default --field-selector {selector}"));
    let events = events["items"].as_array().expect("a list");
    events.iter().map(|event| event["count"].as_u64().unwrap_or(1)).sum()
}
