//! The listeners: TLS, HTTP/1.1 and HTTP/2, with bounds on everything a stranger can make the hub hold.

pub mod client;
mod wait;
mod watched;

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::{
    client::{Client, Open},
    wait::Asked,
    watched::Watched,
};
use crate::{hub::Hub, serve, upstream::Body};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long HTTP/1.1 waits for the head of a request, and with it for the next request of a connection that is idle, as
/// long as kube-apiserver does. Who has not said who it is has less ([`Client::stays_unknown`]).
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// Bounds on the head of one request, as kube-apiserver has them: a command of `exec` and a selector may be long, and a
/// proxy that impersonates names each group.
const WIDE: Heads = Heads { bytes: 1024 * 1024, count: 1024 };
/// The same where many clients have shown no credential yet, each of which could send as much.
const NARROW: Heads = Heads { bytes: 32 * 1024, count: 100 };
const STREAMS_PER_CONNECTION: u32 = 250;
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// What one stream may hold of an answer that its client does not read.
const SEND_BUFFER: usize = 256 * 1024;
/// Pings to clients that went away without a word.
const CLIENT_PING: Duration = Duration::from_secs(60);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How large the head of a request may be.
#[derive(Clone, Copy)]
struct Heads {
    bytes: usize,
    count: usize,
}

/// Takes a connection off both counts, however its task ends.
struct Counted(Arc<Hub>);

impl Counted {
    fn new(hub: &Arc<Hub>) -> Self {
        hub.site.metrics.connections.inc();
        Self(Arc::clone(hub))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.site.metrics.connections.dec();
    }
}

/// Accepts on `listener` until the hub drains.
pub async fn serve(hub: Arc<Hub>, listener: TcpListener, tls: TlsAcceptor) {
    let open = Arc::new(Open::new(hub.site.config.file.limits.connections, &hub.site.node));
    loop {
        let accepted = tokio::select! {
            () = hub.site.shutdown.draining() => return,
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
        let (tls, table) = (tls.clone(), Arc::clone(&open));
        let id = open.next_id();
        let counted = Counted::new(&hub);
        let hub = Arc::clone(&hub);
        let task = tokio::spawn(async move {
            connection(&hub, stream, tls, (id, table)).await;
            drop(counted);
        });
        open.add(id, task.abort_handle());
    }
}

/// Lets a request in whose client says who it is.
async fn answer(hub: Arc<Hub>, client: &Client, mut request: Request<Incoming>) -> Response<Body> {
    hub.site.metrics.requests.inc();
    match hub.authenticator.authenticate(&client.peer, request.headers_mut()).await {
        Ok((user, credential)) => {
            let running = client.begin(&user);
            serve::respond(hub, (user, credential), running, request).await
        }
        Err(status) => {
            hub.site.metrics.unauthenticated.inc();
            serve::refuse(&status)
        }
    }
}

async fn connection(hub: &Arc<Hub>, stream: TcpStream, tls: TlsAcceptor, (id, open): (u64, Arc<Open>)) {
    // Small frames must not wait for more: an event is news.
    let _ = stream.set_nodelay(true);
    let mut client = Client::new(id, open);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await else { return };
    client.peer = hub.authenticator.peer(stream.get_ref().1.peer_certificates());
    let heads = if client.may_send_wide_heads() { WIDE } else { NARROW };
    let client = Arc::new(client);
    let service = service_fn({
        let hub = Arc::clone(hub);
        let client = Arc::clone(&client);
        move |request: Request<Incoming>| {
            let (hub, client) = (Arc::clone(&hub), Arc::clone(&client));
            let asked = Asked::of(&request, hub.site.clock);
            async move {
                let response = answer(hub, &client, request).await;
                if let Some(asked) = asked {
                    asked.answered(&response);
                }
                Ok::<_, std::convert::Infallible>(response)
            }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(heads.bytes)
        .max_headers(heads.count);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(u32::try_from(heads.bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(CLIENT_PING)
        .keep_alive_timeout(Duration::from_secs(20));
    let shutdown = hub.site.shutdown.clone();
    let _hold = shutdown.hold();
    let stream = TokioIo::new(Watched::new(stream, hub.site.clock));
    let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(stream, service));
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = client.stays_unknown() => return tracing::debug!("a client never said who it is"),
        () = shutdown.draining() => {
            // Streams that run end cleanly by themselves; no new ones are taken.
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = serving.as_mut() => outcome,
                () = shutdown.expired() => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a client's connection ended badly");
    }
}
