//! While the overlay amends endpoints, clients hold resource versions that the cloud never gave out. In whatever request
//! one comes back, the cloud sees its own version of that state or nothing of it.

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Fault, Principal, RequestMatch, RequestRecord, Rule};
use http::{HeaderName, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::endpoints_follow_the_kubelet_while_cut::{SLICES, World, addresses, pod_status, slices};
use crate::rig::{Informer, POD_USER, run};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const UNTOUCHED: &str = "10.0.0.5 10.9.0.1";
const MOVED: &str = "10.0.0.9 10.9.0.1";
/// One for each way to write; no endpoint of them is on this node.
const REMOTE: [&str; 6] = ["put", "merge", "strategic", "json", "yaml", "delete"];

/// Healed, with slices `web` and `other` still amended, and slices of [`REMOTE`] that are the cloud's word for word
/// but had to be told under versions of the hub's own.
struct Overlaid {
    world: World,
    pod: Client,
    _informer: Informer,
}

impl Overlaid {
    async fn new() -> Self {
        let world = World::new().await;
        for name in REMOTE {
            world.rig.cloud.create(&slices(), remote(name, "10.9.0.7")).expect("the name is free");
        }
        let (kubelet, pod) = (world.rig.kubelet(), world.rig.pod());
        let mut informer = Informer::of(pod.clone(), SLICES, addresses);
        informer.until(&shown(UNTOUCHED, "10.9.0.7")).await;
        world.rig.cut(LinkState::Refused).await;
        // More versions than what follows in the cloud takes.
        for turn in 0..20 {
            world.patch_in_vain(&kubelet, "10.0.0.9", turn % 2 == 1).await;
            let web = if turn % 2 == 1 { MOVED } else { "10.0.0.9! 10.9.0.1" };
            informer.until(&shown(web, "10.9.0.7")).await;
        }
        for name in REMOTE {
            let patch = json!({"endpoints": remote(name, "10.9.0.8")["endpoints"]});
            world.rig.cloud.merge(&slices(), "default", name, &patch).expect("it exists");
        }
        world.rig.heal().await;
        world.rig.heal_seen().await;
        informer.until(&shown(MOVED, "10.9.0.8")).await;
        Self { world, pod, _informer: informer }
    }

    /// The object as clients of the collection have it.
    async fn held(&self, name: &str) -> Value {
        let (status, list) = self.pod.get(&format!("{SLICES}?resourceVersion=0")).await.expect("an answer");
        assert_eq!(status, 200);
        let items = list["items"].as_array().expect("items");
        let mut object = items.iter().find(|item| item["metadata"]["name"] == name).expect(name).clone();
        object["kind"] = json!("EndpointSlice");
        object["apiVersion"] = json!("discovery.k8s.io/v1");
        assert!(version(&object) > self.world.rig.cloud.revision(), "{name} has the hub's own version");
        object
    }

    async fn send(&self, method: &str, name: &str, media: &str, body: &str) -> (u16, Value) {
        let body = Bytes::from(body.to_owned());
        send(&self.pod, method, &format!("{SLICES}/{name}"), media, body).await
    }
}

async fn send(client: &Client, method: &str, path: &str, media: &str, body: Bytes) -> (u16, Value) {
    let answer = client.send(method, path, media, body).await.expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

fn remote(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"}, "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "nodeName": "n2", "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    })
}

fn shown<'a>(own: &'a str, elsewhere: &'a str) -> Vec<(&'a str, &'a str)> {
    let remote = REMOTE.into_iter().map(|name| (name, elsewhere));
    [("web", own), ("other", own)].into_iter().chain(remote).collect()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a version")
}

fn is_write(record: &RequestRecord) -> bool {
    matches!(&*record.verb, "update" | "patch" | "delete")
}

/// Every way to depend on a version in a body.
fn writes(name: &str, held: &Value) -> [(&'static str, &'static str, String); 6] {
    let version = &held["metadata"]["resourceVersion"];
    let labels = json!({"written": "yes"});
    let mut put = held.clone();
    put["metadata"]["labels"] = labels.clone();
    let metadata = json!({"metadata": {"resourceVersion": version, "labels": labels}});
    let operations = json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "add", "path": "/metadata/labels", "value": labels},
    ]);
    let yaml = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nendpoints: []\n\
         metadata:\n  name: {name}\n  resourceVersion: {version}\n  labels:\n    written: 'yes'\n"
    );
    [
        ("PUT", JSON, put.to_string()),
        ("PATCH", MERGE, metadata.to_string()),
        ("PATCH", STRATEGIC_MERGE, metadata.to_string()),
        ("PATCH", JSON_PATCH, operations.to_string()),
        ("PATCH", APPLY, yaml),
        ("DELETE", JSON, json!({"preconditions": {"resourceVersion": version}}).to_string()),
    ]
}

