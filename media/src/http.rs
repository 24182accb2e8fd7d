//! WHIP and WHEP over HTTP: what a request asks for is the core's to say, tokens are checked, offers go to the worker.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use media_core::{
    Role, SessionId, StreamName,
    admission::RequestRates,
    claims::{Claims, Wish},
    offer::MAX_OFFER_BYTES,
    sdpfrag,
    session::Presence,
    whip::{Action, FRAGMENT_TYPE, IfMatch, Refusal, action},
};
use serde::Deserialize;

use crate::{
    call::{Offer, Patch, Patched, StreamStatus},
    cors::Cors,
    events::{self, Unheld},
    ice_servers::IceServers,
    metrics::Metrics,
    page,
    token::TokenKeys,
    worker::Worker,
};

/// How long a request may take to come, head and body each.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Who everybody is where nobody needs a token.
const ANYBODY: &str = "anybody";

/// What every request needs.
pub struct Front {
    worker: Worker,
    tokens: Option<TokenKeys>,
    ice_servers: IceServers,
    cors: Cors,
    metrics: Arc<Metrics>,
    rates: Mutex<RequestRates>,
    began: Instant,
}

/// The layer that a viewer asks for, by its rid; the engine chooses without.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chosen {
    #[serde(default)]
    encoding_id: Option<Box<str>>,
}

/// What every request is answered with.
pub type Answer = Response<Unheld>;

impl Front {
    /// A front before `worker`.
    #[must_use]
    pub fn new(
        worker: Worker,
        tokens: Option<TokenKeys>,
        ice_servers: IceServers,
        cors: Cors,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { worker, tokens, ice_servers, cors, metrics, rates: Mutex::default(), began: Instant::now() }
    }

    /// Answers one request of a client at `address`.
    pub async fn respond(&self, request: Request<Incoming>, address: IpAddr) -> Answer {
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
            *answer.body_mut() = Unheld::default();
        }
        self.metrics.request(method_label(&method), answer.status().as_u16());
        answer
    }

    async fn serve(&self, request: Request<Incoming>, address: IpAddr) -> Result<Answer, Refusal> {
        // A preflight is the browser's, one before each request of a page that came from elsewhere; it costs nothing.
        let counts = request.method() != Method::OPTIONS;
        if counts && !self.may_ask(address) {
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
            Action::Choose(session) => {
                let chosen: Chosen = serde_json::from_str(&body(request).await?)
                    .map_err(|error| Refusal::new(400, "choice", format!("no choice of a layer: {error}")))?;
                let found = self.worker.choose(session, chosen.encoding_id).await;
                if found { Ok(empty(StatusCode::OK)) } else { Err(Refusal::no_session()) }
            }
            Action::Listen(session) => {
                let mut answer = with_body(StatusCode::OK, "text/event-stream", "");
                *answer.body_mut() = Unheld::Events(self.worker.listen(session).await?);
                Ok(answer)
            }
            Action::Probe(session) => match self.worker.probe(session).await {
                Presence::Here => Ok(empty(StatusCode::NO_CONTENT)),
                Presence::TakenOver => Err(Refusal::taken_over()),
                Presence::Unknown => Err(Refusal::no_session()),
            },
            Action::Patch(session) => {
                let if_match = IfMatch::parse(text(header::IF_MATCH))?;
                let subject = self.subject(text(header::AUTHORIZATION), Wish::Session)?;
                let fragment = sdpfrag::parse(&body(request).await?)?;
                self.patch(Patch { session, subject, if_match, fragment }).await
            }
            Action::Close(session) if self.worker.close(session).await => Ok(empty(StatusCode::OK)),
            Action::Close(_) => Err(Refusal::no_session()),
            Action::List(stream) => self.list(stream, text(header::AUTHORIZATION)).await,
            Action::Open(role, stream) => {
                let wish = match role {
                    Role::Publisher => Wish::Publish(&stream),
                    Role::Viewer => Wish::Play(&stream),
                };
                let subject = self.subject(text(header::AUTHORIZATION), wish)?;
                let sdp = body(request).await?;
                self.open(Offer { role, stream, subject, sdp, address }).await
            }
        }
    }

    fn may_ask(&self, address: IpAddr) -> bool {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.admit(address, self.began.elapsed())
    }

    /// Who asks and for which room, if tokens say so.
    fn claims(&self, authorization: Option<&str>, wish: Wish<'_>) -> Result<Option<Claims>, Refusal> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        tokens.check(authorization, wish, since_1970()).map(Some)
    }

    fn subject(&self, authorization: Option<&str>, wish: Wish<'_>) -> Result<Box<str>, Refusal> {
        Ok(self.claims(authorization, wish)?.map_or_else(|| ANYBODY.into(), |claims| claims.sub))
    }

    async fn patch(&self, patch: Patch) -> Result<Answer, Refusal> {
        Ok(match self.worker.patch(patch).await? {
            Patched::Taken => empty(StatusCode::NO_CONTENT),
            Patched::Restarted { fragment, tag } => {
                let mut answer = with_body(StatusCode::OK, FRAGMENT_TYPE, fragment);
                insert(answer.headers_mut(), header::ETAG, &format!("\"{tag}\""));
                answer
            }
        })
    }

    async fn open(&self, offer: Offer) -> Result<Answer, Refusal> {
        let (role, subject) = (offer.role, offer.subject.clone());
        let opened = self.worker.open(offer).await?;
        let mut answer = with_body(StatusCode::CREATED, "application/sdp", opened.sdp);
        let headers = answer.headers_mut();
        insert(headers, header::LOCATION, &location(opened.session));
        insert(headers, header::ETAG, &format!("\"{}\"", opened.tag));
        headers.insert("accept-patch", HeaderValue::from_static(FRAGMENT_TYPE));
        if role == Role::Viewer {
            let link = format!(
                "</events/{}>; rel=\"urn:ietf:params:whep:ext:core:server-sent-events\"; events=\"{}\"",
                opened.session,
                events::NAMES
            );
            append(headers, header::LINK, &link);
            let link =
                format!("</session/{}/layer>; rel=\"urn:ietf:params:whep:ext:core:layer\"", opened.session);
            append(headers, header::LINK, &link);
        }
        for link in self.ice_servers.links(&subject, since_1970()) {
            append(headers, header::LINK, &link);
        }
        Ok(answer)
    }

    async fn list(&self, stream: Option<StreamName>, authorization: Option<&str>) -> Result<Answer, Refusal> {
        let claims = self.claims(authorization, Wish::List)?;
        let mut streams = self.worker.streams().await;
        if let Some(claims) = claims {
            streams.retain(|status| status.room == claims.room);
        }
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

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn append(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    // The configuration was checked for what cannot stand in a header.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    // Ids and tags are ASCII of ours.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Unheld::default());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn with_body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = empty(status);
    *answer.body_mut() = Unheld::Whole(Full::new(body.into()));
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
