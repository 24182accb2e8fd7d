//! What one client takes, with its own token or with none, is never what another one needs.

use std::time::Duration;

use e2e::cloud::LinkState;
use e2e::cloud::model::{Fault, Principal, RequestMatch, Rule};
use serde_json::json;
use tokio::task::JoinSet;

use crate::rig::{CONFIG_MAPS, Informer, NODE_USER, Rig, eventually, run};

/// For what is to happen at once, and else would wait for a server that hangs.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Requests of which none may wait.
const GUESSES: usize = 240;
/// Reviews at a time, and requests that may wait for one.
const IN_REVIEW: usize = 8 + 64;

#[test]
fn a_pod_that_opens_every_connection_loses_its_own() {
    run(async {
        let mut rig = Rig::new();
        rig.set_limits(json!({"connections": 64}));
        rig.start_hub().await;
        rig.heal_seen().await;
        let kubelet = rig.kubelet().over_one_connection();
        assert_eq!(kubelet.get("/api/v1/nodes/n1").await.unwrap().0, 200);
        let mut watch =
            kubelet.watch("/api/v1/nodes?watch=true&fieldSelector=metadata.name%3Dn1").await.unwrap();
        let pod = rig.pod();
        let mut idle = Vec::new();
        for _ in 0..96 {
            let client = pod.clone().over_one_connection();
            // One that is refused is what the pod deserves.
            let _ = client.get(CONFIG_MAPS).await;
            idle.push(client);
        }
        for turn in 0..16 {
            // A connection of its own for each.
            let (status, _) =
                rig.kubelet().get("/api/v1/nodes/n1").await.expect("a connection for the kubelet");
            assert_eq!(status, 200, "{turn}");
        }
        assert!(watch.next().await.unwrap().is_some(), "what the kubelet had open stays open");
        let (status, _) = kubelet.get("/api/v1/nodes/n1").await.unwrap();
        assert_eq!(status, 200);
    });
}

#[test]
fn a_pods_share_of_connections_goes_to_those_that_it_uses() {
    run(async {
        let mut rig = Rig::new();
        rig.set_limits(json!({"connections": 64}));
        rig.start_hub().await;
        rig.heal_seen().await;
        let pod = rig.pod();
        let used = pod.clone().over_one_connection();
        let mut watch = used.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=0")).await.unwrap();
        let mut idle = Vec::new();
        for _ in 0..24 {
            let client = pod.clone().over_one_connection();
            assert_eq!(client.get(CONFIG_MAPS).await.unwrap().0, 200);
            idle.push(client);
        }
        rig.put("later", "1");
        let seen = async {
            while let Ok(Some(event)) = watch.next().await {
                if event["object"]["metadata"]["name"] == "later" {
                    return true;
                }
            }
            false
        };
        assert!(seen.await, "the stream in use was not the one to go");
    });
}

#[test]
fn guesses_are_refused_at_once_when_many_wait_and_known_clients_are_served_meanwhile() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let pod = rig.pod();
        Informer::new(pod.clone()).until(&[("a", "1"), ("b", "1")]).await;
        let reviews = RequestMatch::verb("create").resource("tokenreviews").user(NODE_USER);
        rig.cloud.fault(reviews, u32::MAX, Fault::Hang);
        let stranger = rig.nobody().over_one_connection();
        let mut guesses = JoinSet::new();
        for index in 0..GUESSES {
            let client = stranger.clone().with_token(&format!("guess-{index}"));
            guesses.spawn(async move { client.get("/version").await });
        }
        let mut refused = 0;
        let all_but_few = async {
            while refused < GUESSES - IN_REVIEW {
                let (status, _) = guesses.join_next().await.unwrap().unwrap().unwrap();
                assert_eq!(status, 429);
                refused += 1;
            }
        };
        tokio::time::timeout(AT_ONCE, all_but_few).await.expect("guesses wait without a bound");
        let path = format!("{CONFIG_MAPS}?resourceVersion=0");
        let known = pod.get(&path);
        assert_eq!(tokio::time::timeout(AT_ONCE, known).await.expect("served meanwhile").unwrap().0, 200);
    });
}

#[test]
fn one_guess_made_again_and_again_is_one_question() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        rig.heal_seen().await;
        let guess = rig.nobody().over_one_connection().with_token("guess");
        let mark = rig.cloud.mark();
        let mut asked = JoinSet::new();
        for _ in 0..40 {
            let guess = guess.clone();
            asked.spawn(async move { guess.get("/version").await.unwrap().0 });
        }
        while let Some(status) = asked.join_next().await {
            assert!(matches!(status.unwrap(), 401 | 429));
        }
        let is_review = |record: &e2e::cloud::model::RequestRecord| {
            record.gvr.as_ref().is_some_and(|gvr| gvr.resource == "tokenreviews")
        };
        let reviews = rig.cloud.records_since(mark).into_iter().filter(is_review).count();
        assert_eq!(reviews, 1);
        // What becomes true later is seen soon.
        rig.cloud.add_token("guess", Principal::new("operator", &[]));
        rig.cloud.allow(Rule::allow("operator", &["*"], &["*"]));
        eventually(async || {
            let (status, _) = guess.get("/api/v1/nodes/n1").await.unwrap();
            (status == 200).then_some(())
        })
        .await;
    });
}

#[test]
fn names_of_what_is_gone_make_room_before_what_is_read_now() {
    run(async {
        let mut rig = Rig::new();
        // Two are the hub's own.
        rig.set_limits(json!({"collections": 10}));
        rig.cloud.allow(Rule::allow(NODE_USER, &["get", "list", "watch"], &["configmaps"]));
        rig.cloud.add_token("agent-token", Principal::new("agent", &[]));
        rig.cloud.allow(Rule::allow("agent", &["*"], &["*"]));
        rig.start_hub().await;
        rig.heal_seen().await;
        let kubelet = rig.kubelet();
        // As Jobs leave them: each had a ConfigMap that its pod mounted.
        for index in 0..8 {
            let name = format!("job-{index}");
            rig.put(&name, "1");
            let selector = format!("{CONFIG_MAPS}?resourceVersion=0&fieldSelector=metadata.name%3D{name}");
            assert_eq!(kubelet.get(&selector).await.unwrap().0, 200);
            let all_live = eventually(async || {
                let status = rig.status().await;
                let held = status["collections"]
                    .as_array()?
                    .iter()
                    .find(|held| held["collection"].as_str().is_some_and(|text| text.contains(&name)))?;
                (held["phase"] == "live").then_some(())
            });
            all_live.await;
            rig.remove(&name);
            eventually(async || {
                let status = rig.status().await;
                let held = status["collections"]
                    .as_array()?
                    .iter()
                    .find(|held| held["collection"].as_str().is_some_and(|text| text.contains(&name)))?;
                (held["objects"] == 0).then_some(())
            })
            .await;
        }
        rig.stop_hub().await;
        rig.start_hub().await;
        rig.heal_seen().await;
        let agent = rig.nobody().with_token("agent-token");
        let kinds = ["configmaps", "secrets", "services", "serviceaccounts"];
        for kind in kinds {
            let path = format!("/api/v1/{kind}?resourceVersion=0");
            assert_eq!(agent.get(&path).await.unwrap().0, 200, "{kind}");
        }
        rig.cut(LinkState::Refused).await;
        for kind in kinds {
            let path = format!("/api/v1/{kind}?resourceVersion=0");
            assert_eq!(agent.get(&path).await.unwrap().0, 200, "{kind} while cut");
        }
    });
}
