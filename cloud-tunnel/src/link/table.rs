//! The server's links: which one leads to the pool now, and dials through it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cloud_tunnel_core::class::Class;
use cloud_tunnel_core::connect::Target;
use cloud_tunnel_core::registry::{LinkId, Registry};
use cloud_tunnel_core::route::{Pool, Refusal};
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use proto::tunnel::{HEADER_CLASS, HEADER_NODE, HEADER_REASON, MAX_STREAMS, printable};

use super::stream::{Streams, Ticket};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// How long the edge may take to dial.
pub const EDGE_LIMIT: Duration = Duration::from_secs(4);
/// How long the answer may then be under way: with [`EDGE_LIMIT`] less than the 5 s in which every dial is answered.
const WAY_BACK: Duration = Duration::from_millis(500);

/// A link that is up.
#[derive(Debug)]
pub struct LinkHandle {
    /// Its number.
    pub id: LinkId,
    /// The node whose certificate its agent showed.
    pub agent: String,
    /// Where its connection came from.
    pub address: String,
    /// When it came up.
    pub since: Duration,
    /// Its streams.
    pub streams: Arc<Streams>,
    /// Opens streams.
    pub requests: SendRequest<Bytes>,
}

/// The links of the server's pool.
#[derive(Debug)]
pub struct Links {
    pool: Pool,
    clock: Clock,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    handles: BTreeMap<LinkId, Arc<LinkHandle>>,
    next: LinkId,
}

/// A stream to a node, and its place on the link.
#[derive(Debug)]
pub struct Dialled {
    /// Towards the node.
    pub send: SendStream<Bytes>,
    /// From the node.
    pub recv: RecvStream,
    /// Its place.
    pub ticket: Ticket,
}

impl Links {
    /// No link yet.
    #[must_use]
    pub fn new(pool: Pool, clock: Clock, metrics: Metrics) -> Arc<Self> {
        let state = State { registry: Registry::new(clock.now()), handles: BTreeMap::new(), next: 0 };
        Arc::new(Self { pool, clock, metrics, state: Mutex::new(state) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool that they lead to.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A number for a new link.
    pub fn next_id(&self) -> LinkId {
        let mut state = self.lock();
        state.next += 1;
        state.next
    }

    /// `link` takes new streams from here on, before all others.
    pub fn up(&self, link: LinkHandle) {
        let mut state = self.lock();
        state.registry.up(self.clock.now(), link.id);
        state.handles.insert(link.id, Arc::new(link));
        self.count(&state);
    }

    /// `link` takes no new streams.
    pub fn down(&self, link: LinkId) {
        let mut state = self.lock();
        state.registry.down(self.clock.now(), link);
        state.handles.remove(&link);
        self.count(&state);
    }

    fn count(&self, state: &State) {
        let links = state.registry.len();
        self.metrics.set_links(links, if links == 0 { 0 } else { self.pool.len() });
    }

    /// The links that take new streams, oldest first, and how long the pool has been without one, now and in all.
    #[must_use]
    pub fn now(&self) -> (Vec<Arc<LinkHandle>>, Duration, Duration) {
        let (state, now) = (self.lock(), self.clock.now());
        let handles = state.handles.values().cloned().collect();
        (handles, state.registry.down_for(now), state.registry.downtime(now))
    }

    /// Opens a stream to `target`; returns when the node's side has connected, or says why not, within 5 s.
    ///
    /// # Errors
    /// [`Refusal`]: status and reason for the client.
    pub async fn dial(&self, target: &Target) -> Result<Dialled, Refusal> {
        let node = self.pool.node_of(target)?;
        let pool = &self.pool.name;
        let link = {
            let state = self.lock();
            let newest = state.registry.newest().and_then(|id| state.handles.get(&id));
            newest
                .cloned()
                .ok_or_else(|| Refusal::no_link(node, pool, state.registry.down_for(self.clock.now())))?
        };
        let ticket = link.streams.enter(Class::Interactive, target.to_string());
        let ticket = ticket.ok_or_else(|| Refusal::full(node, pool, MAX_STREAMS))?;
        let opened = tokio::time::timeout(EDGE_LIMIT + WAY_BACK, open(&link, node, target));
        match opened.await {
            Ok(Ok(Ok((send, recv)))) => Ok(Dialled { send, recv, ticket }),
            Ok(Ok(Err(refusal))) => Err(refusal),
            Ok(Err(error)) => {
                tracing::debug!(%error, link = link.id, "a dial broke");
                Err(Refusal::link_lost(node, pool))
            }
            Err(_) => Err(Refusal::no_answer(node, EDGE_LIMIT)),
        }
    }
}

type Opened = Result<(SendStream<Bytes>, RecvStream), Refusal>;

async fn open(link: &LinkHandle, node: &str, target: &Target) -> Result<Opened, h2::Error> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(target.to_string())
        .header(HEADER_NODE, node)
        .header(HEADER_CLASS, Class::Interactive.as_str())
        .body(())
        .expect("a target's characters are those of an authority, a node's name those of a header");
    let mut requests = link.requests.clone().ready().await?;
    let (response, send) = requests.send_request(request, false)?;
    let mut send = CancelOnDrop(Some(send));
    let response = response.await?;
    if response.status() == StatusCode::OK {
        let send = send.0.take().expect("taken here only");
        return Ok(Ok((send, response.into_body())));
    }
    let said = response.headers().get(HEADER_REASON).map_or(&b""[..], http::HeaderValue::as_bytes);
    let said = printable(&String::from_utf8_lossy(said));
    let reason = if said.is_empty() { format!("{node}: refused by the agent") } else { said };
    Ok(Err(Refusal::new(response.status().as_u16(), reason)))
}

/// A request that is given up, by a time-out or because its client left, is taken back at the edge, too.
struct CancelOnDrop(Option<SendStream<Bytes>>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(send) = &mut self.0 {
            send.send_reset(Reason::CANCEL);
        }
    }
}
