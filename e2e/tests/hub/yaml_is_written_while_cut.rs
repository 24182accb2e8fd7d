//! While cut off a person who asks for YAML gets what the JSON says; a stream has none, as at the server.

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt as _;

use crate::rig::{CONFIG_MAPS, Informer, Rig, run};

async fn asked(client: &Client, path: &str) -> (u16, String, String) {
    let answer = client.send("GET", path, "", Bytes::new()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let kind = head.headers[CONTENT_TYPE].to_str().unwrap().to_owned();
    (head.status.as_u16(), kind, String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn gets_and_lists_are_written_as_yaml_and_streams_refused() {
    run(async {
        let mut rig = Rig::new();
        rig.put("text", "yes");
        rig.start_hub().await;
        rig.heal_seen().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1"), ("text", "yes")]).await;
        let pod = rig.pod();
        assert_eq!(pod.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.unwrap().0, 200);
        rig.cut(LinkState::Refused).await;
        let yaml = pod.with_header(ACCEPT, "application/yaml");
        let (status, kind, one) = asked(&yaml, &format!("{CONFIG_MAPS}/text")).await;
        assert_eq!((status, kind.as_str()), (200, "application/yaml"), "{one}");
        assert!(
            one.starts_with("apiVersion: v1\ndata:\n  v: \"yes\"\nkind: ConfigMap\nmetadata:\n"),
            "{one}"
        );
        let (status, kind, list) = asked(&yaml, CONFIG_MAPS).await;
        assert_eq!((status, kind.as_str()), (200, "application/yaml"), "{list}");
        assert!(list.contains("kind: ConfigMapList\n") && list.matches("- data:\n").count() == 3, "{list}");
        let (status, kind, _) = asked(&yaml, &format!("{CONFIG_MAPS}?watch=true")).await;
        assert_eq!((status, kind.as_str()), (406, "application/json"));
        // A refusal stays JSON, which every client reads.
        let (status, kind, _) = asked(&yaml, "/api/v1/namespaces/default/secrets").await;
        assert_eq!((status, kind.as_str()), (429, "application/json"));
    });
}
