//! The agent's end of links: it dials a server, becomes the HTTP/2 server on that connection, and dials again for ever.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cloud_tunnel_core::link::{End, HELLO_LIMIT};
use h2::server;
use http::{Method, Response};
use proto::backoff::Backoff;
use proto::tunnel::{CONNECTION_WINDOW, LINK_PATH, MAX_FRAME_BYTES, MAX_STREAMS, STREAM_WINDOW, printable};
use proto_daemon::shutdown::Shutdown;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::control::{self, Ends, Event};
use super::socket::{self, Breaker, LastHeard, Listening};
use super::stream::Streams;
use super::{CONNECT_LIMIT, MOST_RESETS, RESETS_REMEMBERED};
use crate::clock::{self, Clock};
use crate::edge::Edge;
use crate::metrics::Metrics;

/// How long one address of a server may take to answer: a SYN that is lost is sent again after 1 s.
const ADDRESS_LIMIT: Duration = Duration::from_millis(1500);
/// How many addresses of a server are tried in one attempt.
const MOST_ADDRESSES: usize = 8;
/// How long the last frames of a link may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// A link that stood for this long was a success: the next attempt waits as after the first failure.
const STOOD: Duration = Duration::from_secs(10);

type Connection = server::Connection<TlsStream<Listening<TcpStream>>, Bytes>;

/// A connection on which a link can begin.
struct Connected {
    connection: Connection,
    heard: LastHeard,
    breaker: Breaker,
}

/// A server as the configuration names it.
#[derive(Clone, Debug)]
pub struct Server {
    /// `HOST:PORT`.
    pub address: String,
    /// The name that its certificate must have.
    pub name: ServerName<'static>,
}

/// What is known of the link now.
#[derive(Clone, Debug)]
pub enum LinkState {
    /// None, for this reason.
    Down {
        /// Since when.
        since: Duration,
        /// Why the last attempt or link ended.
        reason: String,
    },
    /// One that takes streams.
    Up {
        /// Since when.
        since: Duration,
        /// The server's address.
        server: String,
        /// The link as the server names it.
        id: String,
    },
}

/// The agent's links; one at a time but for the overlap of a drain.
pub struct Dialler {
    /// The servers, in order of preference.
    pub servers: Vec<Server>,
    /// TLS.
    pub tls: TlsConnector,
    /// Who this agent is, for the log of the server.
    pub node: String,
    /// The pool's name.
    pub pool: String,
    /// Dials on the pool's network.
    pub edge: Arc<Edge>,
    /// The clock.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The end of the process.
    pub shutdown: Shutdown,
    /// What is known of the link.
    pub state: Mutex<LinkState>,
}

/// Why an attempt did not become a link.
struct Failed(String);

