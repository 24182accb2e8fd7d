//! Memory for objects, whole answers, tokens that are kept: one user has a share of each, and what the node reads itself stays.

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Rule};
use serde_json::json;

use crate::rig::{CONFIG_MAPS, NODE_USER, POD_USER, Rig, TOKEN, eventually, run, token_request};

const JSON: &str = "application/json";
const CSI_NODE: &str = "/apis/storage.k8s.io/v1/csinodes/n1";
/// Bytes of each of the pod's own large objects.
const LARGE: usize = 600_000;

async fn status(client: &Client, path: &str) -> u16 {
    client.send("GET", path, "", Bytes::new()).await.expect("an answer").status().as_u16()
}

/// Objects of the pod's own, all with the label `big`.
fn large_objects(rig: &Rig, count: usize) {
    for index in 0..count {
        let object = json!({
            "metadata": {"name": format!("large-{index}"), "namespace": "default", "labels": {"big": "y"}},
            "data": {"v": "x".repeat(LARGE)},
        });
        rig.cloud.create(&Gvr::core("configmaps"), object).expect("the name is free");
    }
}

#[test]
fn selectors_of_one_pod_fill_its_own_share_of_memory_and_the_cloud_answers_for_the_rest() {
    run(async {
        let mut rig = Rig::new();
        rig.set_limits(json!({"objectsMib": 16}));
        large_objects(&rig, 3);
        rig.start_hub().await;
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        let own = "/api/v1/nodes?fieldSelector=metadata.name%3Dn1&resourceVersion=0";
        assert_eq!(status(&kubelet, own).await, 200);
        for turn in 0..24 {
            // Each selects the same objects, and none is a part of another.
            let list = format!("{CONFIG_MAPS}?resourceVersion=0&labelSelector=big%3Dy,n{turn}!%3Dx,big");
            assert_eq!(status(&pod, &list).await, 200, "{turn}");
        }
        let held = || async {
            let all = rig.status().await;
            let collections = all["collections"].as_array().expect("collections").clone();
            let of_pod = collections
                .iter()
                .filter(|each| each["collection"].as_str().is_some_and(|name| name.contains("configmaps")));
            of_pod.filter_map(|each| each["bytes"].as_u64()).sum::<u64>()
        };
        // An eighth of 16 MiB, and one collection that is being fetched when the share is full.
        let most = 2 * 1024 * 1024 + 3 * u64::try_from(LARGE).expect("a number");
        eventually(async || (held().await <= most).then_some(())).await;
        println!("{} bytes of the pod's objects are held", held().await);
        rig.cut(LinkState::BlackHole).await;
        assert_eq!(status(&kubelet, own).await, 200, "the node's own is held");
    });
}

#[test]
fn answers_that_one_pod_reads_whole_take_the_place_of_its_own() {
    run(async {
        let mut rig = Rig::new();
        let csi_node = json!({"metadata": {"name": "n1"}, "spec": {"drivers": []}});
        rig.cloud.create(&Gvr::new("storage.k8s.io", "v1", "csinodes"), csi_node).expect("the name is free");
        large_objects(&rig, 40);
        rig.start_hub().await;
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        assert_eq!(status(&kubelet, CSI_NODE).await, 200);
        assert_eq!(status(&kubelet, "/version").await, 200);
        for index in 0..40 {
            assert_eq!(status(&pod, &format!("{CONFIG_MAPS}/large-{index}")).await, 200, "{index}");
        }
        rig.cut(LinkState::BlackHole).await;
        assert_eq!(status(&kubelet, CSI_NODE).await, 200, "without it the node is not ready");
        assert_eq!(status(&kubelet, "/version").await, 200);
    });
}

#[test]
fn tokens_that_one_account_mints_take_the_place_of_its_own() {
    run(async {
        let mut rig = Rig::new();
        rig.cloud
            .allow(Rule::allow(POD_USER, &["create"], &["serviceaccounts/token"]).in_namespace("default"));
        rig.start_hub().await;
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        let wanted = token_request("https://kubernetes.default.svc");
        let (made, token) = kubelet.call("POST", TOKEN, JSON, &wanted).await.expect("an answer");
        assert_eq!(made, 201, "{NODE_USER}: {token}");
        // More than one user may have kept.
        for turn in 0..600 {
            let (made, answer) = pod
                .call("POST", TOKEN, JSON, &token_request(&format!("aud-{turn}")))
                .await
                .expect("an answer");
            assert_eq!(made, 201, "{turn}: {answer}");
        }
        rig.cut(LinkState::BlackHole).await;
        let (again, same) = kubelet.call("POST", TOKEN, JSON, &wanted).await.expect("an answer");
        assert_eq!((again, &same["status"]["token"]), (201, &token["status"]["token"]));
    });
}

#[test]
fn bookmarks_of_an_idle_node_are_no_writes_of_their_own() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let pod = rig.pod();
        assert_eq!(status(&pod, &format!("{CONFIG_MAPS}?resourceVersion=0")).await, 200);
        let commits = async || {
            let metrics = rig.metrics().await;
            let line =
                metrics.lines().find(|line| line.starts_with("hub_store_commits ")).expect("the gauge");
            line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a number")
        };
        let version = async || {
            let all = rig.status().await;
            let collections = all["collections"].as_array().expect("collections").clone();
            let of_pod = collections
                .into_iter()
                .find(|each| each["collection"].as_str().is_some_and(|name| name.contains("configmaps")));
            of_pod.and_then(|each| each["resourceVersion"].as_str().map(str::to_owned))
        };
        // What was fetched is on disk, and nothing waits for it.
        eventually(async || {
            let store = rig.status().await["store"].clone();
            (store["lagMilliseconds"] == 0 && commits().await > 0).then_some(())
        })
        .await;
        let before = commits().await;
        for turn in 0..10 {
            // Something of another kind moves the cluster's version, and the bookmark tells it.
            let object = json!({"metadata": {"name": format!("s{turn}"), "namespace": "default"}});
            rig.cloud.create(&Gvr::core("secrets"), object).expect("the name is free");
            let wanted = rig.cloud.revision().to_string();
            rig.cloud.bookmark();
            eventually(async || (version().await.as_deref() == Some(&wanted)).then_some(())).await;
        }
        let after = commits().await;
        println!("{} groups were written for ten bookmarks", after - before);
        assert!(after - before <= 1, "{before} and {after}");
    });
}
