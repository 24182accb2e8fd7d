//! One authenticated request, as all ways to its answer see it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edge_hub_core::{access::AccessKey, filter::Chain, identity::Principal, plan::Cloud};
use http::{Method, Response, header, request::Parts};
use proto_kube::request_info::{RequestInfo, ResourceRequest};

use super::{answer::Staleness, slot::Kind};
use crate::{
    hub::Hub,
    shares::Held,
    upstream::{Body, Credential},
};

/// One authenticated request. The body of a write is read before anything is decided.
pub(super) struct Call {
    pub(super) hub: Arc<Hub>,
    pub(super) principal: Principal,
    pub(super) credential: Credential,
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// The memory that the body takes.
    pub(super) _held: Held,
    /// What this client is shown of the resource that it asks for.
    pub(super) chain: Chain,
    /// It was passed on, and the cloud gave no answer to it.
    pub(super) fell_back: bool,
}

impl Call {
    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }

    /// Whether this is a read that ends by itself.
    pub(super) fn is_short_read(&self) -> bool {
        let info = RequestInfo::parse(self.head.method.as_str(), self.head.uri.path(), self.query());
        let is_read = matches!(self.head.method, Method::GET | Method::HEAD);
        is_read && info.is_ok_and(|info| Kind::of(&info, false) == Kind::Short)
    }

    /// What the client wants to be answered in.
    pub(super) fn accept(&self) -> &str {
        self.header(header::ACCEPT).unwrap_or_default()
    }

    /// Whether nobody else can answer this request.
    pub(super) fn is_left_alone(&self) -> bool {
        self.fell_back || !self.hub.site.is_connected()
    }

    /// How old an answer from the cache is, if that needs saying.
    pub(super) fn staleness(&self, age: Option<Duration>) -> Staleness {
        let needs_saying = self.is_left_alone() || self.hub.site.cloud() == Cloud::Impaired;
        Staleness(needs_saying.then(|| age.unwrap_or(Duration::ZERO)))
    }

    /// Whether the operator lets this user read whatever is held while cut.
    pub(super) fn is_trusted_offline(&self) -> bool {
        self.hub.site.config.file.offline.admit.iter().any(|user| **user == *self.principal.user)
    }

    /// Whether the cloud is known to allow this.
    pub(super) fn may(&self, key: &AccessKey) -> Option<bool> {
        self.hub.authorizer.known_access(&self.principal, key)
    }

    /// An answer from the cache is counted when it is given: a look into a collection need not become one.
    pub(super) fn counted(&self, response: Response<Body>) -> Response<Body> {
        if response.status().is_success() {
            self.hub.site.metrics.served_from_cache.inc();
        }
        response
    }
}

/// The access that one request for a resource needs.
pub(super) fn resource_access(request: &ResourceRequest) -> AccessKey {
    AccessKey::of(&RequestInfo::Resource(request.clone()), "", "")
}
