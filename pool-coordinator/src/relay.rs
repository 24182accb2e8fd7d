//! CONNECT: bytes between a member and an API server. The member's own TLS ends at the API server; the coordinator sees
//! lengths and nothing else.

use std::{sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use proto::member::Member;
use tokio::net::TcpStream;
use tonic::body::Body;

use crate::{cloud, coordinator::Coordinator, room::Place};

/// How long an API server may take to take the connection.
const DIAL_TIMEOUT: Duration = Duration::from_millis(2500);
/// What one relay holds for each way, in bytes.
const BUFFER: usize = 16 * 1024;

/// Connects `member` to the API server that it names, or says why not.
pub async fn connect(
    coordinator: &Arc<Coordinator>,
    member: &Member,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let refuse = |status: StatusCode, why: String| {
        coordinator.metrics.relays_refused.inc();
        tracing::info!(%member, why, "no relay");
        plain(status, why)
    };
    let index = match coordinator.relays.decide(&authority) {
        Ok(index) => index,
        Err(why) => return refuse(StatusCode::FORBIDDEN, why.to_string()),
    };
    let place = match coordinator.relay_room.take(member) {
        Ok(place) => place,
        Err(full) => return refuse(StatusCode::SERVICE_UNAVAILABLE, full.to_string()),
    };
    let server = &coordinator.cloud.servers()[index];
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, cloud::dial(server)).await;
    let stream = match dialled {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return refuse(StatusCode::BAD_GATEWAY, format!("{}: {error}", server.authority));
        }
        Err(_) => {
            let why = format!("{} does not take a connection within {DIAL_TIMEOUT:?}", server.authority);
            return refuse(StatusCode::GATEWAY_TIMEOUT, why);
        }
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(pass(Arc::clone(coordinator), member.clone(), place, stream, upgraded));
    Response::new(Body::default())
}

async fn pass(
    coordinator: Arc<Coordinator>,
    member: Member,
    _place: Place,
    mut server: TcpStream,
    upgraded: hyper::upgrade::OnUpgrade,
) {
    let Ok(member_end) = upgraded.await else { return };
    let mut member_end = TokioIo::new(member_end);
    let copied = tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut member_end, &mut server, BUFFER, BUFFER) => copied,
        // A relay is nothing that ends by itself; who is relayed finds another way.
        () = coordinator.shutdown.draining() => return,
    };
    match copied {
        Ok((up, down)) => {
            coordinator.metrics.relay_bytes.inc_by(up.saturating_add(down));
            tracing::debug!(%member, up, down, "a relayed connection was closed");
        }
        Err(error) => tracing::debug!(%member, %error, "a relayed connection broke"),
    }
}

/// An answer in words.
#[must_use]
pub fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(bytes::Bytes::from(text))));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
