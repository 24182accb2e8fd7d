//! A pod that gets another address while the cloud is cut: whoever watches EndpointSlices on its node sees it at once,
//! over a restart of the hub too, and after the cut the cloud's word replaces it without one list.

use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Rule};
use serde_json::{Value, json};

use crate::rig::{Informer, POD_USER, Rig, eventually, run};

pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const POD_STATUS: &str = "/api/v1/namespaces/default/pods/p/status";
const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";

pub(crate) fn slices() -> Gvr {
    Gvr::new("discovery.k8s.io", "v1", "endpointslices")
}

/// Addresses of a slice, those of endpoints that are not ready with a mark.
pub(crate) fn addresses(slice: &Value) -> String {
    let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
    let shown = endpoints.iter().map(|endpoint| {
        let address = endpoint["addresses"][0].as_str().unwrap_or_default();
        let mark = if endpoint["conditions"]["ready"] == true { "" } else { "!" };
        format!("{address}{mark}")
    });
    shown.collect::<Vec<_>>().join(" ")
}

pub(crate) struct World {
    pub(crate) rig: Rig,
    uid: String,
}

impl World {
    /// Pod p at 10.0.0.5 behind slice `web`, with a second endpoint on another node, and slice `other`.
    pub(crate) async fn new() -> Self {
        let rig = Rig::new();
        let verbs = ["get", "list", "watch", "update", "patch", "delete"];
        rig.cloud.allow(Rule::allow(POD_USER, &verbs, &["endpointslices"]).in_namespace("default"));
        let pod =
            rig.cloud.merge(&Gvr::core("pods"), "default", "p", &pod_status("10.0.0.5")).expect("pod p");
        let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
        let mut world = Self { rig, uid };
        for name in ["web", "other"] {
            let slice = json!({
                "metadata": {"name": name, "namespace": "default"},
                "addressType": "IPv4",
                "endpoints": world.endpoints("10.0.0.5", "10.9.0.1"),
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            });
            world.rig.cloud.create(&slices(), slice).expect("the name is free");
        }
        world.rig.start_hub().await;
        world.await_own_pods().await;
        world
    }

    pub(crate) async fn await_own_pods(&self) {
        eventually(async || {
            let status = self.rig.status().await;
            let collections = status["collections"].as_array()?;
            let is_own = |held: &&Value| {
                let name = held["collection"].as_str().unwrap_or_default();
                name.contains("pods where spec.nodeName=n1") && held["complete"] == true
            };
            collections.iter().find(is_own).map(|_| ())
        })
        .await;
    }

    fn endpoints(&self, local: &str, remote: &str) -> Value {
        let endpoint = |node: &str, uid: &str, address: &str| {
            json!({
                "addresses": [address], "nodeName": node,
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": "p", "namespace": "default", "uid": uid},
            })
        };
        json!([endpoint("n1", &self.uid, local), endpoint("n2", "another", remote)])
    }

    /// The slice controller writes.
    pub(crate) fn write(&self, slice: &str, local: &str, remote: &str) {
        let patch = json!({"endpoints": self.endpoints(local, remote)});
        self.rig.cloud.merge(&slices(), "default", slice, &patch).expect("it exists");
    }

    /// The kubelet's patch, which nobody can send on.
    pub(crate) async fn patch_in_vain(&self, kubelet: &Client, ip: &str, ready: bool) {
        let (status, _) = self.patch_status(kubelet, ip, ready).await;
        assert_eq!(status, 503);
    }

