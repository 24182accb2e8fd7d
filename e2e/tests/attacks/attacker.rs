//! What every attacker has: something worth stealing in the cloud and in the hub, raw bytes inside TLS, and an eye for
//! what came back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Principal, Rule};
use e2e::cloud::pki::Identity;
use http_body_util::BodyExt as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::rig::{CLIENT, Informer, Rig};

/// What no attacker may see: in a Secret, in a ConfigMap, and in a Secret of another namespace.
pub(crate) const CANARY: &str = "canary-7f3a9c51";
pub(crate) const SECRETS: &str = "/api/v1/namespaces/default/secrets";
pub(crate) const SECRET: &str = "/api/v1/namespaces/default/secrets/s";
/// Turns a hang into a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// A cloud with what is worth stealing, and a hub that holds it for an operator who may read everything.
pub(crate) async fn scene() -> (Rig, Client) {
    let mut rig = Rig::new();
    let operator = furnish(&mut rig);
    rig.start_hub().await;
    rig.heal_seen().await;
    let operator = rig.nobody().with_token(operator);
    hold(&rig, &operator).await;
    (rig, operator)
}

/// The cloud's part of the scene; the operator's token.
pub(crate) fn furnish(rig: &mut Rig) -> &'static str {
    for (kind, object) in [
        (
            "secrets",
            json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"c": STANDARD.encode(CANARY)}}),
        ),
        (
            "secrets",
            json!({"metadata": {"name": "s", "namespace": "kube-system"}, "data": {"c": STANDARD.encode(CANARY)}}),
        ),
        (
            "configmaps",
            json!({"metadata": {"name": "hidden", "namespace": "kube-system", "labels": {"app": "hidden"}}, "data": {"c": CANARY}}),
        ),
        ("nodes", json!({"metadata": {"name": "n2", "annotations": {"c": CANARY}}})),
        ("serviceaccounts", json!({"metadata": {"name": "other", "namespace": "default"}})),
        (
            "pods",
            json!({"metadata": {"name": "q", "namespace": "default", "annotations": {"c": CANARY}},
                "spec": {"nodeName": "n2", "serviceAccountName": "other"}}),
        ),
    ] {
        rig.cloud.create(&Gvr::core(kind), object).expect("the name is free");
    }
    rig.cloud.add_token("operator-token", Principal::new("operator", &["operators"]));
    rig.cloud.allow(Rule::allow("operator", &["*"], &["*"]));
    "operator-token"
}

/// The hub comes to hold all of it, and has the pod's own collection, too.
pub(crate) async fn hold(rig: &Rig, operator: &Client) {
    for kind in ["secrets", "configmaps", "pods", "nodes"] {
        let (status, list) =
            operator.get(&format!("/api/v1/{kind}?resourceVersion=0")).await.expect("an answer");
        assert_eq!(status, 200, "{kind}");
        assert!(shows(list.to_string().as_bytes()), "the operator sees what is worth stealing among {kind}");
    }
    Informer::new(rig.pod()).until(&[("a", "1"), ("b", "1")]).await;
}

/// Whether the canary is among these bytes, as it is or in base64.
pub(crate) fn shows(bytes: &[u8]) -> bool {
    let encoded = STANDARD.encode(CANARY);
    [CANARY.as_bytes(), encoded.trim_end_matches('=').as_bytes()]
        .iter()
        .any(|wanted| bytes.windows(wanted.len()).any(|window| window == *wanted))
}

/// Code and whole body of a request without one.
pub(crate) async fn ask(client: &Client, method: &str, path: &str) -> (u16, Bytes) {
    post(client, method, path, "", Bytes::new()).await
}

/// Code and whole body; a watch is ended by its own `timeoutSeconds`.
pub(crate) async fn post(client: &Client, method: &str, path: &str, kind: &str, body: Bytes) -> (u16, Bytes) {
    let exchange = async {
        let answer =
            client.send(method, path, kind, body).await.unwrap_or_else(|e| panic!("{method} {path}: {e:?}"));
        let status = answer.status().as_u16();
        // A stream that the other side breaks has shown what it has shown.
        let body = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes);
        (status, body.unwrap_or_default())
    };
    tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(|_| panic!("{method} {path}: no end"))
}

/// TLS that offers HTTP/1.1 alone.
pub(crate) fn http1(roots: Arc<RootCertStore>, identity: Option<&Identity>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows the versions")
        .with_root_certificates(roots);
    let mut tls = match identity {
        Some(identity) => builder
            .with_client_auth_cert(vec![identity.certificate()], identity.key())
            .expect("they belong together"),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls
}

/// The same that offers HTTP/2 alone.
pub(crate) fn http2(roots: Arc<RootCertStore>, identity: Option<&Identity>) -> ClientConfig {
    let mut tls = http1(roots, identity);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    tls
}

/// Sends these bytes inside TLS and reads until the server closes; the writing side stays open.
///
/// # Errors
/// When there is no connection; one that breaks later has shown what it has shown.
pub(crate) async fn raw(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    bytes: &[u8],
) -> std::io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream = TlsConnector::from(tls).connect(name, tcp).await?;
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        stream.read_to_end(&mut answer).await
    };
    // The server may close before it has read everything.
    let _ = tokio::time::timeout(LIMIT, exchange).await.expect("the server answers and closes");
    Ok(answer)
}

/// The code of the first answer; 0 where the connection was closed without one.
pub(crate) fn code(answer: &[u8]) -> u16 {
    let line = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "));
    line.and_then(|line| std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()).unwrap_or_default()
}

/// The head of a request with these lines, which ends its connection.
pub(crate) fn head(line: &str, lines: &[&str]) -> Vec<u8> {
    let mut head = format!("{line}\r\nHost: hub\r\nUser-Agent: {CLIENT}\r\nConnection: close\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}
