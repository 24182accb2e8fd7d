//! While the cloud is away the kubelet, the hub, both, containerd or the whole node restarts: every pod of the node runs,
//! before the cloud is back.

use std::time::Instant;

use e2e::lab::{NodePart, Nodes};

use crate::stage::{LIMIT, NODE, READY_WITHIN, Stage};

/// Cuts the node, lets `restart` happen, and holds what is promised of all restarts; `pods_end` says whether the pods'
/// processes end by it.
fn restarted(test: &str, pods_end: bool, restart: impl FnOnce(&Stage)) {
    let Some(stage) = Stage::claim(test) else { return };
    let pods = stage.pods_on(NODE);
    assert_eq!(pods.len(), 4, "one of each kind: {pods:?}");
    stage.cut(&Nodes::from(NODE)).expect("cut");
    let before = stage.running(NODE);
    let started = Instant::now();
    restart(&stage);
    stage.promised(LIMIT, "every pod runs", || stage.all_run(NODE, &pods));
    eprintln!("{test}: all {} pods ran {:?} after the restart began", pods.len(), started.elapsed());
    let after = stage.running(NODE);
    if pods_end {
        assert!(before.iter().all(|(pod, id)| after.get(pod) != Some(id)), "{before:?} {after:?}");
    } else {
        assert_eq!(before, after, "nothing of this ends a pod");
    }
    // Each kind of volume is there: the token is real, the state is the pod's own, the node resolves names.
    let web = stage.pod_of("web", NODE);
    let serves = || stage.run_in_pod(NODE, &web, &["fetch", "127.0.0.1:8080"]).ok();
    let mut page = String::new();
    stage.promised(LIMIT, "the pod serves", || serves().inspect(|text| page.clone_from(text)).is_some());
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["claims"]["kubernetes.io"]["pod"]["name"], web.as_str(), "{page}");
    assert!(!page["setting"].is_null() && !page["credential"].is_null(), "{page}");
    let resolves = || stage.run_in_pod(NODE, &web, &["resolve", "web"]).is_ok();
    stage.promised(LIMIT, "names resolve", resolves);
    assert!(stage.is_cut(NODE).expect("nft answers"), "all of this happened before the heal");

    let held = stage.running(NODE);
    stage.heal(&Nodes::All).expect("healed");
    let ready = stage.promised(READY_WITHIN, "the node is Ready", || stage.is_ready(NODE));
    eprintln!("{test}: the node was Ready {ready:?} after healing");
    stage.promised(LIMIT, "the lab settles", || stage.is_settled());
    assert_eq!(stage.running(NODE), held, "healing ends no pod");
}

/// Whether the kubelet has no container to remove. It looks at all of them when it collects images at its start, and
/// where one of them goes at that moment it puts the collection off, for five minutes.
fn nothing_to_remove(stage: &Stage) -> bool {
    let (pods, containers) = (stage.pods_on(NODE), stage.containers(NODE).unwrap_or_default());
    let dead = |pod: &String| containers.iter().filter(|each| each.pod == *pod && !each.running).count();
    containers.iter().all(|each| pods.contains(&each.pod)) && pods.iter().all(|pod| dead(pod) <= 1)
}

#[test]
fn of_the_kubelet() {
    restarted("of_the_kubelet", false, |stage| {
        let images = stage.images(NODE).expect("containerd answers");
        stage.import_unused_image(NODE).expect("imported");
        assert!(stage.images(NODE).expect("containerd answers").len() > images.len(), "one more");
        stage.promised(LIMIT, "no container is to be removed", || nothing_to_remove(stage));
        stage.kill(NODE, NodePart::Kubelet).expect("killed");
        stage.restart(NODE, NodePart::Kubelet).expect("healthy while cut");
        // It collects images when it starts; what the pods need is held.
        let mut left = Vec::new();
        stage.promised(LIMIT, "the kubelet collects what no pod uses", || {
            left = stage.images(NODE).unwrap_or_default();
            !left.is_empty() && !left.iter().any(|name| name.contains("unused"))
        });
        assert_eq!(left, images);
    });
}

#[test]
fn of_the_hub() {
    restarted("of_the_hub", false, |stage| {
        stage.kill(NODE, NodePart::Hub).expect("killed");
        stage.restart(NODE, NodePart::Hub).expect("ready while cut");
    });
}

#[test]
fn of_both() {
    restarted("of_both", false, |stage| {
        stage.kill(NODE, NodePart::Kubelet).expect("killed");
        stage.kill(NODE, NodePart::Hub).expect("killed");
        stage.restart(NODE, NodePart::Hub).expect("ready while cut");
        stage.restart(NODE, NodePart::Kubelet).expect("healthy while cut");
    });
}

#[test]
fn of_containerd() {
    restarted("of_containerd", false, |stage| {
        stage.kill(NODE, NodePart::Containerd).expect("killed");
        stage.restart(NODE, NodePart::Containerd).expect("it answers");
    });
}

#[test]
fn of_the_whole_node() {
    restarted("of_the_whole_node", true, |stage| {
        let images = stage.images(NODE).expect("containerd answers");
        stage.reboot(NODE).expect("the kubelet is healthy while cut");
        assert_eq!(stage.images(NODE).expect("containerd answers"), images);
    });
}
