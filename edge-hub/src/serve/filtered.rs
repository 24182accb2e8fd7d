//! What a client behind filters is shown of answers that do not come from a collection: the cloud's own, and those
//! that were kept whole. Where an answer cannot be filtered it is not given. A write that happened must not look like
//! one that failed, so of what is hidden its answer tells the name and the version, and nothing else.
//!
//! Filtered are the answers to all verbs, of objects and of their status. A request that impersonates somebody is
//! answered as that user's own would be answered by the cloud, without filters: it shows what there is.

use bytes::Bytes;
use edge_hub_core::{
    collection::Refusal,
    filter::{Chain, FilterError},
    precondition::asks_for_dry_run,
};
use http::{HeaderValue, Response, StatusCode, header};
use proto_kube::{
    list::{encode_document, split_document},
    media_type::{Acceptable, Encoding, Form, Format},
    object::scan,
    request_info::{RequestInfo, ResourceRequest, Verb},
    status::Status,
    wire,
};

use super::{answer, call::Call, slot::hold, stream::Chunks};
use crate::{
    collections::cell::Cell,
    shares::list_room::Whole,
    upstream::{Body, UpstreamBody, full},
};

/// Whether the answer to this request goes through the chain.
pub(super) fn is_shown(info: &RequestInfo, chain: &Chain) -> bool {
    let RequestInfo::Resource(request) = info else { return false };
    !chain.is_empty() && is_of_objects(request)
}

fn is_of_objects(request: &ResourceRequest) -> bool {
    matches!(request.subresource.as_deref(), None | Some("status"))
}

fn is_write(verb: Verb) -> bool {
    !verb.is_read()
}

/// Whether the write changes nothing, so that its answer is only a look at the object. A deletion that has options as
/// its body says so there alone.
fn is_dry_run(query: Option<&str>, encoding: Encoding, options: &[u8]) -> bool {
    if !options.is_empty() {
        return asks_for_dry_run(encoding, options);
    }
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(name, _)| name == "dryRun")
}

