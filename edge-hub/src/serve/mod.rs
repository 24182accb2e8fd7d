//! One request from head to answer: who asks, what for, and which of the hub's ways leads there.

mod answer;
mod cached;
mod call;
mod collect;
mod discovery;
mod facts;
mod filtered;
mod follow;
mod formats;
mod forward;
mod learn;
mod local;
mod offer;
mod overlaid;
mod proxied;
mod review;
mod slot;
mod steps;
mod stream;
mod upgrade;
mod whole;
mod yaml;
mod yaml_body;

use std::sync::Arc;

use bytes::Bytes;
use edge_hub_core::{filter::Chain, identity::Principal, plan::Want};
use http::{HeaderMap, Request, Response, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;
use proto_kube::{request_info::RequestInfo, status::Status};

use self::{call::Call, slot::Slot};
use crate::{
    hub::Hub,
    listen::client::Running,
    upstream::{Body, Credential, hop},
};

pub use answer::refuse;

/// Answers one request of a known client, which counts as running until the answer has ended. Never fails: whatever goes wrong
/// becomes a Status.
pub async fn respond(
    hub: Arc<Hub>,
    (principal, credential): (Principal, Credential),
    running: Running,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    note(&principal, &head);
    hub.outbox.renew_credential(&principal, &credential);
    if let Err(status) = hop::refuse_named_identity(&head.headers) {
        return answer::refuse(&status);
    }
    let info = match RequestInfo::parse(head.method.as_str(), head.uri.path(), head.uri.query()) {
        Ok(info) => info,
        Err(status) => return answer::refuse(&status),
    };
    let kind = slot::Kind::of(&info, is_upgrade(&head.headers));
    let Some(slot) = Slot::take_of(&hub, &principal, kind) else {
        let text = "too many requests of this user are in flight at this node's hub";
        return answer::refuse(&Status::too_many_requests(text, 1));
    };
    let slot = slot.on(running);
    let chain = match &info {
        RequestInfo::Resource(request) => hub.filters.chain(&principal, &request.gvr),
        RequestInfo::NonResource(_) => Chain::default(),
    };
    // An upgrade is a wish. Of a read that is filtered it is not granted, because nobody could look into it.
    if is_upgrade(&head.headers) && body.is_end_stream() && !filtered::is_shown(&info, &chain) {
        if let RequestInfo::Resource(resource) = &info
            && let Err(status) = overlaid::without_own_version_in_query(&hub, &mut head, resource, false)
        {
            return answer::refuse(&status);
        }
        let request = Request::from_parts(head, body);
        return upgrade::pass(&hub, &credential, request, slot).await;
    }
    // What is decided on here must be what the cloud will see.
    hop::strip_hop_headers(&mut head.headers);
    if head.headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_err()) {
        return answer::refuse(&Status::bad_request("the Accept header is no text"));
    }
    let is_proxied = proxied::is_proxied(&info);
    if is_proxied && hub.site.is_connected() {
        return proxied::pass(&hub, &credential, head, body, slot).await;
    }
    let mut held = hub.shares.buffers.of(&principal);
    let body = match is_proxied {
        // The refusal does not depend on it, and it may be of any length.
        true => Bytes::new(),
        false => match whole::body(body, kind, &mut held).await {
            Ok(body) => body,
            Err(status) => return answer::refuse(&status),
        },
    };
    let call = Call { hub, principal, credential, head, body, _held: held, chain, fell_back: false };
    slot::hold(call.route(info).await, slot)
}

/// What clients ask for, for who wants to know: `log.level: info,edge_hub::request=debug`. Nothing secret is in it.
fn note(principal: &Principal, head: &Parts) {
    let text = |name| head.headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or("?"));
    tracing::debug!(
        target: "edge_hub::request",
        method = ?head.method.as_str(),
        uri = ?head.uri.to_string(),
        user = ?principal.user,
        agent = ?text(header::USER_AGENT).unwrap_or_default(),
        accept = ?text(header::ACCEPT).unwrap_or_default(),
        content_type = ?text(header::CONTENT_TYPE).unwrap_or_default(),
    );
}

impl Call {
    async fn route(mut self, info: RequestInfo) -> Response<Body> {
        // Whose rights these are, or what such an API shows to this user, only the API server can tell: nothing is kept.
        if is_impersonating(&self.head.headers) || self.is_aggregated(&info).await {
            return self.answer(&info, Want::TheClouds).await;
        }
        if filtered::is_shown(&info, &self.chain) {
            if let Err(status) = self.ask_for_what_can_be_filtered(&info) {
                return answer::refuse(&status);
            }
            if let Err(status) = self.await_inputs_of(&info).await {
                return answer::refuse(&status);
            }
        }
        let want = self.want(&info);
        let verb = match (&info, want) {
            (RequestInfo::Resource(request), Want::Collection { .. } | Want::Object { .. }) => request.verb,
            _ => return self.answer(&info, want).await,
        };
        match self.ask_for_json_instead_of_yaml(verb) {
            Ok(true) => yaml::rewrite(self.answer(&info, want).await).await,
            Ok(false) => self.answer(&info, want).await,
            Err(status) => answer::refuse(&status),
        }
    }

    async fn is_aggregated(&self, info: &RequestInfo) -> bool {
        match info {
            RequestInfo::Resource(request) => self.hub.aggregated.answers(&request.gvr).await,
            RequestInfo::NonResource(_) => false,
        }
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

fn is_impersonating(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("impersonate-"))
}
