//! Dials on the pool's own network, for the cloud: only what the allow-list has, each answered within 4 s.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloud_tunnel_core::allow::AllowList;
use cloud_tunnel_core::class::Class;
use cloud_tunnel_core::connect::{Target, parse_authority};
use cloud_tunnel_core::route::Refusal;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use proto::tunnel::{HEADER_CLASS, HEADER_NODE, HEADER_REASON, MAX_STREAMS, printable};
use proto_daemon::shutdown::{Phase, Shutdown};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::link::socket::{self, Socket};
use crate::link::stream::{self, Streams};
use crate::link::table::EDGE_LIMIT;
use crate::metrics::{Metrics, Way};

/// The name of this way in metrics.
const DOOR: &str = "edge";
/// Dials under way at a time. Each node has its own part of them, so that no number of nodes that hang takes what the
/// others need: at most and at least so many. More wait for their turn.
const MOST_DIALS: usize = 64;
const MOST_DIALS_OF_NODE: usize = 16;
const LEAST_DIALS_OF_NODE: usize = 2;
/// How long a dial waits for its turn: what is left of [`EDGE_LIMIT`] is enough for the SYN to go out a second time.
const TURN_LIMIT: Duration = Duration::from_secs(2);

/// What every dial needs.
#[derive(Debug)]
pub struct Edge {
    allow: AllowList,
    dials_of_node: usize,
    dials_of: BTreeMap<String, Semaphore>,
    clock: Clock,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Edge {
    /// Dials what `allow` has.
    #[must_use]
    pub fn new(allow: AllowList, clock: Clock, metrics: Metrics, shutdown: Shutdown) -> Arc<Self> {
        let dials_of_node = dials_of_node(allow.len());
        let of_node = |node: &str| (node.to_owned(), Semaphore::new(dials_of_node));
        let dials_of = allow.names().map(of_node).collect();
        Arc::new(Self { allow, dials_of_node, dials_of, clock, metrics, shutdown })
    }

    /// Answers one request of the server and carries its stream to the end.
    pub async fn serve(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        streams: &Arc<Streams>,
    ) {
        let began = self.clock.now();
        let reached = tokio::select! {
            reached = self.reach(&request, streams) => reached,
            // The client gave up: so is this dial.
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return self.metrics.dialled(DOOR, 499, self.clock.now() - began),
        };
        let took = self.clock.now() - began;
        let (socket, ticket) = match reached {
            Ok(reached) => reached,
            Err(refusal) => {
                self.metrics.dialled(DOOR, refusal.status, took);
                tracing::info!(target = %request.uri(), answer = %refusal, ?took, "dial refused");
                let response = Response::builder().status(refusal.status);
                let response = response.header(HEADER_REASON, printable(&refusal.reason)).body(());
                // A server that has left is told nothing.
                let _ = respond.send_response(response.expect("a printable reason"), true);
                return;
            }
        };
        self.metrics.dialled(DOOR, 200, took);
        let Ok(send) = respond.send_response(Response::new(()), false) else { return };
        let _hold = self.shutdown.hold();
        let carried = stream::carry(socket, send, request.into_body(), &ticket, Bytes::new(), Way::ToCloud);
        tokio::select! {
            () = carried => {}
            () = self.shutdown.stopped() => {}
        }
    }

    async fn reach(
        &self,
        request: &Request<RecvStream>,
        streams: &Arc<Streams>,
    ) -> Result<(Socket, stream::Ticket), Refusal> {
        if request.method() != Method::CONNECT {
            return Err(Refusal::new(405, "only CONNECT is understood on a stream"));
        }
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let node = header(HEADER_NODE).unwrap_or_default();
        let class = header(HEADER_CLASS).and_then(Class::parse).unwrap_or(Class::Interactive);
        let target = request.uri().authority().and_then(|authority| parse_authority(authority.as_str()));
        let target: Target = target.ok_or_else(|| Refusal::new(400, "CONNECT needs HOST:PORT"))?;
        let address = self.allow.check(node, &target).map_err(|reason| Refusal::new(403, reason))?;
        if self.shutdown.phase() != Phase::Running {
            return Err(Refusal::new(503, format!("no link to {node}: its pool's tunnel-agent is stopping")));
        }
        let ticket = streams.enter(class, target.to_string());
        let most = usize::try_from(MAX_STREAMS).unwrap_or(usize::MAX);
        let ticket = ticket.ok_or_else(|| Refusal::new(503, format!("{node}: {most} streams are open")))?;
        // The turn and the dial have one limit together. A dial whose turn never came says nothing of its node.
        let ends = tokio::time::Instant::now() + EDGE_LIMIT;
        let turn = match self.dials_of.get(&node.to_ascii_lowercase()) {
            Some(dials) => Some(tokio::time::timeout(TURN_LIMIT, dials.acquire()).await.map_err(|_| {
                let most = self.dials_of_node;
                Refusal::new(503, format!("{node}: {most} dials are under way at its agent, try again"))
            })?),
            None => None,
        };
        let connected = tokio::time::timeout_at(ends, TcpStream::connect(address)).await;
        drop(turn);
        let socket = match connected {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(Refusal::refused(node, target.port));
            }
            Ok(Err(error)) => return Err(Refusal::unreachable(node, &error.to_string())),
            Err(_) => return Err(Refusal::no_answer(node, EDGE_LIMIT)),
        };
        // A connection without them works, too.
        let _ = socket::prepare_dialled(&socket);
        Ok((Socket::Tcp(socket), ticket))
    }

    /// How many nodes may be dialled.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.allow.len()
    }

    /// The time, by the clock of the dials.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.now()
    }
}

/// How many dials of one node may be under way when the agent has `nodes`.
fn dials_of_node(nodes: usize) -> usize {
    (MOST_DIALS / nodes.max(1)).clamp(LEAST_DIALS_OF_NODE, MOST_DIALS_OF_NODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_hang_leave_every_other_node_its_part() {
        let parts = [0, 1, 4, 5, 12, 32, 5000].map(dials_of_node);
        assert_eq!(parts, [16, 16, 16, 12, 5, 2, 2]);
    }
}