    /// The kubelet's patch.
    async fn patch_status(&self, kubelet: &Client, ip: &str, ready: bool) -> (u16, Value) {
        let (ready, reason) =
            if ready { ("True", Value::Null) } else { ("False", json!("ContainersNotReady")) };
        let patch = json!({
            "metadata": {"uid": self.uid},
            "status": {
                "$setElementOrder/podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": ready, "reason": reason}],
                "podIP": ip, "podIPs": match ip {
                    "10.0.0.5" => json!([{"ip": ip}]),
                    _ => json!([{"ip": ip}, {"$patch": "delete", "ip": "10.0.0.5"}]),
                },
            },
        });
        kubelet.call("PATCH", POD_STATUS, STRATEGIC_MERGE, &patch).await.expect("an answer")
    }

    /// No version that the cloud does not know ever reached it.
    pub(crate) fn assert_upstream_knows_all_versions(&self, mark: u64) {
        let newest = self.rig.cloud.revision();
        for record in self.rig.cloud.records_since(mark) {
            let version = record.resource_version.as_deref().filter(|version| !version.is_empty());
            let version: u64 = version.unwrap_or("0").parse().expect("a number");
            assert!(version <= newest, "{} {}", record.path, record.query);
        }
    }
}

pub(crate) fn pod_status(ip: &str) -> Value {
    json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }})
}

#[test]
fn a_watcher_sees_the_new_address_while_cut_and_the_clouds_word_after() {
    run(async {
        let world = World::new().await;
        let kubelet = world.rig.kubelet();
        let mut informer = Informer::of(world.rig.pod(), SLICES, addresses);
        let untouched = "10.0.0.5 10.9.0.1";
        informer.until(&[("web", untouched), ("other", untouched)]).await;
        let mark = world.rig.cloud.mark();
        world.rig.cut(LinkState::BlackHole).await;
        world.patch_in_vain(&kubelet, "10.0.0.9", false).await;
        let unready = "10.0.0.9! 10.9.0.1";
        informer.until(&[("web", unready), ("other", unready)]).await;
        world.patch_in_vain(&kubelet, "10.0.0.9", true).await;
        let moved = "10.0.0.9 10.9.0.1";
        informer.until(&[("web", moved), ("other", moved)]).await;
        let told: u64 = informer.resource_version.parse().expect("a number");
        assert!(told > world.rig.cloud.revision(), "the cloud never was there");
        assert_eq!(world.rig.status().await["overlaidPods"], 1);

        // What happened in the cloud meanwhile has lower versions than what the informer saw.
        world.write("other", "10.0.0.5", "10.9.0.2");
        assert!(told >= world.rig.cloud.revision());
        world.rig.heal().await;
        informer.until(&[("web", moved), ("other", "10.0.0.9 10.9.0.2")]).await;
        // Not older than a version of the hub's own: answered here, by what is here.
        let not_older = format!("{SLICES}?resourceVersion={told}&resourceVersionMatch=NotOlderThan");
        let (status, list) = world.rig.pod().get(&not_older).await.expect("an answer");
        assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(2)));

        // The cloud learns of the pod, which has moved on; then the controller writes the slices.
        world.rig.cloud.merge(&Gvr::core("pods"), "default", "p", &pod_status("10.0.0.11")).expect("pod p");
        world.write("web", "10.0.0.11", "10.9.0.1");
        world.write("other", "10.0.0.11", "10.9.0.2");
        informer.until(&[("web", "10.0.0.11 10.9.0.1"), ("other", "10.0.0.11 10.9.0.2")]).await;
        assert_eq!(informer.full_syncs, 1);
        world.assert_upstream_knows_all_versions(mark);
        let (hub, clients) = world.rig.transfers(mark, "endpointslices");
        assert!(hub <= 1 && clients == 0, "hub {hub}, clients {clients}");
    });
}

