//! Selections of a kind share one upstream watch and one set of objects, in whatever order their clients come.

use std::{collections::BTreeMap, time::Duration};

use e2e::cloud::{
    LinkState,
    client::Client,
    model::{Gvr, Principal, RequestRecord, Rule},
};
use serde_json::{Value, json};

use crate::rig::{CLIENT, Informer, Rig, eventually, run};

/// What the kubelet, kube-proxy and CoreDNS of Kubernetes 1.36 ask for.
const KUBELET: &str = "/api/v1/services?fieldSelector=spec.clusterIP!%3DNone";
const KUBE_PROXY: &str = "/api/v1/services?labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name";
const CORE_DNS: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const PROXY_SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name";

fn services() -> Gvr {
    Gvr::core("services")
}

fn service(name: &str, headless: bool) -> Value {
    let labels = if headless { json!({"service.kubernetes.io/headless": ""}) } else { json!({}) };
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"clusterIP": if headless { "None" } else { "10.96.0.10" }, "type": "ClusterIP"},
    })
}

fn shown(object: &Value) -> String {
    object["metadata"]["annotations"]["v"].as_str().unwrap_or_default().to_owned()
}

/// A rig whose cloud has a Service with and one without an address, and users that may see all of them.
async fn rig() -> Rig {
    let mut rig = Rig::new();
    for (name, headless) in [("web", false), ("db", true)] {
        rig.cloud.create(&services(), service(name, headless)).expect("the name is free");
    }
    for user in ["proxy", "dns"] {
        rig.cloud.add_token(&format!("{user}-token"), Principal::new(user, &[]));
        for kind in ["services", "endpointslices"] {
            rig.cloud.allow(Rule::allow(user, &["get", "list", "watch"], &[kind]));
        }
    }
    rig.start_hub().await;
    rig.heal_seen().await;
    rig
}

/// The client of one of the three, by its path.
fn client(rig: &Rig, path: &str) -> Client {
    match path {
        KUBELET => rig.kubelet(),
        KUBE_PROXY | PROXY_SLICES => rig.nobody().with_token("proxy-token"),
        _ => rig.nobody().with_token("dns-token"),
    }
}

fn annotate(rig: &Rig, name: &str, value: &str) {
    let change = json!({"metadata": {"annotations": {"v": value}}});
    rig.cloud.merge(&services(), "default", name, &change).expect("it is there");
}

/// What the hub asked for of a kind since the mark: how many lists and watches, by the selectors in them.
fn asked(rig: &Rig, mark: u64, resource: &str) -> BTreeMap<String, usize> {
    let of_hub = |r: &RequestRecord| {
        r.user_agent != CLIENT && r.gvr.as_ref().is_some_and(|gvr| gvr.resource == resource)
    };
    let mut asked = BTreeMap::new();
    for record in rig.cloud.records_since(mark).into_iter().filter(of_hub) {
        if record.is_list() || record.is_watch() {
            let selectors = record.query.split('&').filter(|pair| pair.contains("Selector")).count();
            let kind = if record.is_full_transfer() { "whole" } else { "watch" };
            *asked.entry(format!("{kind} with {selectors} selectors")).or_default() += 1;
        }
    }
    asked
}

/// How many collections follow a wider one.
async fn followers(rig: &Rig) -> usize {
    let status = rig.status().await;
    let collections = status["collections"].as_array().expect("a list");
    collections.iter().filter(|collection| collection["followsWider"] == true).count()
}

#[test]
fn kubelet_kube_proxy_and_coredns_cost_one_watch_in_every_order() {
    run(async {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for order in orders {
            let rig = rig().await;
            let mark = rig.cloud.mark();
            let mut informers: Vec<Informer> = Vec::new();
            for place in order {
                let path = [KUBELET, KUBE_PROXY, CORE_DNS][place];
                let mut informer = Informer::of(client(&rig, path), path, shown);
                let wanted: &[(&str, &str)] =
                    if path == CORE_DNS { &[("db", ""), ("web", "")] } else { &[("web", "")] };
                informer.until(wanted).await;
                informers.push(informer);
            }
            let mut slices = Vec::new();
            for path in if order[0] == 0 { [SLICES, PROXY_SLICES] } else { [PROXY_SLICES, SLICES] } {
                let mut informer = Informer::of(client(&rig, path), path, shown);
                informer.until(&[]).await;
                slices.push(informer);
            }
            annotate(&rig, "db", "1");
            annotate(&rig, "web", "2");
            for (informer, place) in informers.iter_mut().zip(order) {
                let wanted: &[(&str, &str)] =
                    if place == 2 { &[("db", "1"), ("web", "2")] } else { &[("web", "2")] };
                informer.until(wanted).await;
                assert_eq!(informer.full_syncs, 1, "{order:?}");
            }
            let once = BTreeMap::from([
                ("whole with 0 selectors".to_owned(), 1),
                ("watch with 0 selectors".to_owned(), 1),
            ]);
            assert_eq!(asked(&rig, mark, "services"), once, "{order:?}");
            assert_eq!(asked(&rig, mark, "endpointslices"), once, "{order:?}");
        }
    });
}

