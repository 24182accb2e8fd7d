//! An API server that is there and fails requests, or one of several that dies: what is held stands in, request by request,
//! for what promises nothing of its age, and nothing is called a cut that is none.

use std::time::Duration;

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Fault, Principal, RequestMatch, RequestRecord, Rule};
use http::header::WARNING;
use serde_json::{Value, json};

use crate::rig::{CONFIG_MAPS, Informer, NODE_USER, POD_USER, Rig, TOKEN, eventually, run, token_request};

const JSON: &str = "application/json";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

async fn get(client: &Client, path: &str) -> (u16, bool) {
    let answer = client.send("GET", path, "", Bytes::new()).await.expect("an answer");
    (answer.status().as_u16(), answer.headers().contains_key(WARNING))
}

fn is_impaired(status: &Value) -> bool {
    status["link"]["connected"] == true && status["link"]["impairedForSeconds"].is_number()
}

#[test]
fn what_promises_nothing_of_its_age_is_answered_from_what_is_held_and_all_else_by_the_server() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        let mut informer = Informer::new(pod.clone());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1"},
            "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40},
        });
        let (created, mut held) = kubelet.call("POST", LEASES, JSON, &lease).await.unwrap();
        assert_eq!(created, 201);
        let wanted = token_request("https://kubernetes.default.svc");
        let (_, token) = kubelet.call("POST", TOKEN, JSON, &wanted).await.unwrap();
        assert_eq!(get(&kubelet, "/apis").await, (200, false));
        // A version that is kept by nobody but as a whole answer.
        let named = format!("{CONFIG_MAPS}/a");
        assert_eq!(get(&pod, &named).await.0, 200);

        for code in [500, 503, 504] {
            rig.cloud.fault(RequestMatch::any(), u32::MAX, Fault::Status { code, retry_after: None });
            held["spec"]["renewTime"] = json!("2026-12-01T00:00:00.000000Z");
            let (renewed, answer) = kubelet.call("PUT", &format!("{LEASES}/n1"), JSON, &held).await.unwrap();
            assert_eq!(renewed, 200, "the node's Lease beside {code}: {answer}");
            let (again, same) = kubelet.call("POST", TOKEN, JSON, &wanted).await.unwrap();
            assert_eq!((again, &same["status"]["token"]), (201, &token["status"]["token"]), "beside {code}");
            assert_eq!(get(&kubelet, "/apis").await, (200, true), "discovery beside {code}");
            let any_age = format!("{named}?resourceVersion=0");
            assert_eq!(get(&pod, &any_age).await.0, 200, "a GET of any age beside {code}");
            let list = format!("{CONFIG_MAPS}?resourceVersion=0");
            assert_eq!(get(&pod, &list).await.0, 200, "a LIST of any age beside {code}");
            assert_eq!(get(&pod, &named).await.0, code, "the newest state is the server's to tell");
            assert_eq!(get(&pod, CONFIG_MAPS).await.0, code, "of a list, too");
            let write = json!({"data": {"v": "2"}});
            let (written, _) =
                pod.call("PATCH", &named, "application/merge-patch+json", &write).await.unwrap();
            assert_eq!(written, code, "a write is the server's");
            eventually(async || {
                // Each failure of this node's own requests counts.
                let _ = get(&kubelet, "/apis/apps/v1").await;
                is_impaired(&rig.status().await).then_some(())
            })
            .await;
            assert_eq!(get(&pod, &list).await, (200, true), "while that lasts answers say how old they are");
            rig.cloud.clear_faults();
            eventually(async || {
                let _ = get(&kubelet, "/apis/apps/v1").await;
                (!is_impaired(&rig.status().await)).then_some(())
            })
            .await;
            assert_eq!(get(&pod, &list).await, (200, false));
        }
        assert!(rig.metrics().await.contains("link_changes_total 1\n"), "none of it was a cut");
        rig.put("a", "2");
        informer.until(&[("a", "2"), ("b", "1")]).await;
        assert_eq!(informer.full_syncs, 1);
    });
}