#[test]
fn a_hub_killed_while_cut_shows_the_new_address_again_and_no_version_twice() {
    run(async {
        let mut world = World::new().await;
        let kubelet = world.rig.kubelet();
        let untouched = "10.0.0.5 10.9.0.1";
        let mut informer = Informer::of(world.rig.pod(), SLICES, addresses);
        informer.may_sync_again = true;
        informer.until(&[("web", untouched), ("other", untouched)]).await;
        // Orderly, so that the collections are on disk.
        world.rig.stop_hub().await;
        world.rig.start_hub().await;
        world.await_own_pods().await;
        world.write("web", "10.0.0.5", "10.9.0.3");
        informer.until(&[("web", "10.0.0.5 10.9.0.3"), ("other", untouched)]).await;
        let mark = world.rig.cloud.mark();
        world.rig.cut(LinkState::Refused).await;
        world.patch_in_vain(&kubelet, "10.0.0.9", true).await;
        informer.until(&[("web", "10.0.0.9 10.9.0.3"), ("other", "10.0.0.9 10.9.0.1")]).await;
        let before: u64 = informer.resource_version.parse().expect("a number");
        world.rig.kill_hub().await;
        world.rig.start_hub().await;
        world.patch_in_vain(&kubelet, "10.0.0.10", true).await;
        informer.until(&[("web", "10.0.0.10 10.9.0.3"), ("other", "10.0.0.10 10.9.0.1")]).await;
        let after: u64 = informer.resource_version.parse().expect("a number");
        assert!(after > before, "{after} after {before}");
        assert!(informer.full_syncs <= 2, "a later process knows not what the former told: one list here");
        world.rig.heal().await;
        world.rig.cloud.merge(&Gvr::core("pods"), "default", "p", &pod_status("10.0.0.10")).expect("pod p");
        world.write("web", "10.0.0.10", "10.9.0.4");
        world.write("other", "10.0.0.10", "10.9.0.1");
        informer.until(&[("web", "10.0.0.10 10.9.0.4"), ("other", "10.0.0.10 10.9.0.1")]).await;
        assert!(informer.full_syncs <= 2);
        world.assert_upstream_knows_all_versions(mark);
    });
}

#[test]
fn only_the_nodes_own_kubelet_is_believed_and_only_of_its_own_pods() {
    run(async {
        let world = World::new().await;
        let mut informer = Informer::of(world.rig.pod(), SLICES, addresses);
        let untouched = "10.0.0.5 10.9.0.1";
        informer.until(&[("web", untouched), ("other", untouched)]).await;
        world.rig.cut(LinkState::Refused).await;
        // The pod itself may not say where it is.
        world.patch_in_vain(&world.rig.pod(), "10.6.6.6", true).await;
        let kubelet = world.rig.kubelet();
        let stranger = json!({"metadata": {"uid": "another"}, "status": {"podIP": "10.6.6.6"}});
        for path in [POD_STATUS, "/api/v1/namespaces/default/pods/q/status"] {
            let (status, _) =
                kubelet.call("PATCH", path, STRATEGIC_MERGE, &stranger).await.expect("an answer");
            assert_eq!(status, 503);
        }
        assert_eq!(world.rig.status().await["overlaidPods"], 0);
        world.patch_in_vain(&kubelet, "10.0.0.9", true).await;
        informer.until(&[("web", "10.0.0.9 10.9.0.1"), ("other", "10.0.0.9 10.9.0.1")]).await;
    });
}

#[test]
fn an_object_that_was_never_the_clouds_is_not_written_back_to_it() {
    run(async {
        let world = World::new().await;
        let (kubelet, pod) = (world.rig.kubelet(), world.rig.pod());
        let mut informer = Informer::of(pod.clone(), SLICES, addresses);
        let untouched = "10.0.0.5 10.9.0.1";
        informer.until(&[("web", untouched), ("other", untouched)]).await;
        world.rig.cut(LinkState::Refused).await;
        world.patch_in_vain(&kubelet, "10.0.0.9", true).await;
        let moved = "10.0.0.9 10.9.0.1";
        informer.until(&[("web", moved), ("other", moved)]).await;
        let (status, list) = pod.get(SLICES).await.expect("an answer");
        assert_eq!(status, 200);
        let web =
            list["items"].as_array().expect("items").iter().find(|slice| slice["metadata"]["name"] == "web");
        let mut web = web.expect("slice web").clone();
        web["kind"] = json!("EndpointSlice");
        web["apiVersion"] = json!("discovery.k8s.io/v1");
        world.rig.heal().await;
        world.rig.heal_seen().await;
        let mark = world.rig.cloud.mark();
        let path = format!("{SLICES}/web");
        let (status, answer) = pod.call("PUT", &path, "application/json", &web).await.expect("an answer");
        assert_eq!((status, &answer["reason"]), (409, &json!("Conflict")));
        let written = world.rig.cloud.records_since(mark).into_iter().any(|record| record.verb == "update");
        assert!(!written, "the cloud was asked");
    });
}

