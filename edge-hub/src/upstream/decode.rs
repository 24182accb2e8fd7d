//! Which unpacker the body of an answer from the cloud needs, by its headers.

use http::{HeaderMap, HeaderValue, header};
use proto_kube::inflate::Inflate;

/// By `Content-Encoding`; `None` for one that was never offered.
#[must_use]
pub fn inflate_for(headers: &HeaderMap) -> Option<Inflate> {
    Inflate::for_encoding(headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes))
}