impl<E: fmt::Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Dialler {
    /// What is known of the link now.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: LinkState) {
        let up = usize::from(matches!(state, LinkState::Up { .. }));
        self.metrics.set_links(up, up * self.edge.nodes());
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Keeps a link up until the process drains.
    pub async fn run(self: Arc<Self>) {
        let (mut attempt, mut turn) = (0, 0);
        loop {
            let server = &self.servers[turn % self.servers.len()];
            let began = self.clock.now();
            let reason = tokio::select! {
                reason = Arc::clone(&self).link(server) => reason,
                () = self.shutdown.draining() => return,
            };
            let now = self.clock.now();
            attempt = if now.saturating_sub(began) > STOOD { 0 } else { attempt + 1 };
            turn += 1;
            self.set(LinkState::Down { since: now, reason: reason.clone() });
            let wait = Backoff::LINK
                .delay(u32::try_from(attempt).unwrap_or(u32::MAX).saturating_sub(1), clock::random());
            tracing::warn!(server = server.address, reason, ?wait, "no link; dialling again");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shutdown.draining() => return,
            }
        }
    }

    /// Dials `server`; returns, with the reason, when no new stream can come by the link: it failed, ended, or drains.
    /// A draining link goes on behind this function's back until its streams have ended.
    async fn link(self: Arc<Self>, server: &Server) -> String {
        let connected = match self.connect(server).await {
            Ok(connected) => connected,
            Err(Failed(reason)) => {
                self.metrics.attempt_failed("connect");
                return format!("{}: {reason}", server.address);
            }
        };
        let (over, is_over) = oneshot::channel();
        let (this, address) = (Arc::clone(&self), server.address.clone());
        tokio::spawn(async move {
            let mut over = Over { tell: Some(over), was_up: false };
            let end = this.serve(connected, &address, &mut over).await;
            if over.was_up {
                this.metrics.link_ended(end.word());
            } else {
                this.metrics.attempt_failed(end.word());
            }
            tracing::info!(server = address, reason = %end, "link ended");
            over.say(end.to_string());
        });
        let reason = is_over.await.unwrap_or_else(|_| "the link's task has ended".to_owned());
        format!("{}: {reason}", server.address)
    }

    async fn connect(&self, server: &Server) -> Result<Connected, Failed> {
        let found = tokio::time::timeout(CONNECT_LIMIT, tokio::net::lookup_host(&server.address)).await;
        let found: Vec<_> = found.map_err(|_| "no answer to the look-up of its name in 5 s")??.collect();
        let stream = dial_first(&found).await?;
        let breaker = socket::prepare(&stream)?;
        let (stream, heard) = Listening::new(stream, self.clock);
        let tls = tokio::time::timeout(CONNECT_LIMIT, self.tls.connect(server.name.clone(), stream)).await;
        let tls = tls.map_err(|_| "no TLS handshake in 5 s")??;
        let handshake = server::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_BYTES)
            .max_header_list_size(16 * 1024)
            // The control stream is one more.
            .max_concurrent_streams(MAX_STREAMS + 1)
            // Streams that the server takes back before they were looked at; h2's own bound is for strangers, too.
            .max_pending_accept_reset_streams(MOST_RESETS)
            .max_concurrent_reset_streams(MOST_RESETS)
            .reset_stream_duration(RESETS_REMEMBERED)
            .max_local_error_reset_streams(None)
            .handshake::<_, Bytes>(tls);
        let connection = tokio::time::timeout(CONNECT_LIMIT, handshake).await;
        let connection = connection.map_err(|_| "no HTTP/2 in 5 s; is it a tunnel-server?")??;
        Ok(Connected { connection, heard, breaker })
    }

    /// Runs the link to its end.
    async fn serve(self: &Arc<Self>, connected: Connected, address: &str, over: &mut Over) -> End {
        let Connected { mut connection, heard, breaker } = connected;
        let ping = connection.ping_pong().expect("asked for once");
        // The server's first stream is the control stream, whatever comes behind it.
        let first = tokio::time::timeout(HELLO_LIMIT, connection.accept()).await;
        let (request, mut respond) = match first {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(error))) => return End::Broken(error.to_string()),
            Ok(None) => return End::Broken("the server closed it".to_owned()),
            Err(_) => return End::NoHello,
        };
        if request.method() != Method::POST || request.uri().path() != LINK_PATH {
            return End::Protocol(format!("its first stream is {} {}", request.method(), request.uri()));
        }
        let send = match respond.send_response(Response::new(()), false) {
            Ok(send) => send,
            Err(error) => return End::Broken(error.to_string()),
        };
        let ends = Ends { send, recv: request.into_body(), ping, heard };
        let most = usize::try_from(MAX_STREAMS).unwrap_or(usize::MAX);
        let streams = Streams::new(most, self.clock, self.metrics.clone());
        let drain = async {
            self.shutdown.draining().await;
            "tunnel-agent is stopping"
        };
        let _hold = self.shutdown.hold();
        let own = control::hello(self.node.clone(), &self.pool);
        let control = control::run(own, ends, &streams, self.clock, drain, |event| {
            self.tell(event, address, over);
        });
        let mut control = pin!(control);
        let end = tokio::select! {
            end = &mut control => end,
            // What came on the control stream before the connection ended says more than its end.
            error = accept(&mut connection, &self.edge, &streams) => {
                tokio::time::timeout(FLUSH_LIMIT, control).await.unwrap_or(End::Broken(error))
            }
        };
        if end == End::Silent {
            breaker.break_off();
        } else {
            connection.graceful_shutdown();
            // The last word is under way; polling the connection is what sends it.
            let closing = std::future::poll_fn(|cx| connection.poll_closed(cx));
            let _ = tokio::time::timeout(FLUSH_LIMIT, closing).await;
        }
        end
    }

    fn tell(&self, event: Event, address: &str, over: &mut Over) {
        match event {
            Event::Up { version, peer } => {
                over.was_up = true;
                let id = printable(&peer.id);
                tracing::info!(server = address, version, id, "link up");
                self.set(LinkState::Up { since: self.clock.now(), server: address.to_owned(), id });
            }
            Event::Drains(reason) => {
                tracing::info!(server = address, reason, "link drains");
                over.say(reason);
            }
        }
    }
}

/// Connects to the first of `addresses` that answers, each in its own time: a host that hangs does not hide the next.
async fn dial_first(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut reasons = Vec::new();
    for address in addresses.iter().take(MOST_ADDRESSES) {
        match tokio::time::timeout(ADDRESS_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no answer to the connection in {ADDRESS_LIMIT:?}")),
        }
    }
    if reasons.is_empty() {
        return Err("its name has no address".to_owned());
    }
    Err(reasons.join("; "))
}

/// Takes streams until the connection ends; the error is why.
async fn accept(connection: &mut Connection, edge: &Arc<Edge>, streams: &Arc<Streams>) -> String {
    loop {
        match connection.accept().await {
            Some(Ok((request, respond))) => {
                let (edge, streams) = (Arc::clone(edge), Arc::clone(streams));
                tokio::spawn(async move { edge.serve(request, respond, &streams).await });
            }
            Some(Err(error)) => return error.to_string(),
            None => return "the server closed it".to_owned(),
        }
    }
}

/// Tells once that no new stream can come.
struct Over {
    tell: Option<oneshot::Sender<String>>,
    /// Whether the link was up at any time.
    was_up: bool,
}

impl Over {
    fn say(&mut self, reason: String) {
        if let Some(tell) = self.tell.take() {
            // Whoever drains does not listen any more.
            let _ = tell.send(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_hangs_or_refuses_does_not_hide_the_next() {
        // A backlog that is full lets SYNs fall, as a host that hangs does.
        let hung =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        hung.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        hung.listen(0).expect("it listens");
        let hung_at = hung.local_addr().expect("bound").as_socket().expect("IPv4");
        let limit = Duration::from_millis(300);
        let _held: Vec<_> =
            (0..3).filter_map(|_| std::net::TcpStream::connect_timeout(&hung_at, limit).ok()).collect();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let closed_at = closed.local_addr().expect("bound");
        drop(closed);
        let open = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let open_at = open.local_addr().expect("bound");

        let stream = dial_first(&[hung_at, closed_at, open_at]).await.expect("the third answers");
        assert_eq!(stream.peer_addr().expect("connected"), open_at);
        let refused = dial_first(&[hung_at, closed_at]).await.expect_err("neither answers");
        assert!(refused.contains(&format!("{hung_at}: no answer")), "{refused}");
        assert!(refused.contains(&format!("{closed_at}: Connection refused")), "{refused}");
        assert!(dial_first(&[]).await.is_err());
    }
}
