//! A hub that has never seen the cloud says "later", never "nothing there".

use e2e::cloud::LinkState;
use http::header::RETRY_AFTER;
use serde_json::json;

use crate::rig::{Rig, eventually, run};

const OWN_PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1";

#[test]
fn lists_and_watches_get_429_until_the_cloud_was_seen_and_the_rest_503() {
    run(async {
        for link in [LinkState::Refused, LinkState::BlackHole] {
            let mut rig = Rig::new();
            rig.cloud.set_all_links(link).await;
            rig.start_hub().await;
            let kubelet = rig.kubelet();
            for path in
                [OWN_PODS, &format!("{OWN_PODS}&watch=true"), "/api/v1/services?limit=500&resourceVersion=0"]
            {
                let answer = kubelet.send("GET", path, "", bytes::Bytes::new()).await.unwrap();
                assert_eq!(answer.status(), 429, "{link:?} {path}");
                assert!(answer.headers().contains_key(RETRY_AFTER), "{link:?} {path}");
            }
            for (method, path) in [("GET", "/api/v1/namespaces/default/pods/p"), ("POST", "/api/v1/nodes")] {
                let body = if method == "POST" {
                    json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}})
                } else {
                    json!(null)
                };
                let (status, _) = kubelet.call(method, path, "application/json", &body).await.unwrap();
                assert_eq!(status, 503, "{link:?} {method} {path}");
            }
            rig.heal().await;
            let list =
                eventually(async || kubelet.get(OWN_PODS).await.ok().filter(|(status, _)| *status == 200))
                    .await
                    .1;
            assert_eq!(list["items"].as_array().unwrap().len(), 1);
            rig.stop_hub().await;
        }
    });
}

#[test]
fn a_kubelet_that_is_to_join_is_told_to_wait() {
    run(async {
        let mut rig = Rig::new();
        rig.cloud.set_all_links(LinkState::BlackHole).await;
        rig.start_hub().await;
        let joining = rig.stranger().with_token("abcdef.0123456789abcdef");
        let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let answer = joining.send("POST", path, "", bytes::Bytes::new()).await.unwrap();
        assert_eq!(answer.status(), 503, "only the cloud can judge a bootstrap token");
        assert_eq!(answer.headers()[RETRY_AFTER], "2");
        let other = rig.stranger().with_token("abcdef.0123");
        assert_eq!(other.send("POST", path, "", bytes::Bytes::new()).await.unwrap().status(), 401);
        rig.stop_hub().await;
    });
}
