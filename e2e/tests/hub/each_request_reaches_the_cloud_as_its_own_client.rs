//! Nobody's request travels under another name, and who cannot say who it is gets nothing.

use e2e::cloud::LinkState;
use e2e::cloud::model::{Credential, Gvr, Principal, Rule};
use http::HeaderName;
use http::header::{CONNECTION, UPGRADE};
use serde_json::json;

use crate::rig::{CLIENT, CONFIG_MAPS, Informer, NODE_USER, POD_USER, Rig, run};

#[test]
fn the_cloud_sees_each_client_under_its_own_name() {
    run(async {
        let mut rig = Rig::new();
        rig.cloud.add_token("operator-token", Principal::new("operator", &["operators"]));
        rig.cloud.allow(Rule::allow("operator", &["*"], &["*"]));
        rig.start_hub().await;
        let (kubelet, pod) = (rig.kubelet(), rig.pod());
        let operator = rig.nobody().with_token("operator-token");
        let mut informer = Informer::new(pod.clone());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        assert_eq!(operator.get("/api/v1/secrets").await.unwrap().0, 200);
        assert_eq!(operator.get("/api/v1/nodes").await.unwrap().0, 200);
        assert_eq!(kubelet.get("/api/v1/nodes/n1").await.unwrap().0, 200);
        assert_eq!(kubelet.get("/api/v1/services").await.unwrap().0, 200);
        let object = json!({"metadata": {"name": "made", "namespace": "default"}, "data": {"v": "1"}});
        assert_eq!(operator.call("POST", CONFIG_MAPS, "application/json", &object).await.unwrap().0, 201);
        assert_eq!(pod.call("POST", CONFIG_MAPS, "application/json", &object).await.unwrap().0, 403);
        assert_eq!(pod.get("/api/v1/secrets").await.unwrap().0, 403);
        // The hub's own questions, and the list-watches that it keeps for its kubelet.
        let own = ["nodes", "pods", "services", "tokenreviews", "subjectaccessreviews"];
        for record in rig.cloud.records() {
            let resource = record.gvr.as_ref().map_or("", |g| g.resource.as_str());
            let expected = match resource {
                "configmaps" if record.verb == "create" => vec![POD_USER, "operator"],
                "configmaps" => vec![POD_USER],
                "secrets" => vec![POD_USER, "operator"],
                "services" | "pods" => vec![NODE_USER],
                "nodes" => vec![NODE_USER, "operator"],
                _ => vec![NODE_USER, POD_USER, "operator"],
            };
            assert!(expected.contains(&record.user.as_str()), "{record:?}");
            let by_certificate = record.credential == Credential::Certificate;
            assert_eq!(by_certificate, record.user == NODE_USER, "{record:?}");
            if by_certificate && record.user_agent != CLIENT {
                assert!(
                    resource.is_empty() || own.contains(&resource),
                    "the hub asks for itself: {record:?}"
                );
            }
        }
    });
}

#[test]
fn whoever_is_unknown_gets_401_and_the_cloud_hears_nothing_of_it() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            let guess = rig.nobody().with_token("guess");
            for client in [rig.nobody(), rig.stranger(), guess] {
                for path in [CONFIG_MAPS, "/api/v1/nodes/n1", "/version", "/nowhere"] {
                    let (status, document) = client.get(path).await.unwrap();
                    assert_eq!(
                        (status, &document["reason"]),
                        (401, &json!("Unauthorized")),
                        "cut {cut} {path}"
                    );
                }
            }
        }
        let seen = rig.cloud.records();
        let passed: Vec<_> = seen.iter().filter(|r| r.user.is_empty() || r.user == "admin").collect();
        assert!(passed.is_empty(), "{passed:?}");
    });
}

#[test]
fn what_one_client_has_read_no_other_gets_without_the_right() {
    run(async {
        let mut rig = Rig::new();
        let secret =
            json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"canary": "Y2FuYXJ5"}});
        rig.cloud.create(&Gvr::core("secrets"), secret).unwrap();
        rig.cloud.add_token("operator-token", Principal::new("operator", &["operators"]));
        rig.cloud.allow(Rule::allow("operator", &["*"], &["*"]));
        rig.start_hub().await;
        let path = "/api/v1/namespaces/default/secrets?resourceVersion=0";
        let operator = rig.nobody().with_token("operator-token");
        assert_eq!(operator.get(path).await.unwrap().1["items"].as_array().unwrap().len(), 1);
        let pod = rig.pod();
        assert_eq!(pod.get(CONFIG_MAPS).await.unwrap().0, 200);
        let single = "/api/v1/namespaces/default/secrets/s?resourceVersion=0";
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            for path in [path, single] {
                for client in [&pod, &rig.kubelet()] {
                    let (status, document) = client.get(path).await.unwrap();
                    assert!(matches!(status, 403 | 503), "cut {cut} {path}: {status}");
                    assert!(!document.to_string().contains("Y2FuYXJ5"), "cut {cut} {path}");
                }
            }
        }
    });
}

#[test]
fn a_stream_on_what_nobody_pays_for_any_more_goes_on_under_its_own_name() {
    run(async {
        let mut rig = Rig::new();
        rig.cloud.add_token("operator-token", Principal::new("operator", &["operators"]));
        rig.cloud.allow(Rule::allow("operator", &["*"], &["*"]));
        rig.start_hub().await;
        rig.heal_seen().await;
        let operator = rig.nobody().with_token("operator-token");
        assert_eq!(operator.get("/api/v1/configmaps?resourceVersion=0").await.unwrap().0, 200);
        Informer::new(rig.pod()).until(&[("a", "1"), ("b", "1")]).await;
        // The operator does not come again, and its credential went with the process.
        rig.cut(LinkState::Refused).await;
        rig.stop_hub().await;
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        rig.put("a", "2");
        rig.heal().await;
        informer.until(&[("a", "2"), ("b", "1")]).await;
        assert_eq!(informer.full_syncs, 1, "it resumed where it was");
    });
}

#[test]
fn no_header_that_says_who_asks_can_be_taken_for_one_of_the_connection() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let pod = rig.pod();
        Informer::new(pod.clone()).until(&[("a", "1"), ("b", "1")]).await;
        let mark = rig.cloud.mark();
        // A proxy in front that passes on what its client named would ask as itself.
        let client = pod.over_http1().with_header(HeaderName::from_static("impersonate-user"), "nobody");
        for named in
            ["Impersonate-User", "close, impersonate-user", "keep-alive, Authorization", "X-Remote-User"]
        {
            let client = client.clone().with_header(CONNECTION, named);
            for path in [CONFIG_MAPS, "/api/v1/namespaces/default/configmaps?resourceVersion=0", "/version"] {
                let (status, answer) = client.get(path).await.unwrap();
                assert_eq!(
                    (status, &answer["reason"]),
                    (400, &json!("BadRequest")),
                    "{named} {path}: {answer}"
                );
            }
            let upgrade = client.with_header(UPGRADE, "websocket");
            let (status, _) = upgrade.get("/api/v1/namespaces/default/pods/p/exec").await.unwrap();
            assert_eq!(status, 400, "{named}");
        }
        let passed = rig.cloud.records_since(mark).into_iter().filter(|record| record.user_agent == CLIENT);
        assert_eq!(passed.count(), 0, "the cloud was asked");
    });
}
