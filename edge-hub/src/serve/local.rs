//! What the node itself may say while the cloud does not: the Lease of its kubelet, tokens and reviews as they were
//! answered before, and that an Event will be told.

use edge_hub_core::{
    access::{Access, AccessKey},
    lease::LeaseBody,
    plan::Local,
};
use http::{Response, StatusCode, header};
use proto_kube::{
    media_type::{Acceptable, Encoding, Form, Format},
    request_info::{RequestInfo, ResourceRequest, Verb},
    status::Status,
};

use super::{answer, answer::Staleness, call::Call};
use crate::{clock::random, collections::cell::Cell, store::BlobClass, sync::lock, upstream::Body};

/// How long an event may take to reach the disk.
const DURABLE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl Call {
    pub(super) fn body_encoding(&self) -> Encoding {
        let offered = self.header(header::CONTENT_TYPE).unwrap_or_default();
        Format::from_content_type(offered).map_or(Encoding::Json, |format| format.encoding)
    }

    /// What is known of this principal's right, in the words of the offline table.
    pub(super) fn access_offline(&self, key: &AccessKey, cell: Option<&Cell>) -> Access {
        match self.may(key) {
            Some(true) => Access::Allowed,
            Some(false) => Access::Denied,
            None if self.is_trusted_offline() || cell.is_some_and(|cell| self.may_read_all_of(cell)) => {
                Access::Allowed
            }
            None => Access::Unknown,
        }
    }

    /// Answers by what the node itself may say.
    pub(super) async fn local(&self, local: Local, info: &RequestInfo) -> Response<Body> {
        let RequestInfo::Resource(request) = info else {
            return answer::refuse(&answer::cut_off("it is no resource"));
        };
        match local {
            Local::Lease => self.local_lease(request),
            Local::Token => self.cached_token(request),
            Local::Review => self.remembered_review(request),
            Local::Event => self.spool_event(request).await,
        }
    }

    /// The node's own Lease, from its own kubelet: answered here, told to the cloud after the cut.
    fn local_lease(&self, request: &ResourceRequest) -> Response<Body> {
        let mut keeper = lock(&self.hub.lease);
        if request.verb == Verb::Get {
            let lease = keeper.get();
            return match if self.wants_json() { lease.map(LeaseBody::into_json) } else { lease } {
                Some(lease) => made(StatusCode::OK, lease.encoding, lease.body),
                None => answer::refuse(&answer::cut_off("the node's Lease was never seen")),
            };
        }
        match keeper.renew(self.hub.site.clock.now(), self.body_encoding(), self.body.clone()) {
            Ok((lease, changes)) => {
                drop(keeper);
                self.hub.site.save_records(BlobClass::Lease, changes);
                made(StatusCode::OK, lease.encoding, lease.body)
            }
            Err(error) => answer::refuse(&answer::cut_off(&format!("the Lease cannot be kept: {error}"))),
        }
    }

    /// Whether the client wants JSON before protobuf: a person with kubectl, not the kubelet.
    fn wants_json(&self) -> bool {
        let acceptable = Acceptable::parse(self.header(header::ACCEPT), self.header(header::USER_AGENT));
        let first = |formats: &[Format]| formats.iter().find(|format| format.form == Form::Object).copied();
        acceptable.is_ok_and(|acceptable| first(acceptable.formats()) == Some(Format::JSON))
    }

    /// A token that the API server made before the cut; none is ever made here.
    fn cached_token(&self, request: &ResourceRequest) -> Response<Body> {
        let Some(key) = self.token_key(request) else {
            return answer::refuse(&Status::bad_request("the body is no TokenRequest"));
        };
        let policy = self.hub.site.config.file.offline.expired_token;
        match lock(&self.hub.tokens).answer(self.hub.site.clock.now(), &key, policy) {
            Ok(token) => made(StatusCode::CREATED, token.encoding, token.body),
            Err(refusal) => answer::refuse(&answer::cut_off(&refusal.to_string())),
        }
    }

    /// The 201 is a promise that the event will reach the cloud, so it waits for the disk.
    async fn spool_event(&self, request: &ResourceRequest) -> Response<Body> {
        let outcome = lock(&self.hub.outbox.spool).post(
            &self.principal,
            request,
            self.query(),
            self.body_encoding(),
            &self.body,
            random(),
        );
        match outcome {
            Ok(event) => {
                self.hub.site.metrics.spooled_events.inc();
                self.hub.outbox.remember_credential(&self.principal, &self.credential);
                self.hub.site.save_records(BlobClass::Event, event.changes);
                let durable = self.hub.site.store.flush().durable_within(DURABLE_TIMEOUT).await;
                // A store that cannot be opened is no reason to lose events, which memory keeps as long as the process.
                if durable.is_err() && !self.hub.site.store.health().memory_only {
                    return answer::refuse(&answer::cut_off("the event could not be written to disk"));
                }
                made(StatusCode::CREATED, event.encoding, event.body)
            }
            Err(refusal) => answer::refuse(&answer::cut_off(&refusal.to_string())),
        }
    }
}

fn made(code: StatusCode, encoding: Encoding, body: bytes::Bytes) -> Response<Body> {
    let format = Format { encoding, ..Format::JSON };
    answer::made(code, format, body, Staleness(Some(std::time::Duration::ZERO)))
}
