//! Connections to the API servers: HTTP/2 over TLS, one set for the node's own credential and one without any.
//!
//! A bearer token never shares a connection with the node's certificate, so that the API server can only ever see the
//! identity that the client itself brought. One connection of the node's set carries the probe (an HTTP/2 PING when
//! nothing was received): its death is the verdict that the link is cut, and then every other connection falls, too.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use edge_hub_core::link::{CONNECT_TIMEOUT, PROBE_INTERVAL, PROBE_TIMEOUT};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
pub use proto_daemon::api_server::ApiServer as Server;
use proto_daemon::tls::ReloadingResolver;
use rustls::sign::CertifiedKey;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

pub mod decode;
mod dial;
pub mod hop;

use self::dial::{Dialled, Way, attempts};
pub use self::dial::{Route, Socket};
use crate::pool::Pool;

/// Any body on its way through the hub.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Streams on one connection before another one is opened; kube-apiserver admits 100 by default.
const STREAMS_PER_CONNECTION: usize = 90;
/// A connection that does not carry the link's probe is asked as often as client-go asks its own.
const OTHER_PROBE_INTERVAL: Duration = Duration::from_secs(30);
const OTHER_PROBE_TIMEOUT: Duration = Duration::from_secs(15);
const STREAM_WINDOW: u32 = 256 * 1024;
/// Room for all streams of a connection: what slow clients leave unread must not hold up the watches beside it.
const CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;
const _: () = assert!(CONNECTION_WINDOW as usize >= STREAMS_PER_CONNECTION * STREAM_WINDOW as usize);

/// As whom a request leaves the hub.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// The node's own client certificate: for its kubelet and for the hub's own reads.
    Node,
    /// The client's own bearer token, relayed as it came.
    Bearer(Arc<str>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "Node",
            Self::Bearer(_) => "Bearer(MASKED)",
        })
    }
}

