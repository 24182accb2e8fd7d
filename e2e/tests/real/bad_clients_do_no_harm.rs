//! Clients that are broken, lazy or hostile get a clear answer or a clean close; the hub lives, its memory stays
//! bounded, and a well-behaved client is served all the while.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use e2e::lab::ClaimedNode;
use http::StatusCode;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::client::{Answer, Client, Door, kubeconfig, text, tls};
use e2e::random::Random;

/// Connections of one flood, as far as this process may hold them.
const FLOOD: usize = 10_000;
/// Watches whose client reads nothing.
const SLOW_READERS: usize = 200;
/// What happens while they do not read: about 12 MiB that each of them would have to be sent.
const CHANGES: usize = 60;
const CHANGE_BYTES: usize = 200 * 1024;
/// What the hub may grow by through all of this, in KiB. Kept whole, the slow readers' events would be 2.4 GiB.
const GROWTH_KIB: u64 = 160 * 1024;
/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(60);

const GARBAGE: [&[u8]; 5] = [
    b"\x00\x00\x00\x00\x00\x00",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\xff\xff\x01\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
];

/// Inside TLS, before any credential.
const BROKEN_HTTP: [&[u8]; 6] = [
    b"GET /api/v1/pods HTT",
    b"\xff\xfe\xfd\xfc\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzzzz\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nContent-Length: 4000000000\r\n\r\n{",
];

struct Scene<'a> {
    node: &'a ClaimedNode,
    door: Door,
    plain: Arc<ClientConfig>,
    good: Client,
    token: String,
}

impl Scene<'_> {
    fn pid(&self) -> i32 {
        let status = self.node.lab().status().expect("the lab stands");
        let node = status.nodes.iter().find(|node| node.name == self.node.name()).expect("it was claimed");
        let hub = node.processes.iter().find(|process| process.name == "hub").expect("it has a hub");
        hub.pid.expect("the hub lives")
    }

    /// Memory that is the hub's own share, in KiB.
    fn memory(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).expect("it lives");
        let line = rollup.lines().find(|line| line.starts_with("Pss:")).expect("the kernel counts it");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// A client that does everything right, on its old connection and on a new one.
    async fn is_served(&self, while_: &str) {
        let path = "/api/v1/namespaces/default/services/kubernetes";
        let new = client(self.node, &self.door, Some(&format!("Bearer {}", self.token)));
        for (which, client) in [("an old", &self.good), ("a new", &new)] {
            let answer = client.send("GET", path, &[("accept", "application/json")], "").await;
            let answer = answer.unwrap_or_else(|error| panic!("{while_}: {which} connection: {error}"));
            assert_eq!(answer.status, StatusCode::OK, "{while_}: {which} connection");
        }
    }
}

/// Sends raw bytes inside TLS, all of `each` at the same time; returns whatever came until the end, by the bytes sent.
async fn raw(scene: &Scene<'_>, each: Vec<Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut exchanges = JoinSet::new();
    for bytes in each {
        let (door, plain) = (scene.door.clone(), Arc::clone(&scene.plain));
        exchanges.spawn(async move {
            let mut tls = door.open(&plain).await.expect("a handshake");
            let mut answer = Vec::new();
            // The hub may close before it has read everything, and then it owes no answer.
            let exchange = async {
                tls.write_all(&bytes).await?;
                tls.shutdown().await?;
                tls.read_to_end(&mut answer).await
            };
            let _ = tokio::time::timeout(LIMIT, exchange).await.expect("the hub answers or closes");
            (bytes, answer)
        });
    }
    exchanges.join_all().await
}

fn client(node: &ClaimedNode, door: &Door, authorization: Option<&str>) -> Client {
    Client::new(door.clone(), tls(node.lab(), None, "h2"), authorization, "bad-clients")
}

