//! The connections that carry HTTP: how many there may be, in all and of one address, and how long one may say nothing.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use media_core::admission::Connections;
use proto_daemon::shutdown::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

use crate::http::{Front, REQUEST_LIMIT};

const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
const STREAMS_PER_CONNECTION: u32 = 32;
/// How long a connection that has carried a request may carry none.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take to hear that its connection is closed.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// In all.
    pub all: usize,
    /// Of one address.
    pub per_address: usize,
}

/// A connection that counts for its address until it is dropped.
struct Counted {
    open: Arc<Mutex<Connections>>,
    address: IpAddr,
}

impl Counted {
    fn admit(open: &Arc<Mutex<Connections>>, address: IpAddr, limit: usize) -> Option<Self> {
        let admitted = open.lock().unwrap_or_else(PoisonError::into_inner).admit(address, limit);
        admitted.then(|| Self { open: Arc::clone(open), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).leave(self.address);
    }
}

/// Requests of one connection that are being answered. Each change wakes who waits.
#[derive(Debug, Default)]
struct Activity(watch::Sender<usize>);

/// One request that is being answered, until it is dropped.
struct Running(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Running {
        self.0.send_modify(|running| *running += 1);
        Running(Arc::clone(self))
    }

    /// Resolves when the first request has not come in time, or none has come for too long.
    async fn outstayed(&self) {
        let mut changes = self.0.subscribe();
        let mut limit = REQUEST_LIMIT;
        loop {
            match tokio::time::timeout(limit, changes.changed()).await {
                Ok(_) => limit = IDLE_LIMIT,
                Err(_) if *changes.borrow() == 0 => return,
                Err(_) => {}
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.send_modify(|running| *running -= 1);
    }
}

/// Accepts on `listener` until the process ends: sessions are deleted, and viewers let in, while it drains, too.
pub async fn serve(front: Arc<Front>, listener: TcpListener, bounds: Bounds, shutdown: Shutdown) {
    let (room, open) = (Arc::new(Semaphore::new(bounds.all)), Arc::default());
    loop {
        let accepted = tokio::select! {
            () = shutdown.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Full: the connection is dropped at once. To queue it would only hide the flood.
        let Some(counted) = Counted::admit(&open, address.ip(), bounds.per_address) else { continue };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (front, shutdown) = (Arc::clone(&front), shutdown.clone());
        tokio::spawn(async move {
            connection(front, stream, address, &shutdown).await;
            drop((counted, permit));
        });
    }
}

async fn connection(front: Arc<Front>, stream: TcpStream, address: SocketAddr, shutdown: &Shutdown) {
    let _ = stream.set_nodelay(true);
    let activity = Arc::new(Activity::default());
    let begun = Arc::clone(&activity);
    let service = service_fn(move |request: Request<Incoming>| {
        let (front, running) = (Arc::clone(&front), begun.begin());
        async move {
            let answer = front.respond(request, address.ip()).await;
            Ok::<_, Infallible>(answer.map(|body| body.holding(running)))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(REQUEST_LIMIT);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = activity.outstayed() => {
            serving.as_mut().graceful_shutdown();
            let Ok(outcome) = tokio::time::timeout(GOODBYE_LIMIT, serving).await else { return };
            outcome
        }
        () = shutdown.stopped() => return,
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a client's connection ended badly");
    }
}
