//! A process without a credential, or with headers instead of one (rows 01, 02, 07, 51).

use std::sync::Arc;

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::model::Credential;
use e2e::cloud::pki::{Authority, Identity};
use http::HeaderName;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use serde_json::json;

use crate::attacker::{SECRET, ask, code, head, http1, http2, post, raw, scene, shows};
use crate::rig::{CLIENT, CONFIG_MAPS, NODE_USER, Rig, run};

const PATHS: [&str; 20] = [
    "/",
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/status",
    "/version",
    "/api",
    "/apis",
    "/api/v1",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/.well-known/openid-configuration",
    "/debug/pprof/",
    "/debug/pprof/heap",
    "/logs",
    "/api/v1/nodes",
    SECRET,
    "/nowhere",
];

#[test]
fn who_says_nothing_of_itself_gets_401_everywhere() {
    run(async {
        let (rig, _) = scene().await;
        let (nobody, direct) = (rig.nobody().over_one_connection(), rig.direct(None));
        let mark = rig.cloud.mark();
        for path in PATHS {
            assert_eq!(ask(&nobody, "GET", path).await.0, 401, "{path}");
        }
        assert!(rig.cloud.records_since(mark).iter().all(|r| r.user_agent != CLIENT), "the cloud was asked");
        for path in PATHS {
            assert_eq!(ask(&direct, "GET", path).await.0, 401, "{path} directly");
        }
        rig.cut(LinkState::Refused).await;
        for path in PATHS {
            let (status, body) = ask(&nobody, "GET", path).await;
            assert_eq!(status, 401, "{path} while cut");
            assert!(!shows(&body), "{path} while cut");
        }
    });
}

#[test]
fn a_body_that_a_stranger_announces_is_not_waited_for() {
    run(async {
        let (rig, _) = scene().await;
        let tls = Arc::new(http1(rig.authority.roots().unwrap(), None));
        for lines in [["Content-Length: 1073741824"], ["Transfer-Encoding: chunked"]] {
            let request = head(&format!("POST {CONFIG_MAPS} HTTP/1.1"), &lines);
            let answer = raw(rig.hub_address, tls.clone(), &request).await.unwrap();
            assert_eq!(code(&answer), 401, "{}", String::from_utf8_lossy(&answer));
        }
    });
}

