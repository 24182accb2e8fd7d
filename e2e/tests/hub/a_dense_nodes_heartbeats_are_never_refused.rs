//! A kubelet keeps one watch for each ConfigMap and Secret that its pods mount: however many these are, its Lease and
//! its status get through, as at kube-apiserver, which does not count watches either.

use e2e::cloud::model::{Gvr, Rule};
use serde_json::json;

use crate::rig::{CONFIG_MAPS, NODE_USER, POD_USER, Rig, run};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// More than the short requests that one user may have in flight here.
const WATCHES: usize = 24;

#[test]
fn watches_of_a_user_take_no_place_of_its_other_requests() {
    run(async {
        let mut rig = Rig::new();
        rig.set_limits(json!({"requestsPerPrincipal": 4}));
        rig.cloud.allow(Rule::allow(NODE_USER, &["get", "list", "watch"], &["configmaps"]));
        for index in 0..WATCHES {
            rig.put(&format!("mounted-{index}"), "1");
        }
        rig.start_hub().await;
        rig.heal_seen().await;
        let kubelet = rig.kubelet().over_one_connection();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1"},
            "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40},
        });
        assert_eq!(kubelet.call("POST", LEASES, JSON, &lease).await.unwrap().0, 201);
        for client in [kubelet.clone(), rig.pod().over_one_connection()] {
            let mut open = Vec::new();
            for index in 0..WATCHES {
                let path = format!(
                    "{CONFIG_MAPS}?watch=true&resourceVersion=0&fieldSelector=metadata.name%3Dmounted-{index}"
                );
                let stream = client.watch(&path).await.unwrap();
                assert_eq!(stream.status, 200, "watch {index}");
                open.push(stream);
            }
            let (status, _) = client.get(&format!("{CONFIG_MAPS}/a")).await.unwrap();
            assert_eq!(status, 200, "beside {} watches", open.len());
            let renewed = json!({"spec": {"leaseDurationSeconds": 41}});
            let beats = [
                (format!("{LEASES}/n1"), renewed),
                ("/api/v1/nodes/n1/status".to_owned(), json!({"status": {"phase": "Running"}})),
            ];
            for (path, body) in beats {
                let (status, answer) = kubelet.call("PATCH", &path, MERGE, &body).await.unwrap();
                assert_eq!(status, 200, "{path}: {answer}");
            }
        }
        assert!(rig.cloud.look(|cloud| cloud.store().objects(&Gvr::core("configmaps")).count()) > WATCHES);
    });
}

#[test]
fn watches_of_one_pod_have_a_bound_of_their_own() {
    run(async {
        let mut rig = Rig::new();
        rig.set_limits(json!({"watchesPerPrincipal": 4}));
        rig.start_hub().await;
        let pod = rig.pod().over_one_connection();
        assert!(POD_USER.ends_with("reader"));
        let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=0");
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(pod.watch(&path).await.unwrap());
        }
        assert!(open.iter().all(|stream| stream.status == 200));
        assert_eq!(pod.watch(&path).await.unwrap().status, 429);
        assert_eq!(pod.get(CONFIG_MAPS).await.unwrap().0, 200);
        drop(open);
    });
}