fn is_status(answer: &Answer, code: u16) {
    let body = String::from_utf8_lossy(&answer.body);
    let status: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no Status: {body}"));
    assert_eq!(answer.status.as_u16(), code, "{body}");
    assert_eq!(status["kind"], "Status", "{body}");
    assert_eq!(status["code"], code, "{body}");
}

/// As many descriptors as the kernel lets this process have.
fn raise_descriptor_limit() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the kernel tells");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    usize::try_from(hard).unwrap_or(usize::MAX)
}

#[test]
fn bad_clients_do_no_harm() {
    let Some(node) = ClaimedNode::claim("bad_clients_do_no_harm", env!("CARGO_BIN_EXE_eyot"), false) else {
        return;
    };
    let token =
        text(&kubeconfig(&node.lab().node_file(node.name(), "admin.kubeconfig")), "/users/0/user/token");
    let door = Door::hub(&node);
    let scene = Scene {
        good: client(&node, &door, Some(&format!("Bearer {token}"))),
        plain: tls(node.lab(), None, "http/1.1"),
        node: &node,
        door,
        token,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        scene.is_served("before").await;
        let (pid, before) = (scene.pid(), scene.memory());
        wrong_but_polite(&scene).await;
        garbage(&scene).await;
        flood(&scene).await;
        slow_readers(&scene).await;
        scene.is_served("after all").await;
        let after = scene.memory();
        eprintln!("the hub's memory: {before} KiB before, {after} KiB after");
        assert_eq!(scene.pid(), pid, "the same process as before");
        assert!(after < before + GROWTH_KIB, "the hub grew from {before} to {after} KiB");
    });
}

