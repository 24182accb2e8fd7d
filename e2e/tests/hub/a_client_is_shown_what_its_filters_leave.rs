//! A client behind filters is shown what they leave and nothing else: by LIST, GET, WATCH and WatchList, with the cloud
//! and without, before and after a restart; and before it is known what they leave it is told to come again.

use std::time::Duration;

use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Fault, Gvr, Principal, RequestMatch, RequestRecord, ResourceKind, Rule};
use http::header::{ACCEPT, RETRY_AFTER};
use serde_json::{Value, json};

use crate::rig::{CLIENT, Informer, NODE_USER, POD_USER, Rig, eventually, run};

const PROXY: &str = "system:serviceaccount:kube-system:kube-proxy";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const FAR: &str = "/api/v1/namespaces/default/services/far";
const NEAR: &str = "/api/v1/namespaces/default/services/near";
const WEB_SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-1";

fn pools() -> Gvr {
    Gvr::new("apps.openyurt.io", "v1beta2", "nodepools")
}

fn slices() -> Gvr {
    Gvr::new("discovery.k8s.io", "v1", "endpointslices")
}

fn service(name: &str, kind: &str, annotations: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "annotations": annotations,
            "managedFields": [{"manager": "canary", "operation": "Update"}]},
        "spec": {"type": kind, "clusterIP": "10.96.0.9"}})
}

fn endpoints() -> Value {
    let endpoint =
        |number: u8, node: &str| json!({"addresses": [format!("10.0.0.{number}")], "nodeName": node});
    json!({"metadata": {"name": "web-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
            "managedFields": [{"manager": "canary", "operation": "Update"}]},
        "addressType": "IPv4", "endpoints": [endpoint(1, "n1"), endpoint(2, "n2"), endpoint(3, "n3")]})
}

/// A cloud without pools, whose Service `web` asks for endpoints of the node's pool, and kube-proxy's rights.
fn without_pools() -> Rig {
    let rig = Rig::new();
    rig.cloud.create(&slices(), endpoints()).expect("the name is free");
    let web = service("web", "ClusterIP", &json!({"openyurt.io/topologyKeys": "openyurt.io/nodepool"}));
    rig.cloud.create(&Gvr::core("services"), web).expect("the name is free");
    rig.cloud.add_token("proxy-token", Principal::service_account("kube-system", "kube-proxy"));
    allow_reading(&rig, PROXY);
    rig
}

/// Node n1 and n2 are in pool hangzhou. Of four services `near` opens its ports there, `far` elsewhere, `cloud` is for
/// the cloud only, and `web` asks for endpoints of the pool.
fn rig() -> Rig {
    let rig = without_pools();
    add_pools(&rig, &["n1", "n2"]);
    for object in [
        service("near", "NodePort", &json!({"nodeport.openyurt.io/listen": "hangzhou"})),
        service("far", "NodePort", &json!({"nodeport.openyurt.io/listen": "shanghai"})),
        service("cloud", "LoadBalancer", &json!({"svc.openyurt.io/discard": "true"})),
    ] {
        rig.cloud.create(&Gvr::core("services"), object).expect("the name is free");
    }
    allow_reading(&rig, POD_USER);
    rig
}

fn allow_reading(rig: &Rig, user: &str) {
    rig.cloud.allow(Rule::allow(user, &["get", "list", "watch"], &["services", "endpointslices"]));
}

fn add_pools(rig: &Rig, nodes: &[&str]) {
    rig.cloud.with(|cloud, _| {
        cloud.registry_mut().add(ResourceKind {
            gvr: pools(),
            kind: "NodePool".into(),
            namespaced: false,
            protobuf: false,
            status: true,
            create_only: false,
            columns: Vec::new(),
        });
    });
    let pool = json!({"metadata": {"name": "hangzhou"}, "spec": {"type": "Edge"}});
    rig.cloud.create(&pools(), pool).expect("the name is free");
    set_pool(rig, nodes);
}

