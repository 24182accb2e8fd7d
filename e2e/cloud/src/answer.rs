//! What the core gives back: a whole response, or a watch that the shell polls.

use bytes::Bytes;
use serde_json::Value;

use crate::encoding::{PROTOBUF, prefers_protobuf};
use crate::fault::Fault;
use crate::protobuf;
use crate::status::Status;
use crate::watch::WatchCursor;

/// A complete response.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status code.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: String,
    /// Further headers, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body, not compressed.
    pub body: Bytes,
}

impl Response {
    /// A JSON document.
    #[must_use]
    pub fn json(status: u16, document: &Value) -> Self {
        let mut body = document.to_string().into_bytes();
        body.push(b'\n');
        Self { status, content_type: "application/json".into(), headers: Vec::new(), body: body.into() }
    }

    /// Plain text.
    #[must_use]
    pub fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8".into(),
            headers: vec![("x-content-type-options", "nosniff".into())],
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }
}

impl Response {
    /// A refusal, in protobuf if that is what the client would rather read.
    #[must_use]
    pub fn refusal(status: &Status, accept: &str) -> Self {
        let mut response = if status.plain {
            Self::text(status.code, &status.message)
        } else if prefers_protobuf(accept) {
            Self::status_in_protobuf(status.code, &status.to_value())
        } else {
            Self::json(status.code, &status.to_value())
        };
        if let Some(seconds) = status.retry_after {
            response.headers.push(("retry-after", seconds.to_string()));
        }
        if status.nosniff {
            response.headers.push(("x-content-type-options", "nosniff".into()));
        }
        response
    }

    /// A `metav1.Status` as protobuf.
    pub(crate) fn status_in_protobuf(code: u16, document: &Value) -> Self {
        let body = protobuf::document("v1", "Status", &protobuf::status(document));
        Self { status: code, content_type: PROTOBUF.into(), headers: Vec::new(), body: body.into() }
    }
}

impl From<&Status> for Response {
    fn from(status: &Status) -> Self {
        Self::refusal(status, "")
    }
}

/// The core's answer to one request.
#[derive(Debug)]
pub struct Answer {
    /// Place of the request in the record.
    pub order: u64,
    /// What to send.
    pub kind: AnswerKind,
    /// What to do to it on the way.
    pub fault: Option<Fault>,
}

/// The two shapes of an answer.
#[derive(Debug)]
pub enum AnswerKind {
    /// A whole response; `gzip` when the client offered it and the server would use it.
    Full {
        /// The response.
        response: Response,
        /// Compress the body.
        gzip: bool,
    },
    /// A stream; headers go out at once.
    Watch {
        /// `Content-Type` of the stream.
        content_type: String,
        /// What to poll for frames.
        cursor: Box<WatchCursor>,
        /// Compress, one gzip member for each flush.
        gzip: bool,
    },
}
