//! Of every built-in kind that the real API server lists, the JSON that the hub makes of protobuf is the JSON that the
//! server itself sends; online, and while cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use e2e::lab::{Lab, Nodes, UpOptions, real_or_skip};
use http::StatusCode;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::client::{Client, Door, kubeconfig, text, tls};

const NODE: &str = "node-1";
/// How often the two are fetched again until they show the same versions: Leases move on every two seconds.
const ROUNDS: u32 = 60;
const PAUSE: Duration = Duration::from_millis(200);
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Objects with something in every corner of the API: each volume, probe and selector, each way to leave a field out.
fn world() -> Vec<Value> {
    serde_json::from_str(include_str!("objects_of_many_kinds.json")).expect("it is an array of objects")
}

fn create(lab: &Lab, objects: &[Value]) {
    let mut kubectl = lab.kubectl().expect("the lab has kubectl");
    kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
    let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kubectl starts");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
    child.stdin.take().expect("it is piped").write_all(list.as_bytes()).expect("kubectl reads");
    assert!(child.wait().expect("kubectl ends").success(), "the world of this test is made");
}

/// The same user at the hub and straight at the server.
struct Both {
    hub: Client,
    direct: Client,
}

impl Both {
    fn new(lab: &Lab, name: &str) -> Self {
        let token = text(&kubeconfig(&lab.node_file(name, "admin.kubeconfig")), "/users/0/user/token");
        let header = format!("Bearer {}", token.trim());
        let tls = tls(lab, None, "h2");
        let client = |door| Client::new(door, tls.clone(), Some(&header), "formats");
        Both { hub: client(Door::hub_of(lab, name)), direct: client(Door::api_server(lab)) }
    }
}

async fn get(client: &Client, path: &str, accept: &str) -> (StatusCode, Value) {
    let answer = client.send("GET", path, &[("accept", accept)], "").await;
    let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
    let body = serde_json::from_slice(&answer.body);
    (answer.status, body.unwrap_or_else(|error| panic!("{path}: {error}: {:?}", answer.body)))
}

/// What the server sends of one kind.
struct Kind {
    path: String,
    /// Protobuf is there, too.
    is_built_in: bool,
}

/// Every resource that can be listed and watched.
async fn kinds(direct: &Client) -> Vec<Kind> {
    let mut versions = vec!["/api/v1".to_owned()];
    let (_, groups) = get(direct, "/apis", "application/json").await;
    for group in groups["groups"].as_array().expect("groups") {
        for version in group["versions"].as_array().expect("versions") {
            versions.push(format!("/apis/{}", version["groupVersion"].as_str().expect("a name")));
        }
    }
    let mut kinds = Vec::new();
    for version in versions {
        let (_, resources) = get(direct, &version, "application/json").await;
        for resource in resources["resources"].as_array().expect("resources") {
            let name = resource["name"].as_str().expect("a name");
            let verbs = resource["verbs"].as_array().expect("verbs");
            if ["list", "watch"].iter().all(|verb| verbs.contains(&json!(verb))) {
                kinds.push(Kind {
                    path: format!("{version}/{name}"),
                    is_built_in: !version.contains("eyot.test"),
                });
            }
        }
    }
    kinds
}

/// Namespace and name, version: which state of which object.
type State = (String, String);

fn states(list: &Value) -> BTreeMap<State, Value> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let field = |item: &Value, name: &str| item["metadata"][name].as_str().unwrap_or_default().to_owned();
    let state = |item: &Value| {
        (format!("{}/{}", field(item, "namespace"), field(item, "name")), field(item, "resourceVersion"))
    };
    items.into_iter().map(|item| (state(&item), item)).collect()
}

/// Fails on a state that both show and show differently.
fn assert_equal_where_both_show_it(
    path: &str,
    shown: &BTreeMap<State, Value>,
    sent: &BTreeMap<State, Value>,
) {
    for (state, made) in shown {
        if let Some(sent) = sent.get(state) {
            assert!(made == sent, "{path} {state:?}:\nmade {made}\nsent {sent}");
        }
    }
}

/// Lists a kind at both until they show the same states; all that the server sent meanwhile.
async fn compare(both: &Both, kind: &Kind, accept: &str) -> BTreeMap<State, Value> {
    let path = format!("{}?resourceVersion=0", kind.path);
    let mut all = BTreeMap::new();
    let mut apart = Vec::new();
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let (sent_status, sent) = get(&both.direct, &path, accept).await;
        let (shown_status, shown) = get(&both.hub, &path, accept).await;
        // Both say so while they fetch a kind for the first time.
        if [sent_status, shown_status].contains(&StatusCode::TOO_MANY_REQUESTS) {
            continue;
        }
        assert_eq!(sent_status, StatusCode::OK, "{path}: {sent}");
        assert_eq!(shown_status, StatusCode::OK, "{path}: {shown}");
        assert_eq!((&shown["kind"], &shown["apiVersion"]), (&sent["kind"], &sent["apiVersion"]), "{path}");
        let (sent, shown) = (states(&sent), states(&shown));
        all.extend(sent.clone());
        assert_equal_where_both_show_it(&path, &shown, &all);
        if sent == shown {
            return all;
        }
        let keys = |map: &BTreeMap<State, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
        apart = keys(&sent).symmetric_difference(&keys(&shown)).cloned().collect();
    }
    panic!("{path}: never the same states: {apart:?}");
}