/// Well-formed requests that cannot be granted: each gets a Status that says why.
async fn wrong_but_polite(scene: &Scene<'_>) {
    let json = [("accept", "application/json"), ("content-type", "application/json")];
    let maps = "/api/v1/namespaces/default/configmaps";
    let huge: &'static str = Box::leak("x".repeat(4 * 1024 * 1024).into_boxed_str());
    for header in [None, Some("Bearer x"), Some("Bearer "), Some("Basic Og=="), Some("Bearer a.b.c")] {
        let stranger = client(scene.node, &scene.door, header);
        for (method, path) in
            [("GET", "/api/v1/secrets"), ("GET", "/version"), ("POST", maps), ("GET", "/nowhere")]
        {
            let answer = stranger.send(method, path, &json, "").await.expect("an answer");
            is_status(&answer, 401);
        }
    }
    let answer = scene.good.send("POST", maps, &json, huge).await.expect("an answer");
    is_status(&answer, 413);
    for path in ["/api/v1/namespaces/default/unicorns", "/apis/unicorns.example/v1/unicorns"] {
        let answer = scene.good.send("GET", path, &json, "").await.expect("an answer");
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    let answer = scene.good.send("POST", maps, &json, "{\"kind\":").await.expect("an answer");
    is_status(&answer, 400);
    scene.is_served("after refusals").await;
}

/// Bytes that are no TLS, no HTTP, too much of it or half of it.
async fn garbage(scene: &Scene<'_>) {
    let random = &mut Random::new(7);
    for (number, mut stream) in scene.door.connect_many(300).into_iter().enumerate() {
        let noise: Vec<u8> = (0..random.index(4096)).map(|_| random.next().to_le_bytes()[0]).collect();
        let bytes = GARBAGE.get(number % 8).copied().unwrap_or(&noise);
        // The hub may have closed already: that is an answer, too.
        let _ = stream.write_all(bytes);
    }
    for (bytes, answer) in raw(scene, BROKEN_HTTP.map(<[u8]>::to_vec).into()).await {
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.starts_with("HTTP/1.1 2"), "{bytes:?}: {text}");
    }
    let head = format!("GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n", scene.token);
    let heads = ["x".repeat(1024 * 1024), "a: b\r\n".repeat(5000)]
        .map(|filler| format!("{head}X-Filler: {filler}\r\n\r\n").into_bytes());
    for (_, answer) in raw(scene, heads.into()).await {
        let text = String::from_utf8_lossy(&answer[..answer.len().min(200)]);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    scene.is_served("after garbage").await;
}

/// Thousands of connections that say nothing, and some that begin a request and never end it.
async fn flood(scene: &Scene<'_>) {
    let count = FLOOD.min(raise_descriptor_limit().saturating_sub(1000));
    let mut lorises = Vec::new();
    for _ in 0..100 {
        let mut tls = scene.door.open(&scene.plain).await.expect("a handshake");
        tls.write_all(b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\n").await.expect("the hub reads");
        lorises.push(tls);
    }
    scene.is_served("while 100 clients send half a head").await;
    let door = scene.door.clone();
    let flood = tokio::task::spawn_blocking(move || door.connect_many(count)).await.expect("no panic");
    scene.is_served("in the flood").await;
    let open = flood.iter().filter(|stream| is_open(stream)).count();
    eprintln!("a flood of {} connections: {open} of them still open, {} KiB", flood.len(), scene.memory());
    assert!(open < 3000, "the hub holds {open} connections of strangers");
    drop((flood, lorises));
    scene.is_served("after the flood").await;
}

/// Whether the server has not closed this connection.
fn is_open(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket can");
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Watches that nobody reads, while large objects change.
async fn slow_readers(scene: &Scene<'_>) {
    let name = format!("{}-large", scene.node.name());
    let path =
        format!("/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3D{name}");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nAuthorization: Bearer {}\r\n\r\n",
        scene.token
    );
    let direct = Client::new(
        Door::api_server(scene.node.lab()),
        tls(scene.node.lab(), None, "h2"),
        Some(&format!("Bearer {}", scene.token)),
        "bad-clients",
    );
    let put = async |round: usize| {
        let value = format!("{round:04}{}", "x".repeat(CHANGE_BYTES));
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
                             "data": { "value": value } });
        let apply = format!("/api/v1/namespaces/default/configmaps/{name}?fieldManager=test&force=true");
        let headers = [("content-type", "application/apply-patch+yaml"), ("accept", "application/json")];
        let body: &'static str = Box::leak(object.to_string().into_boxed_str());
        let answer = direct.send("PATCH", &apply, &headers, body).await.expect("the server answers");
        assert!(answer.status.is_success(), "{}", String::from_utf8_lossy(&answer.body));
    };
    put(0).await;
    let mut readers = Vec::new();
    for _ in 0..SLOW_READERS {
        let mut tls = scene.door.open(&scene.plain).await.expect("a handshake");
        tls.write_all(request.as_bytes()).await.expect("the hub reads");
        let mut head = [0; 12];
        tokio::time::timeout(LIMIT, tls.read_exact(&mut head)).await.expect("an answer").expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200");
        readers.push(tls);
    }
    let before = scene.memory();
    for round in 1..=CHANGES {
        put(round).await;
    }
    // One who reads gets the latest state while the others do not read.
    let last = format!("{CHANGES:04}x");
    let current = format!("/api/v1/namespaces/default/configmaps/{name}?resourceVersion=0");
    let mut seen = false;
    // The hub learns of a change by its watch, a moment after the API server has answered who made it.
    for _ in 0..200 {
        let answer = scene.good.send("GET", &current, &[("accept", "application/json")], "").await;
        seen = String::from_utf8_lossy(&answer.expect("an answer").body).contains(&last);
        if seen {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(seen, "who reads sees the latest change");
    eprintln!(
        "{SLOW_READERS} watches that nobody reads: {before} KiB before {CHANGES} changes, {} after",
        scene.memory()
    );
    scene.is_served("beside slow readers").await;
    drop(readers);
    let gone = format!("/api/v1/namespaces/default/configmaps/{name}");
    direct.send("DELETE", &gone, &[], "").await.expect("the server answers");
}
