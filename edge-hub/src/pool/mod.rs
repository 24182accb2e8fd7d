//! The pool as its hub meets it: the coordinators that it may dial, the kinds that they have a copy of, and the way
//! through them to an API server. Hubs only dial; nothing here listens.

mod channel;

use std::{sync::Arc, time::Duration};

use edge_hub_core::collection::CollectionSpec;
use http::{Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::{client::conn::http2, upgrade::Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::{
    coordinator::{Frame, MAX_MESSAGE_BYTES, POOL_KINDS, SUBSCRIBE, SubscribeRequest, VERSION},
    member::Member,
};
use proto_kube::{
    gvr::GroupVersionResource,
    media_type::Format,
    selector::{FieldSelector, LabelSelector},
};
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Streaming, body::Body, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use self::channel::Channel;

/// How long a coordinator on the LAN may take to take a connection, TLS included, or to begin an answer.
const LAN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an API server may take behind a coordinator, which itself gives up after 2.5 s.
const RELAY_TIMEOUT: Duration = Duration::from_secs(3);
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// What is read of a refusal.
const MAX_REFUSAL_BYTES: usize = 4 * 1024;

/// The pool of this node.
pub struct Pool {
    /// Its name.
    pub name: Box<str>,
    /// Its coordinators, in order of preference.
    pub coordinators: Vec<Coordinator>,
    specs: Vec<CollectionSpec>,
}

/// One coordinator.
pub struct Coordinator {
    /// Whom its certificate must name.
    pub member: Member,
    address: String,
    tls: Arc<rustls::ClientConfig>,
    open: Mutex<Option<Channel>>,
    /// Why there was no feed the last time.
    complaint: std::sync::Mutex<Option<String>>,
}

impl Pool {
    /// No connection is made yet.
    #[must_use]
    pub fn new(name: &str, coordinators: Vec<Coordinator>) -> Self {
        let whole = |(group, version, resource): &(&str, &str, &str)| CollectionSpec {
            gvr: GroupVersionResource::new(*group, *version, *resource),
            namespace: None,
            labels: LabelSelector::default(),
            fields: FieldSelector::default(),
            format: Format::PROTOBUF,
        };
        Self { name: name.into(), coordinators, specs: POOL_KINDS.iter().map(whole).collect() }
    }

    /// What the coordinators have a copy of: all objects of each kind.
    #[must_use]
    pub fn specs(&self) -> &[CollectionSpec] {
        &self.specs
    }

    /// The collection of the pool that can answer for `spec`.
    #[must_use]
    pub fn covering(&self, spec: &CollectionSpec) -> Option<&CollectionSpec> {
        self.specs.iter().find(|whole| whole.covers(spec))
    }
}

impl Coordinator {
    /// The coordinator `member` at `address`, `host:port`; `tls` shows this node's own member certificate.
    #[must_use]
    pub fn new(member: Member, address: &str, tls: Arc<rustls::ClientConfig>) -> Self {
        Self {
            member,
            address: address.to_owned(),
            tls,
            open: Mutex::new(None),
            complaint: std::sync::Mutex::default(),
        }
    }

    /// Notes how an attempt at a feed ended. Whether that is news, for the log.
    pub fn note(&self, complaint: Option<&str>) -> bool {
        let mut held = self.complaint.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_news = held.as_deref() != complaint;
        *held = complaint.map(str::to_owned);
        is_news
    }

    async fn dial(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let connected = async {
            let tcp = TcpStream::connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            // The member's name is checked in its place.
            let name = rustls_pki_types::ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
            TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await
        };
        match tokio::time::timeout(LAN_TIMEOUT, connected).await {
            Ok(outcome) => outcome,
            Err(_) => Err(std::io::Error::other(format!("no answer within {LAN_TIMEOUT:?}"))),
        }
    }

    fn builder() -> http2::Builder<TokioExecutor> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_BYTES);
        builder
    }

    /// The connection that the subscriptions share.
    async fn channel(&self) -> Result<Channel, String> {
        // All kinds ask at once: they wait for one connection together.
        let mut open = self.open.lock().await;
        if let Some(channel) = open.as_ref().filter(|channel| !channel.is_closed()) {
            return Ok(channel.clone());
        }
        let stream = self.dial().await.map_err(|error| error.to_string())?;
        let (sender, connection) =
            Self::builder().handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let channel = Channel::new(sender);
        *open = Some(channel.clone());
        Ok(channel)
    }

    /// Asks for all objects of `spec` from `resume` on. The stream has begun when this returns, and has said nothing yet.
    ///
    /// # Errors
    /// Why there is none, in the coordinator's words where it has some.
    pub async fn subscribe(&self, spec: &CollectionSpec, resume: u64) -> Result<Streaming<Frame>, String> {
        let asked = async {
            let channel = self.channel().await?;
            let origin = Uri::builder().scheme("https").authority(self.address.as_str()).path_and_query("/");
            let origin = origin.build().map_err(|error| error.to_string())?;
            let mut grpc = Grpc::with_origin(channel, origin).max_decoding_message_size(MAX_MESSAGE_BYTES);
            grpc.ready().await.map_err(|error| error.to_string())?;
            let request = SubscribeRequest {
                version_min: VERSION,
                version_max: VERSION,
                group: spec.gvr.group.to_string(),
                version: spec.gvr.version.to_string(),
                resource: spec.gvr.resource.to_string(),
                resume_version: resume,
            };
            let codec = ProstCodec::<SubscribeRequest, Frame>::default();
            let path = PathAndQuery::from_static(SUBSCRIBE);
            let answer = grpc.server_streaming(tonic::Request::new(request), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
        };
        let outcome = match tokio::time::timeout(LAN_TIMEOUT, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {LAN_TIMEOUT:?}")),
        };
        if outcome.is_err() {
            // A coordinator that hangs would hang the next one on this connection, too.
            *self.open.lock().await = None;
        }
        outcome
    }

    /// A connection of its own to the API server `authority` through this coordinator, and the socket beneath it.
    ///
    /// # Errors
    /// Why there is none, in the coordinator's words where it has some.
    pub async fn relay(&self, authority: &str) -> std::io::Result<(Upgraded, std::net::TcpStream)> {
        use std::os::fd::AsFd as _;
        let other = |error: Box<dyn std::error::Error + Send + Sync>| {
            std::io::Error::other(format!("by {}: {error}", self.member.node))
        };
        let stream = self.dial().await.map_err(|error| other(error.into()))?;
        let socket = stream.get_ref().0.as_fd().try_clone_to_owned()?.into();
        let (mut sender, connection) =
            Self::builder().handshake(TokioIo::new(stream)).await.map_err(|error| other(error.into()))?;
        tokio::spawn(connection);
        let request =
            Request::connect(authority).body(Body::default()).map_err(|error| other(error.into()))?;
        let answer = tokio::time::timeout(RELAY_TIMEOUT, sender.send_request(request)).await;
        let answer = answer.map_err(|_| other(format!("no answer within {RELAY_TIMEOUT:?}").into()))?;
        let answer = answer.map_err(|error| other(error.into()))?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            let body = http_body_util::Limited::new(answer.into_body(), MAX_REFUSAL_BYTES);
            let text = tokio::time::timeout(LAN_TIMEOUT, body.collect()).await;
            let text =
                text.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Err(other(format!("{status}: {}", String::from_utf8_lossy(&text)).into()));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| other(error.into()))?;
        Ok((upgraded, socket))
    }
}