fn set_pool(rig: &Rig, nodes: &[&str]) {
    let status = json!({"status": {"nodes": nodes}});
    rig.cloud.merge(&pools(), "", "hangzhou", &status).expect("it exists");
}

fn ask_topology(rig: &Rig, reach: Option<&str>) {
    let patch = json!({"metadata": {"annotations": {"openyurt.io/topologyKeys": reach}}});
    rig.cloud.merge(&Gvr::core("services"), "default", "web", &patch).expect("it exists");
}

fn proxy(rig: &Rig) -> Client {
    rig.nobody().with_token("proxy-token")
}

/// The type of a service, which must have come through the filter of managed fields.
fn kind(object: &Value) -> String {
    assert!(object["metadata"]["managedFields"].is_null(), "unfiltered: {object}");
    object["spec"]["type"].as_str().unwrap_or_default().to_owned()
}

/// The last numbers of a slice's addresses.
fn addresses(object: &Value) -> String {
    assert!(object["metadata"]["managedFields"].is_null(), "unfiltered: {object}");
    let address = |endpoint: &Value| endpoint["addresses"][0].as_str().unwrap_or_default().to_owned();
    let all: Vec<String> = object["endpoints"].as_array().into_iter().flatten().map(address).collect();
    all.join(" ").replace("10.0.0.", "")
}

const SHOWN: [(&str, &str); 2] = [("near", "NodePort"), ("web", "ClusterIP")];

fn services_of(client: Client) -> Informer {
    Informer::of(client, SERVICES, kind)
}

fn slices_of(client: Client) -> Informer {
    Informer::of(client, SLICES, addresses)
}

async fn listed(client: &Client, path: &str, show: fn(&Value) -> String) -> Vec<(String, String)> {
    let (status, list) = client.get(path).await.unwrap();
    assert_eq!(status, 200, "{path} {list}");
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    list["items"].as_array().unwrap().iter().map(|object| (name(object), show(object))).collect()
}

/// What kube-proxy gets by LIST and GET, fresh and from the cache.
async fn reads_are_filtered(client: &Client, endpoints: &str) {
    let services: Vec<(String, String)> = SHOWN.map(|(name, kind)| (name.into(), kind.into())).into();
    for query in ["", "?resourceVersion=0", "?limit=500"] {
        assert_eq!(listed(client, &format!("{SERVICES}{query}"), kind).await, services, "{query}");
        let slices = listed(client, &format!("{SLICES}{query}"), addresses).await;
        assert_eq!(slices, [("web-1".to_owned(), endpoints.to_owned())], "{query}");
    }
    for query in ["", "?resourceVersion=0"] {
        let (status, near) = client.get(&format!("{NEAR}{query}")).await.unwrap();
        assert_eq!((status, kind(&near)), (200, "NodePort".to_owned()), "{query}");
        let (status, slice) = client.get(&format!("{WEB_SLICE}{query}")).await.unwrap();
        assert_eq!((status, addresses(&slice)), (200, endpoints.to_owned()), "{query}");
        let (status, far) = client.get(&format!("{FAR}{query}")).await.unwrap();
        assert_eq!((status, &far["reason"]), (404, &json!("NotFound")), "{query} {far}");
    }
}

#[test]
fn kube_proxy_is_shown_its_pools_services_and_endpoints_by_every_verb() {
    run(async {
        for protocol in ["list", "watchList"] {
            let mut rig = rig();
            if protocol == "watchList" {
                rig.use_watch_list();
            }
            rig.start_hub().await;
            let client = proxy(&rig);
            let (mut services, mut slices) = (services_of(client.clone()), slices_of(client.clone()));
            services.until(&SHOWN).await;
            slices.until(&[("web-1", "1 2")]).await;
            reads_are_filtered(&client, "1 2").await;
            // Somebody else is shown everything as it is.
            let (_, all) = rig.pod().get(SERVICES).await.unwrap();
            assert_eq!(all["items"].as_array().unwrap().len(), 4);
            assert_eq!(all["items"][0]["metadata"]["managedFields"][0]["manager"], "canary");
            rig.cut(LinkState::Refused).await;
            reads_are_filtered(&client, "1 2").await;
            rig.stop_hub().await;
        }
    });
}

