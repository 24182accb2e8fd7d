//! Where pods are led to a hub with an authority of its own, the kubelet finds that authority in `kube-root-ca.crt`, by
//! every verb, in JSON and protobuf, online and cut off; nobody else does, and the cloud never gets it.

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Rule};
use http::header::ACCEPT;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::rig::{CONFIG_MAPS, Informer, NODE_USER, Rig, run};

const ROOTS: &str = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt";
const WATCHED: &str = "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dkube-root-ca.crt";
const CLUSTER: &str = "-----BEGIN CERTIFICATE-----\ncluster\n-----END CERTIFICATE-----\n";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn certificates(object: &Value) -> String {
    object["data"]["ca.crt"].as_str().unwrap_or_default().to_owned()
}

async fn rig(has_own_authority: bool) -> Rig {
    let mut rig = Rig::new();
    let object = json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "default"}, "data": {"ca.crt": CLUSTER}});
    rig.cloud.create(&Gvr::core("configmaps"), object).expect("the name is free");
    rig.cloud.allow(
        Rule::allow(NODE_USER, &["get", "list", "watch", "update", "patch", "create"], &["configmaps"])
            .in_namespace("default"),
    );
    rig.lead_pods_to("169.254.2.1:10261");
    if has_own_authority {
        rig.use_own_authority();
    }
    rig.start_hub().await;
    rig
}

async fn raw(client: &Client, path: &str) -> Bytes {
    let answer = client.send("GET", path, "", Bytes::new()).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.expect("a body").to_bytes()
}

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn the_kubelet_finds_the_hubs_authority_beside_the_clusters() {
    run(async {
        let rig = rig(true).await;
        let own = rig.own_authority();
        let both = format!("{CLUSTER}{own}");
        let kubelet = rig.kubelet();
        let protobuf = kubelet.clone().with_header(ACCEPT, PROTOBUF);
        let mut informer = Informer::of(kubelet.clone(), WATCHED, certificates);
        informer.until(&[("kube-root-ca.crt", &both)]).await;
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            assert_eq!(certificates(&kubelet.get(ROOTS).await.expect("an answer").1), both, "cut {cut}");
            let (_, list) = kubelet.get(WATCHED).await.expect("an answer");
            assert_eq!(certificates(&list["items"][0]), both, "cut {cut}");
            for path in [ROOTS, WATCHED] {
                assert!(holds(&raw(&protobuf, path).await, &both), "{path} cut {cut}");
            }
        }
        let (_, list) = rig.pod().get(CONFIG_MAPS).await.expect("an answer");
        assert!(
            !list.to_string().contains(own.lines().nth(1).expect("a line")),
            "pods see what the cloud has"
        );
    });
}

#[test]
fn the_hubs_own_certificate_is_for_every_way_in_which_pods_dial_it() {
    run(async {
        let rig = rig(true).await;
        for name in ["169.254.2.1", "kubernetes.default.svc", "127.0.0.1"] {
            let (status, _) =
                rig.nobody_at(name).get("/version").await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!(status, 401, "{name}: trusted, and asked who it is");
        }
        rig.nobody_at("169.254.2.2").get("/version").await.expect_err("an address that nobody named");
    });
}

#[test]
fn what_is_written_back_holds_the_clusters_authorities_only() {
    run(async {
        let rig = rig(true).await;
        let own = rig.own_authority();
        let kubelet = rig.kubelet();
        let both = format!("{CLUSTER}{own}");
        let in_cloud = || {
            let patch = json!({"metadata": {"annotations": {"read": "yes"}}});
            let object = rig.cloud.merge(&Gvr::core("configmaps"), "default", "kube-root-ca.crt", &patch);
            certificates(&object.expect("it exists"))
        };
        let (_, mut held) = kubelet.get(ROOTS).await.expect("an answer");
        assert_eq!(certificates(&held), both);
        held["data"]["more"] = json!("x");
        let replace = json!([
            {"op": "test", "path": "/data/ca.crt", "value": both},
            {"op": "replace", "path": "/data/ca.crt", "value": both},
        ]);
        for (method, media, body) in [
            ("PUT", "application/json", held),
            ("PATCH", "application/merge-patch+json", json!({"data": {"ca.crt": both}})),
            ("PATCH", "application/json-patch+json", replace),
        ] {
            let (status, answer) = kubelet.call(method, ROOTS, media, &body).await.expect("an answer");
            assert_eq!((status, certificates(&answer)), (200, both.clone()), "{media}: {answer}");
            assert_eq!(in_cloud(), CLUSTER, "{method} {media}");
        }
        // Whoever writes the same text elsewhere means it.
        let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hub-ca"}, "data": {"ca.crt": own}});
        let (status, answer) =
            kubelet.call("POST", CONFIG_MAPS, "application/json", &other).await.expect("an answer");
        assert_eq!((status, certificates(&answer)), (201, own), "{answer}");
    });
}

#[test]
fn a_hub_with_the_operators_certificate_adds_nothing() {
    run(async {
        let rig = rig(false).await;
        let (_, held) = rig.kubelet().get(ROOTS).await.expect("an answer");
        assert_eq!(certificates(&held), CLUSTER);
    });
}
