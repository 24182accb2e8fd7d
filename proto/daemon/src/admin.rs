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
use http_body_util::{BodyExt as _, Full, Limited};
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

/// Longest body of a POST.
const MAX_COMMAND_BYTES: usize = 1024;

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
    /// The JSON document behind another route of this daemon; none if it has no such route.
    fn get(&self, _path: &str) -> Option<String> {
        None
    }
    /// Does what a POST to another route of this daemon asks for; none if it has no such route.
    ///
    /// # Errors
    /// Why it was not done, and what to send instead.
    fn post(&self, _path: &str, _body: &str) -> Option<Result<(), String>> {
        None
    }
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

/// A unix socket at `path` for its owner only (0600); a missing parent folder is created (0700), and a socket that a
/// dead process left is replaced. It is bound in a private folder beside `path` and renamed, so that it is never there
/// with other rights. Whoever closes it removes the file.
///
/// # Errors
/// [`AdminError`]: the path is taken, or the system refused.
pub fn listen(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |doing| move |source| AdminError::Io { path: path.into(), doing, source };
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
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
            let service = service_fn(move |request: Request<Incoming>| {
                let state = Arc::clone(&state);
                async move {
                    let answer = match *request.method() {
                        Method::POST => command(request, state.as_ref()).await,
                        _ => answer(&request, state.as_ref()),
                    };
                    Ok::<_, Infallible>(answer)
                }
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

const TEXT: &str = "text/plain; charset=utf-8";

/// A POST: its body is one word or a few.
async fn command(request: Request<Incoming>, state: &dyn AdminState) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let body = Limited::new(request, MAX_COMMAND_BYTES).collect().await;
    let Ok(Ok(body)) = body.map(|body| String::from_utf8(body.to_bytes().into())) else {
        let text = format!("a command is text of at most {MAX_COMMAND_BYTES} bytes\n");
        return respond(StatusCode::BAD_REQUEST, TEXT, text);
    };
    match state.post(&path, body.trim()) {
        Some(Ok(())) => respond(StatusCode::ACCEPTED, TEXT, "ok\n".into()),
        Some(Err(reason)) => respond(StatusCode::BAD_REQUEST, TEXT, format!("{reason}\n")),
        None => only_read(),
    }
}

fn only_read() -> Response<Full<Bytes>> {
    let mut refused = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    refused
}

fn answer(request: &Request<Incoming>, state: &dyn AdminState) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return only_read();
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
        path => match state.get(path) {
            Some(document) => respond(StatusCode::OK, "application/json", document),
            None => respond(StatusCode::NOT_FOUND, TEXT, "/livez /readyz /metrics /status\n".into()),
        },
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
    ask(socket, "GET", route, "", timeout)
}

/// The same by a POST with this body.
///
/// # Errors
/// As [`fetch`].
pub fn post(socket: &Path, route: &str, body: &str, timeout: Duration) -> io::Result<(u16, String)> {
    ask(socket, "POST", route, body, timeout)
}

fn ask(socket: &Path, method: &str, route: &str, body: &str, timeout: Duration) -> io::Result<(u16, String)> {
    let invalid = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    if !route.starts_with('/') || route.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a route is a path without blanks"));
    }
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // HTTP/1.0 has neither chunks nor keep-alive: the body ends where the connection does.
    let length = body.len();
    let head = format!("{method} {route} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| invalid("the answer is not UTF-8"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| invalid("the answer has no end of head"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(|| invalid("the answer has no status"))?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[derive(Default)]
    struct Daemon {
        ready: AtomicBool,
    }

    impl AdminState for Daemon {
        fn live(&self) -> Result<(), String> {
            Ok(())
        }
        fn ready(&self) -> Result<(), String> {
            if self.ready.load(Ordering::SeqCst) { Ok(()) } else { Err("the store is being read".into()) }
        }
        fn metrics(&self) -> String {
            "# EOF\n".into()
        }
        fn status_json(&self) -> String {
            "{\"link\":\"connected\"}".into()
        }
        fn get(&self, path: &str) -> Option<String> {
            (path == "/state").then(|| format!("{:?}", self.ready.load(Ordering::SeqCst)))
        }
        fn post(&self, path: &str, body: &str) -> Option<Result<(), String>> {
            (path == "/state").then(|| {
                let ready = body.parse().map_err(|_| "write true or false".to_owned())?;
                self.ready.store(ready, Ordering::SeqCst);
                Ok(())
            })
        }
    }

    fn start() -> (tempfile::TempDir, PathBuf, Arc<Daemon>, AdminServer) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("run/admin.sock");
        let daemon = Arc::new(Daemon::default());
        let server = serve(&path, Arc::clone(&daemon) as Arc<dyn AdminState>).expect("the socket opens");
        (directory, path, daemon, server)
    }

    fn raw(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).expect("somebody listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        // A server that refuses early may close while this still writes; its answer is what counts.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn each_route_answers_for_the_daemon() {
        let (_directory, path, daemon, _server) = start();
        let get = |route| fetch(&path, route, TIMEOUT).expect("an answer");
        assert_eq!(get("/livez"), (200, "ok\n".into()));
        assert_eq!(get("/readyz"), (503, "the store is being read\n".into()));
        daemon.ready.store(true, Ordering::SeqCst);
        assert_eq!(get("/readyz"), (200, "ok\n".into()));
        assert_eq!(get("/metrics"), (200, "# EOF\n".into()));
        assert_eq!(get("/status"), (200, "{\"link\":\"connected\"}".into()));
        assert_eq!(get("/drain").0, 404);
    }

    #[test]
    fn a_daemon_may_have_routes_and_commands_of_its_own() {
        let (_directory, path, _daemon, _server) = start();
        let tell = |route, body: &str| post(&path, route, body, TIMEOUT).expect("an answer");
        assert_eq!(fetch(&path, "/state", TIMEOUT).expect("an answer"), (200, "false".into()));
        assert_eq!(tell("/state", "true\n"), (202, "ok\n".into()));
        assert_eq!(fetch(&path, "/state", TIMEOUT).expect("an answer"), (200, "true".into()));
        assert_eq!(tell("/state", "maybe"), (400, "write true or false\n".into()));
        assert_eq!(tell("/state", &"x".repeat(MAX_COMMAND_BYTES + 1)).0, 400);
        assert_eq!(tell("/livez", "").0, 405);
    }

    #[test]
    fn only_the_owner_may_connect() {
        let (_directory, path, _daemon, _server) = start();
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().expect("a parent")), 0o700);
        let beside = fs::read_dir(path.parent().expect("a parent")).expect("readable").count();
        assert_eq!(beside, 1, "the private folder of the bind is gone");
    }

    #[test]
    fn a_request_that_is_no_bounded_get_is_refused() {
        let (_directory, path, _daemon, _server) = start();
        let post = raw(&path, b"POST /livez HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi");
        assert!(post.contains(" 405 ") && post.to_lowercase().contains("allow: get, head"), "{post}");
        let many = format!("GET /livez HTTP/1.0\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert!(raw(&path, many.as_bytes()).contains(" 431 "));
        let long = format!("GET /livez HTTP/1.0\r\na: {}\r\n\r\n", "b".repeat(4 * MAX_HEAD_BYTES));
        let refusal = raw(&path, long.as_bytes());
        assert!(!refusal.contains(" 200 "), "{refusal}");
        assert!(!raw(&path, b"\x16\x03\x01\x00garbage\r\n\r\n").contains(" 200 "));
        assert_eq!(fetch(&path, "/livez", TIMEOUT).expect("still there").0, 200);
        assert!(fetch(&path, "/livez HTTP/1.1\r\n", TIMEOUT).is_err());
    }

    #[test]
    fn a_dead_processs_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("admin.sock");
        let daemon: Arc<dyn AdminState> = Arc::new(Daemon::default());
        drop(UnixListener::bind(&path).expect("a socket nobody serves any more"));
        let server = serve(&path, Arc::clone(&daemon)).expect("a stale socket is replaced");
        assert!(matches!(serve(&path, Arc::clone(&daemon)), Err(AdminError::InUse(_))));
        drop(server);
        assert!(!path.exists(), "a clean end leaves no socket");
        fs::write(&path, "precious").expect("written");
        assert!(matches!(serve(&path, daemon), Err(AdminError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
    }
}