/// Why nothing came back from the cloud.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No server could be reached.
    #[error("no API server answers ({0})")]
    Unreachable(String),
    /// The connection died under the request.
    #[error("the connection to the API server was lost: {0}")]
    Lost(#[source] hyper::Error),
    /// The answer did not begin in time.
    #[error("the API server did not answer within {0:?}")]
    TimedOut(Duration),
    /// The request could not be written for the wire.
    #[error("the request is not valid HTTP: {0}")]
    Request(#[source] http::Error),
}

/// TLS settings of the three kinds of connection.
#[derive(Clone)]
pub struct TlsSettings {
    /// Node certificate, ALPN h2.
    pub node: Arc<rustls::ClientConfig>,
    /// No certificate, ALPN h2.
    pub bearer: Arc<rustls::ClientConfig>,
    /// The node certificate that `node` shows; it follows its files.
    pub credential: Arc<ReloadingResolver>,
}

struct Connection {
    sender: http2::SendRequest<Body>,
    route: Route,
    /// Which server, by its place in the configuration.
    server: usize,
    /// The node's certificate as it was shown; none on a connection for bearer tokens.
    shown: Option<Arc<CertifiedKey>>,
    streams: Arc<AtomicUsize>,
    /// The socket once more, to shut it: hyper's own tasks keep a connection alive for the streams that are open.
    socket: std::net::TcpStream,
}

impl Connection {
    /// Whether it speaks for the node by this certificate. The API server judges a certificate anew with each request,
    /// so that one which was shown by a former certificate ends with that.
    fn shows(&self, certificate: Option<&CertifiedKey>) -> bool {
        self.shown.as_ref().map(|shown| &shown.cert) == certificate.map(|current| &current.cert)
    }

    fn shut(&self) {
        // A socket that is closed already needs no closing.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Pools {
    node: Vec<Connection>,
    bearer: Vec<Connection>,
}

/// Held while a connection is opened; the last failure, and when it came.
type Opening = tokio::sync::Mutex<Option<(Instant, String)>>;

/// The hub's way to the cloud.
pub struct Upstream {
    servers: Vec<Server>,
    tls: TlsSettings,
    pool: Option<Arc<Pool>>,
    route: Mutex<Route>,
    preferred: AtomicUsize,
    pools: Mutex<Pools>,
    opening_node: Opening,
    opening_bearer: Opening,
}

/// The probing connection; resolves when it is gone.
pub struct ProbedConnection {
    /// Which way it takes.
    pub route: Route,
    /// Which server, by its place in the configuration.
    pub server: usize,
    task: tokio::task::JoinHandle<Result<(), hyper::Error>>,
}

/// A connection by the own link that has answered its probes for a while, and is not in use yet.
pub struct Proven {
    connection: Connection,
    task: tokio::task::JoinHandle<Result<(), hyper::Error>>,
}

impl ProbedConnection {
    /// Waits for the end. True when an answer to a probe was missing, false when the peer closed or reset.
    pub async fn probe_lost(&mut self) -> bool {
        match (&mut self.task).await {
            Ok(Err(error)) => is_time_out(&error),
            Ok(Ok(())) | Err(_) => false,
        }
    }
}

fn is_time_out(error: &hyper::Error) -> bool {
    if error.is_timeout() {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::TimedOut;
        }
        source = cause.source();
    }
    false
}

impl Upstream {
    /// No connection is made yet.
    #[must_use]
    pub fn new(servers: Vec<Server>, tls: TlsSettings, pool: Option<Arc<Pool>>) -> Self {
        Self {
            servers,
            tls,
            pool,
            route: Mutex::new(Route::Direct),
            preferred: AtomicUsize::new(0),
            pools: Mutex::default(),
            opening_node: Opening::default(),
            opening_bearer: Opening::default(),
        }
    }

    /// Opens the connection that carries the probes, as this node.
    ///
    /// # Errors
    /// [`UpstreamError::Unreachable`] when no server answers.
    pub async fn connect_probed(&self) -> Result<ProbedConnection, UpstreamError> {
        let (connection, task) = self.open(&Credential::Node, true, Way::Any).await?;
        Ok(self.adopt(Proven { connection, task }))
    }

    /// Opens a probed connection by the own link and holds it for `long`. Nobody uses it yet.
    ///
    /// # Errors
    /// [`UpstreamError::Unreachable`] when no server answers, or the connection did not last.
    pub async fn prove_direct(&self, long: Duration) -> Result<Proven, UpstreamError> {
        let (connection, mut task) = self.open(&Credential::Node, true, Way::Direct).await?;
        match tokio::time::timeout(long, &mut task).await {
            Err(_) => Ok(Proven { connection, task }),
            Ok(_) => Err(UpstreamError::Unreachable("the connection did not last".to_owned())),
        }
    }

    /// From now on new requests go the way of this connection. What runs on others may end in peace.
    pub fn adopt(&self, proven: Proven) -> ProbedConnection {
        let Proven { connection, task } = proven;
        let (route, server) = (connection.route, connection.server);
        *self.route.lock().unwrap_or_else(PoisonError::into_inner) = route;
        self.pool(|pools| pools.node.push(connection));
        ProbedConnection { route, server, task }
    }

    fn route(&self) -> Route {
        *self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops every connection: what waits on them fails at once instead of hanging on a dead link.
    pub fn drop_all(&self) {
        let pools = self.pool(std::mem::take);
        pools.node.iter().chain(&pools.bearer).for_each(Connection::shut);
    }

    /// Whether there is another server to turn to.
    #[must_use]
    pub fn has_other_servers(&self) -> bool {
        self.servers.len() > 1
    }

    /// Turns to another server: what waits on this one fails at once, and connections to others stay.
    pub fn leave(&self, server: usize) {
        self.preferred.store((server + 1) % self.servers.len(), Ordering::Relaxed);
        let left: Vec<Connection> = self.pool(|pools| {
            [&mut pools.node, &mut pools.bearer]
                .into_iter()
                .flat_map(|pool| pool.extract_if(.., |connection| connection.server == server))
                .collect()
        });
        left.iter().for_each(Connection::shut);
    }

    fn pool<T>(&self, f: impl FnOnce(&mut Pools) -> T) -> T {
        f(&mut self.pools.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn open(
        &self,
        credential: &Credential,
        probed: bool,
        way: Way,
    ) -> Result<(Connection, tokio::task::JoinHandle<Result<(), hyper::Error>>), UpstreamError> {
        let config = match credential {
            Credential::Node => &self.tls.node,
            Credential::Bearer(_) => &self.tls.bearer,
        };
        // Before the handshake: if it is renewed in between, the connection counts as old and is soon replaced.
        let shown = self.certificate(credential);
        let (server, route, Dialled { stream, socket }) = self.connect(config, way).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(32 * 1024);
        if probed {
            builder
                .keep_alive_interval(PROBE_INTERVAL)
                .keep_alive_timeout(PROBE_TIMEOUT)
                .keep_alive_while_idle(true);
        } else {
            // The probed connection judges the link; this one only finds a flow that died alone.
            builder.keep_alive_interval(OTHER_PROBE_INTERVAL).keep_alive_timeout(OTHER_PROBE_TIMEOUT);
        }
        let (sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(UpstreamError::Lost)?;
        let task = tokio::spawn(connection);
        Ok((Connection { sender, route, server, shown, streams: Arc::default(), socket }, task))
    }

    /// The certificate that a new connection for `credential` shows.
    fn certificate(&self, credential: &Credential) -> Option<Arc<CertifiedKey>> {
        (*credential == Credential::Node).then(|| self.tls.credential.current())
    }

    /// Connects to the first server that answers, the preferred one and the own link with a head start.
    async fn connect(
        &self,
        config: &Arc<rustls::ClientConfig>,
        way: Way,
    ) -> Result<(usize, Route, Dialled), UpstreamError> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let relays = self.pool.as_ref().map_or(0, |pool| pool.coordinators.len());
        let order = (0..self.servers.len()).map(|turn| (preferred + turn) % self.servers.len());
        let mut attempts_made = JoinSet::new();
        for (delay, route, index) in attempts(order, relays, way, self.route()) {
            let server = self.servers[index].clone();
            let (config, pool) = (Arc::clone(config), self.pool.clone());
            attempts_made.spawn(async move {
                tokio::time::sleep(delay).await;
                let dialled = async {
                    match (route, pool) {
                        (Route::Relayed(via), Some(pool)) => {
                            dial::relayed(&pool.coordinators[via], &server, config).await
                        }
                        _ => dial::direct(&server, config).await,
                    }
                };
                let text = match tokio::time::timeout(CONNECT_TIMEOUT, dialled).await {
                    Ok(Ok(dialled)) => return Ok((index, route, dialled)),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
                };
                Err(format!("{}: {text}", server.authority))
            });
        }
        let mut failures = Vec::new();
        while let Some(outcome) = attempts_made.join_next().await {
            match outcome {
                Ok(Ok((index, route, dialled))) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok((index, route, dialled));
                }
                Ok(Err(text)) => failures.push(text),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(UpstreamError::Unreachable(failures.join("; ")))
    }

    /// An open connection with room for one more stream.
    fn pooled(&self, credential: &Credential) -> Option<(http2::SendRequest<Body>, StreamGuard)> {
        let certificate = self.certificate(credential);
        let route = self.route();
        let is_current =
            |connection: &Connection| connection.route == route && connection.shows(certificate.as_deref());
        self.pool(|pools| {
            let pool = match credential {
                Credential::Node => &mut pools.node,
                Credential::Bearer(_) => &mut pools.bearer,
            };
            // What runs on a connection of a former certificate or way may end in peace; nothing new begins there.
            pool.retain(|each| !each.sender.is_closed() && (is_current(each) || each.streams() > 0));
            pool.iter()
                .find(|each| is_current(each) && each.streams() < STREAMS_PER_CONNECTION)
                .map(|connection| (connection.sender.clone(), StreamGuard::new(&connection.streams)))
        })
    }

    async fn sender(
        &self,
        credential: &Credential,
    ) -> Result<(http2::SendRequest<Body>, StreamGuard), UpstreamError> {
        if let Some(found) = self.pooled(credential) {
            return Ok(found);
        }
        let opening = match credential {
            Credential::Node => &self.opening_node,
            Credential::Bearer(_) => &self.opening_bearer,
        };
        // After a heal hundreds ask at once: they wait for one connection, and for its failure, together.
        let asked = Instant::now();
        let mut failed = opening.lock().await;
        if let Some(found) = self.pooled(credential) {
            return Ok(found);
        }
        if let Some((at, why)) = &*failed
            && *at >= asked
        {
            return Err(UpstreamError::Unreachable(why.clone()));
        }
        let (connection, _task) = self.open(credential, false, Way::Current).await.inspect_err(|error| {
            *failed = Some((Instant::now(), error.to_string()));
        })?;
        let answer = (connection.sender.clone(), StreamGuard::new(&connection.streams));
        self.pool(|pools| match credential {
            Credential::Node => pools.node.push(connection),
            Credential::Bearer(_) => pools.bearer.push(connection),
        });
        Ok(answer)
    }

    /// Sends one request and returns once the answer's head is there. Scheme, authority and the credential are set
    /// here; whatever `Authorization` the caller left in is replaced.
    ///
    /// # Errors
    /// [`UpstreamError`]; a request that no server saw is sent once more on a fresh connection.
    pub async fn send(
        &self,
        credential: &Credential,
        request: Request<Body>,
        head_timeout: Duration,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let exchange = self.exchange(credential, request);
        match tokio::time::timeout(head_timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(UpstreamError::TimedOut(head_timeout)),
        }
    }

    async fn exchange(
        &self,
        credential: &Credential,
        mut request: Request<Body>,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        self.address(credential, &mut request)?;
        for last in [false, true] {
            let (mut sender, guard) = self.sender(credential).await?;
            if let Err(error) = sender.ready().await {
                if last {
                    return Err(UpstreamError::Lost(error));
                }
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok(response.map(|incoming| UpstreamBody { incoming, _guard: guard }));
                }
                Err(mut failed) => match failed.take_message() {
                    // The server never saw it (a GOAWAY crossed it): any request may be sent again.
                    Some(unsent) if !last => request = unsent,
                    _ => return Err(UpstreamError::Lost(failed.into_error())),
                },
            }
        }
        Err(UpstreamError::Unreachable("every connection was closed".to_owned()))
    }

    fn address(&self, credential: &Credential, request: &mut Request<Body>) -> Result<(), UpstreamError> {
        let server = &self.servers[self.preferred.load(Ordering::Relaxed) % self.servers.len()];
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder()
            .scheme("https")
            .authority(server.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(UpstreamError::Request)?;
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        set_authorization(credential, request.headers_mut())
    }

    /// A connection of its own, HTTP/1.1, for a request that upgrades (exec, attach, port-forward).
    ///
    /// # Errors
    /// [`UpstreamError`] when no server answers.
    pub async fn connect_upgradable(
        &self,
        credential: &Credential,
    ) -> Result<(TlsStream<Socket>, http::uri::Authority), UpstreamError> {
        let mut config = match credential {
            Credential::Node => (*self.tls.node).clone(),
            Credential::Bearer(_) => (*self.tls.bearer).clone(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (_, _, Dialled { stream, socket }) = self.connect(&Arc::new(config), Way::Current).await?;
        // HTTP/1.1 has no pings: the socket itself finds a flow that died while nobody types.
        if let Err(error) = dial::keep_alive(&socket) {
            tracing::debug!(%error, "no keep-alive on the connection of an upgrade");
        }
        let server = &self.servers[self.preferred.load(Ordering::Relaxed) % self.servers.len()];
        Ok((stream, server.authority.clone()))
    }
}

/// Puts the credential's own `Authorization` in place of whatever was there.
///
/// # Errors
/// [`UpstreamError::Request`] for a token that is no header value.
pub fn set_authorization(
    credential: &Credential,
    headers: &mut http::HeaderMap,
) -> Result<(), UpstreamError> {
    headers.remove(header::AUTHORIZATION);
    if let Credential::Bearer(token) = credential {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|error| UpstreamError::Request(error.into()))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(())
}

/// Counts a stream of a connection for as long as its body lives.
struct StreamGuard(Arc<AtomicUsize>);

impl StreamGuard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer from the cloud.
pub struct UpstreamBody {
    incoming: Incoming,
    _guard: StreamGuard,
}

impl HttpBody for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Reads a body whole, or says that it is larger than `limit` bytes, silent for `patience`, or broken.
///
/// # Errors
/// [`ReadError`].
pub async fn read_all<B>(body: B, limit: usize, patience: Duration) -> Result<Bytes, ReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let mut whole = bytes::BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(patience, next_frame(body.as_mut())).await {
            Err(_) => return Err(ReadError::Stalled(patience)),
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(error))) => return Err(ReadError::Broken(error.into())),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(ReadError::TooLarge(limit));
            }
            whole.extend_from_slice(&data);
        }
    }
}

async fn next_frame<B: HttpBody>(mut body: Pin<&mut B>) -> Option<Result<Frame<B::Data>, B::Error>> {
    std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More bytes than are taken.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The other side fell silent.
    #[error("the body made no progress for {0:?}")]
    Stalled(Duration),
    /// The stream broke.
    #[error("the body broke off: {0}")]
    Broken(#[source] BoxError),
}
