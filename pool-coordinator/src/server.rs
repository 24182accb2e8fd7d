//! The listener on the pool's LAN: mutual TLS 1.3 and HTTP/2, for members of this pool alone, with bounds on everything
//! that a stranger can make the coordinator hold.

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use proto::member::Member;
use proto_daemon::member::NoMember;
use rustls_pki_types::UnixTime;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
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
/// Handshakes at a time; a flood of strangers waits behind its own.
const HANDSHAKES: usize = 256;
/// How long somebody who is no member is told so.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts on `listener` until the coordinator drains.
pub async fn serve(coordinator: Arc<Coordinator>, listener: TcpListener, tls: TlsAcceptor) {
    let room = Arc::new(Semaphore::new(coordinator.limits.connections));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
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
        let (Ok(permit), Ok(handshake)) =
            (Arc::clone(&room).try_acquire_owned(), Arc::clone(&handshakes).try_acquire_owned())
        else {
            coordinator.metrics.refused.inc();
            continue;
        };
        let (coordinator, tls) = (Arc::clone(&coordinator), tls.clone());
        tokio::spawn(async move {
            let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await;
            drop(handshake);
            match accepted {
                Ok(Ok(stream)) => connection(coordinator, stream).await,
                Ok(Err(_)) | Err(_) => {
                    coordinator.metrics.refused.inc();
                }
            }
            drop(permit);
        });
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
