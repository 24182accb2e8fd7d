//! Secrets and ConfigMaps leave a node with the last of its pods that names them: no later value reaches it, its readers
//! are refused as by the API server, and nothing of them is found while cut, not after a restart either.

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Rule};
use serde_json::{Value, json};

use crate::rig::{NODE_USER, POD_USER, Rig, eventually, run};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn add_secret(rig: &Rig, name: &str) {
    let secret = json!({"metadata": {"name": name, "namespace": "default"}, "data": {"k": "djE="}});
    rig.cloud.create(&Gvr::core("secrets"), secret).expect("the name is free");
}

fn add_pod(rig: &Rig, name: &str, spec: Value) {
    let mut spec = spec;
    spec["nodeName"] = "n1".into();
    let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    rig.cloud.create(&Gvr::core("pods"), pod).expect("the name is free");
}

/// Reads it as a kubelet does, which GETs, lists and watches each by its name.
async fn read_as_kubelet(kubelet: &Client, name: &str) {
    let (status, secret) = kubelet.get(&format!("{SECRETS}/{name}")).await.expect("an answer");
    assert_eq!(status, 200, "{secret}");
    let path = format!("{SECRETS}?fieldSelector=metadata.name%3D{name}&resourceVersion=0");
    let (status, list) = kubelet.get(&path).await.expect("an answer");
    assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(1)), "{list}");
}

/// The statuses of all ways to it.
async fn ways(client: &Client, name: &str) -> [u16; 3] {
    let by_name = format!("{SECRETS}?fieldSelector=metadata.name%3D{name}&resourceVersion=0");
    let paths = [format!("{SECRETS}/{name}"), format!("{SECRETS}/{name}?resourceVersion=0"), by_name];
    let mut statuses = [0; 3];
    for (status, path) in statuses.iter_mut().zip(paths) {
        *status = client.get(&path).await.expect("an answer").0;
    }
    statuses
}

async fn held(rig: &Rig, name: &str) -> usize {
    let status = rig.status().await;
    let collections = status["collections"].as_array().cloned().unwrap_or_default();
    let is_it = |each: &&Value| {
        let label = each["collection"].as_str().unwrap_or_default();
        label.contains("secrets") && label.contains(&format!("metadata.name={name}"))
    };
    collections.iter().filter(is_it).count()
}

#[test]
fn a_secret_leaves_with_the_last_pod_that_names_it() {
    run(async {
        let mut rig = Rig::new();
        for name in ["gone", "stays", "shared"] {
            add_secret(&rig, name);
        }
        let volume = json!({"volumes": [{"name": "v", "secret": {"secretName": "gone"}}],
            "imagePullSecrets": [{"name": "shared"}]});
        add_pod(&rig, "leaves", volume);
        let variable = json!({"name": "V", "valueFrom": {"secretKeyRef": {"name": "stays", "key": "k"}}});
        let from = json!([{"secretRef": {"name": "shared"}}]);
        let containers = json!({"containers": [{"name": "c", "env": [variable], "envFrom": from}]});
        add_pod(&rig, "stays", containers);
        rig.start_hub().await;
        rig.heal_seen().await;
        let kubelet = rig.kubelet();
        for name in ["gone", "stays", "shared"] {
            read_as_kubelet(&kubelet, name).await;
            assert_eq!(held(&rig, name).await, 1);
        }
        let path = format!("{SECRETS}?watch=1&fieldSelector=metadata.name%3Dgone&resourceVersion=0");
        let mut watch = kubelet.watch(&path).await.expect("a stream");
        assert_eq!(watch.next().await.expect("an event").expect("one")["type"], "ADDED");

        rig.cloud.delete(&Gvr::core("pods"), "default", "leaves").expect("it exists");
        eventually(async || (held(&rig, "gone").await == 0).then_some(())).await;
        let change = json!({"data": {"k": "djI="}});
        rig.cloud.merge(&Gvr::core("secrets"), "default", "gone", &change).expect("it exists");
        while let Some(event) = watch.next().await.expect("a clean end") {
            assert_ne!(event["object"]["data"]["k"], "djI=", "a value of after");
        }
        assert_eq!(ways(&kubelet, "gone").await, [403; 3]);
        assert_eq!(ways(&kubelet, "stays").await, [200; 3]);
        assert_eq!(ways(&kubelet, "shared").await, [200; 3]);
        for restarted in [false, true] {
            if restarted {
                rig.stop_hub().await;
                rig.start_hub().await;
            } else {
                rig.cut(LinkState::Refused).await;
            }
            let refused = ways(&rig.kubelet(), "gone").await;
            assert!(refused.iter().all(|status| matches!(status, 403 | 429 | 503)), "{refused:?}");
            assert_eq!(ways(&rig.kubelet(), "stays").await, [200; 3], "restarted {restarted}");
            assert_eq!(ways(&rig.kubelet(), "shared").await, [200; 3], "restarted {restarted}");
        }
        rig.stop_hub().await;
    });
}

#[test]
fn what_others_are_allowed_is_no_affair_of_the_nodes_pods() {
    run(async {
        let mut rig = Rig::new();
        for name in ["of-node", "of-pod"] {
            add_secret(&rig, name);
        }
        // Some clusters let nodes read more than the Node authorizer does.
        let all_nodes = Rule::allow(NODE_USER, &["get", "list", "watch"], &["secrets"]);
        rig.cloud.allow(all_nodes.clone());
        rig.cloud.allow(Rule::allow(POD_USER, &["get"], &["secrets"]).in_namespace("default"));
        rig.start_hub().await;
        rig.heal_seen().await;
        read_as_kubelet(&rig.kubelet(), "of-node").await;
        let (pod, path) = (rig.pod(), format!("{SECRETS}/of-pod"));
        assert_eq!(pod.send("GET", &path, "", Bytes::new()).await.expect("an answer").status(), 200);
        let mark = rig.cloud.mark();
        // Each change of this node's pods is a reason to look.
        add_pod(&rig, "any", json!({}));
        rig.cloud
            .wait_for(|records| {
                let reviews = records.iter().filter(|record| {
                    record.order >= mark
                        && record.gvr.as_ref().is_some_and(|gvr| gvr.resource == "subjectaccessreviews")
                });
                reviews.count() >= 1
            })
            .await;
        rig.cut(LinkState::Refused).await;
        assert_eq!(ways(&rig.kubelet(), "of-node").await, [200; 3]);
        assert_eq!(rig.pod().get(&path).await.expect("an answer").0, 200);
        rig.stop_hub().await;
    });
}
