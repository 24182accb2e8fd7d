//! The listener on the pool's LAN: mutual TLS 1.3 and HTTP/2, for members of this pool alone, with bounds on everything
//! that a stranger can make the coordinator hold.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::member::Member;
use proto_daemon::member::NoMember;
use rustls_pki_types::UnixTime;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Status, body::Body};

use crate::{coordinator::Coordinator, relay, service};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEADER_BYTES: u32 = 8 * 1024;
const STREAMS_PER_CONNECTION: u32 = 64;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What one connection may hold of frames that its member does not read.
const SEND_BUFFER: usize = 512 * 1024;
/// Pings to members that went away without a word.
const PING: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that have not said yet who they are; one more, and the oldest of them is closed. A flood of strangers pushes
/// out its own; a member is never among those for long.
const STRANGERS: usize = 256;
/// How long somebody who is no member is told so.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts on `listener` until the coordinator drains.
pub async fn serve(coordinator: Arc<Coordinator>, listener: TcpListener, tls: TlsAcceptor) {
    let room = Arc::new(Semaphore::new(coordinator.limits.connections));
    let strangers = Arc::new(Strangers::default());
    let mut serial = 0_u64;
    loop {
        let accepted = tokio::select! {
            () = coordinator.shutdown.draining() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Full: the connection is dropped at once. To queue it would only hide the flood.
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            coordinator.metrics.refused.inc();
            continue;
        };
        serial += 1;
        let (id, waiting) = (serial, Arc::clone(&strangers));
        let (coordinator, tls) = (Arc::clone(&coordinator), tls.clone());
        let task = tokio::spawn(async move {
            let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await;
            waiting.remove(id);
            match accepted {
                Ok(Ok(stream)) => connection(coordinator, stream).await,
                Ok(Err(_)) | Err(_) => {
                    coordinator.metrics.refused.inc();
                }
            }
            drop(permit);
        });
        // The task runs on this very thread, so that it has not ended yet.
        strangers.add(id, task.abort_handle());
    }
}

/// Connections in their handshake, oldest first.
#[derive(Default)]
struct Strangers(Mutex<BTreeMap<u64, AbortHandle>>);

impl Strangers {
    fn add(&self, id: u64, task: AbortHandle) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(id, task);
        if waiting.len() > STRANGERS
            && let Some((_, oldest)) = waiting.pop_first()
        {
            oldest.abort();
        }
    }

    fn remove(&self, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

async fn connection(coordinator: Arc<Coordinator>, stream: tokio_rustls::server::TlsStream<TcpStream>) {
    // Small frames must not wait for more: an event is news.
    let _ = stream.get_ref().0.set_nodelay(true);
    let member = coordinator.door.judge(stream.get_ref().1.peer_certificates(), UnixTime::now());
    let member = match member {
        Ok(member) => member,
        Err(why) => return turn_away(&coordinator, stream, why).await,
    };
    let Some(_admitted) = coordinator.admit(&member) else {
        tracing::warn!(%member, "too many connections of one member");
        coordinator.metrics.refused.inc();
        return;
    };
    coordinator.metrics.connections.inc();
    let shutdown = coordinator.shutdown.clone();
    let hold = shutdown.hold();
    let service = service_fn({
        let coordinator = Arc::clone(&coordinator);
        let member = member.clone();
        move |request| {
            let (coordinator, member) = (Arc::clone(&coordinator), member.clone());
            async move { Ok::<_, std::convert::Infallible>(answer(&coordinator, &member, request).await) }
        }
    });
    let mut serving = std::pin::pin!(builder().serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = shutdown.draining() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = serving.as_mut() => outcome,
                () = shutdown.expired() => Ok(()),
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%member, %error, "a member's connection ended badly");
    }
    coordinator.metrics.connections.dec();
    drop(hold);
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

async fn answer(
    coordinator: &Arc<Coordinator>,
    member: &Member,
    request: Request<Incoming>,
) -> Response<Body> {
    if request.method() == Method::CONNECT {
        return relay::connect(coordinator, member, request).await;
    }
    match service::answer(coordinator, member, request).await {
        Some(response) => response,
        None => Status::unimplemented("this coordinator has no such method").into_http(),
    }
}

/// Tells somebody who is no member why that is so, in the words of whatever was asked for, and closes.
async fn turn_away(
    coordinator: &Arc<Coordinator>,
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    why: NoMember,
) {
    coordinator.metrics.refused.inc();
    let address = stream.get_ref().0.peer_addr().ok();
    tracing::warn!(?address, %why, "somebody who is no member was turned away");
    let service = service_fn(move |request: Request<Incoming>| {
        let why = why.to_string();
        let response = if request.method() == Method::CONNECT {
            relay::plain(StatusCode::FORBIDDEN, why)
        } else {
            Status::unauthenticated(why).into_http()
        };
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    // Whoever does not ask, or does not go, is closed.
    let _ = tokio::time::timeout(STRANGER_TIMEOUT, builder().serve_connection(TokioIo::new(stream), service))
        .await;
}
