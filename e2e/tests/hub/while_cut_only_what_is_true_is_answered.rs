//! While cut: reads are marked with their age, tokens are real ones, writes are refused without a promise.

use std::time::Duration;

use e2e::cloud::LinkState;
use e2e::cloud::model::Gvr;
use http::header::{RETRY_AFTER, WARNING};
use serde_json::json;

use crate::rig::{CONFIG_MAPS, Informer, POD_USER, Rig, TOKEN, eventually, run, token_request};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

#[test]
fn a_read_says_how_old_it_is_and_a_token_is_the_one_that_the_cloud_gave() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        let mut informer = Informer::new(pod.clone());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        let (status, online) = kubelet
            .call("POST", TOKEN, "application/json", &token_request("https://kubernetes.default.svc"))
            .await
            .unwrap();
        assert_eq!(status, 201);
        rig.cut(LinkState::BlackHole).await;
        let list = pod.send("GET", CONFIG_MAPS, "", bytes::Bytes::new()).await.unwrap();
        assert_eq!(list.status(), 200);
        assert!(list.headers()[WARNING].to_str().unwrap().starts_with("299 "), "{:?}", list.headers());
        let (status, offline) = kubelet
            .call("POST", TOKEN, "application/json", &token_request("https://kubernetes.default.svc"))
            .await
            .unwrap();
        assert!(matches!(status, 200 | 201), "{status}");
        assert_eq!(offline["status"]["token"], online["status"]["token"]);
        let mut other = token_request("https://kubernetes.default.svc");
        other["spec"]["audiences"] = json!(["vault"]);
        assert_eq!(kubelet.call("POST", TOKEN, "application/json", &other).await.unwrap().0, 503);
    });
}

#[test]
fn a_write_gets_503_without_retry_after_and_a_known_node_409() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        let mut informer = Informer::new(pod);
        informer.until(&[("a", "1"), ("b", "1")]).await;
        rig.cut(LinkState::Refused).await;
        let mark = rig.cloud.mark();
        let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}});
        let (status, document) =
            kubelet.call("POST", "/api/v1/nodes", "application/json", &node).await.unwrap();
        assert_eq!((status, &document["reason"]), (409, &json!("AlreadyExists")));
        let patch = bytes::Bytes::from_static(br#"{"status":{"phase":"Running"}}"#);
        for (method, path, kind) in [
            ("PATCH", "/api/v1/namespaces/default/pods/p/status", "application/strategic-merge-patch+json"),
            ("PATCH", "/api/v1/nodes/n1/status", "application/strategic-merge-patch+json"),
            ("DELETE", "/api/v1/namespaces/default/pods/p", "application/json"),
            ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", "application/json"),
        ] {
            let answer = kubelet.send(method, path, kind, patch.clone()).await.unwrap();
            assert_eq!(answer.status(), 503, "{method} {path}");
            assert!(!answer.headers().contains_key(RETRY_AFTER), "{method} {path}: client-go would block");
        }
        rig.heal().await;
        rig.cloud.wait_for(|all| all.iter().any(|r| r.order >= mark)).await;
        let late: Vec<_> = rig
            .cloud
            .records_since(mark)
            .into_iter()
            .filter(|r| r.verb == "patch" || r.verb == "delete")
            .collect();
        assert!(late.is_empty(), "a refused write must not happen later: {late:?}");
    });
}

#[test]
fn a_remembered_review_answers_the_very_question_that_the_cloud_was_asked() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        Informer::new(pod).until(&[("a", "1"), ("b", "1")]).await;
        let review = |pod: &str| {
            json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {
                "user": POD_USER, "groups": ["system:authenticated"],
                "extra": {"authentication.kubernetes.io/pod-name": [pod]},
                "resourceAttributes": {"verb": "get", "version": "v1", "resource": "configmaps",
                    "namespace": "default"},
            }})
        };
        let mut later = review("p");
        later["spec"]["later"] = json!("unknown to this hub");
        for question in [review("p"), later.clone()] {
            let (status, answer) =
                kubelet.call("POST", REVIEWS, "application/json", &question).await.unwrap();
            assert_eq!((status, &answer["status"]["allowed"]), (201, &json!(true)), "{answer}");
        }
        rig.cut(LinkState::Refused).await;
        let (status, answer) = kubelet.call("POST", REVIEWS, "application/json", &review("p")).await.unwrap();
        assert_eq!((status, &answer["status"]["allowed"]), (201, &json!(true)), "{answer}");
        for question in [review("q"), later] {
            let (status, _) = kubelet.call("POST", REVIEWS, "application/json", &question).await.unwrap();
            assert_eq!(status, 503, "the cloud was never asked that, or nobody knows what it was asked");
        }
    });
}

#[test]
fn a_token_that_ended_before_the_cut_does_not_come_back_to_life() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let (pod, hour) = (rig.pod(), Duration::from_secs(3600));
        let mut informer = Informer::new(pod.clone());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        let old = rig.pod_since(2 * hour);
        let path = format!("{CONFIG_MAPS}?resourceVersion=0");
        assert_eq!(old.get(&path).await.unwrap().0, 401);
        for restart in [false, true] {
            rig.cut(LinkState::Refused).await;
            if restart {
                rig.stop_hub().await;
                rig.start_hub().await;
            }
            assert_eq!(old.get(&path).await.unwrap().0, 401, "restart {restart}");
            assert_eq!(pod.get(&path).await.unwrap().0, 200, "restart {restart}");
            rig.heal().await;
            rig.heal_seen().await;
        }
    });
}

#[test]
fn the_token_of_a_pod_that_is_gone_is_nobodys_at_once() {
    run(async {
        for cut in [true, false] {
            let mut rig = Rig::new();
            rig.start_hub().await;
            let pod = rig.pod();
            Informer::new(pod.clone()).until(&[("a", "1"), ("b", "1")]).await;
            rig.cloud.delete(&Gvr::core("pods"), "default", "p").expect("it exists");
            eventually(async || {
                let status = rig.status().await;
                let own = status["collections"].as_array()?.iter().find(|held| {
                    held["collection"].as_str().is_some_and(|name| name.contains("spec.nodeName"))
                })?;
                (own["objects"] == 0).then_some(())
            })
            .await;
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            let path = format!("{CONFIG_MAPS}?resourceVersion=0");
            assert_eq!(pod.get(&path).await.unwrap().0, 401, "cut {cut}");
            rig.stop_hub().await;
        }
    });
}

#[test]
fn a_cut_keeps_no_right_that_was_seen_to_be_taken_away() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let pod = rig.pod();
        Informer::new(pod.clone()).until(&[("a", "1"), ("b", "1")]).await;
        let one = format!("{CONFIG_MAPS}/a");
        assert_eq!(pod.get(&one).await.unwrap().0, 200);
        rig.cloud.with(|cloud, _| cloud.policy_mut().rules.retain(|rule| rule.subject != POD_USER));
        // A list of what is newest goes to the cloud, which refuses it now.
        eventually(async || (pod.get(CONFIG_MAPS).await.unwrap().0 == 403).then_some(())).await;
        rig.cut(LinkState::Refused).await;
        for path in [one, format!("{CONFIG_MAPS}?resourceVersion=0")] {
            let (status, answer) = pod.get(&path).await.unwrap();
            assert!(matches!(status, 403 | 503), "{path}: {status} {answer}");
        }
    });
}