#[test]
fn a_write_that_depends_on_a_state_of_the_clouds_names_it_by_the_clouds_version() {
    run(async {
        let overlaid = Overlaid::new().await;
        for (index, name) in REMOTE.into_iter().enumerate() {
            let held = overlaid.held(name).await;
            let (method, media, body) = writes(name, &held)[index].clone();
            let query = if media == APPLY { "?fieldManager=test" } else { "" };
            let (status, answer) = overlaid.send(method, &format!("{name}{query}"), media, &body).await;
            assert_eq!(status, 200, "{name}: {answer}");
            if method != "DELETE" {
                assert_eq!(answer["metadata"]["labels"]["written"], "yes", "{name}");
            }
        }
    });
}

#[test]
fn a_write_that_depends_on_a_state_of_this_node_conflicts_and_is_not_sent() {
    run(async {
        let overlaid = Overlaid::new().await;
        let held = overlaid.held("web").await;
        let mark = overlaid.world.rig.cloud.mark();
        for (method, media, body) in writes("web", &held) {
            let (status, answer) = overlaid.send(method, "web", media, &body).await;
            assert_eq!((status, &answer["reason"]), (409, &json!("Conflict")), "{media}");
        }
        // A server takes the parameter for a precondition where there is no body.
        let own = version(&held);
        for path in [format!("{SLICES}/web?resourceVersion={own}"), format!("{SLICES}?resourceVersion={own}")]
        {
            assert_eq!(send(&overlaid.pod, "DELETE", &path, JSON, Bytes::new()).await.0, 409, "{path}");
        }
        let impersonating = HeaderName::from_static("impersonate-user");
        let somebody = overlaid.pod.clone().with_header(impersonating, "somebody");
        let path = format!("{SLICES}/web");
        let body = held.to_string();
        let (status, _) = send(&somebody, "PUT", &path, JSON, body.into()).await;
        assert_eq!(status, 409);
        // Protobuf: an envelope around metadata 1 { resourceVersion 6 }.
        let version = version(&held).to_string();
        let length = u8::try_from(version.len()).expect("short");
        let metadata = [&[6 << 3 | 2, length], version.as_bytes()].concat();
        let object = [&[1 << 3 | 2, length + 2], &*metadata].concat();
        let envelope = [b"k8s\0", &[2 << 3 | 2, length + 4][..], &object].concat();
        let media = "application/vnd.kubernetes.protobuf";
        let (status, _) = send(&overlaid.pod, "PUT", &path, media, envelope.into()).await;
        assert_eq!(status, 409);
        assert!(!overlaid.world.rig.cloud.records_since(mark).iter().any(is_write), "the cloud was asked");
    });
}

#[test]
fn a_read_by_such_a_version_is_gone_for_impersonators_and_upgrades_too() {
    run(async {
        let overlaid = Overlaid::new().await;
        let version = version(&overlaid.held("web").await);
        let mark = overlaid.world.rig.cloud.mark();
        let impersonating = HeaderName::from_static("impersonate-user");
        let somebody = overlaid.pod.clone().with_header(impersonating, "somebody");
        let upgrading = overlaid.pod.clone().over_http1().with_header(header::UPGRADE, "websocket");
        let watch = format!("{SLICES}?watch=true&resourceVersion={version}");
        let exact = format!("{SLICES}?resourceVersion={version}&resourceVersionMatch=Exact");
        for client in [&somebody, &upgrading] {
            for path in [&watch, &exact] {
                let (status, answer) = client.get(path).await.expect("an answer");
                assert_eq!((status, &answer["reason"]), (410, &json!("Expired")));
            }
        }
        // Not older than it: the cloud's newest.
        let not_older = format!("{SLICES}?resourceVersion={version}&resourceVersionMatch=NotOlderThan");
        let (status, _) = somebody.get(&not_older).await.expect("an answer");
        assert_eq!(status, 403, "the model lets nobody impersonate");
        overlaid.world.assert_upstream_knows_all_versions(mark);
    });
}