#[test]
fn a_server_that_never_answers_keeps_no_lease_waiting() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let kubelet = rig.kubelet();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1"},
            "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40},
        });
        let (_, mut held) = kubelet.call("POST", LEASES, JSON, &lease).await.unwrap();
        rig.cloud.fault(RequestMatch::any().resource("leases"), u32::MAX, Fault::Hang);
        held["spec"]["renewTime"] = json!("2026-12-01T00:00:00.000000Z");
        let began = std::time::Instant::now();
        let (renewed, _) = kubelet.call("PUT", &format!("{LEASES}/n1"), JSON, &held).await.unwrap();
        println!("the Lease was answered after {:?}", began.elapsed());
        assert_eq!(renewed, 200);
        // A kubelet gives up after 10 s; the bound here is three times the 4 s that the hub gives the server.
        assert!(began.elapsed() < Duration::from_secs(12));
    });
}

#[test]
fn a_list_of_the_newest_state_waits_for_no_collection_and_asks_about_no_right() {
    run(async {
        let mut rig = Rig::new();
        rig.end_idle_watches_after(Duration::from_millis(100));
        rig.start_hub().await;
        let pod = rig.pod();
        assert_eq!(get(&pod, &format!("{CONFIG_MAPS}?resourceVersion=0")).await.0, 200);
        eventually(async || {
            let status = rig.status().await;
            let collections = status["collections"].as_array()?.clone();
            collections.iter().any(|each| each["phase"] == "retired").then_some(())
        })
        .await;
        let mark = rig.cloud.mark();
        // Whatever is fetched for it would not come.
        rig.cloud.fault(RequestMatch::verb("watch").resource("configmaps"), u32::MAX, Fault::Hang);
        assert_eq!(get(&pod, CONFIG_MAPS).await, (200, false));
        let asked = rig.cloud.records_since(mark);
        // Its collection is caught up for a cut by a watch, for which nobody waits.
        let is_own = |record: &&RequestRecord| record.user == POD_USER && record.verb == "list";
        let lists = asked.iter().filter(is_own).count();
        assert_eq!(lists, 1, "its own, passed on: {asked:?}");
        assert!(!asked.iter().any(|record| record.path.contains("subjectaccessreviews")), "{asked:?}");
    });
}

#[test]
fn who_lists_the_newest_state_alone_may_do_so_in_a_cut_and_after_a_restart() {
    run(async {
        let mut rig = Rig::new();
        rig.cloud.add_token("other-token", Principal::new("other", &["others"]));
        rig.cloud.allow(Rule::allow("other", &["list"], &["configmaps"]).in_namespace("default"));
        rig.start_hub().await;
        let other = rig.nobody().with_token("other-token");
        // Another client has it fetched.
        Informer::new(rig.pod()).until(&[("a", "1"), ("b", "1")]).await;
        let mark = rig.cloud.mark();
        assert_eq!(get(&other, CONFIG_MAPS).await, (200, false));
        let asked = rig.cloud.records_since(mark);
        assert!(asked.iter().any(|record| record.user == "other"), "the cloud's own word: {asked:?}");
        rig.cut(LinkState::BlackHole).await;
        assert_eq!(get(&other, CONFIG_MAPS).await, (200, true));
        rig.stop_hub().await;
        rig.start_hub().await;
        assert_eq!(get(&other, CONFIG_MAPS).await, (200, true));
    });
}

#[test]
fn one_of_several_servers_dies_and_nothing_is_cut() {
    run(async {
        let mut rig = Rig::new();
        rig.add_server(1);
        rig.start_hub().await;
        let (kubelet, mut informer) = (rig.kubelet(), Informer::new(rig.pod()));
        informer.until(&[("a", "1"), ("b", "1")]).await;
        for dead in [0, 1] {
            rig.cloud.set_link(dead, LinkState::BlackHole).await;
            let value = format!("without {dead}");
            rig.put("a", &value);
            informer.until(&[("a", &value), ("b", "1")]).await;
            let (status, _) =
                kubelet.call("GET", "/api/v1/nodes/n1", "", &Value::Null).await.expect("an answer");
            assert_eq!(status, 200, "by the other one");
            rig.cloud.set_link(dead, LinkState::Up).await;
        }
        assert_eq!(informer.full_syncs, 1);
        assert!(rig.metrics().await.contains("link_changes_total 1\n"), "{NODE_USER} was never cut off");
    });
}
