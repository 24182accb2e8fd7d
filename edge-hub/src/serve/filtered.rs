//! What a client behind filters is shown of answers that do not come from a collection: the cloud's own, and those
//! that were kept whole. Where an answer cannot be filtered it is not given; only the answer to a write is, because a
//! write that happened must not look like one that failed.
//!
//! Filtered are GET, LIST, WATCH and the answer to PATCH, of objects and of their status. A request that impersonates
//! somebody is answered as that user's own would be answered by the cloud, without filters: it shows what there is.

use bytes::Bytes;
use edge_hub_core::{
    collection::Refusal,
    filter::{Chain, FilterError},
};
use http::{HeaderValue, Response, StatusCode, header};
use proto_kube::{
    media_type::{Acceptable, Encoding, Format},
    request_info::{RequestInfo, ResourceRequest, Verb},
    status::Status,
};

use super::{Call, answer, room::Whole, slot::hold, stream::Chunks};
use crate::{
    cell::Cell,
    upstream::{Body, UpstreamBody, full},
};

/// Whether the answer to this request goes through the chain.
pub(super) fn is_shown(info: &RequestInfo, chain: &Chain) -> bool {
    let RequestInfo::Resource(request) = info else { return false };
    !chain.is_empty() && (is_read(request) || is_patch(request))
}

fn is_of_objects(request: &ResourceRequest) -> bool {
    matches!(request.subresource.as_deref(), None | Some("status"))
}

fn is_read(request: &ResourceRequest) -> bool {
    matches!(request.verb, Verb::Get | Verb::List | Verb::Watch) && is_of_objects(request)
}

fn is_patch(request: &ResourceRequest) -> bool {
    request.verb == Verb::Patch && is_of_objects(request)
}

impl Call {
    /// Leaves only what the filters can read of the client's wishes, so that the cloud answers nothing else.
    ///
    /// # Errors
    /// 406 when nothing is left.
    pub(super) fn ask_for_what_can_be_filtered(&mut self, info: &RequestInfo) -> Result<(), Status> {
        let RequestInfo::Resource(request) = info else { return Ok(()) };
        let wishes = Acceptable::parse(self.header(header::ACCEPT), self.header(header::USER_AGENT))?;
        let readable = wishes.formats().iter().filter(|format| self.chain.can_read(format.form));
        let is_list = request.verb == Verb::List;
        let accept = |format: &Format| if is_list { format.accept_list() } else { format.accept_object() };
        let accept: Vec<&str> = readable.map(accept).collect();
        if accept.is_empty() {
            let served = [Format::JSON, Format::PROTOBUF].map(|format| format.content_type(false));
            return Err(Status::not_acceptable(&served));
        }
        if let Ok(value) = HeaderValue::from_str(&accept.join(",")) {
            self.head.headers.insert(header::ACCEPT, value);
        }
        Ok(())
    }

    /// Tells a collection the inputs of now, if this client's filters read any.
    pub(super) fn give_inputs(&self, cell: &Cell) {
        if self.chain.reads_inputs() {
            self.hub.give_filter_inputs(cell);
        }
    }

    /// The format of the cloud's answer. The server does not name the form; the first wish with that encoding is what
    /// came.
    pub(super) fn format_of(&self, content_type: &str) -> Option<Format> {
        let came: Encoding = Format::from_content_type(content_type)?.encoding;
        let asked = Acceptable::parse(self.header(header::ACCEPT), self.header(header::USER_AGENT)).ok()?;
        if asked.wants_other() {
            return None;
        }
        asked.formats().iter().copied().find(|wish| wish.encoding == came)
    }

    /// One object's body as this client is shown it.
    ///
    /// # Errors
    /// 404 when it is hidden, 429 while the inputs are not known, 500 when it cannot be filtered.
    pub(super) fn shown(
        &self,
        request: &ResourceRequest,
        format: Format,
        body: &Bytes,
    ) -> Result<Bytes, Status> {
        if self.chain.is_empty() {
            return Ok(body.clone());
        }
        let inputs = self.hub.filters.inputs();
        if self.chain.reads_sources() && !inputs.is_complete() {
            return Err(Refusal::Incomplete.status());
        }
        match self.chain.show_document(&inputs, &request.gvr, format, body) {
            Ok(Some(shown)) => Ok(shown),
            Ok(None) => Err(Status::not_found(&request.gvr, request.name.as_deref().unwrap_or_default())),
            Err(error) => Err(cannot_be_shown(&error)),
        }
    }

    /// The cloud's answer to a read or a PATCH as this client is shown it.
    pub(super) async fn relay_filtered(
        self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        if self.chain.is_empty() || !response.status().is_success() {
            return self.relay(response);
        }
        match request.verb {
            Verb::List if is_of_objects(request) => self.list_filtered(request, response).await,
            // Only a collection can tell what the client saw before. It comes again, and finds one.
            Verb::Watch if is_of_objects(request) => answer::refuse(&Refusal::Incomplete.status()),
            Verb::Get if is_of_objects(request) => self.object_filtered(request, response).await,
            Verb::Patch if is_of_objects(request) => self.object_filtered(request, response).await,
            _ => self.relay(response),
        }
    }

    async fn object_filtered(
        self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        let Some((head, body)) = self.read_answer(response).await else {
            return answer::refuse(&Status::service_unavailable("the answer of the cloud broke off"));
        };
        let shown = match self.format_of(&super::forward::header_text(&head.headers, &header::CONTENT_TYPE)) {
            Some(format) => self.shown(request, format, &body),
            None => Err(cannot_be_shown(&FilterError::Form)),
        };
        match shown {
            Ok(shown) => Response::from_parts(head, full(shown)),
            Err(_) if request.verb == Verb::Patch => Response::from_parts(head, full(body)),
            Err(status) => answer::refuse(&status),
        }
    }

    async fn list_filtered(
        self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        let Whole { head, body, held } = match self.hub.list_room.read(response).await {
            Ok(whole) => whole,
            Err(status) => return answer::refuse(&status),
        };
        if head.status != StatusCode::OK {
            return Response::from_parts(head, full(body));
        }
        let content_type = super::forward::header_text(&head.headers, &header::CONTENT_TYPE);
        let Some(format) = self.format_of(&content_type) else {
            return answer::refuse(&cannot_be_shown(&FilterError::Form));
        };
        let inputs = self.hub.filters.inputs();
        if self.chain.reads_sources() && !inputs.is_complete() {
            return answer::refuse(&Refusal::Incomplete.status());
        }
        match self.chain.show_list(&inputs, &request.gvr, format, &body) {
            Ok(shown) => {
                self.note_filtered_answer(request, shown.resource_version);
                hold(Response::from_parts(head, Chunks::body(shown.pieces)), held)
            }
            Err(error) => answer::refuse(&cannot_be_shown(&error)),
        }
    }

    /// The collections from which this client may watch on learn what it was shown.
    fn note_filtered_answer(&self, request: &ResourceRequest, resource_version: u64) {
        if !self.chain.reads_inputs() {
            return;
        }
        for cell in self.hub.cells().iter().filter(|cell| cell.spec.gvr == request.gvr) {
            self.hub.give_filter_inputs(cell);
            cell.with(|inner| inner.collection.note_filtered_answer(resource_version));
        }
    }
}

fn cannot_be_shown(error: &FilterError) -> Status {
    Status::internal(&format!("the answer of the cloud cannot be filtered: {error}"))
}
