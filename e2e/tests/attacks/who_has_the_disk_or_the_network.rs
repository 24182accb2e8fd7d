//! Who reads the node's disk, the hub's own pages and its log, or reaches its port from the LAN (rows 15, 16, 18).

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::cloud::LinkState;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::attacker::{CANARY, SECRET, ask, scene, shows};
use crate::rig::{Rig, run};

/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(30);

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("it is readable") {
            let path = entry.expect("it is readable").path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// What of a credential and of a Secret must not be found: itself, and the hash by which a token could be recognised.
fn traces(rig: &Rig) -> Vec<Vec<u8>> {
    let token = rig.pod().token().expect("a token").to_owned();
    let signature = token.rsplit('.').next().expect("a signature").as_bytes().to_vec();
    let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    let hexadecimal = hash.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    vec![
        signature,
        b"operator-token".to_vec(),
        hash.as_ref().to_vec(),
        hexadecimal.into_bytes(),
        URL_SAFE_NO_PAD.encode(hash.as_ref()).into_bytes(),
    ]
}

fn find(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// What the whole process logs, at every level, of the hub's own.
static LOG: Mutex<String> = Mutex::new(String::new());

struct Listener;

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        ["edge_hub", "proto"].iter().any(|house| metadata.target().starts_with(house))
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut Line(&mut LOG.lock().unwrap_or_else(PoisonError::into_inner)));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Line(&mut LOG.lock().unwrap_or_else(PoisonError::into_inner)));
    }

    fn event(&self, event: &Event<'_>) {
        let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        event.record(&mut Line(&mut log));
        log.push('\n');
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A page of the admin socket.
async fn page(rig: &Rig, path: &str) -> Vec<u8> {
    let mut socket = UnixStream::connect(rig.folder.path().join("admin.sock")).await.expect("the socket");
    let request = format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it is read");
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, socket.read_to_end(&mut answer)).await.expect("an end").expect("an answer");
    answer
}

#[test]
fn no_secret_and_no_token_is_on_the_disk_in_the_log_or_on_a_page_of_the_hub() {
    // Set by this test alone; the others of this process are heard, too.
    tracing::subscriber::set_global_default(Listener).expect("the first");
    run(async {
        let (mut rig, operator) = scene().await;
        let kubelet = rig.kubelet();
        let path = "/api/v1/namespaces/default/serviceaccounts/reader/token";
        let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
            "spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 3607,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}});
        let (status, kept) = kubelet.call("POST", path, "application/json", &request).await.unwrap();
        assert_eq!(status, 201);
        let kept = kept["status"]["token"].as_str().unwrap().rsplit('.').next().unwrap().as_bytes().to_vec();
        assert_eq!(ask(&operator, "GET", SECRET).await.0, 200);
        rig.cut(LinkState::Refused).await;
        ask(&rig.pod(), "GET", SECRET).await;
        assert_eq!(ask(&operator, "GET", "/api/v1/secrets?resourceVersion=0").await.0, 200, "it is held");
        let mut traces = traces(&rig);
        traces.push(kept);
        for name in ["/metrics", "/status", "/livez", "/readyz"] {
            let shown = page(&rig, name).await;
            assert!(shown.starts_with(b"HTTP/1.1 "), "{name}");
            assert!(!shows(&shown) && !traces.iter().any(|trace| find(&shown, trace)), "{name}");
        }
        rig.stop_hub().await;
        let held = files(&rig.folder.path().join("state"));
        let bytes: usize = held
            .iter()
            .map(|file| {
                let content = fs::read(file).expect("it is readable");
                assert!(!shows(&content), "{}", file.display());
                assert!(!traces.iter().any(|trace| find(&content, trace)), "{}", file.display());
                // Not even what is called how.
                assert!(!find(&content, b"kube-system"), "{}", file.display());
                content.len()
            })
            .sum();
        assert!(bytes > 4096, "something is kept: {bytes}");
        let log = LOG.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(log.len() > 100, "it was heard: {log}");
        assert!(!shows(log.as_bytes()), "{CANARY} in the log");
        assert!(!traces.iter().any(|trace| find(log.as_bytes(), trace)), "a token in the log");
    });
}

