//! Questions to the API server about tokens and rights, asked as this node.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};

use crate::{
    site::Site,
    upstream::{Credential, full, read_all},
};

/// How long a review may take.
pub const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer.
pub const MAX_REVIEW_BYTES: usize = 256 * 1024;

/// One question with the node's own credential; it is the hub that asks, never a client.
///
/// # Errors
/// Nobody answered, or the API server refuses this node the question.
pub async fn ask(site: &Site, path: &str, question: Vec<u8>) -> Result<Bytes, Unanswered> {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, crate::USER_AGENT)
        .body(full(question))
        .map_err(|_| Unanswered)?;
    site.metrics.reviews.inc();
    let response = site.send(&Credential::Node, request, REVIEW_TIMEOUT).await.map_err(|error| {
        tracing::debug!(%error, path, "a review was not answered");
        Unanswered
    })?;
    let status = response.status();
    let body =
        read_all(response.into_body(), MAX_REVIEW_BYTES, REVIEW_TIMEOUT).await.map_err(|_| Unanswered)?;
    if status != StatusCode::CREATED && status != StatusCode::OK {
        tracing::warn!(path, %status, "the API server refuses this node's review");
        return Err(Unanswered);
    }
    Ok(body)
}

/// The API server did not say; the log has why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;
