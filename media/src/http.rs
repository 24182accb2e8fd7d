//! WHIP and WHEP over HTTP: what a request asks for is the core's to say, tokens are checked, offers go to the worker.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use media_core::{
    Role, SessionId, StreamName,
    admission::RequestRates,
    claims::Wish,
    offer::MAX_OFFER_BYTES,
    session::Presence,
    whip::{Action, Refusal, action},
};
use proto_daemon::shutdown::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{
    call::{Offer, StreamStatus},
    cors::Cors,
    metrics::Metrics,
    page,
    token::TokenKeys,
    worker::Worker,
};

/// How long a request may take to come, head and body each.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
const STREAMS_PER_CONNECTION: u32 = 32;
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Who everybody is where nobody needs a token.
const ANYBODY: &str = "anybody";

/// What every request needs.
pub struct Front {
    worker: Worker,
    tokens: Option<TokenKeys>,
    cors: Cors,
    metrics: Arc<Metrics>,
    rates: Mutex<RequestRates>,
    began: Instant,
}

type Answer = Response<Full<Bytes>>;

impl Front {
    /// A front before `worker`.
    #[must_use]
    pub fn new(worker: Worker, tokens: Option<TokenKeys>, cors: Cors, metrics: Arc<Metrics>) -> Self {
        Self { worker, tokens, cors, metrics, rates: Mutex::default(), began: Instant::now() }
    }

    async fn respond(&self, request: Request<Incoming>, address: IpAddr) -> Answer {
        let (method, origin) = (request.method().clone(), request.headers().get(header::ORIGIN).cloned());
        let mut answer = match self.serve(request, address).await {
            Ok(answer) => answer,
            Err(refusal) => {
                self.metrics.refused(refusal.reason);
                tracing::debug!(%address, status = refusal.status, detail = %refusal.detail, "refused");
                problem(&refusal)
            }
        };
        self.cors.apply(origin.as_ref(), answer.headers_mut());
        if method == Method::HEAD {
            *answer.body_mut() = Full::default();
        }
        self.metrics.request(method_label(&method), answer.status().as_u16());
        answer
    }

    async fn serve(&self, request: Request<Incoming>, address: IpAddr) -> Result<Answer, Refusal> {
        if !self.rates.lock().unwrap_or_else(PoisonError::into_inner).admit(address, self.began.elapsed()) {
            return Err(Refusal::too_many_requests());
        }
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let content_type = text(header::CONTENT_TYPE);
        match action(request.method().as_str(), request.uri().path(), content_type)? {
            Action::Page => Ok(with_body(StatusCode::OK, "text/html; charset=utf-8", page::HTML)),
            Action::Options => {
                let mut answer = empty(StatusCode::OK);
                answer.headers_mut().insert("accept-post", HeaderValue::from_static("application/sdp"));
                Ok(answer)
            }
            Action::Nothing => Ok(empty(StatusCode::NO_CONTENT)),
            Action::Probe(session) => match self.worker.probe(session).await {
                Presence::Here => Ok(empty(StatusCode::NO_CONTENT)),
                Presence::TakenOver => Err(Refusal::taken_over()),
                Presence::Unknown => Err(Refusal::no_session()),
            },
            Action::Close(session) if self.worker.close(session).await => Ok(empty(StatusCode::OK)),
            Action::Close(_) => Err(Refusal::no_session()),
            Action::List(stream) => self.list(stream, text(header::AUTHORIZATION)).await,
            Action::Open(role, stream) => {
                let wish = match role {
                    Role::Publisher => Wish::Publish(&stream),
                    Role::Viewer => Wish::Play(&stream),
                };
                let subject =
                    self.subject(text(header::AUTHORIZATION), wish)?.unwrap_or_else(|| ANYBODY.into());
                let sdp = body(request).await?;
                self.open(Offer { role, stream, subject, sdp, address }).await
            }
        }
    }

    /// Who asks, if tokens say so.
    fn subject(&self, authorization: Option<&str>, wish: Wish<'_>) -> Result<Option<Box<str>>, Refusal> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        tokens.check(authorization, wish, now).map(Some)
    }

    async fn open(&self, offer: Offer) -> Result<Answer, Refusal> {
        let opened = self.worker.open(offer).await?;
        let mut answer = with_body(StatusCode::CREATED, "application/sdp", opened.sdp);
        let headers = answer.headers_mut();
        insert(headers, header::LOCATION, &location(opened.session));
        insert(headers, header::ETAG, &format!("\"{}\"", opened.tag));
        Ok(answer)
    }

    async fn list(&self, stream: Option<StreamName>, authorization: Option<&str>) -> Result<Answer, Refusal> {
        self.subject(authorization, Wish::List)?;
        let mut streams = self.worker.streams().await;
        let Some(name) = stream else { return Ok(json(&streams)) };
        let wanted = |status: &StreamStatus| status.room == name.room && status.stream == name.stream;
        streams.retain(wanted);
        let nobody = || Refusal::new(404, "no_stream", "nobody publishes or plays this stream");
        streams.pop().map(|status| json(&status)).ok_or_else(nobody)
    }
}

fn location(session: SessionId) -> String {
    format!("/session/{session}")
}

async fn body(request: Request<Incoming>) -> Result<String, Refusal> {
    let collected =
        tokio::time::timeout(REQUEST_LIMIT, Limited::new(request, MAX_OFFER_BYTES).collect()).await;
    let bytes = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::too_large()),
        Ok(Err(_)) => return Err(Refusal::new(400, "body", "the body broke off")),
        Err(_) => return Err(Refusal::too_slow()),
    };
    String::from_utf8(bytes.into())
        .map_err(|_| Refusal::new(400, "offer", "the body is no SDP: it is not UTF-8"))
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    // Ids and tags are ASCII of ours.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn with_body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = empty(status);
    *answer.body_mut() = Full::new(body.into());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn json(value: &impl serde::Serialize) -> Answer {
    let text = serde_json::to_vec(value).unwrap_or_default();
    with_body(StatusCode::OK, "application/json", text)
}

/// RFC 9457.
fn problem(refusal: &Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Refused"),
        "status": status.as_u16(),
        "detail": refusal.detail,
    });
    let mut answer = with_body(status, "application/problem+json", document.to_string());
    let headers = answer.headers_mut();
    if let Some(allow) = refusal.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(seconds) = refusal.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(u16::from(seconds)));
    }
    if refusal.status == 401 {
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    answer
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// Accepts on `listener` until the process ends: sessions are deleted, and viewers let in, while it drains, too.
pub async fn serve(front: Arc<Front>, listener: TcpListener, connections: usize, shutdown: Shutdown) {
    let room = Arc::new(Semaphore::new(connections));
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
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (front, shutdown) = (Arc::clone(&front), shutdown.clone());
        tokio::spawn(async move {
            connection(front, stream, address, &shutdown).await;
            drop(permit);
        });
    }
}

async fn connection(front: Arc<Front>, stream: TcpStream, address: SocketAddr, shutdown: &Shutdown) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(front.respond(request, address.ip()).await) }
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
        () = shutdown.stopped() => return,
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a client's connection ended badly");
    }
}