#[test]
fn after_a_restart_what_the_former_hub_told_conflicts_and_what_the_cloud_says_does_not() {
    run(async {
        let mut overlaid = Overlaid::new().await;
        let held = overlaid.held("web").await;
        let rig = &mut overlaid.world.rig;
        rig.stop_hub().await;
        rig.start_hub().await;
        rig.heal_seen().await;
        rig.cloud
            .merge(&slices(), "default", "put", &json!({"metadata": {"labels": {"a": "b"}}}))
            .expect("it");
        let mark = rig.cloud.mark();
        for (method, media, body) in writes("web", &held) {
            let (status, answer) = overlaid.send(method, "web", media, &body).await;
            assert_eq!((status, &answer["reason"]), (409, &json!("Conflict")), "{media}");
        }
        let rig = &overlaid.world.rig;
        let status = |code| Fault::Status { code, retry_after: Some(7) };
        for (fault, expected) in [
            (status(500), 503),
            (Fault::Reset, 503),
            (Fault::Truncate, 503),
            (status(429), 429),
            (status(403), 403),
            (status(401), 401),
        ] {
            let asked = RequestMatch::verb("get").resource("endpointslices").user(POD_USER);
            rig.cloud.fault(asked, 1, fault.clone());
            let (method, media, body) = &writes("web", &held)[0];
            let (status, answer) = overlaid.send(method, "web", media, body).await;
            assert_eq!(status, expected, "nobody knows yet whether another was faster: {fault:?}: {answer}");
        }
        assert!(!rig.cloud.records_since(mark).iter().any(is_write), "the cloud was asked");
        // The cloud's versions rise into those that the former hub might have given out: they are the cloud's.
        let told = version(&held);
        let patch = |turn: u64| json!({"metadata": {"labels": {"turn": turn.to_string()}}});
        let risen = (0..2000).any(|turn| {
            let other = rig.cloud.merge(&slices(), "default", "other", &patch(turn)).expect("it exists");
            version(&other) >= told
        });
        assert!(risen);
        rig.cloud
            .merge(&e2e::cloud::model::Gvr::core("pods"), "default", "p", &pod_status("10.0.0.9"))
            .expect("p");
        let path = format!("{SLICES}/other");
        let (status, mut other) = overlaid.pod.get(&path).await.expect("an answer");
        assert_eq!(status, 200);
        other["metadata"]["labels"] = json!({"written": "yes"});
        let (status, answer) = overlaid.send("PUT", "other", JSON, &other.to_string()).await;
        assert_eq!(status, 200, "{answer}");
    });
}

/// Nine levels of nine aliases: 341 bytes that stand for 400 million texts.
fn aliases() -> String {
    let level = |from: &str, to: &str| format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(","));
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let levels: String = names.windows(2).map(|pair| level(pair[0], pair[1])).collect();
    format!("a: &a [x,x,x,x,x,x,x,x,x]\n{levels}")
}

#[test]
fn yaml_is_read_only_for_who_may_write_and_never_beyond_what_an_object_needs() {
    run(async {
        let overlaid = Overlaid::new().await;
        let rig = &overlaid.world.rig;
        rig.cloud.add_token("reader-token", Principal::new("reader", &[]));
        rig.cloud.allow(Rule::allow("reader", &["get", "list", "watch"], &["endpointslices"]));
        let reader = rig.nobody().with_token("reader-token");
        let path = format!("{SLICES}/put");
        let many_keys: String = (0..200_000).map(|key| format!("k{key}: 1\n")).collect();
        for body in [aliases(), many_keys] {
            let (status, answer) =
                send(&reader, "PUT", &path, "application/yaml", Bytes::from(body.clone())).await;
            assert_eq!((status, &answer["reason"]), (403, &json!("Forbidden")), "it may not write: {answer}");
            let (status, answer) =
                send(&overlaid.pod, "PUT", &path, "application/yaml", Bytes::from(body)).await;
            assert!(matches!(status, 400 | 413), "{status} {answer}");
            let message = answer["message"].as_str().unwrap_or_default();
            assert!(message.contains("send it as JSON"), "the refusal says what to do: {answer}");
        }
    });
}
