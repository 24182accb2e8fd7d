//! The server's end of links: it takes connections of agents, checks who they are, and becomes the HTTP/2 client on them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cloud_tunnel_core::link::{End, HELLO_LIMIT};
use h2::client;
use http::{Method, Request, StatusCode};
use proto::tunnel::control::Body;
use proto::tunnel::{
    CONNECTION_WINDOW, Control, Drain, LINK_PATH, MAX_FRAME_BYTES, MAX_STREAMS, STREAM_WINDOW, printable,
};
use proto_daemon::shutdown::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::control::{self, Ends, Event};
use super::socket::{self, Listening};
use super::strangers::{Stranger, Strangers};
use super::stream::Streams;
use super::table::{LinkHandle, Links};
use super::{CONNECT_LIMIT, MOST_RESETS, RESETS_REMEMBERED, peer};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// Connections that are no link yet.
const MOST_STRANGERS: usize = 256;
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a refused connection is told in the log.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long the last frames of a link may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// What every link of the server needs.
pub struct Acceptor {
    /// TLS.
    pub tls: TlsAcceptor,
    /// The links.
    pub links: Arc<Links>,
    /// The clock.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The end of the process.
    pub shutdown: Shutdown,
    /// When a refusal was told last, and how many were not told since.
    pub told: Mutex<Option<(Duration, u64)>>,
}