#[test]
fn one_collection_serves_them_through_a_cut_and_a_restart() {
    run(async {
        let mut rig = rig().await;
        let mut informers: Vec<Informer> = [KUBE_PROXY, KUBELET, CORE_DNS]
            .iter()
            .map(|path| Informer::of(client(&rig, path), path, shown))
            .collect();
        let all: [&[(&str, &str)]; 3] = [&[("web", "")], &[("web", "")], &[("db", ""), ("web", "")]];
        for (informer, wanted) in informers.iter_mut().zip(all) {
            informer.until(wanted).await;
        }
        rig.cut(LinkState::Refused).await;
        rig.stop_hub().await;
        annotate(&rig, "web", "2");
        rig.start_hub().await;
        let mut fresh = Informer::of(client(&rig, KUBE_PROXY), KUBE_PROXY, shown);
        fresh.until(&[("web", "")]).await;
        let mark = rig.cloud.mark();
        rig.heal().await;
        let all: [&[(&str, &str)]; 3] = [&[("web", "2")], &[("web", "2")], &[("db", ""), ("web", "2")]];
        for (informer, wanted) in informers.iter_mut().zip(all) {
            informer.until(wanted).await;
            assert_eq!(informer.full_syncs, 1, "nobody starts over");
        }
        fresh.until(&[("web", "2")]).await;
        let asked = asked(&rig, mark, "services");
        assert!(asked.keys().all(|what| what == "watch with 0 selectors"), "{asked:?}");
        // The hub's own question whether the history is still the same one is no watch.
        assert!(asked.values().sum::<usize>() <= 1, "{asked:?}");
    });
}

#[test]
fn a_narrow_collection_is_absorbed_by_a_wider_one_and_goes_on_without_it() {
    run(async {
        let mut rig = rig().await;
        rig.end_idle_watches_after(Duration::from_secs(1));
        rig.stop_hub().await;
        rig.start_hub().await;
        rig.heal_seen().await;
        rig.cloud.add_token("team-token", Principal::new("team", &[]));
        let narrow = Rule::allow("team", &["get", "list", "watch"], &["services"]).in_namespace("default");
        rig.cloud.allow(narrow);
        let path = "/api/v1/namespaces/default/services";
        let team = rig.nobody().with_token("team-token");
        let mut narrow = Informer::of(team, path, shown);
        narrow.until(&[("db", ""), ("web", "")]).await;
        let mark = rig.cloud.mark();
        let mut wide = Informer::of(client(&rig, CORE_DNS), CORE_DNS, shown);
        wide.until(&[("db", ""), ("web", "")]).await;
        for round in ["1", "2", "3"] {
            annotate(&rig, "web", round);
            narrow.until(&[("db", ""), ("web", round)]).await;
            wide.until(&[("db", ""), ("web", round)]).await;
        }
        rig.cloud.delete(&services(), "default", "db").expect("it is there");
        narrow.until(&[("web", "3")]).await;
        assert_eq!(followers(&rig).await, 1, "{}", rig.status().await);
        // Nobody reads all of it any more: it is let go, and what followed it goes on from where it stands.
        drop(wide);
        eventually(async || (followers(&rig).await == 0).then_some(())).await;
        annotate(&rig, "web", "4");
        narrow.until(&[("web", "4")]).await;
        assert_eq!((narrow.full_syncs, narrow.refusals), (1, 0));
        let lists = rig.transfers(mark, "services");
        assert_eq!(lists, (1, 0), "the wide one's alone");
    });
}
