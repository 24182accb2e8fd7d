//! Turns values into HTTP answers: a Status, a list, one object, each with the marks of data that may be old.

use std::time::Duration;

use bytes::Bytes;
use edge_hub_core::{
    collection::{Envelope, Listing, Object},
    documents::Document,
    projection::{Projection, ProjectionError},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use proto::names::HEADER_STALENESS;
use proto_kube::{
    list::{ListHead, encode_document, encode_list, encode_table_document},
    media_type::{Encoding, Form, Format},
    status::Status,
};

use super::stream::{Chunks, MadeList};
use crate::upstream::{Body, UpstreamError, full};

/// Seconds since the cloud was last heard, on answers given while cut.
const STALENESS: &str = HEADER_STALENESS;

/// Age of what is served while cut; `None` while the link stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staleness(pub(super) Option<Duration>);

impl Staleness {
    /// Adds `Warning` and the age in seconds, where there is an age.
    pub(super) fn mark(self, headers: &mut HeaderMap) {
        let Some(age) = self.0 else { return };
        let seconds = age.as_secs();
        let warning = format!(
            "299 - \"cut off from the cloud: this is the node's copy, last heard from the cloud {seconds}s ago\""
        );
        if let Ok(value) = HeaderValue::from_str(&warning) {
            headers.append(header::WARNING, value);
        }
        headers.insert(STALENESS, HeaderValue::from(seconds));
    }
}

/// A refusal. Always JSON: every client reads a Status by its Content-Type.
#[must_use]
pub fn refuse(status: &Status) -> Response<Body> {
    let mut response = Response::new(full(status.to_json()));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A whole list.
#[must_use]
pub(super) fn list(
    projection: Projection,
    envelope: &Envelope,
    listing: Listing,
    staleness: Staleness,
) -> Response<Body> {
    let shown = projection.shown();
    let head = ListHead {
        type_meta: projection.list_type(envelope),
        resource_version: listing.resource_version.to_string().into(),
        continue_token: Box::default(),
        columns: envelope.columns.clone(),
    };
    let body = if projection.is_natural() {
        let items = listing.objects.into_iter().map(|object| object.raw.clone());
        Chunks::body(encode_list(shown, &head, items))
    } else if shown.encoding == Encoding::Json {
        MadeList::body(projection, envelope.type_meta.clone(), &head, listing.objects)
    } else {
        // The head of a protobuf list says how long the whole is, so its items are made first.
        let made = listing.objects.iter().map(|object| projection.item(&envelope.type_meta, &object.raw));
        match made.collect::<Result<Vec<Bytes>, _>>() {
            Ok(items) => Chunks::body(encode_list(shown, &head, items.into_iter())),
            Err(error) => return cannot_be_made(&error),
        }
    };
    let mut response = Response::new(body);
    decorate(response.headers_mut(), shown, false, staleness);
    response
}

/// One object.
#[must_use]
pub(super) fn object(
    projection: Projection,
    envelope: &Envelope,
    object: &Object,
    staleness: Staleness,
) -> Response<Body> {
    let shown = projection.shown();
    let body = if shown.form == Form::Table {
        let version = object.resource_version.to_string();
        encode_table_document(envelope.columns.as_deref(), &object.raw, &version)
    } else {
        match projection.item(&envelope.type_meta, &object.raw) {
            Ok(item) => encode_document(shown, &projection.type_meta(envelope), &item),
            Err(error) => return cannot_be_made(&error),
        }
    };
    let mut response = Response::new(full(body));
    decorate(response.headers_mut(), shown, false, staleness);
    response
}

fn cannot_be_made(error: &ProjectionError) -> Response<Body> {
    refuse(&Status::internal(&format!("a cached object cannot be encoded: {error}")))
}

/// A kept answer as it came.
#[must_use]
pub(super) fn document(
    document: &Document,
    if_none_match: Option<&str>,
    staleness: Staleness,
) -> Response<Body> {
    let fresh_enough =
        matches!((document.etag.as_deref(), if_none_match), (Some(held), Some(asked)) if held == asked);
    let body = if fresh_enough { Bytes::new() } else { document.body.clone() };
    let mut response = Response::new(full(body));
    if fresh_enough {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    if let Ok(value) = HeaderValue::from_str(&document.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    if let Some(Ok(value)) = document.etag.as_deref().map(HeaderValue::from_str) {
        response.headers_mut().insert(header::ETAG, value);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    }
    staleness.mark(response.headers_mut());
    response
}

/// A body made here, in a format of the client's.
#[must_use]
pub(super) fn made(code: StatusCode, format: Format, body: Bytes, staleness: Staleness) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    decorate(response.headers_mut(), format, false, staleness);
    response
}

/// The head of a watch stream.
#[must_use]
pub(super) fn stream(format: Format, body: Body, staleness: Staleness) -> Response<Body> {
    let mut response = Response::new(body);
    decorate(response.headers_mut(), format, true, staleness);
    response
}

fn decorate(headers: &mut HeaderMap, format: Format, watch: bool, staleness: Staleness) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type(watch)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    staleness.mark(headers);
}

pub(super) fn header_text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// 503 without Retry-After: with it client-go would block its caller for up to ten attempts.
pub(super) fn cut_off(why: &str) -> Status {
    Status::service_unavailable(format!("this node is cut off from the cloud: {why}"))
}

/// The cloud did not answer one request.
pub(super) fn lost(error: &UpstreamError) -> Status {
    Status::service_unavailable(format!("the cloud did not answer: {error}"))
}
