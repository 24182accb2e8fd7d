//! Ten cuts of random length at random moments, while the cloud keeps changing what should run: afterwards the node runs
//! what the cloud wants, the cloud knows what runs, what nobody touched was never restarted, and every informer behind the
//! hub holds what the cloud has.

use std::time::{Duration, Instant};

use e2e::lab::{Nodes, wait_until};
use e2e::random::Random;

use crate::stage::{LIMIT, NODE, Stage, full_length};
use crate::watchers::Watchers;

/// Each number names one run; the machine's own timing varies, what is done and for how long does not.
const SEED: u64 = 20_261_126;

/// In this cut informers start that were not there before.
const STARTS_CUT: usize = 5;

/// One change of the cloud, at random.
fn churn(stage: &Stage, random: &mut Random) {
    let mark = random.within(0, u64::MAX);
    match random.within(0, 4) {
        0 => drop(
            stage.cloud(&format!("scale deployment web -n default --replicas={}", 2 + random.within(0, 3))),
        ),
        1 => {
            let web: Vec<_> = stage.pods().into_iter().filter(|pod| pod.app == "web" && pod.wanted).collect();
            let picked = usize::try_from(random.within(0, web.len().max(1) as u64)).expect("a small number");
            if let Some(pod) = web.get(picked) {
                stage.cloud(&format!("delete pod {} -n default --wait=false --ignore-not-found", pod.name));
            }
        }
        2 => {
            let patch = format!(r#"{{"data":{{"value":"churn-{mark}"}}}}"#);
            stage.cloud(&format!("patch configmap settings -n default --type=merge -p {patch}"));
        }
        _ => {
            // As `rollout restart` does, which refuses to do so twice within a second.
            let patch =
                format!(r#"{{"spec":{{"template":{{"metadata":{{"annotations":{{"churn":"{mark}"}}}}}}}}}}"#);
            stage.cloud(&format!("patch deployment web -n default --type=merge -p {patch}"));
        }
    }
}

#[test]
fn ten_cuts_under_churn_end_where_the_cloud_is() {
    let test = "ten_cuts_under_churn_end_where_the_cloud_is";
    let Some(stage) = Stage::claim(test) else { return };
    let kinds = [
        ("pods", "", "pods", ""),
        ("own-pods", "", "pods", "spec.nodeName=node-1"),
        ("configmaps", "", "configmaps", ""),
        ("services", "", "services", ""),
        ("endpointslices", "discovery.k8s.io", "endpointslices", ""),
        ("deployments", "apps", "deployments", ""),
    ];
    let Some(mut watchers) = Watchers::beside(&stage, test, &kinds) else { return };
    watchers.start_on_node("lives-through");
    let before = stage.pods();
    let running = stage.running(NODE);
    let mut random = Random::new(SEED);
    let began = Instant::now();
    for step in 0..if full_length() { 100 } else { 10 } {
        stage.cut(&Nodes::from(NODE)).expect("cut");
        if step == STARTS_CUT {
            watchers.start_on_node("started-while-cut");
        }
        churn(&stage, &mut random);
        let length = Duration::from_millis(500 + 250 * random.within(0, 10));
        // Nothing is waited for: this is how long the link is gone.
        assert!(!wait_until(length, || false));
        stage.heal(&Nodes::All).expect("healed");
        churn(&stage, &mut random);
        assert!(!wait_until(Duration::from_millis(250 * random.within(0, 8)), || false));
    }
    eprintln!("seed {SEED}: the cuts took {:?}", began.elapsed());
    let took = stage.promised(LIMIT, "the lab settles", || stage.is_settled());
    eprintln!("seed {SEED}: settled {took:?} after the last one");

    let after = stage.pods();
    let on_node: Vec<String> =
        after.iter().filter(|pod| pod.node == NODE).map(|pod| pod.name.clone()).collect();
    stage.promised(LIMIT, "the node runs what the cloud has on it, and nothing else", || {
        stage.running(NODE).keys().cloned().collect::<Vec<_>>() == on_node
    });
    for pod in before.iter().filter(|pod| pod.app != "web") {
        assert!(after.contains(pod), "{pod:?} was not touched by anybody: {after:#?}");
        if pod.node == NODE {
            assert_eq!(stage.running(NODE).get(&pod.name), running.get(&pod.name), "{}", pod.name);
        }
    }
    watchers.end_where_the_cloud_is();
    stage.respread();
}