impl Call {
    /// Leaves only what the filters can read of the client's wishes, so that the cloud answers nothing else.
    ///
    /// # Errors
    /// 406 when nothing is left; 429 for a write whose answer could not be filtered yet.
    pub(super) fn ask_for_what_can_be_filtered(&mut self, info: &RequestInfo) -> Result<(), Status> {
        let RequestInfo::Resource(request) = info else { return Ok(()) };
        let wishes = Acceptable::parse(self.header(header::ACCEPT), self.header(header::USER_AGENT))?;
        let readable = wishes.formats().iter().filter(|format| self.chain.can_read(format.form));
        let is_list = matches!(request.verb, Verb::List | Verb::DeleteCollection);
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

    /// Waits for what the filters of this request read.
    ///
    /// # Errors
    /// 429 for a write before that is known: its answer could not be filtered when it has happened.
    pub(super) async fn await_inputs_of(&self, info: &RequestInfo) -> Result<(), Status> {
        self.hub.filters.await_inputs(&self.chain).await;
        let is_write = matches!(info, RequestInfo::Resource(request) if is_write(request.verb));
        let is_known = || !self.chain.reads_sources() || self.hub.filters.inputs().is_complete();
        if is_write && !is_known() { Err(Refusal::Incomplete.status()) } else { Ok(()) }
    }

    /// Tells a collection the inputs of now, if this client's filters read any.
    pub(super) fn give_inputs(&self, cell: &Cell) {
        if self.chain.reads_inputs() {
            self.hub.filters.give_inputs(cell);
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

    /// The cloud's answer as this client is shown it.
    pub(super) async fn relay_filtered(
        &self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        if self.chain.is_empty() || !response.status().is_success() || !is_of_objects(request) {
            return self.relay(response);
        }
        match request.verb {
            Verb::List | Verb::DeleteCollection => self.list_filtered(request, response).await,
            // Only a collection can tell what the client saw before. It comes again, and finds one.
            Verb::Watch => answer::refuse(&Refusal::Incomplete.status()),
            _ => self.object_filtered(request, response).await,
        }
    }

    async fn object_filtered(
        &self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        let code = response.status();
        let (head, body) = match self.read_answer(response).await {
            Ok(read) => read,
            Err(instead) => return instead,
        };
        let format = self.format_of(&answer::header_text(&head.headers, &header::CONTENT_TYPE));
        if is_write(request.verb) && format.is_some_and(|format| is_status(format, &body)) {
            return Response::from_parts(head, full(body));
        }
        let shown = match format {
            Some(format) => self.shown(request, format, &body),
            None => Err(cannot_be_shown(&FilterError::Form)),
        };
        match shown {
            Ok(shown) => Response::from_parts(head, full(shown)),
            Err(_) if self.has_happened(request).await => {
                match format.and_then(|format| nameplate(format, &body)) {
                    Some(plate) => Response::from_parts(head, full(plate)),
                    None => done(code),
                }
            }
            Err(status) => answer::refuse(&status),
        }
    }

    /// Whether the request changed something, which its answer must not deny.
    async fn has_happened(&self, request: &ResourceRequest) -> bool {
        let options = match request.verb {
            // What cannot be read the cloud cannot read either.
            Verb::Delete | Verb::DeleteCollection => self.readable_body(request).await.unwrap_or_default(),
            _ => Bytes::new(),
        };
        is_write(request.verb) && !is_dry_run(self.query(), self.body_encoding(), &options)
    }

    async fn list_filtered(
        &self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Response<Body> {
        let code = response.status();
        match self.list_shown(request, response).await {
            Ok(shown) => shown,
            Err(_) if self.has_happened(request).await => done(code),
            Err(status) => answer::refuse(&status),
        }
    }

    async fn list_shown(
        &self,
        request: &ResourceRequest,
        response: Response<UpstreamBody>,
    ) -> Result<Response<Body>, Status> {
        let Whole { head, body, held } = self.hub.list_room.read(response).await?;
        let content_type = answer::header_text(&head.headers, &header::CONTENT_TYPE);
        let format = self.format_of(&content_type).ok_or_else(|| cannot_be_shown(&FilterError::Form))?;
        if head.status != StatusCode::OK || is_write(request.verb) && is_status(format, &body) {
            return Ok(Response::from_parts(head, full(body)));
        }
        let inputs = self.hub.filters.inputs();
        if self.chain.reads_sources() && !inputs.is_complete() {
            return Err(Refusal::Incomplete.status());
        }
        let shown = self
            .chain
            .show_list(&inputs, &request.gvr, format, &body)
            .map_err(|error| cannot_be_shown(&error))?;
        self.note_filtered_answer(request, shown.resource_version);
        Ok(hold(Response::from_parts(head, Chunks::body(shown.pieces)), held))
    }

    /// The collections from which this client may watch on learn what it was shown.
    fn note_filtered_answer(&self, request: &ResourceRequest, resource_version: u64) {
        if !self.chain.reads_inputs() {
            return;
        }
        for cell in self.hub.collections.cells().iter().filter(|cell| cell.spec.gvr == request.gvr) {
            self.hub.filters.give_inputs(cell);
            cell.with(|inner| inner.collection.note_filtered_answer(resource_version));
        }
    }
}

fn cannot_be_shown(error: &FilterError) -> Status {
    Status::internal(&format!("the answer of the cloud cannot be filtered: {error}"))
}

/// Whether a write was answered with a Status, not with an object.
fn is_status(format: Format, body: &Bytes) -> bool {
    split_document(format, body).is_ok_and(|(type_meta, _)| &*type_meta.kind == "Status")
}

/// What may be said of an object that is hidden: which it is, and its version.
fn nameplate(format: Format, body: &Bytes) -> Option<Bytes> {
    let format = Format { form: Form::Object, ..format };
    let (type_meta, raw): (_, Bytes) = split_document(format, body).ok()?;
    let meta = scan(format, &raw).ok()?;
    let plate = match format.encoding {
        Encoding::Json => {
            let metadata = serde_json::json!({
                "name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            });
            serde_json::json!({ "metadata": metadata }).to_string().into_bytes()
        }
        Encoding::Protobuf => {
            let mut metadata = Vec::new();
            let members =
                [(1, &meta.name), (3, &meta.namespace), (5, &meta.uid), (6, &meta.resource_version)];
            for (number, value) in members {
                wire::put_bytes(&mut metadata, number, value.as_bytes());
            }
            let mut plate = Vec::new();
            wire::put_bytes(&mut plate, 1, &metadata);
            plate
        }
    };
    Some(encode_document(format, &type_meta, &plate))
}

/// The write happened; more cannot be said.
fn done(code: StatusCode) -> Response<Body> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16(),
    });
    answer::made(code, Format::JSON, status.to_string().into(), answer::Staleness(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_with_a_body_says_there_alone_whether_it_is_a_dry_run() {
        let query = Some("propagationPolicy=Background&dryRun=All");
        let is_dry_run = |query, options: &[u8]| is_dry_run(query, Encoding::Json, options);
        assert!(is_dry_run(query, b""));
        assert!(!is_dry_run(query, br#"{"kind":"DeleteOptions"}"#));
        assert!(is_dry_run(None, br#"{"dryRun":["All"]}"#));
        assert!(!is_dry_run(None, br#"{"dryRun":[]}"#));
        assert!(!is_dry_run(Some("fieldManager=dryRun"), b""));
    }
}
