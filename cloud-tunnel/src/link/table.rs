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

use tokio::sync::Notify;

use super::stream::{Streams, Ticket};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// How long the edge may take to dial.
pub const EDGE_LIMIT: Duration = Duration::from_secs(4);
/// Links of one certificate that take streams: two at once are the overlap of a hand-over, and harmless.
const MOST_LINKS_UP: usize = 2;
/// Links of one certificate in all, with those that drain or have not said hello.
const MOST_LINKS: usize = 4;
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
    /// Told when newer links of the same node take its place.
    pub superseded: Arc<Notify>,
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
    /// How many links each node's certificate has, whatever their state.
    of_node: BTreeMap<String, usize>,
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
        let state = State {
            registry: Registry::new(clock.now()),
            handles: BTreeMap::new(),
            of_node: BTreeMap::new(),
            next: 0,
        };
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

    /// A place and a number for a new link of `agent`'s certificate.
    ///
    /// # Errors
    /// Why it gets none: the reason that the agent is told.
    pub fn enter(self: &Arc<Self>, agent: &str) -> Result<Standing, String> {
        if !self.pool.has(agent) {
            let pool = &self.pool.name;
            return Err(format!("{agent} is no node of pool {pool}; add it to pool.nodes if it should be"));
        }
        let mut state = self.lock();
        let links = state.of_node.entry(agent.to_owned()).or_default();
        if *links >= MOST_LINKS {
            return Err(format!("{agent} has {links} links already; is its certificate used twice?"));
        }
        *links += 1;
        state.next += 1;
        Ok(Standing { links: Arc::clone(self), agent: agent.to_owned(), id: state.next })
    }

    /// `link` takes new streams from here on, before all others. The oldest of more than two of its node drain.
    pub fn up(&self, link: LinkHandle) {
        let mut state = self.lock();
        state.registry.up(self.clock.now(), link.id);
        let agent = link.agent.clone();
        state.handles.insert(link.id, Arc::new(link));
        let of_agent = state.handles.values().rev().filter(|handle| handle.agent == agent);
        of_agent.skip(MOST_LINKS_UP).for_each(|handle| handle.superseded.notify_one());
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

/// A link's place among those of its node's certificate, from the TLS handshake to the end of the connection.
#[derive(Debug)]
pub struct Standing {
    links: Arc<Links>,
    agent: String,
    /// The link's number.
    pub id: LinkId,
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut state = self.links.lock();
        if let Some(links) = state.of_node.get_mut(&self.agent) {
            *links -= 1;
            if *links == 0 {
                state.of_node.remove(&self.agent);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_has_a_bounded_number_of_links_and_a_link_that_ends_makes_room() {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default(), "hangzhou");
        let pool = Pool::new("hangzhou", ["node-1".to_owned(), "node-2".to_owned()]);
        let links = Links::new(pool, Clock::start(), metrics);
        let mut standing: Vec<_> =
            (0..MOST_LINKS).map(|_| links.enter("node-1").expect("there is room")).collect();
        let refused = links.enter("node-1").expect_err("one too many");
        assert_eq!(refused, "node-1 has 4 links already; is its certificate used twice?");
        let other = links.enter("node-2").expect("another node has room of its own");
        assert!(links.enter("node-9").expect_err("a stranger").contains("no node of pool hangzhou"));
        standing.pop();
        let again = links.enter("node-1").expect("a link that ended made room");
        drop((standing, other, again));
        assert!(links.lock().of_node.is_empty());
    }
}