#[test]
fn headers_that_name_a_user_make_nobody_another_user() {
    run(async {
        let (rig, _) = scene().await;
        let direct = rig.direct_pod().over_one_connection();
        let hub = rig.pod().over_one_connection();
        let mark = rig.cloud.mark();
        for (name, value) in [
            ("x-remote-user", "system:admin"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-scopes", "all"),
            ("impersonate-user", "operator"),
            ("impersonate-group", "system:masters"),
            ("impersonate-uid", "0"),
            ("impersonate-extra-scopes", "all"),
            ("x-forwarded-user", "operator"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-http-method-override", "DELETE"),
            ("x-original-url", SECRET),
            ("x-rewrite-url", SECRET),
            ("proxy-authorization", "Bearer operator-token"),
            ("cookie", "token=operator-token"),
            ("forwarded", "for=127.0.0.1;by=operator"),
            ("x-ssl-client-cert", "CN=operator"),
        ] {
            let name = HeaderName::from_static(name);
            for path in [SECRET, "/api/v1/secrets?resourceVersion=0", CONFIG_MAPS] {
                let (wanted, _) = ask(&direct.clone().with_header(name.clone(), value), "GET", path).await;
                let (status, body) = ask(&hub.clone().with_header(name.clone(), value), "GET", path).await;
                assert_eq!(status, wanted, "{name} {path}");
                assert!(!shows(&body), "{name} {path}");
            }
        }
        let others = rig.cloud.records_since(mark).into_iter().filter(|r| r.user_agent == CLIENT);
        let others: Vec<_> = others.filter(|r| r.user != crate::rig::POD_USER).collect();
        assert!(others.is_empty(), "asked as somebody else: {others:?}");
    });
}

#[test]
fn of_two_authorizations_none_is_chosen_to_the_askers_advantage() {
    run(async {
        let (rig, _) = scene().await;
        let pod = rig.pod().token().unwrap().to_owned();
        let tls = Arc::new(http1(rig.authority.roots().unwrap(), None));
        for (first, second) in
            [(pod.as_str(), "operator-token-guess"), ("guess", pod.as_str()), (pod.as_str(), pod.as_str())]
        {
            let lines = [format!("Authorization: Bearer {first}"), format!("Authorization: Bearer {second}")];
            let request = head(&format!("GET {SECRET} HTTP/1.1"), &[&lines[0], &lines[1]]);
            let answer = raw(rig.hub_address, tls.clone(), &request).await.unwrap();
            assert!(matches!(code(&answer), 400 | 401 | 403), "{}", String::from_utf8_lossy(&answer));
            assert!(!shows(&answer));
        }
    });
}

/// A certificate of `authority` for the user, in a pair of its own.
fn signed(authority: &Authority, user: &str, group: Option<&str>) -> Identity {
    authority.certificate_for(user, group, ExtendedKeyUsagePurpose::ClientAuth).expect("a certificate")
}

/// Certificates that are not this node's own, by what is wrong with each.
fn wrong_certificates(rig: &Rig) -> Vec<(&'static str, Identity)> {
    let (other, same_name) = (Authority::new("other").unwrap(), Authority::new("test").unwrap());
    let leaf = signed(&rig.authority, NODE_USER, Some("system:nodes"));
    let by_leaf = Authority::load(&leaf.certificate_pem, &leaf.key_pem).unwrap();
    let nodes = Some("system:nodes");
    let days = time::Duration::days;
    vec![
        ("another authority's", signed(&other, NODE_USER, nodes)),
        ("an authority's of the same name", signed(&same_name, NODE_USER, nodes)),
        ("signed by the node's own certificate", signed(&by_leaf, NODE_USER, nodes)),
        ("another node's", rig.authority.node("n2").unwrap()),
        ("an administrator's", signed(&rig.authority, "admin", Some("system:masters"))),
        ("the node's name without its group", signed(&rig.authority, NODE_USER, None)),
        ("the node's name in another group", signed(&rig.authority, NODE_USER, Some("system:masters"))),
        ("a name that begins with the node's", signed(&rig.authority, "system:node:n11", nodes)),
        ("the node's name in capitals", signed(&rig.authority, "system:node:N1", nodes)),
        ("the node's name with a space", signed(&rig.authority, "system:node:n1 ", nodes)),
        ("the bare name", signed(&rig.authority, "n1", nodes)),
        ("an empty node's", signed(&rig.authority, "system:node:", nodes)),
        ("a server's", rig.authority.server(&["127.0.0.1"]).unwrap()),
        (
            "the node's name for servers",
            rig.authority.certificate_for(NODE_USER, nodes, ExtendedKeyUsagePurpose::ServerAuth).unwrap(),
        ),
        ("one that has ended", rig.authority.node_in("n1", days(-3)).unwrap()),
    ]
}

#[test]
fn no_certificate_but_the_nodes_own_opens_the_hub() {
    run(async {
        let (rig, _) = scene().await;
        let wrong = wrong_certificates(&rig);
        let mark = rig.cloud.mark();
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            for (what, identity) in &wrong {
                for path in ["/api/v1/nodes/n1", SECRET] {
                    // Refused in the handshake or by 401: either way nothing is served.
                    if let Ok(answer) = rig.client(Some(identity)).send("GET", path, "", Bytes::new()).await {
                        assert_eq!(answer.status().as_u16(), 401, "{what}, cut {cut}");
                    }
                }
            }
            assert_eq!(
                ask(&rig.kubelet(), "GET", "/api/v1/nodes/n1").await.0,
                200,
                "the node's own, cut {cut}"
            );
        }
        let passed = rig.cloud.records_since(mark).into_iter().filter(|r| {
            r.user_agent == CLIENT && !(r.credential == Credential::Certificate && r.user == NODE_USER)
        });
        assert_eq!(passed.count(), 0, "the cloud was asked");
    });
}

/// Shows a certificate and signs with another key, as who copied the public half does.
#[derive(Debug)]
struct WithoutItsKey(Arc<CertifiedKey>);

impl ResolvesClientCert for WithoutItsKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_certificate_without_its_key_opens_nothing() {
    run(async {
        let (rig, _) = scene().await;
        let thief = rig.authority.node("n1").unwrap();
        let key = rustls::crypto::ring::sign::any_supported_type(&thief.key()).unwrap();
        let pair = Arc::new(CertifiedKey::new(vec![rig.node.certificate()], key));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let tls = rustls::ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(rig.authority.roots().unwrap())
                .with_client_cert_resolver(Arc::new(WithoutItsKey(pair.clone())));
            let request = head("GET /api/v1/nodes/n1 HTTP/1.1", &[]);
            let answer = raw(rig.hub_address, Arc::new(tls), &request).await.unwrap_or_default();
            assert!(matches!(code(&answer), 0 | 401), "{version:?}: {}", String::from_utf8_lossy(&answer));
        }
    });
}

