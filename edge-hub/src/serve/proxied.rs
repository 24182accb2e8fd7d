//! Requests to a pod, Service or node behind the API server (`proxy`): both bodies belong to those two and flow as they
//! come, of whatever length and with whatever pauses. Nothing of them is kept.

use std::sync::Arc;

use http::{Request, Response, header, request::Parts};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use proto_kube::request_info::RequestInfo;

use super::{answer, slot, slot::Slot};
use crate::{
    hub::Hub,
    upstream::{Body, Credential, hop},
};

/// What is behind may think for as long as it likes before it answers.
const HEAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3600);

/// Whether this goes to what is behind the API server.
pub(super) fn is_proxied(info: &RequestInfo) -> bool {
    let RequestInfo::Resource(request) = info else { return false };
    request.gvr.group.is_empty()
        && matches!(&*request.gvr.resource, "pods" | "services" | "nodes")
        && request.subresource.as_deref() == Some("proxy")
}

/// Passes it on, as the client's own.
pub(super) async fn pass(
    hub: &Arc<Hub>,
    credential: &Credential,
    mut head: Parts,
    body: Incoming,
    slot: Slot,
) -> Response<Body> {
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
        head.headers.remove(name);
    }
    hub.site.metrics.forwarded.inc();
    let request = Request::from_parts(head, body.map_err(Into::into).boxed_unsync());
    match hub.site.upstream.send(credential, request, HEAD_TIMEOUT).await {
        Ok(answer) => {
            let (mut head, body) = answer.into_parts();
            hop::strip_hop_headers(&mut head.headers);
            slot::hold(Response::from_parts(head, body.map_err(Into::into).boxed_unsync()), slot)
        }
        Err(error) => answer::refuse(&answer::lost(&error)),
    }
}
