//! What clients of real clusters send beyond the usual goes through the hub as it goes through kube-apiserver: long heads,
//! large and slow bodies for what is behind the API server, tokens of browsers, and questions that only revalidate.

use bytes::Bytes;
use e2e::cloud::LinkState;
use http::HeaderName;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::rig::{CLIENT, CONFIG_MAPS, Informer, POD_USER, Rig, run};

const PADDING: HeaderName = HeaderName::from_static("x-padding");

#[test]
fn a_known_client_may_send_long_heads_and_one_that_is_not_gets_a_status() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let pod = rig.pod();
        Informer::new(pod.clone()).until(&[("a", "1"), ("b", "1")]).await;
        let path = format!("{CONFIG_MAPS}?resourceVersion=0");
        let long = "x".repeat(100 * 1024);
        for client in [pod.clone(), pod.clone().over_http1(), rig.kubelet(), rig.kubelet().over_http1()] {
            let (status, answer) = client.with_header(PADDING, &long).get("/api/v1/nodes/n1").await.unwrap();
            assert!(matches!(status, 200 | 403), "{status} {answer}");
        }
        // As a selector of 34 KiB.
        let selector = format!("{path}&labelSelector=a!%3D{}", "x,a!%3D".repeat(4800));
        let (status, list) = pod.get(&selector).await.unwrap();
        assert!(status == 200 || status == 400, "{status} {list}");
        for client in [pod.clone(), pod.clone().over_http1()] {
            let client = (0..400).fold(client, |client, index| {
                let name = HeaderName::try_from(format!("impersonate-extra-k{index}")).unwrap();
                client.with_header(name, "value")
            });
            let (status, answer) = client.get(CONFIG_MAPS).await.unwrap();
            assert_eq!(
                (status, &answer["reason"]),
                (403, &Value::from("Forbidden")),
                "the cloud's word: {answer}"
            );
        }
        let guess = rig.nobody().with_token("guess").with_header(PADDING, &long);
        let (status, answer) = guess.get(CONFIG_MAPS).await.unwrap();
        assert_eq!((status, &answer["kind"]), (431, &Value::from("Status")), "{answer}");
    });
}

#[test]
fn bodies_for_what_is_behind_the_api_server_are_not_the_hubs_to_measure() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let pod = rig.pod();
        Informer::new(pod.clone()).until(&[("a", "1"), ("b", "1")]).await;
        let path = "/api/v1/namespaces/default/services/web/proxy/upload?x=y";
        let body = Bytes::from(vec![b'x'; 5 * 1024 * 1024]);
        for client in [pod.clone(), pod.clone().over_http1()] {
            let mark = rig.cloud.mark();
            let answer = client.send("POST", path, "application/octet-stream", body.clone()).await.unwrap();
            let (head, answer) = answer.into_parts();
            let answer = answer.collect().await.unwrap().to_bytes();
            assert_ne!(head.status, 413, "{answer:?}");
            let seen = rig.cloud.records_since(mark).into_iter().filter(|record| record.user_agent == CLIENT);
            let seen: Vec<_> = seen.map(|record| (record.user, record.path)).collect();
            let path = "/api/v1/namespaces/default/services/web/proxy/upload".to_owned();
            assert_eq!(seen, [(POD_USER.to_owned(), path)]);
        }
        rig.cut(LinkState::Refused).await;
        let (status, answer) =
            pod.call("POST", path, "text/plain", &Value::from("x".repeat(100_000))).await.unwrap();
        assert_eq!((status, &answer["kind"]), (503, &Value::from("Status")), "{answer}");
    });
}

#[test]
fn a_console_in_a_browser_shows_its_token_as_a_subprotocol() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let pod = rig.pod();
        Informer::new(pod.clone()).until(&[("a", "1"), ("b", "1")]).await;
        let token = pod.token().expect("a token");
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token);
        let entry = format!("base64url.bearer.authorization.k8s.io.{encoded}");
        let browser =
            rig.nobody().over_http1().with_header(UPGRADE, "websocket").with_header(CONNECTION, "Upgrade");
        let path = "/api/v1/namespaces/default/pods/p/exec?command=sh";
        let mark = rig.cloud.mark();
        let shown = format!("{entry}, base64.binary.k8s.io");
        let console = browser.clone().with_header(SEC_WEBSOCKET_PROTOCOL, &shown);
        let (status, answer) = console.get(path).await.unwrap();
        assert_ne!(status, 401, "{answer}");
        let users = rig.cloud.records_since(mark).into_iter().filter(|record| record.user_agent == CLIENT);
        assert_eq!(
            users.map(|record| record.user).collect::<Vec<_>>(),
            [POD_USER],
            "asked as the token's owner"
        );
        let alone = browser.with_header(SEC_WEBSOCKET_PROTOCOL, &entry);
        assert_eq!(alone.get(path).await.unwrap().0, 401, "as at kube-apiserver");
    });
}

#[test]
fn a_client_that_only_revalidates_leaves_the_hub_a_copy() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        rig.heal_seen().await;
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let kubelet = rig.kubelet().with_header(ACCEPT, discovery);
        let path = "/apis";
        let first = kubelet.send("GET", path, "", Bytes::new()).await.unwrap();
        assert_eq!(first.status(), 200);
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        rig.stop_hub().await;
        rig.lose_state();
        rig.start_hub().await;
        rig.heal_seen().await;
        let revalidating = kubelet.clone().with_header(IF_NONE_MATCH, &tag);
        let again = revalidating.send("GET", path, "", Bytes::new()).await.unwrap();
        assert!(matches!(again.status().as_u16(), 200 | 304), "{}", again.status());
        let _ = again.into_body().collect().await;
        rig.cut(LinkState::Refused).await;
        let held = kubelet.send("GET", path, "", Bytes::new()).await.unwrap();
        assert_eq!(held.status(), 200, "a client that begins anew");
        assert!(held.headers().contains_key(CONTENT_TYPE));
        assert_eq!(revalidating.send("GET", path, "", Bytes::new()).await.unwrap().status(), 304);
    });
}
