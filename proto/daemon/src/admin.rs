//! `/livez /readyz /metrics /status` over a unix socket, on a thread and runtime of its own, so that a probe is
//! answered while the daemon is under load.
//!
//! The socket is for its owner only (0600). Requests, connections and time are bounded.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, oneshot};

/// How many connections are served at a time; further ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 32;
/// How long one connection may live, whatever it does.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(10);
/// The most bytes that a request's head may have.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// The most headers that a request may have.
const MAX_HEADERS: usize = 32;
/// The most bytes that [`fetch`] reads of an answer.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// What the daemon tells about itself. Called on the admin thread; must not block for long.
pub trait AdminState: Send + Sync + 'static {
    /// Whether the process works at all; an error says why not. A supervisor restarts on it.
    ///
    /// # Errors
    /// Why the process should be restarted.
    fn live(&self) -> Result<(), String>;
    /// Whether the process serves its clients now; an error says what is awaited.
    ///
    /// # Errors
    /// What is missing.
    fn ready(&self) -> Result<(), String>;
    /// The text of a scrape, as [`crate::metrics::encode`] writes it.
    fn metrics(&self) -> String;
    /// One JSON document for people and tools.
    fn status_json(&self) -> String;
}

/// Why the admin socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Something that is no socket stands at the path.
    #[error("{}: not a socket; move it away or set another path", .0.display())]
    NotASocket(PathBuf),
    /// Another process answers on the socket.
    #[error("{}: another process serves this socket; is the daemon already running?", .0.display())]
    InUse(PathBuf),
    /// The system refused.
    #[error("{}: cannot {doing}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A running admin server. Dropping it ends the thread and removes the socket.
#[derive(Debug)]
pub struct AdminServer {
    path: PathBuf,
    inode: u64,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Opens the socket at `path` and serves `state` on it. A missing parent folder is created for the owner only; a
/// socket that a dead process left is replaced.
///
/// # Errors
/// [`AdminError`]: the path is taken, or the system refused the socket or the thread.
pub fn serve(path: &Path, state: Arc<dyn AdminState>) -> Result<AdminServer, AdminError> {
    let failed = |doing| move |source| AdminError::Io { path: path.into(), doing, source };
    let listener = listen(path)?;
    let inode = fs::symlink_metadata(path).map_err(failed("look at the new socket"))?.ino();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start a runtime for the socket"))?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::UnixListener::from_std(listener).map_err(failed("poll the socket"))?
    };
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("admin".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, state) => {}
                    _ = stopped => {}
                }
            });
        })
        .map_err(failed("start a thread for the socket"))?;
    Ok(AdminServer { path: path.into(), inode, stop: Some(stop), thread: Some(thread) })
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there; the daemon's end goes on.
            let _ = thread.join();
        }
        // A successor may have put its own socket in place already.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds in a private folder beside `path` and renames, so that the socket is never there with other rights.
fn listen(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |doing| move |source| AdminError::Io { path: path.into(), doing, source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed("create its folder"))?;
    refuse_if_taken(path)?;
    let private = parent.join(format!(".{}", std::process::id()));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&private)
        .map_err(failed("create a private folder beside it"))?;
    let listener = bind_private(&private.join("s"), path);
    let _ = fs::remove_dir_all(&private);
    listener.map_err(failed("bind it"))
}

fn bind_private(first: &Path, path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(first)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(first, fs::Permissions::from_mode(0o600))?;
    fs::rename(first, path)?;
    Ok(listener)
}

fn refuse_if_taken(path: &Path) -> Result<(), AdminError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(AdminError::Io { path: path.into(), doing: "look at it", source }),
        Ok(found) if !found.file_type().is_socket() => Err(AdminError::NotASocket(path.into())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(AdminError::InUse(path.into())),
        Ok(_) => Ok(()),
    }
}

async fn accept(listener: tokio::net::UnixListener, state: Arc<dyn AdminState>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin socket: accept");
                // Out of file descriptors: without a pause this loop would take the CPU that could free some.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, state.as_ref());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(MAX_CONNECTION_AGE)
                .max_buf_size(MAX_HEAD_BYTES)
                .max_headers(MAX_HEADERS)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away or takes too long is its own affair.
            let _ = tokio::time::timeout(MAX_CONNECTION_AGE, connection).await;
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, state: &dyn AdminState) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let probe = |result: Result<(), String>| match result {
        Ok(()) => respond(StatusCode::OK, TEXT, "ok\n".into()),
        Err(reason) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
    };
    match request.uri().path() {
        "/livez" => probe(state.live()),
        "/readyz" => probe(state.ready()),
        "/metrics" => respond(StatusCode::OK, crate::metrics::CONTENT_TYPE, state.metrics()),
        "/status" => respond(StatusCode::OK, "application/json", state.status_json()),
        _ => respond(StatusCode::NOT_FOUND, TEXT, "/livez /readyz /metrics /status\n".into()),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Asks the daemon behind the socket at `socket` for `route` (e.g. `/readyz`) and waits for its answer: the HTTP
/// status and the body. Blocking; for command-line tools and tests.
///
/// # Errors
/// Nobody listens, no answer in `timeout` (per read and write), or what came is no HTTP answer of ours.
pub fn fetch(socket: &Path, route: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let invalid = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    if !route.starts_with('/') || route.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a route is a path without blanks"));
    }
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // HTTP/1.0 has neither chunks nor keep-alive: the body ends where the connection does.
    stream.write_all(format!("GET {route} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| invalid("the answer is not UTF-8"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| invalid("the answer has no end of head"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(|| invalid("the answer has no status"))?, body.to_owned()))
}