#[test]
fn heads_without_measure_are_refused_and_others_are_served_meanwhile() {
    run(async {
        let (rig, _) = scene().await;
        let tls = Arc::new(http1(rig.authority.roots().unwrap(), None));
        let kubelet = rig.kubelet().over_one_connection();
        let line = "GET /version HTTP/1.1";
        let long = "x".repeat(40 * 1024);
        let huge = "x".repeat(8 * 1024 * 1024);
        let bombs = [
            ("40 KB of one field", head(line, &[&format!("X-Filler: {long}")])),
            ("8 MB of one field", head(line, &[&format!("X-Filler: {huge}")])),
            ("5000 fields", head(line, &vec!["a: b"; 5000])),
            ("a path of 100 KB", head(&format!("GET /{} HTTP/1.1", "x".repeat(100_000)), &[])),
            ("a method of 100 KB", head(&format!("{} / HTTP/1.1", "X".repeat(100_000)), &[])),
            ("a token of 20 KB", head(line, &[&format!("Authorization: Bearer {}", &long[..20_000])])),
        ];
        for (what, request) in bombs {
            let answer = raw(rig.hub_address, tls.clone(), &request).await.unwrap();
            assert!(matches!(code(&answer), 0 | 400..=499), "{what}: {}", code(&answer));
            assert_eq!(ask(&kubelet, "GET", "/api/v1/nodes/n1").await.0, 200, "beside {what}");
        }
    });
}

#[test]
fn frames_that_carry_nothing_end_a_connection_soon_and_others_are_served_meanwhile() {
    run(async {
        let (rig, _) = scene().await;
        let kubelet = rig.kubelet().over_one_connection();
        let frame = |kind: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).expect("short");
            [&[0, 0, length, kind, 0, 0, 0, 0, 0], payload].concat()
        };
        let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, b"")].concat();
        // As this node, too: a program that holds its certificate is no less of a nuisance.
        for identity in [None, Some(&rig.node)] {
            let tls = Arc::new(http2(rig.authority.roots().unwrap(), identity));
            for (what, one) in [("PING", frame(6, b"12345678")), ("SETTINGS", frame(4, b""))] {
                let flood = [begin.clone(), one.repeat(100_000)].concat();
                let attack = || raw(rig.hub_address, tls.clone(), &flood);
                let floods = async { tokio::join!(attack(), attack(), attack(), attack()) };
                let beside = async {
                    for turn in 0..8 {
                        let (status, _) = ask(&kubelet, "GET", "/api/v1/nodes/n1").await;
                        assert_eq!(status, 200, "{turn} beside {what}");
                    }
                };
                let (answers, ()) = tokio::join!(floods, beside);
                for answer in [answers.0, answers.1, answers.2, answers.3] {
                    let answers = answer.expect("a connection").len();
                    // Each of the first few thousand is answered at most.
                    assert!(answers < 17 * 4000, "{what}: {answers} bytes came back");
                }
            }
        }
    });
}

#[test]
fn a_body_that_unpacks_to_more_than_it_is_stays_what_it_is() {
    use std::io::Write as _;
    run(async {
        let (rig, _) = scene().await;
        let pack = |bytes: &[u8]| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            packed.write_all(bytes).unwrap();
            packed.finish().unwrap()
        };
        let once = pack(&vec![b' '; 32 * 1024 * 1024]);
        let twice = pack(&once);
        let (hub, direct) = (rig.pod(), rig.direct_pod());
        for (coding, body) in [("gzip", &once), ("gzip", &twice), ("gzip, gzip", &twice), ("deflate", &once)]
        {
            let coded = |client: &e2e::cloud::client::Client| {
                client.clone().with_header(http::header::CONTENT_ENCODING, coding)
            };
            let body = Bytes::from(body.clone());
            let wanted = post(&coded(&direct), "POST", CONFIG_MAPS, "application/json", body.clone()).await.0;
            let (status, answer) = post(&coded(&hub), "POST", CONFIG_MAPS, "application/json", body).await;
            assert_eq!(status / 100, wanted / 100, "{coding}: {}", String::from_utf8_lossy(&answer));
            assert_eq!(status / 100, 4, "{coding}");
        }
        let object = json!({"metadata": {"name": "x", "namespace": "default"}});
        assert_eq!(hub.call("POST", CONFIG_MAPS, "application/json", &object).await.unwrap().0, 403);
    });
}