/// The collections of the hub, as it tells its operator.
async fn collections(socket: &Path) -> Vec<String> {
    let stream = tokio::net::UnixStream::connect(socket).await.expect("the hub's socket");
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP over the socket");
    tokio::spawn(driver);
    let request = http::Request::get("/status").header("host", "hub").body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    let status: Value = serde_json::from_slice(&body).expect("JSON");
    let collections = status["collections"].as_array().expect("collections");
    collections.iter().map(|held| held["collection"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn json_of_every_kind_is_what_the_server_would_send() {
    let test = "json_of_every_kind_is_what_the_server_would_send";
    if real_or_skip(test, false).is_none() {
        return;
    }
    // A lab of its own: what an admin reads here a hub keeps, and other tests count what their hubs keep.
    let own = std::process::id();
    let lab = Lab::up(&UpOptions {
        program: Some(env!("CARGO_BIN_EXE_eyot").into()),
        bound_to: Some(i32::try_from(own).expect("Linux process ids fit an i32")),
        ..UpOptions::new(std::env::temp_dir().join(format!("eyot-formats-{own}")), 1)
    });
    let lab = OwnLab(lab.expect("the lab stands"));
    create(&lab.0, &world());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(compare_all(&lab.0));
}

/// A lab that goes down with its test.
struct OwnLab(Lab);

impl Drop for OwnLab {
    fn drop(&mut self) {
        // The lab also ends by itself with this process; a panic in a drop would hide the test's own.
        let _ = Lab::down(self.0.dir());
        if !std::thread::panicking() {
            // The logs are worth something after a failure only.
            let _ = std::fs::remove_dir_all(self.0.dir());
        }
    }
}

async fn compare_all(lab: &Lab) {
    let both = Both::new(lab, NODE);
    let kinds = kinds(&both.direct).await;
    let mut sent = Vec::new();
    for kind in &kinds {
        let of_kind = compare(&both, kind, "application/json").await;
        compare(&both, kind, METADATA).await;
        sent.push(of_kind);
    }
    let with_objects = sent.iter().filter(|states| !states.is_empty()).count();
    let objects: usize = sent.iter().map(BTreeMap::len).sum();
    println!("{} kinds, {with_objects} of them with objects, {objects} states of objects", kinds.len());
    assert!(with_objects >= 55, "the world of this test has more kinds than {with_objects}");

    let held = collections(&lab.node_file(NODE, "hub.sock")).await;
    for kind in kinds.iter().filter(|kind| kind.is_built_in) {
        let path = kind.path.trim_start_matches("/apis/").trim_start_matches("/api/");
        let of_kind = |form: &str| held.iter().any(|name| *name == format!("{path}{form}"));
        assert!(of_kind(" (Protobuf)"), "{path} is held as protobuf: {held:#?}");
        assert!(!of_kind(" (Json)") && !of_kind(" as metadata (Json)"), "{path} has one collection");
    }

    let this = Nodes::One(NODE.to_owned());
    lab.cut(&this).expect("cut");
    for (kind, sent) in kinds.iter().zip(&sent) {
        let path = format!("{}?resourceVersion=0", kind.path);
        let (status, shown) = get(&both.hub, &path, "application/json").await;
        assert_eq!(status, StatusCode::OK, "{path} while cut: {shown}");
        let shown = states(&shown);
        assert_equal_where_both_show_it(&path, &shown, sent);
        let still = |states: &BTreeMap<State, Value>| states.keys().any(|state| sent.contains_key(state));
        // Leases are renewed and scalers judged all the time: what has moved on in the cloud may have here, too.
        let has_moved = async || {
            let (_, now) = get(&both.direct, &kind.path, "application/json").await;
            !still(&states(&now))
        };
        assert!(sent.is_empty() || still(&shown) || has_moved().await, "{path} while cut: {shown:?}");
    }
}

/// The corners that the objects of this test are there for are in them.
#[test]
fn the_objects_are_many() {
    let world = world();
    let kinds: BTreeSet<_> = world.iter().map(|object| object["kind"].as_str().expect("a kind")).collect();
    assert!(kinds.len() >= 40, "{kinds:?}");
    // It is base64 that has to come out of bytes again.
    let secret = world.iter().find(|object| object["kind"] == "Secret").expect("a Secret");
    let bytes = STANDARD.decode(secret["data"]["bytes"].as_str().expect("data")).expect("base64");
    assert!(std::str::from_utf8(&bytes).is_err(), "bytes that are no text");
}