/// Takes connections until the drain begins.
pub async fn serve(acceptor: Arc<Acceptor>, listener: TcpListener) {
    let strangers = Strangers::new(MOST_STRANGERS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = acceptor.shutdown.draining() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let acceptor = Arc::clone(&acceptor);
                strangers.spawn(|stranger| async move {
                    let address = address.to_string();
                    if let Err(reason) = link(&acceptor, stream, &address, stranger).await {
                        acceptor.refused(&address, &reason);
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an agent's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Acceptor {
    /// Counts a connection that was no agent's, and tells of one in a minute.
    fn refused(&self, address: &str, reason: &str) {
        self.metrics.peer_refused();
        let now = self.clock.now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *told {
            Some((last, silent)) if now.saturating_sub(*last) < TELL_EVERY => *silent += 1,
            earlier => {
                let since = earlier.map_or(0, |(_, silent)| silent);
                tracing::warn!(address, reason, not_told = since, "a connection was refused");
                *earlier = Some((now, 0));
            }
        }
    }
}

/// Makes a link of a connection and runs it to its end. An error says why it never became one.
async fn link(
    acceptor: &Acceptor,
    stream: TcpStream,
    address: &str,
    stranger: Stranger,
) -> Result<(), String> {
    let breaker = socket::prepare(&stream).map_err(|error| error.to_string())?;
    let (stream, heard) = Listening::new(stream, acceptor.clock);
    let tls = tokio::time::timeout(CONNECT_LIMIT, acceptor.tls.accept(stream)).await;
    let tls = tls.map_err(|_| "no TLS handshake in 5 s")?.map_err(|error| error.to_string())?;
    let agent = peer::node_of(tls.get_ref().1.peer_certificates());
    let standing = agent.and_then(|agent| Ok((acceptor.links.enter(&agent)?, agent)));
    let handshake = client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(16 * 1024)
        .max_concurrent_streams(0)
        .enable_push(false)
        .max_concurrent_reset_streams(MOST_RESETS)
        .reset_stream_duration(RESETS_REMEMBERED)
        .max_local_error_reset_streams(None)
        .handshake::<_, Bytes>(tls);
    let handshake = tokio::time::timeout(CONNECT_LIMIT, handshake).await;
    let (requests, mut connection) =
        handshake.map_err(|_| "no HTTP/2 in 5 s")?.map_err(|error| error.to_string())?;
    let ping = connection.ping_pong().expect("asked for once");
    // The connection moves only while it is polled, so it has a task; that ends with this function.
    let mut connection = tokio::spawn(connection);
    let _ended = AbortOnDrop(connection.abort_handle());
    let (send, recv) = tokio::time::timeout(HELLO_LIMIT, open_control(requests.clone()))
        .await
        .map_err(|_| "no answer to the control stream in 5 s")??;
    let (standing, agent) = match standing {
        Ok(standing) => standing,
        Err(reason) => {
            // A peer that does not take it has its time and no more.
            let _ = tokio::time::timeout(FLUSH_LIMIT, refuse(send, recv, &reason)).await;
            drop(requests);
            let _ = tokio::time::timeout(FLUSH_LIMIT, &mut connection).await;
            return Err(reason);
        }
    };
    let id = standing.id;
    let streams = Streams::new(
        usize::try_from(MAX_STREAMS).unwrap_or(usize::MAX),
        acceptor.clock,
        acceptor.metrics.clone(),
    );
    let mut up = Registered { acceptor, id, agent: &agent, address, stranger: Some(stranger), was_up: false };
    let superseded = Arc::new(Notify::new());
    let drain = async {
        tokio::select! {
            () = acceptor.shutdown.draining() => "tunnel-server is stopping",
            () = superseded.notified() => "newer links of the same node took its place",
        }
    };
    let own = control::hello(format!("{}/{id}", acceptor.links.pool().name), &acceptor.links.pool().name);
    let _hold = acceptor.shutdown.hold();
    let end = control::run(own, Ends { send, recv, ping, heard }, &streams, acceptor.clock, drain, |event| {
        up.tell(event, &streams, &requests, &superseded);
    })
    .await;
    let was_up = up.was_up;
    drop((up, requests));
    if end == End::Silent {
        breaker.break_off();
    } else {
        // The last word is under way; the connection ends by itself when nothing is open on it.
        let _ = tokio::time::timeout(FLUSH_LIMIT, &mut connection).await;
    }
    if was_up {
        acceptor.metrics.link_ended(end.word());
        tracing::info!(link = id, agent, address, reason = %end, "link down");
        return Ok(());
    }
    Err(end.to_string())
}

/// Says why there will be no link: the certificate is good, and an operator reads the agent's `/readyz` first.
async fn refuse(mut send: h2::SendStream<Bytes>, mut recv: h2::RecvStream, reason: &str) {
    let drain = Control::new(Body::Drain(Drain { seconds: 0, reason: printable(reason) }));
    // A peer that has left needs no word.
    let _ = send.send_data(drain.to_frame().into(), true);
    // Its end of the stream says that it has read the reason: a reset, which a drop would send, could overtake that.
    while let Some(Ok(bytes)) = recv.data().await {
        let _ = recv.flow_control().release_capacity(bytes.len());
    }
}

async fn open_control(
    requests: client::SendRequest<Bytes>,
) -> Result<(h2::SendStream<Bytes>, h2::RecvStream), String> {
    let request = Request::builder().method(Method::POST).uri(format!("https://tunnel{LINK_PATH}")).body(());
    let request = request.expect("fixed parts make a request");
    let mut requests = requests.ready().await.map_err(|error| error.to_string())?;
    let (response, send) = requests.send_request(request, false).map_err(|error| error.to_string())?;
    let response = response.await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("the agent answered {} to the control stream", response.status()));
    }
    Ok((send, response.into_body()))
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The link's place among the links, from its hello to its drain or end.
struct Registered<'a> {
    acceptor: &'a Acceptor,
    id: u64,
    agent: &'a str,
    address: &'a str,
    stranger: Option<Stranger>,
    was_up: bool,
}

impl Registered<'_> {
    fn tell(
        &mut self,
        event: Event,
        streams: &Arc<Streams>,
        requests: &client::SendRequest<Bytes>,
        superseded: &Arc<Notify>,
    ) {
        match event {
            Event::Up { version, peer } => {
                self.stranger = None;
                self.was_up = true;
                let named = printable(&peer.id);
                let (link, agent, address) = (self.id, self.agent, self.address);
                tracing::info!(link, agent, address, version, named, "link up");
                self.acceptor.links.up(LinkHandle {
                    id: self.id,
                    agent: self.agent.to_owned(),
                    address: self.address.to_owned(),
                    since: self.acceptor.clock.now(),
                    superseded: Arc::clone(superseded),
                    streams: Arc::clone(streams),
                    requests: requests.clone(),
                });
            }
            Event::Drains(reason) => {
                tracing::info!(link = self.id, reason, "link drains");
                self.acceptor.links.down(self.id);
            }
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.acceptor.links.down(self.id);
    }
}
