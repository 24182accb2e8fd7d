//! One request from head to answer: who asks, what for, and which of the hub's ways leads there.

mod answer;
mod filtered;
mod find;
mod formats;
mod forward;
mod hop;
mod offer;
mod offline;
mod overlaid;
mod proxied;
mod read;
mod review;
mod room;
mod slot;
mod standing;
mod stream;
mod upgrade;
mod wait;
mod websocket;
mod yaml;
mod yaml_body;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edge_hub_core::{access::AccessKey, filter::Chain, identity::Principal, lease::is_own_lease};
use http::{HeaderMap, Method, Request, Response, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;
use proto_kube::{
    request_info::{RequestInfo, ResourceRequest, Verb},
    status::Status,
};

use self::{answer::Staleness, slot::Slot};
use crate::{
    hub::Hub,
    server::Guest,
    upstream::{Body, Credential, ReadError, read_all},
};

/// Largest body of a write, as kube-apiserver has it.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Largest body of a request for a stream, which has none.
const MAX_STREAM_BODY_BYTES: usize = 4 * 1024;
/// How long a client may pause inside its body.
const BODY_PATIENCE: Duration = Duration::from_secs(15);

pub use forward::{forget_single, is_single_key, path_of_single};
pub use room::Room;
pub use wait::Asked;

/// One authenticated request. The body of a write is read before anything is decided.
pub struct Call {
    hub: Arc<Hub>,
    principal: Principal,
    credential: Credential,
    head: Parts,
    body: Bytes,
    /// What this client is shown of the resource that it asks for.
    chain: Chain,
    /// It was passed on and came back to be answered from a collection after all; that happens once.
    went_back: bool,
}

impl Call {
    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }

    /// How old an answer from the cache is, if that needs saying.
    fn staleness(&self, age: Option<Duration>) -> Staleness {
        Staleness(if self.hub.is_connected() { None } else { Some(age.unwrap_or(Duration::ZERO)) })
    }

    /// Whether the operator lets this user read whatever is held while cut.
    fn is_trusted_offline(&self) -> bool {
        self.hub.config.file.offline.admit.iter().any(|user| **user == *self.principal.user)
    }

    /// Whether the cloud is known to allow this.
    fn may(&self, key: &AccessKey) -> Option<bool> {
        self.hub.known_access(&self.principal, key)
    }
}

/// Answers one request. Never fails: whatever goes wrong becomes a Status.
pub async fn respond(hub: Arc<Hub>, guest: &Guest, request: Request<Incoming>) -> Response<Body> {
    hub.metrics.requests.inc();
    let (mut head, body) = request.into_parts();
    if let Err(status) = websocket::take_token(&mut head.headers) {
        hub.metrics.unauthenticated.inc();
        return answer::refuse(&status);
    }
    let (principal, credential) = match hub.authenticate(&guest.peer, &head.headers).await {
        Ok(known) => known,
        Err(status) => {
            hub.metrics.unauthenticated.inc();
            return answer::refuse(&status);
        }
    };
    let running = guest.welcome(&principal);
    note(&principal, &head);
    hub.renew_credential(&principal, &credential);
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
    if is_proxied && hub.is_connected() {
        return proxied::pass(&hub, &credential, head, body, slot).await;
    }
    let body = match is_proxied {
        // The refusal does not depend on it, and it may be of any length.
        true => Bytes::new(),
        false => match whole(body, kind).await {
            Ok(body) => body,
            Err(status) => return answer::refuse(&status),
        },
    };
    let call = Call { hub, principal, credential, head, body, chain, went_back: false };
    slot::hold(call.route(info).await, slot)
}

/// The body of a request that is decided on by what it says.
async fn whole(body: Incoming, kind: slot::Kind) -> Result<Bytes, Status> {
    let largest = if kind == slot::Kind::Stream { MAX_STREAM_BODY_BYTES } else { MAX_BODY_BYTES };
    match read_all(body, largest, BODY_PATIENCE).await {
        Ok(body) => Ok(body),
        Err(ReadError::TooLarge(_)) => {
            let text = format!("the body is larger than {largest} bytes");
            Err(Status::request_entity_too_large(&text))
        }
        Err(error) => Err(Status::bad_request(error.to_string())),
    }
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
    /// An answer from the cache is counted when it is given: a look into a collection need not become one.
    fn counted(&self, response: Response<Body>) -> Response<Body> {
        if response.status().is_success() {
            self.hub.metrics.served_from_cache.inc();
        }
        response
    }

    async fn route(mut self, info: RequestInfo) -> Response<Body> {
        if is_impersonating(&self.head.headers) {
            // Whose rights these are only the API server can tell, so nothing of it is ever kept.
            return self.forward_uncached(&info).await;
        }
        if let RequestInfo::Resource(request) = &info
            && crate::aggregated::answers(&self.hub, &request.gvr).await
        {
            return self.forward_uncached(&info).await;
        }
        if filtered::is_shown(&info, &self.chain) {
            if let Err(status) = self.ask_for_what_can_be_filtered(&info) {
                return answer::refuse(&status);
            }
            if let Err(status) = self.await_inputs_of(&info).await {
                return answer::refuse(&status);
            }
        }
        match info {
            // The API server knows no HEAD of objects; an answer without a body is nothing to keep.
            RequestInfo::Resource(_) if self.head.method == Method::HEAD => {
                self.forward_uncached(&info).await
            }
            RequestInfo::Resource(request)
                if is_own_lease(&self.hub.config.file.node_name, &self.principal, &request) =>
            {
                self.other(request).await
            }
            RequestInfo::Resource(request) => match request.verb {
                Verb::List | Verb::Watch | Verb::Get if request.subresource.is_none() => {
                    let is_yaml = match self.ask_for_json_instead_of_yaml(request.verb) {
                        Ok(is_yaml) => is_yaml,
                        Err(status) => return answer::refuse(&status),
                    };
                    let response = match request.verb {
                        Verb::Get => self.get(request).await,
                        _ => self.list_or_watch(request).await,
                    };
                    if is_yaml { yaml::rewrite(response).await } else { response }
                }
                _ => self.other(request).await,
            },
            RequestInfo::NonResource(request) => self.non_resource(request).await,
        }
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

fn is_impersonating(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("impersonate-"))
}

/// The access that one request for a resource needs.
fn resource_access(request: &ResourceRequest) -> AccessKey {
    AccessKey::of(&RequestInfo::Resource(request.clone()), "", "")
}