#[test]
fn a_change_of_what_filters_read_reaches_open_watches_as_events() {
    run(async {
        let mut rig = rig();
        rig.start_hub().await;
        let client = proxy(&rig);
        let (mut services, mut slices) = (services_of(client.clone()), slices_of(client.clone()));
        services.until(&SHOWN).await;
        slices.until(&[("web-1", "1 2")]).await;
        ask_topology(&rig, Some("kubernetes.io/hostname"));
        slices.until(&[("web-1", "1")]).await;
        ask_topology(&rig, None);
        slices.until(&[("web-1", "1 2 3")]).await;
        ask_topology(&rig, Some("openyurt.io/nodepool"));
        set_pool(&rig, &["n1", "n3"]);
        slices.until(&[("web-1", "1 3")]).await;
        // The node's own label counts before the pool.
        let label = json!({"metadata": {"labels": {"apps.openyurt.io/nodepool": "shanghai"}}});
        rig.cloud.merge(&Gvr::core("nodes"), "", "n1", &label).unwrap();
        services.until(&[("far", "NodePort"), ("web", "ClusterIP")]).await;
        slices.until(&[("web-1", "1")]).await;
        assert_eq!((services.full_syncs, slices.full_syncs), (1, 1), "no list was needed");
        reads_of_the_other_pool(&client).await;
        rig.stop_hub().await;
    });
}

async fn reads_of_the_other_pool(client: &Client) {
    assert_eq!(client.get(NEAR).await.unwrap().0, 404);
    let far = listed(client, SERVICES, kind).await;
    assert_eq!(far.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["far", "web"]);
}

#[test]
fn a_hub_restarted_while_cut_shows_the_same_and_tells_what_changed_meanwhile() {
    run(async {
        for kill in [false, true] {
            let mut rig = rig();
            rig.start_hub().await;
            let client = proxy(&rig);
            let (mut services, mut slices) = (services_of(client.clone()), slices_of(client.clone()));
            services.until(&SHOWN).await;
            slices.until(&[("web-1", "1 2")]).await;
            // Orderly, so that everything is on disk; then again as the case says, while cut.
            rig.stop_hub().await;
            rig.start_hub().await;
            services.until(&SHOWN).await;
            rig.cut(LinkState::Refused).await;
            if kill {
                rig.kill_hub().await;
            } else {
                rig.stop_hub().await;
            }
            set_pool(&rig, &["n1", "n3"]);
            rig.start_hub().await;
            let (mut new_services, mut new_slices) = (services_of(client.clone()), slices_of(client.clone()));
            new_services.until(&SHOWN).await;
            new_slices.until(&[("web-1", "1 2")]).await;
            reads_are_filtered(&client, "1 2").await;
            rig.heal().await;
            slices.until(&[("web-1", "1 3")]).await;
            new_slices.until(&[("web-1", "1 3")]).await;
            services.until(&SHOWN).await;
            for informer in [&services, &slices, &new_services, &new_slices] {
                assert_eq!(informer.full_syncs, 1, "kill {kill}");
            }
            rig.stop_hub().await;
        }
    });
}

#[test]
fn a_cluster_without_pools_is_served_and_after_a_restart_too() {
    run(async {
        let mut rig = without_pools();
        rig.set_filters(json!({"nodePool": "hangzhou"}));
        rig.start_hub().await;
        let client = proxy(&rig);
        slices_of(client.clone()).until(&[("web-1", "1")]).await;
        rig.stop_hub().await;
        rig.cloud.set_all_links(LinkState::Refused).await;
        rig.start_hub().await;
        slices_of(client).until(&[("web-1", "1")]).await;
        rig.stop_hub().await;
    });
}

