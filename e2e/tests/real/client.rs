//! Plain HTTP/2 clients of the lab: the same principal at the node's hub, from inside the node's network namespace, and
//! straight at the API server; and what the API server's audit log says of both.

use std::fs;
use std::io;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use e2e::lab::{ClaimedNode, Lab, in_namespace};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Turns a hang into a failure; nothing waits on it. The API server itself gives up after 60 s.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often a request is sent when its connection is closed under it.
const ATTEMPTS: usize = 5;

/// Where a server listens and how to know it.
#[derive(Clone)]
pub(crate) struct Door {
    address: SocketAddr,
    /// The network namespace to connect from; none is this process's own.
    namespace: Option<String>,
}

impl Door {
    /// The hub of the claimed node.
    pub(crate) fn hub(node: &ClaimedNode) -> Self {
        Self::hub_of(node.lab(), node.name())
    }

    /// The hub of the node `name`.
    pub(crate) fn hub_of(lab: &Lab, name: &str) -> Self {
        let status = lab.status().expect("the lab stands");
        let found = status.nodes.iter().find(|known| known.name == name).expect("a node of the lab");
        let kubeconfig = kubeconfig(&lab.node_file(name, "admin.kubeconfig"));
        let server = text(&kubeconfig, "/clusters/0/cluster/server");
        Door { address: address_of(&server), namespace: Some(found.namespace.clone()) }
    }

    /// The API server, beside every hub and every cut.
    pub(crate) fn api_server(lab: &Lab) -> Self {
        Door { address: address_of(&lab.api_server()), namespace: None }
    }

    /// `count` TCP connections; fewer when one is refused.
    pub(crate) fn connect_many(&self, count: usize) -> Vec<TcpStream> {
        let Door { address, namespace } = self.clone();
        let connect = move || {
            Ok((0..count).map_while(|_| TcpStream::connect_timeout(&address, PATIENCE).ok()).collect())
        };
        match namespace {
            Some(namespace) => in_namespace(&namespace, connect),
            None => connect(),
        }
        .expect("the namespace stands while the lab does, and root may enter it")
    }

    /// One TCP connection.
    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        self.connect_many(1).pop().ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }

    /// One TLS connection.
    pub(crate) async fn open(&self, tls: &Arc<ClientConfig>) -> io::Result<TlsStream<tokio::net::TcpStream>> {
        let door = self.clone();
        let stream = tokio::task::spawn_blocking(move || door.connect()).await.expect("no panic")?;
        stream.set_nonblocking(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(Arc::clone(tls)).connect(name, stream).await
    }
}

fn address_of(server: &str) -> SocketAddr {
    server.trim_start_matches("https://").parse().expect("the lab's servers have plain addresses")
}

/// A kubeconfig of the lab; they are written as JSON.
pub(crate) fn kubeconfig(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("the lab wrote it")).expect("it is JSON")
}

/// The text at `pointer`.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer}")).to_owned()
}

/// A client certificate with its key, both PEM.
pub(crate) struct ClientPair {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl ClientPair {
    /// The certificate of the kubeconfig at `path`.
    pub(crate) fn of(path: &Path) -> Self {
        let config = kubeconfig(path);
        let pem = |name: &str| {
            STANDARD.decode(text(&config, &format!("/users/0/user/{name}"))).expect("it is base64")
        };
        ClientPair { certificate: pem("client-certificate-data"), key: pem("client-key-data") }
    }
}

/// TLS for the lab's servers.
pub(crate) fn tls(lab: &Lab, pair: Option<&ClientPair>, protocol: &str) -> Arc<ClientConfig> {
    let authority = CertificateDer::from_pem_file(lab.dir().join("pki/ca.crt")).expect("the lab's authority");
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("it is a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows the versions")
        .with_root_certificates(roots);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_slice(&pair.certificate).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_slice(&pair.key).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("they belong together")
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

/// A whole answer.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The media type without parameters.
    pub(crate) fn media_type(&self) -> &str {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().split(';').next().unwrap_or_default()
    }
}

/// One principal at one server, on one kept connection.
pub(crate) struct Client {
    door: Door,
    tls: Arc<ClientConfig>,
    authorization: Option<HeaderValue>,
    agent: HeaderValue,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// `authorization` is the whole header, `agent` how the audit log knows the client.
    pub(crate) fn new(door: Door, tls: Arc<ClientConfig>, authorization: Option<&str>, agent: &str) -> Self {
        let header = |value: &str| HeaderValue::from_str(value).expect("tests write valid headers");
        let (authorization, agent) = (authorization.map(header), header(agent));
        Client { door, tls, authorization, agent, connection: Mutex::new(None) }
    }

    async fn connection(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let mut held = self.connection.lock().await;
        if let Some(sender) = held.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = TokioIo::new(self.door.open(&self.tls).await?);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (sender, driver) = handshake.await.map_err(io::Error::other)?;
        tokio::spawn(driver);
        *held = Some(sender.clone());
        Ok(sender)
    }

    /// Sends one request and reads its answer to the end.
    ///
    /// A connection that the server closed is opened anew: a hub keeps no stranger for long.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &'static str,
    ) -> io::Result<Answer> {
        for _ in 1..ATTEMPTS {
            if let Ok(answer) = self.attempt(method, path, headers, body).await {
                return Ok(answer);
            }
        }
        self.attempt(method, path, headers, body).await
    }

    async fn attempt(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &'static str,
    ) -> io::Result<Answer> {
        let uri = format!("https://{}{path}", self.door.address);
        let mut request =
            Request::builder().method(method).uri(uri).header(header::USER_AGENT, self.agent.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        for (name, value) in headers {
            request = request.header(HeaderName::from_static(name), *value);
        }
        let request =
            request.body(Full::new(Bytes::from_static(body.as_bytes()))).map_err(io::Error::other)?;
        let exchange = async {
            let response = self.connection().await?.send_request(request).await.map_err(io::Error::other)?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// One line of the audit log.
pub(crate) struct Asked {
    pub(crate) user: String,
    pub(crate) agent: String,
    pub(crate) verb: String,
    pub(crate) uri: String,
    pub(crate) source: String,
    pub(crate) impersonated: Option<String>,
}

/// Everything that the API server was asked since byte `from` of its audit log.
pub(crate) fn audit(lab: &Lab, from: u64) -> Vec<Asked> {
    let log = fs::read(lab.audit_log()).expect("the API server writes one");
    let log = &log[usize::try_from(from).expect("it fits").min(log.len())..];
    let line = |line: &[u8]| {
        // The last line may be half written.
        let entry: Value = serde_json::from_slice(line).ok()?;
        let get =
            |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Asked {
            user: get("/user/username"),
            agent: get("/userAgent"),
            verb: get("/verb"),
            uri: get("/requestURI"),
            source: get("/sourceIPs/0"),
            impersonated: Some(get("/impersonatedUser/username")).filter(|user| !user.is_empty()),
        })
    };
    log.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// The length of the audit log now.
pub(crate) fn audit_end(lab: &Lab) -> u64 {
    fs::metadata(lab.audit_log()).map_or(0, |log| log.len())
}

/// Makes these objects as the administrator.
pub(crate) fn apply(lab: &Lab, objects: &[Value]) {
    let mut kubectl = lab.kubectl().expect("the lab has kubectl");
    kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
    let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kubectl starts");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
    child.stdin.take().expect("it is piped").write_all(list.as_bytes()).expect("kubectl reads");
    assert!(child.wait().expect("kubectl ends").success(), "the world of this test is made");
}
