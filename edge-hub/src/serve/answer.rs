//! Turns values into HTTP answers: a Status, a list, one object, each with the marks of data that may be old.

use std::time::Duration;

use bytes::Bytes;
use edge_hub_core::{
    collection::{Envelope, Listing},
    documents::Document,
};
use http::{HeaderValue, Response, StatusCode, header};
use proto_kube::{
    list::{ListHead, encode_list},
    media_type::{Form, Format},
    object::TypeMeta,
    status::Status,
};

use super::stream::Chunks;
use crate::upstream::{Body, full};

/// Seconds since the cloud was last heard, on answers given while cut.
const STALENESS: &str = "x-edge-staleness";

/// Age of what is served while cut; `None` while the link stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staleness(pub(super) Option<Duration>);

impl Staleness {
    /// Adds `Warning` and the age in seconds, where there is an age.
    pub(super) fn mark(self, headers: &mut http::HeaderMap) {
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
pub(super) fn refuse(status: &Status) -> Response<Body> {
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
    format: Format,
    envelope: &Envelope,
    listing: Listing,
    staleness: Staleness,
) -> Response<Body> {
    let head = ListHead {
        type_meta: TypeMeta {
            api_version: envelope.type_meta.api_version.clone(),
            kind: envelope.list_kind.clone(),
        },
        resource_version: listing.resource_version.to_string().into(),
        continue_token: Box::default(),
        columns: envelope.columns.clone(),
    };
    let pieces = encode_list(format, &head, listing.objects.into_iter().map(|object| object.raw.clone()));
    let mut response = Response::new(Chunks::body(pieces));
    decorate(response.headers_mut(), format, false, staleness);
    response
}

/// One object.
#[must_use]
pub(super) fn object(
    format: Format,
    envelope: &Envelope,
    object: &edge_hub_core::collection::Object,
    staleness: Staleness,
) -> Response<Body> {
    let body = if format.form == Form::Table {
        let version = object.resource_version.to_string();
        proto_kube::list::encode_table_document(envelope.columns.as_deref(), &object.raw, &version)
    } else {
        proto_kube::list::encode_document(format, &envelope.type_meta, &object.raw)
    };
    let mut response = Response::new(full(body));
    decorate(response.headers_mut(), format, false, staleness);
    response
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

fn decorate(headers: &mut http::HeaderMap, format: Format, watch: bool, staleness: Staleness) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type(watch)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    staleness.mark(headers);
}
