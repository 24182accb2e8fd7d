//! A plain Kubernetes client for tests: one TLS connection for each request, or one that lasts; answers as they come.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use super::pki::{Identity, PkiError};

/// Why a request got no answer, or a stream no further frame.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TCP or TLS failed.
    #[error("cannot connect")]
    Connect(#[from] io::Error),
    /// HTTP failed.
    #[error("HTTP failed")]
    Http(#[from] hyper::Error),
    /// The stream ended inside a frame, or a frame is no JSON.
    #[error("a frame is broken: {0:?}")]
    Frame(Bytes),
}

/// How long client-go takes to dial; after how much silence it pings, and how long it waits for the answer.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(15);

/// The lasting connection of a client and its clones.
type Lasting = Arc<Mutex<Option<SendRequest<Full<Bytes>>>>>;

/// A client with one identity.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    token: Option<String>,
    headers: HeaderMap,
    lasting: Option<Lasting>,
}

impl Client {
    /// A client of the server at `address`, whose certificate is for `name` and signed by one of
    /// `roots`; with a client certificate if there is one.
    ///
    /// # Errors
    /// When the TLS library refuses the certificates.
    pub fn new(
        address: SocketAddr,
        name: &str,
        roots: Arc<RootCertStore>,
        identity: Option<&Identity>,
    ) -> Result<Self, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut tls = match identity {
            Some(identity) => builder.with_client_auth_cert(vec![identity.certificate()], identity.key())?,
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| rustls::Error::General(format!("{name:?} names no server")))?;
        Ok(Self { address, tls: Arc::new(tls), name, token: None, headers: HeaderMap::new(), lasting: None })
    }

    /// The same client with a bearer token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Its bearer token.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The same client with one more header on each request; a repeated name replaces.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: &str) -> Self {
        let value = header::HeaderValue::from_str(value).expect("a test writes valid headers");
        self.headers.insert(name, value);
        self
    }

    /// The same client over HTTP/1.1.
    #[must_use]
    pub fn over_http1(mut self) -> Self {
        Arc::make_mut(&mut self.tls).alpn_protocols = vec![b"http/1.1".to_vec()];
        self
    }

    /// The same client on one HTTP/2 connection of its own, as client-go keeps it: dialled when it is needed and
    /// none is open, given up when a ping is not answered. Clones share it.
    #[must_use]
    pub fn over_one_connection(mut self) -> Self {
        self.lasting = Some(Lasting::default());
        self
    }

    async fn dial(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(self.tls.clone()).connect(self.name.clone(), tcp).await?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_LIMIT)
            .handshake(TokioIo::new(tls))
            .await?;
        tokio::spawn(driver);
        Ok(sender)
    }

    async fn lasting(&self, held: &Lasting) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let (client, held) = (self.clone(), held.clone());
        // In a task of its own: a caller that gives up does not undo the dialling for the next one.
        let dialled = tokio::spawn(async move {
            let mut held = held.lock().await;
            if let Some(sender) = held.as_ref().filter(|sender| !sender.is_closed()) {
                return Ok(sender.clone());
            }
            let late = |_| ClientError::Connect(io::ErrorKind::TimedOut.into());
            let sender = tokio::time::timeout(DIAL_LIMIT, client.dial()).await.map_err(late)??;
            *held = Some(sender.clone());
            Ok(sender)
        });
        dialled.await.map_err(|error| ClientError::Connect(io::Error::other(error)))?
    }

    /// Send a request and return as soon as the head of the answer is there.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        if let Some(held) = &self.lasting {
            let request = self.request(method, path, content_type, body, true);
            return Ok(self.lasting(held).await?.send_request(request).await?);
        }
        let tcp = TcpStream::connect(self.address).await?;
        let tls = TlsConnector::from(self.tls.clone()).connect(self.name.clone(), tcp).await?;
        let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let request = self.request(method, path, content_type, body, h2);
        let io = TokioIo::new(tls);
        // The driver of a connection ends when its request is done; an error shows in the body.
        if h2 {
            let (mut sender, driver) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(driver);
            return Ok(sender.send_request(request).await?);
        }
        let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(driver);
        Ok(sender.send_request(request).await?)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
        h2: bool,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method);
        request = if h2 {
            request.uri(format!("https://{}{path}", self.address))
        } else {
            request.uri(path).header(header::HOST, self.address.to_string())
        };
        if !self.headers.contains_key(header::ACCEPT) {
            request = request.header(header::ACCEPT, "application/json");
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut request = request.body(Full::new(body)).expect("a test writes valid paths and tokens");
        request.headers_mut().extend(self.headers.clone());
        request
    }

    /// Send a request; the status code and the whole JSON body (null when there is none).
    ///
    /// # Errors
    /// When the answer does not come or is no JSON.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<(u16, Value), ClientError> {
        let bytes = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let response = self.send(method, path, content_type, bytes).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        if body.is_empty() {
            return Ok((status, Value::Null));
        }
        let value = serde_json::from_slice(&body).map_err(|_| ClientError::Frame(body))?;
        Ok((status, value))
    }

    /// GET a document.
    ///
    /// # Errors
    /// When the answer does not come or is no JSON.
    pub async fn get(&self, path: &str) -> Result<(u16, Value), ClientError> {
        self.call("GET", path, "", &Value::Null).await
    }

    /// Open a JSON watch.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn watch(&self, path: &str) -> Result<WatchStream, ClientError> {
        let response = self.send("GET", path, "", Bytes::new()).await?;
        let (head, body) = response.into_parts();
        Ok(WatchStream { status: head.status.as_u16(), headers: head.headers, body, buffer: BytesMut::new() })
    }
}

/// A running JSON watch.
pub struct WatchStream {
    /// Status code of the answer.
    pub status: u16,
    /// Headers of the answer.
    pub headers: HeaderMap,
    body: Incoming,
    buffer: BytesMut,
}

impl WatchStream {
    /// The next event; `None` when the stream ended cleanly between frames.
    ///
    /// # Errors
    /// When the stream breaks, or ends inside a frame.
    pub async fn next(&mut self) -> Result<Option<Value>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1).freeze();
                return serde_json::from_slice(&line).map(Some).map_err(|_| ClientError::Frame(line));
            }
            match self.chunk().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ClientError::Frame(self.buffer.split().freeze())),
            }
        }
    }

    /// The next bytes as they come from the wire; `None` at the end.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}