#[test]
fn keys_and_the_admin_socket_are_the_hubs_users_alone() {
    run(async {
        let mut rig = Rig::new();
        rig.use_own_authority();
        rig.start_hub().await;
        rig.heal_seen().await;
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&rig.folder.path().join("admin.sock")) & 0o077, 0, "the admin socket");
        let keys: Vec<PathBuf> = files(&rig.folder.path().join("state"))
            .into_iter()
            .filter(|file| file.extension().is_some_and(|kind| kind == "key"))
            .collect();
        assert!(keys.len() >= 2, "of the store and of the authority: {keys:?}");
        for key in keys {
            assert_eq!(mode(&key), 0o600, "{}", key.display());
        }
    });
}

#[test]
fn the_hub_listens_where_it_was_told_to_and_nowhere_else() {
    run(async {
        let (rig, _) = scene().await;
        let port = format!("{:04X}", rig.hub_address.port());
        let mut seen = 0;
        for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let (local, state) = (fields[1], fields[3]);
                if state == "0A" && local.ends_with(&format!(":{port}")) {
                    // An address in the kernel's byte order ends with its first byte: 127.
                    assert!(table.ends_with("tcp") && local[..8].ends_with("7F"), "{table}: {local}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 0, "the hub's own is among them");
    });
}

/// A ClientHello of this version that offers these cipher suites (RFC 5246, 7.4.1.2).
fn client_hello(version: [u8; 2], suites: &[u16]) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("it is short").to_be_bytes();
        [&length[..], bytes].concat()
    };
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let groups = [&[0, 10][..], &sized(&sized(&[0, 29, 0, 23]))].concat();
    let points = [&[0, 11][..], &sized(&[1, 0])].concat();
    // ECDSA and RSA with SHA-256, and the old ones with SHA-1.
    let signatures = [&[0, 13][..], &sized(&sized(&[4, 3, 8, 4, 4, 1, 2, 3, 2, 1]))].concat();
    let extensions = sized(&[groups, points, signatures].concat());
    let body = [&version[..], &[7; 32], &[0], &sized(&suites), &[1, 0], &extensions].concat();
    let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    [&[0x16, 3, version[1].min(1)][..], &sized(&handshake)].concat()
}

/// The first bytes that come back.
async fn first_bytes(rig: &Rig, sent: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(rig.hub_address).await.expect("it listens");
    stream.write_all(sent).await.expect("it reads");
    let mut answer = [0; 6];
    let mut length = 0;
    let exchange = async {
        while length < answer.len() {
            match stream.read(&mut answer[length..]).await {
                Ok(0) | Err(_) => break,
                Ok(read) => length += read,
            }
        }
    };
    tokio::time::timeout(LIMIT, exchange).await.expect("the hub answers or closes");
    answer[..length].to_vec()
}

#[test]
fn old_tls_is_refused_in_the_handshake() {
    run(async {
        let (rig, _) = scene().await;
        const TLS12: [u8; 2] = [3, 3];
        let forward_secret = [0xc02b, 0xc02f];
        let server_hello = |answer: &[u8]| answer.first() == Some(&0x16) && answer.get(5) == Some(&2);
        let good = first_bytes(&rig, &client_hello(TLS12, &forward_secret)).await;
        assert!(server_hello(&good), "TLS 1.2 with ECDHE and GCM is spoken: {good:?}");
        for (what, version, suites) in [
            ("SSL 3", [3, 0], &forward_secret[..]),
            ("TLS 1.0", [3, 1], &[0xc009, 0xc013, 0x002f]),
            ("TLS 1.1", [3, 2], &[0xc009, 0xc013, 0x002f]),
            ("CBC", TLS12, &[0xc023, 0xc027, 0xc009, 0xc013]),
            ("3DES", TLS12, &[0xc008, 0xc012, 0x000a]),
            ("no encryption", TLS12, &[0xc006, 0xc010, 0x0002]),
            ("RSA key exchange", TLS12, &[0x009c, 0x003c, 0x002f]),
            ("anonymous", TLS12, &[0xc018, 0x006c, 0x00a6]),
            ("RC4", TLS12, &[0xc007, 0xc011, 0x0005]),
        ] {
            let answer = first_bytes(&rig, &client_hello(version, suites)).await;
            assert!(!server_hello(&answer), "{what}: {answer:?}");
        }
        let plain = first_bytes(&rig, b"GET /version HTTP/1.1\r\nHost: hub\r\n\r\n").await;
        assert!(!plain.starts_with(b"HTTP"), "plain HTTP");
    });
}