#[test]
fn who_is_filtered_waits_until_it_is_known_what_filters_read_and_nobody_else_does() {
    run(async {
        let mut rig = rig();
        let lists = RequestMatch::verb("list").resource("nodepools");
        rig.cloud.fault(lists, u32::MAX, Fault::Status { code: 403, retry_after: None });
        rig.start_hub().await;
        let client = proxy(&rig);
        for path in
            [SERVICES, &format!("{SERVICES}?watch=true"), NEAR, &format!("{SLICES}?resourceVersion=0")]
        {
            let answer = client.send("GET", path, "", bytes::Bytes::new()).await.unwrap();
            assert_eq!(answer.status(), 429, "{path}");
            assert!(answer.headers().contains_key(RETRY_AFTER), "{path}");
        }
        let pod = rig.pod();
        let (status, all) = pod.get(SERVICES).await.unwrap();
        assert_eq!((status, all["items"].as_array().unwrap().len()), (200, 4));
        // Mended while cut it is of no use; the cloud has to be heard.
        rig.cloud.clear_faults();
        rig.cut(LinkState::Refused).await;
        assert_eq!(client.get(&format!("{SERVICES}?resourceVersion=0")).await.unwrap().0, 429);
        rig.stop_hub().await;
        rig.heal().await;
        rig.start_hub().await;
        let (mut services, mut slices) = (services_of(client.clone()), slices_of(client));
        services.until(&SHOWN).await;
        slices.until(&[("web-1", "1 2")]).await;
        rig.stop_hub().await;
    });
}

#[test]
fn without_a_client_that_is_filtered_the_hub_reads_nothing_for_filters() {
    run(async {
        let mut rig = rig();
        rig.start_hub().await;
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        let of_hub = |rig: &Rig| {
            let all = rig.cloud.records();
            let own =
                all.into_iter().filter(|record| record.user == NODE_USER && record.user_agent != CLIENT);
            own.map(|record| record.path).collect::<Vec<_>>()
        };
        let for_filters = |path: &String| {
            path.contains("openyurt") || path.starts_with(SERVICES) || path.contains("slices")
        };
        assert_eq!(of_hub(&rig).iter().find(|path| for_filters(path)), None);
        let unused = json!({"inputsKnown": false, "inputsWatched": false, "pool": null});
        assert_eq!(rig.status().await["filters"], unused);
        services_of(proxy(&rig)).until(&SHOWN).await;
        assert!(of_hub(&rig).iter().any(for_filters), "{:?}", of_hub(&rig));
        let used = json!({"inputsKnown": true, "inputsWatched": true, "pool": "hangzhou"});
        assert_eq!(rig.status().await["filters"], used);
        rig.stop_hub().await;
    });
}

#[test]
fn what_filters_read_is_let_go_with_the_last_client_and_read_again_for_the_next() {
    run(async {
        let mut rig = rig();
        rig.end_idle_watches_after(Duration::from_millis(100));
        rig.start_hub().await;
        let client = proxy(&rig);
        let mut slices = slices_of(client.clone());
        slices.until(&[("web-1", "1 2")]).await;
        let watched = |rig: &Rig| {
            let open = rig.cloud.open_streams();
            let resource = |of: &RequestRecord| of.gvr.as_ref().map_or("", |gvr| &gvr.resource).to_owned();
            open.iter().filter(|stream| ["services", "nodepools"].contains(&&*resource(stream))).count()
        };
        assert_eq!(watched(&rig), 2);
        slices.disconnect();
        eventually(async || (watched(&rig) == 0).then_some(())).await;
        set_pool(&rig, &["n1", "n3"]);
        slices.until(&[("web-1", "1 3")]).await;
        assert_eq!(slices.full_syncs, 1);
        reads_are_filtered(&client, "1 3").await;
        rig.stop_hub().await;
    });
}

