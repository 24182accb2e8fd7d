//! The coordinator's one connection to the API servers: HTTP/2 over TLS under its own client certificate, probed by PING,
//! so that a dead link is found within three seconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto_daemon::api_server::ApiServer;
use tokio::{net::TcpStream, sync::Mutex, task::JoinSet};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long one attempt to reach a server may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
/// Head start of the preferred server over the next one.
const STAGGER: Duration = Duration::from_millis(300);
const PROBE_INTERVAL: Duration = Duration::from_millis(1600);
const PROBE_TIMEOUT: Duration = Duration::from_millis(1400);
/// How long the head of an answer may take while the connection answers its probes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

type Body = Empty<Bytes>;

/// Why nothing came back from the cloud.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// No server could be reached.
    #[error("no API server answers ({0})")]
    Unreachable(String),
    /// The connection died under the request.
    #[error("the connection to the API server was lost: {0}")]
    Lost(#[source] hyper::Error),
    /// The answer did not begin in time.
    #[error("the API server did not answer within {HEAD_TIMEOUT:?}")]
    TimedOut,
    /// The request could not be written for the wire.
    #[error("the request is not valid HTTP: {0}")]
    Request(#[from] http::Error),
}

/// The way to the cloud.
pub struct Cloud {
    servers: Vec<ApiServer>,
    tls: Arc<rustls::ClientConfig>,
    preferred: AtomicUsize,
    open: Mutex<Option<http2::SendRequest<Body>>>,
    /// Connections that were made so far.
    made: AtomicU64,
}

/// Which of the connections to the cloud an answer came by: the one with this number. It stands among the extensions of
/// each answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection(u64);

impl Cloud {
    /// No connection is made yet.
    #[must_use]
    pub fn new(servers: Vec<ApiServer>, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { servers, tls, preferred: AtomicUsize::new(0), open: Mutex::new(None), made: AtomicU64::new(0) }
    }

    /// The API servers, in the order of the configuration.
    #[must_use]
    pub fn servers(&self) -> &[ApiServer] {
        &self.servers
    }

    /// The next request makes a new connection, with the certificate as it is then.
    pub async fn renew(&self) {
        *self.open.lock().await = None;
    }

    async fn sender(&self) -> Result<(Connection, http2::SendRequest<Body>), CloudError> {
        // All kinds ask at once after a heal: they wait for one connection together.
        let mut open = self.open.lock().await;
        if let Some(sender) = open.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((Connection(self.made.load(Ordering::Relaxed)), sender.clone()));
        }
        let stream = self.connect().await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(32 * 1024)
            .keep_alive_interval(PROBE_INTERVAL)
            .keep_alive_timeout(PROBE_TIMEOUT)
            .keep_alive_while_idle(true);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(CloudError::Lost)?;
        tokio::spawn(async move {
            match connection.await {
                Ok(()) => tracing::debug!("the connection to the cloud was closed"),
                Err(error) => tracing::warn!(%error, "the connection to the cloud was lost"),
            }
        });
        *open = Some(sender.clone());
        // Under the lock of `open`, so that number and connection belong together.
        Ok((Connection(self.made.fetch_add(1, Ordering::Relaxed) + 1), sender))
    }

    /// Connects to the first server that answers, the preferred one with a head start.
    async fn connect(&self) -> Result<TlsStream<TcpStream>, CloudError> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut attempts = JoinSet::new();
        for turn in 0..self.servers.len() {
            let index = (preferred + turn) % self.servers.len();
            let (server, tls) = (self.servers[index].clone(), Arc::clone(&self.tls));
            let delay = STAGGER.saturating_mul(u32::try_from(turn).unwrap_or(u32::MAX));
            attempts.spawn(async move {
                tokio::time::sleep(delay).await;
                let connected = async {
                    let tcp = dial(&server).await?;
                    TlsConnector::from(tls).connect(server.name.clone(), tcp).await
                };
                let text = match tokio::time::timeout(CONNECT_TIMEOUT, connected).await {
                    Ok(Ok(stream)) => return Ok((index, stream)),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
                };
                Err(format!("{}: {text}", server.authority))
            });
        }
        let mut failures = Vec::new();
        while let Some(outcome) = attempts.join_next().await {
            match outcome {
                Ok(Ok((index, stream))) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(stream);
                }
                Ok(Err(text)) => failures.push(text),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(CloudError::Unreachable(failures.join("; ")))
    }

    /// Sends one GET and returns once the answer's head is there; scheme and authority are set here.
    ///
    /// # Errors
    /// [`CloudError`].
    pub async fn get(&self, mut request: Request<Body>) -> Result<Response<Incoming>, CloudError> {
        let exchange = async {
            let (connection, mut sender) = self.sender().await?;
            sender.ready().await.map_err(CloudError::Lost)?;
            let server = &self.servers[self.preferred.load(Ordering::Relaxed) % self.servers.len()];
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = Uri::builder().scheme("https").authority(server.authority.clone()).path_and_query(path);
            *request.uri_mut() = uri.build()?;
            *request.version_mut() = http::Version::HTTP_2;
            let mut response = sender.send_request(request).await.map_err(CloudError::Lost)?;
            response.extensions_mut().insert(connection);
            Ok(response)
        };
        tokio::time::timeout(HEAD_TIMEOUT, exchange).await.unwrap_or(Err(CloudError::TimedOut))
    }
}

/// Connects to the first address of a server that takes the connection.
///
/// # Errors
/// What the last address said.
pub async fn dial(server: &ApiServer) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for address in tokio::net::lookup_host((server.host(), server.port())).await? {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
