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
    /// Written as plain text, for paths that no API group serves.
    pub plain: bool,
    /// Where an expired list may go on, with what there is now.
    pub continue_token: Option<String>,
    /// The authorizer said no; its answers forbid browsers to guess their type.
    pub nosniff: bool,
}

/// One of the reasons why a document is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    reason: &'static str,
    field: String,
    message: String,
}

impl Cause {
    /// The value is not allowed at all, here and now.
    pub(crate) fn forbidden(field: &str, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
    }

    /// The value has not the right form; `value` as Go prints it (texts in quotes).
    pub(crate) fn invalid(field: &str, value: &str, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self { reason: "FieldValueInvalid", field: field.into(), message }
    }

    /// The value is missing.
    pub(crate) fn required(field: &str, why: &str) -> Self {
        Self { reason: "FieldValueRequired", field: field.into(), message: format!("Required value: {why}") }
    }

    /// The value is none of those that the server knows; `value` as Go prints it.
    pub(crate) fn unsupported(field: &str, value: &str, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
            retry_after: None,
            plain: false,
            continue_token: None,
            nosniff: false,
        }
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

    /// 403 by the authorizer; `name` may be empty.
    #[must_use]
    pub fn unauthorized_for(gvr: Option<&Gvr>, name: &str, message: String) -> Self {
        let mut status = Self::forbidden(message);
        status.nosniff = true;
        status.details = gvr.map_or_else(|| json!({}), |gvr| details(gvr, name));
        status
    }

    /// 403 by an admission plugin, for one object.
    #[must_use]
    pub fn not_admitted(gvr: &Gvr, name: &str, why: &str) -> Self {
        let mut status = Self::forbidden(format!("{} \"{name}\" is forbidden: {why}", gvr.qualified()));
        status.details = details(gvr, name);
        status
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

    /// 404 for a path that belongs to no API group.
    #[must_use]
    pub fn no_such_group() -> Self {
        let mut status = Self::new(404, "NotFound", "404 page not found\n");
        status.plain = true;
        status
    }

    /// 405: the resource does not know this verb.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let text = "the server does not allow this method on the requested resource";
        Self { details: json!({}), ..Self::new(405, "MethodNotAllowed", text) }
    }

    /// 406: no media type that the client accepts; `offered` as the server lists them.
    #[must_use]
    pub fn not_acceptable(offered: &str) -> Self {
        let text = format!("406: Not Acceptable\n\nAvailable representations: {offered}");
        Self { details: json!({}), ..Self::new(406, "NotAcceptable", text) }
    }

    /// 406: the media type is served, but not in this form.
    #[must_use]
    pub fn no_such_form(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(gvr: &Gvr, name: &str) -> Self {
        let mut status =
            Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", gvr.qualified()));
        status.details = details(gvr, name);
        status
    }

    /// 409: the name is taken by an object on its way out.
    #[must_use]
    pub fn still_exists(gvr: &Gvr, name: &str) -> Self {
        let mut status = Self::already_exists(gvr, name);
        status.message = format!("object is being deleted: {}", status.message);
        status
    }

    /// 409: a precondition of a delete does not hold; the server names the kind here, not the resource.
    #[must_use]
    pub fn precondition(kind: &str, name: &str, why: &str) -> Self {
        let text = format!("Operation cannot be fulfilled on {kind} \"{name}\": {why}");
        Self { details: json!({"name": name, "kind": kind}), ..Self::new(409, "Conflict", text) }
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

    /// 410: a continue token from before the compaction; `inconsistent` is one that goes on nevertheless.
    #[must_use]
    pub fn expired_continue(inconsistent: String) -> Self {
        let mut status = Self::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - \
             objects that were created, modified, or deleted between the time the first chunk was returned and \
             now may show up in the list.",
        );
        status.continue_token = Some(inconsistent);
        status
    }

    /// 413: the body is larger than the server reads.
    #[must_use]
    pub fn too_large() -> Self {
        Self::new(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")
    }

    /// 415: a body in an encoding that the resource does not take; `accepted` as the server lists them.
    #[must_use]
    pub fn unsupported_media_type(accepted: &str) -> Self {
        let text = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(415, "UnsupportedMediaType", text)
    }

    /// 415: a body of a type that no route takes.
    #[must_use]
    pub fn no_such_body() -> Self {
        let text = "415: Unsupported Media Type";
        Self { details: json!({}), ..Self::new(415, "UnsupportedMediaType", text) }
    }

    /// 422: a document of `kind` in `group` breaks a rule. The server tells a rule once, however often it is broken.
    #[must_use]
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let mut words: Vec<String> = Vec::new();
        for cause in causes {
            let word = format!("{}: {}", cause.field, cause.message);
            if !words.contains(&word) {
                words.push(word);
            }
        }
        let words = if words.len() == 1 { words.remove(0) } else { format!("[{}]", words.join(", ")) };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut status = Self::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {words}"));
        let cause = |c: &Cause| json!({"reason": c.reason, "message": c.message, "field": c.field});
        let mut details = Map::new();
        for (member, text) in [("name", name), ("group", group), ("kind", kind)] {
            if !text.is_empty() {
                details.insert(member.into(), text.into());
            }
        }
        details.insert("causes".into(), causes.iter().map(cause).collect());
        status.details = details.into();
        status
    }

    /// 422: options that the server forbids; `kind` is e.g. `ListOptions`.
    #[must_use]
    pub(crate) fn invalid_options(kind: &str, causes: &[Cause]) -> Self {
        Self::invalid("meta.k8s.io", kind, "", causes)
    }

    /// 422: a JSON patch does not fit.
    #[must_use]
    pub fn unfitting_patch() -> Self {
        let text = "the server rejected our request due to an error in our request";
        Self { details: json!({}), ..Self::new(422, "Invalid", text) }
    }

    /// 500 with the bare words of an error that the server did not expect.
    #[must_use]
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
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
        let token = self.continue_token.as_ref();
        document
            .insert("metadata".into(), token.map_or_else(|| json!({}), |token| json!({"continue": token})));
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
    let mut details = json!({"kind": gvr.resource});
    if !name.is_empty() {
        details["name"] = name.into();
    }
    if !gvr.group.is_empty() {
        details["group"] = gvr.group.clone().into();
    }
    details
}
