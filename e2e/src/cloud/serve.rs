//! One connection: TLS, HTTP/1.1 or HTTP/2, and each request into the core and back.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use e2e_cloud::{Answer, AnswerKind, Fault, Identity, Request, Response as ModelResponse, Status};
use http::{HeaderMap, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::body::{self, Writer};
use super::link::{Connection, Link};
use super::pki;
use super::shared::Shared;
use super::wire::Wire;

/// The core refuses bodies above 3 MiB; here only memory is bounded.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// What is behind a proxy subresource has bounds of its own.
const MAX_PROXIED_BYTES: usize = 64 * 1024 * 1024;

/// What the server says of everything that it does not allow to be kept.
/// The head of a request, as kube-apiserver bounds it.
const MAX_HEAD_BYTES: usize = 1024 * 1024;
const MAX_HEADERS: usize = 1024;
const UNCACHED: &str = "no-cache, private";

type Body = BoxBody<Bytes, Infallible>;

/// Serve one TCP connection until it ends or is killed.
pub(super) async fn connection(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    connection: &Arc<Connection>,
    stream: TcpStream,
) {
    // Small frames have to leave at once; without this only latency suffers.
    let _ = stream.set_nodelay(true);
    let wire = Wire::new(stream, connection.switch.clone());
    let acceptor = TlsAcceptor::from(shared.tls.clone());
    let tls = tokio::select! {
        tls = acceptor.accept(wire) => tls,
        () = connection.kill.notified() => return,
    };
    let Ok(tls) = tls else { return };
    let certificate = tls.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(pki::principal);
    let identity = certificate.map_or(Identity::Anonymous, Identity::Certificate);
    let service = service_fn(|request| {
        answer(shared.clone(), link.replica, connection.clone(), identity.clone(), request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    builder.http2().max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(tls), service));
    loop {
        tokio::select! {
            // How a connection ends is the client's affair; the records tell what was asked.
            _ = served.as_mut() => return,
            () = connection.go_away.notified() => served.as_mut().graceful_shutdown(),
            () = connection.kill.notified() => return,
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    replica: usize,
    connection: Arc<Connection>,
    certificate: Identity,
    request: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let largest = if head.uri.path().contains("/proxy/") { MAX_PROXIED_BYTES } else { MAX_BODY_BYTES };
    let Ok(body) = Limited::new(body, largest).collect().await.map(http_body_util::Collected::to_bytes)
    else {
        return Ok(respond(&ModelResponse::from(&Status::too_large()), false));
    };
    let request = Request {
        replica,
        identity: bearer(&head.headers).unwrap_or(certificate),
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        accept: text(&head.headers, &header::ACCEPT),
        accepts_gzip: text(&head.headers, &header::ACCEPT_ENCODING).contains("gzip"),
        content_type: text(&head.headers, &header::CONTENT_TYPE),
        if_none_match: Some(text(&head.headers, &header::IF_NONE_MATCH)).filter(|v| !v.is_empty()),
        user_agent: text(&head.headers, &header::USER_AGENT),
        impersonates: head.headers.keys().any(|k| k.as_str().starts_with("impersonate-")),
        body,
    };
    let (answer, changed) = {
        let mut core = shared.core();
        let before = core.store().revision();
        let answer = core.handle(shared.now(), &request);
        (answer, core.store().revision() != before)
    };
    if changed {
        shared.notify_streams();
    }
    shared.notify_activity();
    let response = send(shared, &connection, answer).await;
    // HTTP/2 has no word for a body that a HEAD does not carry.
    Ok(if head.method == http::Method::HEAD { response.map(|_| Full::default().boxed()) } else { response })
}

/// Turn the core's answer into HTTP, with its fault.
async fn send(shared: Arc<Shared>, connection: &Arc<Connection>, answer: Answer) -> Response<Body> {
    let Answer { order, kind, fault } = answer;
    match &fault {
        Some(Fault::GoAway) => connection.go_away.notify_one(),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Reset) => {
            connection.switch.set_reset();
            connection.kill.notify_one();
            std::future::pending().await
        }
        _ => {}
    }
    match kind {
        AnswerKind::Watch { content_type, cursor, gzip } => {
            shared.open_stream(order, fault.filter(|f| *f != Fault::GoAway));
            let (writer, piped) = Writer::new(shared, order, connection.clone());
            tokio::spawn(body::stream(writer, cursor, gzip, connection.clone()));
            let mut builder = Response::builder()
                .status(200)
                .header(header::CONTENT_TYPE, content_type)
                .header(header::CACHE_CONTROL, UNCACHED);
            if gzip {
                builder =
                    builder.header(header::CONTENT_ENCODING, "gzip").header(header::VARY, "Accept-Encoding");
            }
            builder.body(piped.boxed()).expect("names and values are ours")
        }
        AnswerKind::Full { mut response, gzip } => {
            if gzip {
                response.body = body::gzip(&response.body);
            }
            let faulty = fault
                .filter(|f| matches!(f, Fault::StallMidFrame | Fault::Truncate | Fault::SlowBody { .. }));
            if let Some(fault) = faulty {
                let body = std::mem::take(&mut response.body);
                let (writer, piped) = Writer::new(shared, order, connection.clone());
                tokio::spawn(body::full(writer, body, fault));
                return respond(&response, gzip).map(|_| piped.boxed());
            }
            shared.count_sent(order, response.body.len());
            if let Some(record) = shared.core().record_mut(order) {
                record.ended = true;
            }
            shared.notify_activity();
            respond(&response, gzip)
        }
    }
}

fn respond(response: &ModelResponse, gzip: bool) -> Response<Body> {
    let mut builder =
        Response::builder().status(response.status).header(header::CONTENT_TYPE, &response.content_type);
    if !response.headers.iter().any(|(name, _)| *name == "cache-control") {
        builder = builder.header(header::CACHE_CONTROL, UNCACHED);
    }
    for (name, value) in &response.headers {
        builder = builder.header(*name, value);
    }
    if gzip {
        builder = builder.header(header::CONTENT_ENCODING, "gzip").header(header::VARY, "Accept-Encoding");
    }
    builder.body(Full::new(response.body.clone()).boxed()).expect("names and values are ours")
}

fn bearer(headers: &HeaderMap) -> Option<Identity> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(|token| Identity::Bearer(token.to_owned()))
}

fn text(headers: &HeaderMap, name: &header::HeaderName) -> String {
    // A client may split a list over several lines; joined they mean the same.
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    values.join(",")
}
