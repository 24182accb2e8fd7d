//! Paths, methods and message framing that two servers may read differently (rows 03, 14, 50).

use std::sync::Arc;

use e2e::cloud::LinkState;
use e2e::cloud::model::Credential;
use e2e::random::Random;
use rustls::ClientConfig;
use tokio::task::JoinSet;

use crate::attacker::{ask, code, head, http1, raw, scene, shows};
use crate::rig::{CLIENT, CONFIG_MAPS, POD_USER, Rig, run};

/// Answers by what was sent, from everything at once.
async fn all(address: std::net::SocketAddr, tls: &Arc<ClientConfig>, sent: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut asked = JoinSet::new();
    for (index, bytes) in sent.into_iter().enumerate() {
        let tls = tls.clone();
        asked.spawn(async move { (index, raw(address, tls, &bytes).await.expect("a connection")) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

const SPELLINGS: [&str; 47] = [
    "GET /api/v1/namespaces/default/secrets/s",
    "GET //api/v1/namespaces/default/secrets/s",
    "GET /api//v1/namespaces/default/secrets/s",
    "GET /api/v1//secrets",
    "GET /api/v1/namespaces//default/secrets/s",
    "GET /api/v1/namespaces/default//secrets/s",
    "GET /api/v1/namespaces/default/secrets//s",
    "GET /api/v1/namespaces/default/secrets/s/",
    "GET /api/v1/namespaces/default/secrets/",
    "GET /./api/v1/namespaces/default/secrets/s",
    "GET /api/./v1/namespaces/default/secrets/s",
    "GET /api/v1/namespaces/default/configmaps/../secrets/s",
    "GET /api/v1/namespaces/default/configmaps/a/../../secrets/s",
    "GET /version/../api/v1/namespaces/default/secrets/s",
    "GET /../api/v1/namespaces/default/secrets/s",
    "GET /api/v1/namespaces/default/configmaps/%2e%2e/secrets/s",
    "GET /api/v1/namespaces/default/configmaps/%2E%2E/secrets/s",
    "GET /api/v1/namespaces/default/configmaps/.%2e/secrets/s",
    "GET /api/v1/namespaces/default/configmaps%2f..%2fsecrets/s",
    "GET /api/v1/namespaces/default%2fsecrets%2fs",
    "GET /api/v1/namespaces/default/secrets%2fs",
    "GET /api/v1/namespaces/default/%73ecrets/s",
    "GET /%61pi/v1/namespaces/default/secrets/s",
    "GET /api/v1/namespaces/default/configmaps/%252e%252e/secrets/s",
    "GET /api/v1/namespaces/default/secrets%252fs",
    "GET /api/v1/namespaces/default/secrets/s%00",
    "GET /api/v1/namespaces/default/configmaps/a%00/../secrets/s",
    "GET /api/v1/namespaces/default/secrets/s;x=configmaps",
    "GET /api/v1/namespaces/default/secrets;a/s",
    "GET /api/v1/namespaces/default/secrets/s%3fx",
    "GET /api/v1/namespaces/default/secrets/s%23x",
    "GET /api/v1/namespaces/default/secrets/s%0d%0aX-Remote-User:%20admin",
    "GET /api/v1/namespaces/default/secrets/s%20",
    "GET /API/v1/namespaces/default/secrets/s",
    "GET /api/V1/namespaces/default/Secrets/s",
    "GET /api/v1/namespaces/default/secrets/%ff",
    "GET /api/v1/namespaces/default/secrets/%zz",
    "GET /api/v1/namespaces/default/configmaps\\..\\secrets/s",
    "GET https://hub/api/v1/namespaces/default/secrets/s",
    "GET http://operator@hub/api/v1/namespaces/default/secrets/s",
    "GET *",
    "OPTIONS *",
    "CONNECT hub:443",
    "get /api/v1/namespaces/default/secrets/s",
    "TRACE /api/v1/namespaces/default/secrets/s",
    "PROPFIND /api/v1/namespaces/default/secrets/s",
    "HEAD /api/v1/namespaces/default/secrets/s",
];

fn request(rig: &Rig, line: &str) -> Vec<u8> {
    let token = rig.pod().token().unwrap().to_owned();
    head(&format!("{line} HTTP/1.1"), &[&format!("Authorization: Bearer {token}")])
}

#[test]
fn no_spelling_of_a_path_opens_what_its_plain_form_does_not() {
    run(async {
        let (rig, _) = scene().await;
        let tls = Arc::new(http1(rig.authority.roots().unwrap(), None));
        let sent: Vec<Vec<u8>> = SPELLINGS.iter().map(|line| request(&rig, line)).collect();
        let mark = rig.cloud.mark();
        let hub = all(rig.hub_address, &tls, sent.clone()).await;
        let others = rig.cloud.records_since(mark).into_iter().filter(|r| r.user_agent == CLIENT);
        let others: Vec<_> = others.filter(|r| r.user != POD_USER).collect();
        assert!(others.is_empty(), "asked as somebody else: {others:?}");
        let direct = all(rig.servers[0], &tls, sent.clone()).await;
        for ((line, wanted), answer) in SPELLINGS.iter().zip(&direct).zip(&hub) {
            assert!(!shows(answer), "{line}");
            assert_eq!(code(answer) / 100, code(wanted) / 100, "{line}: {}", String::from_utf8_lossy(answer));
        }
        rig.cut(LinkState::Refused).await;
        for (line, answer) in SPELLINGS.iter().zip(all(rig.hub_address, &tls, sent).await) {
            assert!(!shows(&answer), "{line} while cut");
            assert!(code(&answer) >= 400, "{line} while cut: {}", code(&answer));
        }
    });
}

/// What is smuggled asks for this name; nobody else ever does.
const SMUGGLED: &str = "/api/v1/namespaces/default/configmaps/smuggled";

/// One request or two, by who reads them: where a body ends is told in more than one way.
fn framing(token: &str, inner: &str) -> Vec<(&'static str, String)> {
    let length = inner.len();
    let chunk = format!("{length:x}\r\n{inner}\r\n0\r\n\r\n");
    let post = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    );
    vec![
        (
            "CL.TE",
            format!(
                "{post}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
                length + 5
            ),
        ),
        ("TE.CL", format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{chunk}")),
        (
            "TE.TE",
            format!(
                "{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        ("TE in capitals", format!("{post}Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n{inner}")),
        ("TE with a tab", format!("{post}Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n{inner}")),
        ("TE before a space", format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}")),
        ("TE xchunked", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}")),
        (
            "TE chunked, identity",
            format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"),
        ),
        ("two lengths", format!("{post}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}")),
        ("two lengths in one", format!("{post}Content-Length: 0, {length}\r\n\r\n{inner}")),
        ("a length with a sign", format!("{post}Content-Length: +0\r\n\r\n{inner}")),
        ("a length in hexadecimal", format!("{post}Content-Length: 0x0\r\n\r\n{inner}")),
        ("a negative length", format!("{post}Content-Length: -1\r\n\r\n{inner}")),
        ("a length beyond 64 bits", format!("{post}Content-Length: 18446744073709551616\r\n\r\n{inner}")),
        (
            "a chunk beyond 64 bits",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n{inner}"),
        ),
        (
            "a chunk extension",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n0;x=\r\n{inner}\r\n\r\n{inner}"),
        ),
        ("a chunk without CR", format!("{post}Transfer-Encoding: chunked\r\n\r\n0\n\n{inner}")),
        (
            "a trailer",
            format!("{post}Transfer-Encoding: chunked\r\n\r\n0\r\nX-Remote-User: admin\r\n\r\n{inner}"),
        ),
        ("Expect", format!("{post}Expect: 100-continue\r\nContent-Length: 0\r\n\r\n{inner}")),
    ]
}

/// The same, where a head ends in more than one way, or its connection is to become another.
fn heads(token: &str, inner: &str) -> Vec<(&'static str, String)> {
    let length = inner.len();
    let get = format!("GET {CONFIG_MAPS} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\n");
    vec![
        ("bare LF", format!("{get}X: y\n\n{inner}").replace("\r\n\r\n", "\n\n")),
        ("a folded line", format!("{get}X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n{inner}")),
        ("NUL in a field", format!("{get}X-A: b\0c\r\n\r\n{inner}")),
        ("a body of GET", format!("{get}Content-Length: {length}\r\n\r\n{inner}")),
        (
            "h2c",
            format!(
                "{get}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n{inner}"
            ),
        ),
        (
            "WebSocket",
            format!(
                "{get}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n{inner}"
            ),
        ),
        ("SPDY", format!("{get}Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n{inner}")),
        ("TLS", format!("{get}Connection: Upgrade\r\nUpgrade: TLS/1.3\r\n\r\n{inner}")),
        ("a preface", format!("{get}\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        ("two hosts", format!("{get}Host: operator\r\n\r\n{inner}")),
    ]
}

#[test]
fn nothing_is_smuggled_past_the_question_who_asks() {
    run(async {
        let (rig, _) = scene().await;
        let tls = Arc::new(http1(rig.authority.roots().unwrap(), None));
        let token = rig.pod().token().unwrap().to_owned();
        let inner = format!("GET {SMUGGLED} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
        let sequences = [framing(&token, &inner), heads(&token, &inner)].concat();
        assert!(sequences.len() >= 27);
        let mark = rig.cloud.mark();
        // Whoever read all of it is left with a request that ends the connection.
        let last = head("GET /version HTTP/1.1", &[]);
        let sent = sequences.iter().map(|(_, text)| [text.as_bytes(), &last].concat()).collect();
        let answers = all(rig.hub_address, &tls, sent).await;
        // On the connections that the hub keeps to the cloud nothing is left over, either.
        for _ in 0..4 {
            assert_eq!(ask(&rig.pod(), "GET", CONFIG_MAPS).await.0, 200);
            assert_eq!(ask(&rig.kubelet(), "GET", "/api/v1/nodes/n1").await.0, 200);
        }
        for ((what, _), answer) in sequences.iter().zip(&answers) {
            assert!(!shows(answer), "{what}");
        }
        let seen = rig.cloud.records_since(mark);
        // Nobody who was known asked for it: what stands behind a request is another, and says nothing of who it is.
        let smuggled: Vec<_> = seen.iter().filter(|r| r.path == SMUGGLED).collect();
        assert!(smuggled.is_empty(), "{smuggled:?}");
        let as_node = seen.iter().filter(|r| {
            r.credential == Credential::Certificate
                && r.gvr.as_ref().is_some_and(|g| g.resource == "configmaps")
        });
        assert_eq!(as_node.count(), 0, "the node asked for what a pod sent");
    });
}

/// Requests of the random test, online and cut each; `EYOT_REQUESTS` says otherwise. The seed tells them all.
const REQUESTS: usize = 2500;
const SEED: u64 = 50;

fn draw(random: &mut Random) -> (&'static str, String) {
    let mut pick = |list: &[&'static str]| list[random.index(list.len())];
    let method = pick(&["GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]);
    let group = pick(&[
        "/api/v1",
        "/api/v1/watch",
        "/apis/apps/v1",
        "/apis",
        "/api",
        "",
        "/openapi/v3",
        "/apis/none.example/v1",
    ]);
    let namespace = pick(&[
        "",
        "/namespaces/default",
        "/namespaces/kube-system",
        "/namespaces/none",
        "/namespaces/%2e%2e",
    ]);
    let kind =
        pick(&["", "/secrets", "/configmaps", "/pods", "/nodes", "/services", "/SECRETS", "/secrets%2fs"]);
    let name = pick(&["", "", "/s", "/a", "/q", "/n2", "/%00", "/..", "/é"]);
    let sub = pick(&["", "", "", "/status", "/log", "/exec", "/proxy", "/token", "/proxy/x"]);
    let mut path = format!("{group}{namespace}{kind}{name}{sub}");
    if path.is_empty() {
        path.push('/');
    }
    let mut separator = '?';
    for _ in 0..random.index(4) {
        let keys = [
            "resourceVersion=0",
            "resourceVersion=1",
            "resourceVersion=x",
            "resourceVersion=99999999",
            "limit=1",
            "limit=-1",
            "continue=abc",
            "watch=true",
            "watch=0",
            "timeoutSeconds=1",
            "sendInitialEvents=true",
            "resourceVersionMatch=Exact",
            "resourceVersionMatch=NotOlderThan",
            "allowWatchBookmarks=true",
            "labelSelector=a%3Db",
            "labelSelector=%28",
            "fieldSelector=metadata.name%3Ds",
            "fieldSelector=x%3Dy",
            "pretty=true",
            "dryRun=All",
            "%",
            "&&",
            "=",
        ];
        path.push(separator);
        path.push_str(keys[random.index(keys.len())]);
        separator = '&';
    }
    // A stream ends by itself.
    path.push(separator);
    path.push_str("timeoutSeconds=1");
    (method, path.replace('é', "%C3%A9"))
}

#[test]
fn random_requests_show_nothing_and_break_nothing() {
    run(async {
        let (rig, _) = scene().await;
        let clients =
            [rig.pod(), rig.kubelet(), rig.nobody()].map(e2e::cloud::client::Client::over_one_connection);
        let requests =
            std::env::var("EYOT_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(REQUESTS);
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            let mut random = Random::new(SEED + u64::from(cut));
            for chunk in 0..requests / 50 {
                let mut asked = JoinSet::new();
                for _ in 0..50 {
                    let (method, path) = draw(&mut random);
                    let client = clients[random.index(clients.len())].clone();
                    asked.spawn(async move {
                        let (status, body) = ask(&client, method, &path).await;
                        (method, path, status, body)
                    });
                }
                for (method, path, status, body) in asked.join_all().await {
                    assert!(!shows(&body), "{chunk}: {method} {path}, cut {cut}");
                    assert!(
                        status < 500 || cut && matches!(status, 503 | 504),
                        "{method} {path}, cut {cut}: {status}"
                    );
                }
            }
            assert_eq!(ask(&rig.kubelet(), "GET", "/api/v1/nodes/n1").await.0, 200, "cut {cut}");
        }
    });
}