/// What node-lifecycle does to a node that it has not heard of: its pods are no longer ready, and their slices say so.
fn mark_not_ready(world: &World) {
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    world.rig.cloud.merge(&Gvr::core("pods"), "default", "p", &not_ready).expect("pod p");
    let mut endpoints = world.endpoints("10.0.0.5", "10.9.0.1");
    endpoints[0]["conditions"] = json!({"ready": false, "serving": false, "terminating": false});
    let patch = json!({"endpoints": endpoints});
    world.rig.cloud.merge(&slices(), "default", "web", &patch).expect("it exists");
}

#[test]
fn at_the_heal_pods_that_the_cloud_gave_up_stay_as_their_kubelet_has_them() {
    run(async {
        // A pod that stayed where it was, of which the kubelet had nothing to say; one that moved; over a restart.
        for (moved, restart) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut world = World::new().await;
            let mut informer = Informer::of(world.rig.pod(), SLICES, addresses);
            informer.may_sync_again = restart;
            let untouched = "10.0.0.5 10.9.0.1";
            informer.until(&[("web", untouched), ("other", untouched)]).await;
            world.rig.cut(LinkState::Refused).await;
            let kubelet = world.rig.kubelet();
            let (ip, shown) = if moved { ("10.0.0.9", "10.0.0.9 10.9.0.1") } else { ("10.0.0.5", untouched) };
            if moved {
                world.patch_in_vain(&kubelet, ip, true).await;
                informer.until(&[("web", shown), ("other", shown)]).await;
            }
            if restart {
                world.rig.stop_hub().await;
                world.rig.start_hub().await;
            }
            mark_not_ready(&world);
            world.rig.cloud.create(&slices(), json!({
                "metadata": {"name": "last", "namespace": "default"}, "addressType": "IPv4", "endpoints": [],
            })).expect("the name is free");
            world.rig.heal().await;
            // The last of the cloud's words is here, and nothing before it took the pod away.
            let mut seen = Vec::new();
            while !informer.cache.contains_key("last") {
                informer.turn().await;
                seen.extend(informer.cache.get("web").cloned());
            }
            seen.dedup();
            assert!(seen.iter().all(|web| web == shown), "moved {moved}, restart {restart}: {seen:?}");
            // The kubelet repairs the status, of one pod after another; a slice may be written between.
            let (status, _) = world.patch_status(&kubelet, ip, true).await;
            assert_eq!(status, 200);
            world
                .rig
                .cloud
                .merge(&slices(), "default", "web", &json!({"metadata": {"labels": {"turn": "2"}}}))
                .expect("web");
            world.write("other", ip, "10.9.0.2");
            informer
                .until_each(
                    &[("web", shown), ("other", &format!("{ip} 10.9.0.2")), ("last", "")],
                    |name, value| {
                        assert!(name != "web" || value == shown, "moved {moved}, restart {restart}: {value}");
                    },
                )
                .await;
            // What the kubelet says after that is believed at once.
            let (status, _) = world.patch_status(&kubelet, ip, false).await;
            assert_eq!(status, 200);
            let unready = format!("{ip}! 10.9.0.1");
            informer.until(&[("web", &unready), ("other", &format!("{ip}! 10.9.0.2")), ("last", "")]).await;
            world.rig.stop_hub().await;
        }
    });
}
