//! `metav1.Status`: every refusal of the model, with the code, reason and text of the real server.

use serde_json::{Map, Value, json};

use crate::resource::Gvr;

/// A refusal (or, for a finished delete, a success) as Kubernetes words it.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, e.g. `NotFound`.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// `details` member; null when there is none.
    pub details: Value,
    /// Seconds for the `Retry-After` header.
    pub retry_after: Option<u32>,
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, retry_after: None }
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no or unknown credentials.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: authorization said no.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// 404 for one object.
    #[must_use]
    pub fn not_found(gvr: &Gvr, name: &str) -> Self {
        let mut status = Self::new(404, "NotFound", format!("{} \"{name}\" not found", gvr.qualified()));
        status.details = details(gvr, name);
        status
    }

    /// 404 for a path that the server does not serve.
    #[must_use]
    pub fn no_such_path() -> Self {
        let mut status = Self::new(404, "NotFound", "the server could not find the requested resource");
        status.details = json!({});
        status
    }

    /// 405: the resource does not know this verb.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 406: no representation that the client accepts.
    #[must_use]
    pub fn not_acceptable() -> Self {
        let offered = "application/json, application/vnd.kubernetes.protobuf";
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {offered}"))
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(gvr: &Gvr, name: &str) -> Self {
        let mut status =
            Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", gvr.qualified()));
        status.details = details(gvr, name);
        status
    }

    /// 409: optimistic concurrency lost.
    #[must_use]
    pub fn conflict(gvr: &Gvr, name: &str, why: &str) -> Self {
        let text = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", gvr.qualified());
        let mut status = Self::new(409, "Conflict", text);
        status.details = details(gvr, name);
        status
    }

    /// 410: the revision a watch wants to start from is no longer in the history.
    #[must_use]
    pub fn expired_watch(requested: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {requested} ({oldest})"))
    }

    /// 410: the revision a list wants is no longer in the history.
    #[must_use]
    pub fn expired_list() -> Self {
        Self::new(410, "Expired", "The resourceVersion for the provided list is too old.")
    }

    /// 410: a continue token from before the compaction.
    #[must_use]
    pub fn expired_continue() -> Self {
        Self::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter.",
        )
    }

    /// 413: the body is larger than the server reads.
    #[must_use]
    pub fn too_large() -> Self {
        Self::new(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")
    }

    /// 415: a body in an encoding that the model does not decode.
    #[must_use]
    pub fn unsupported_media_type(content_type: &str) -> Self {
        let text = format!(
            "the body of the request was in an unknown format - accepted media types include: application/json (got {content_type:?})"
        );
        Self::new(415, "UnsupportedMediaType", text)
    }

    /// 422: the request is well-formed but forbidden in this combination.
    #[must_use]
    pub fn invalid(kind: &str, field: &str, message: &str) -> Self {
        let text = format!("{kind} is invalid: {field}: {message}");
        let mut status = Self::new(422, "Invalid", text);
        status.details = json!({"kind": kind, "causes": [{"reason": "FieldValueForbidden", "message": message, "field": field}]});
        status
    }

    /// 429: come back later.
    #[must_use]
    pub fn too_many_requests(seconds: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", "Too many requests, please try again later.");
        status.details = json!({"retryAfterSeconds": seconds});
        status.retry_after = Some(seconds);
        status
    }

    /// 500.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {}", message.into()))
    }

    /// 503.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "the server is currently unable to handle the request")
    }

    /// 504: the client has seen a later revision than this replica has.
    #[must_use]
    pub fn too_large_resource_version(requested: u64, current: u64) -> Self {
        let text = format!("Timeout: Too large resource version: {requested}, current: {current}");
        let mut status = Self::new(504, "Timeout", text);
        status.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        status.retry_after = Some(1);
        status
    }

    /// A refusal with any code, for faults on demand; the reason is the one that goes with the code.
    #[must_use]
    pub fn with_code(code: u16, retry_after: Option<u32>) -> Self {
        let mut status = match code {
            401 => Self::unauthorized(),
            403 => Self::forbidden("forbidden"),
            404 => Self::no_such_path(),
            410 => Self::expired_list(),
            429 => Self::too_many_requests(retry_after.unwrap_or(1)),
            503 => Self::unavailable(),
            504 => Self::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout"),
            _ => Self::internal("fault on demand"),
        };
        status.code = code;
        status.retry_after = retry_after;
        status
    }

    /// The document `metav1.Status` as JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut document = Map::new();
        document.insert("kind".into(), "Status".into());
        document.insert("apiVersion".into(), "v1".into());
        document.insert("metadata".into(), json!({}));
        document.insert("status".into(), if self.code < 400 { "Success" } else { "Failure" }.into());
        if !self.message.is_empty() {
            document.insert("message".into(), self.message.clone().into());
        }
        if !self.reason.is_empty() {
            document.insert("reason".into(), self.reason.into());
        }
        if !self.details.is_null() {
            document.insert("details".into(), self.details.clone());
        }
        document.insert("code".into(), self.code.into());
        Value::Object(document)
    }
}

/// The answer to a delete that finished at once.
pub(crate) fn deleted(gvr: &Gvr, name: &str, uid: &str) -> Value {
    let mut group = details(gvr, name);
    group["uid"] = uid.into();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": group})
}

fn details(gvr: &Gvr, name: &str) -> Value {
    let mut details = json!({"name": name, "kind": gvr.resource});
    if !gvr.group.is_empty() {
        details["group"] = gvr.group.clone().into();
    }
    details
}