fn pod_with_address() -> Value {
    json!({"metadata": {"name": "q", "namespace": "default"}, "spec": {"nodeName": "n1", "containers": [
        {"name": "c", "env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "10.96.0.1"},
            {"name": "KUBERNETES_SERVICE_PORT", "value": "443"}]}]}})
}

fn host(pod: &Value) -> String {
    let environment = &pod["spec"]["containers"][0]["env"];
    let value = |at: usize| environment[at]["value"].as_str().unwrap_or_default();
    format!("{}:{}", value(0), value(1))
}

#[test]
fn pods_are_led_to_the_hub_where_it_has_an_address_for_them() {
    run(async {
        for is_led in [false, true] {
            let mut rig = rig();
            rig.cloud.create(&Gvr::core("pods"), pod_with_address()).unwrap();
            let api_server = json!({"metadata": {"name": "kubernetes", "namespace": "default"},
                "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                    "ports": [{"name": "https", "port": 443}]}});
            rig.cloud.create(&Gvr::core("services"), api_server).unwrap();
            if is_led {
                rig.lead_pods_to("169.254.2.1:10261");
            }
            rig.start_hub().await;
            let kubelet = rig.kubelet();
            let (want, want_ip) =
                if is_led { ("169.254.2.1:10261", "169.254.2.1") } else { ("10.96.0.1:443", "10.96.0.1") };
            let own = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1";
            let mut pods = Informer::of(kubelet.clone(), own, host);
            pods.until(&[("p", ":"), ("q", want)]).await;
            for cut in [false, true] {
                if cut {
                    rig.cut(LinkState::Refused).await;
                }
                let (status, pod) = kubelet.get("/api/v1/namespaces/default/pods/q").await.unwrap();
                assert_eq!((status, host(&pod)), (200, want.to_owned()), "cut {cut}");
                let (status, list) = kubelet.get(&format!("{SERVICES}?resourceVersion=0")).await.unwrap();
                assert_eq!(status, 200, "cut {cut}");
                let all = list["items"].as_array().unwrap();
                let found = all.iter().find(|object| object["metadata"]["name"] == "kubernetes").unwrap();
                assert_eq!(found["spec"]["clusterIP"], want_ip, "cut {cut}");
                if !cut {
                    let patch = json!({"status": {"phase": "Running"}});
                    let path = "/api/v1/namespaces/default/pods/q/status";
                    let (status, patched) =
                        kubelet.call("PATCH", path, "application/merge-patch+json", &patch).await.unwrap();
                    assert_eq!((status, host(&patched)), (200, want.to_owned()));
                }
            }
            rig.stop_hub().await;
        }
    });
}

#[test]
fn the_answer_to_a_write_shows_no_more_than_a_read_would() {
    run(async {
        let mut rig = rig();
        rig.cloud.allow(Rule::allow(PROXY, &["patch", "update", "create", "delete"], &["services"]));
        rig.start_hub().await;
        let client = proxy(&rig);
        services_of(client.clone()).until(&SHOWN).await;
        let label = json!({"metadata": {"labels": {"written": "yes"}}});
        let merge = "application/merge-patch+json";
        let far = format!("{FAR}?dryRun=All");
        let (status, answer) = client.call("PATCH", &far, merge, &label).await.unwrap();
        assert_eq!((status, &answer["reason"]), (404, &json!("NotFound")), "{answer}");
        let (status, answer) = client.call("DELETE", &far, merge, &Value::Null).await.unwrap();
        assert!(!answer.to_string().contains("NodePort"), "{status} {answer}");
        // What did happen is not denied; it shows which object it is.
        let (status, answer) = client.call("PATCH", FAR, merge, &label).await.unwrap();
        assert_eq!(
            (status, &answer["metadata"]["name"], &answer["kind"]),
            (200, &json!("far"), &json!("Service"))
        );
        assert_eq!((&answer["spec"], &answer["metadata"]["annotations"]), (&Value::Null, &Value::Null));
        let mut near = client.get(NEAR).await.unwrap().1;
        near["metadata"]["labels"] = json!({"written": "yes"});
        let (status, answer) = client.call("PUT", NEAR, "application/json", &near).await.unwrap();
        assert_eq!(
            (status, kind(&answer), &answer["metadata"]["labels"]["written"]),
            (200, "NodePort".to_owned(), &json!("yes"))
        );
        let mut new = service("new", "LoadBalancer", &json!({"svc.openyurt.io/discard": "true"}));
        for (object, kept) in [
            (new.clone(), false),
            (
                {
                    new["metadata"] = json!({"name": "new"});
                    new
                },
                true,
            ),
        ] {
            let path = "/api/v1/namespaces/default/services?dryRun=All";
            let (status, answer) = client.call("POST", path, "application/json", &object).await.unwrap();
            assert_eq!(status, if kept { 201 } else { 404 }, "{answer}");
        }
        // As kubectl says it.
        let dry = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
        let (_, answer) = client.call("DELETE", FAR, "application/json", &dry).await.unwrap();
        assert!(!answer.to_string().contains("NodePort"), "{answer}");
        assert_eq!(rig.pod().get(FAR).await.unwrap().0, 200, "it did not happen");
        // Where a deletion has a body, the server looks at no parameter.
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        let (status, answer) = client.call("DELETE", &far, "application/json", &options).await.unwrap();
        assert_eq!((status, &answer["spec"]), (200, &Value::Null), "{answer}");
        assert_eq!(rig.pod().get(FAR).await.unwrap().0, 404, "it happened");
        rig.stop_hub().await;
    });
}

#[test]
fn a_wish_that_cannot_be_filtered_is_refused_or_answered_with_whole_objects() {
    run(async {
        let mut rig = rig();
        rig.start_hub().await;
        let client = proxy(&rig);
        let yaml = client.clone().with_header(ACCEPT, "application/yaml");
        let table = "application/json;as=Table;g=meta.k8s.io;v=v1,application/json";
        let table = client.clone().with_header(ACCEPT, table);
        let only_table = client.clone().with_header(ACCEPT, "application/json;as=Table;g=meta.k8s.io;v=v1");
        for path in [SERVICES, NEAR, &format!("{SERVICES}?watch=true")] {
            for client in [&yaml, &only_table] {
                let answer = client.send("GET", path, "", bytes::Bytes::new()).await.unwrap();
                assert_eq!(answer.status(), 406, "{path}");
            }
        }
        assert_eq!(listed(&table, SERVICES, kind).await.len(), 2);
        let (status, near) = table.get(NEAR).await.unwrap();
        assert_eq!((status, &near["kind"]), (200, &json!("Service")));
        // Upgraded, nobody could look into the answer; so it is a plain one.
        let upgrading = client.over_http1().with_header(http::header::UPGRADE, "websocket");
        let upgrading = upgrading.with_header(http::header::CONNECTION, "upgrade");
        assert_eq!(listed(&upgrading, SERVICES, kind).await.len(), 2);
        rig.stop_hub().await;
    });
}

#[test]
fn a_pool_that_appears_later_is_found() {
    run(async {
        let mut rig = without_pools();
        rig.start_hub().await;
        let client = proxy(&rig);
        let mut slices = slices_of(client.clone());
        slices.until(&[("web-1", "1")]).await;
        add_pools(&rig, &["n1", "n3"]);
        // The hub asks again when it starts, and every few minutes.
        rig.stop_hub().await;
        rig.start_hub().await;
        eventually(async || {
            let seen = listed(&client, SLICES, addresses).await;
            (seen == [("web-1".to_owned(), "1 3".to_owned())]).then_some(())
        })
        .await;
        slices.until(&[("web-1", "1 3")]).await;
        assert_eq!(slices.full_syncs, 1);
        rig.stop_hub().await;
    });
}
