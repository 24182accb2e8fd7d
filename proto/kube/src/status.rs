//! metav1.Status: every refusal of an API server, in the words and fields its clients act on.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::gvr::GroupVersionResource;

/// One entry of `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatusCause {
    /// Machine-readable cause, e.g. `ResourceVersionTooLarge` or `FieldValueForbidden`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// Text for people.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: String,
    /// The field the cause is about, e.g. `resourceVersionMatch`; may be empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub field: String,
}

/// `details` of a Status; empty members are not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatusDetails {
    /// Name of the object.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub name: String,
    /// API group of the object or resource.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub group: String,
    /// Kind or, for most errors, plural resource name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: String,
    /// UID of the object.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub uid: String,
    /// What exactly was wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// Seconds after which the client should try again; 0 is "not said".
    #[serde(rename = "retryAfterSeconds", skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// serde hands `skip_serializing_if` a reference.
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// A failure as the API server words it: HTTP code, reason, message and details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code, also `code` of the body.
    pub code: u16,
    /// metav1.StatusReason, e.g. `NotFound`.
    pub reason: Cow<'static, str>,
    /// Text for people.
    pub message: String,
    /// Value of the `Retry-After` response header in seconds, when one must be sent.
    pub retry_after: Option<u32>,
    /// Structured details, when the reason has any.
    pub details: Option<Box<StatusDetails>>,
}

/// Member order of the server's JSON encoder.
#[derive(Serialize)]
struct Document<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: EmptyListMeta,
    status: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a StatusDetails>,
    code: u16,
}

#[derive(Serialize)]
struct EmptyListMeta {}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            retry_after: None,
            details: None,
        }
    }

    fn about(mut self, gvr: &GroupVersionResource, name: &str) -> Self {
        self.details = Some(Box::new(StatusDetails {
            name: name.to_owned(),
            group: gvr.group.to_string(),
            kind: gvr.resource.to_string(),
            ..StatusDetails::default()
        }));
        self
    }

    /// Asks the client to come back after `seconds`: in the body and as the `Retry-After` header.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 400 `BadRequest`.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 422 `Invalid` about a `kind` of `group` (e.g. `ListOptions` of `meta.k8s.io`), one cause per error.
    ///
    /// The message is put together from the causes the way the server does it.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<StatusCause>) -> Self {
        let mut lines: Vec<String> = Vec::with_capacity(causes.len());
        for cause in &causes {
            let line = format!("{}: {}", cause.field, cause.message);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let errors = match lines.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut status =
            Self::new(422, "Invalid", format!("{qualified} {} is invalid: {errors}", quote(name)));
        status.details = Some(Box::new(StatusDetails {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..StatusDetails::default()
        }));
        status
    }

    /// 401 `Unauthorized`; the message is the bare word the server gives away.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 `Forbidden` on a resource; `name` may be empty.
    #[must_use]
    pub fn forbidden(gvr: &GroupVersionResource, name: &str, why: &str) -> Self {
        let resource = gvr.group_resource();
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", quote(name))
        };
        Self::new(403, "Forbidden", message).about(gvr, name)
    }

    /// 403 `Forbidden` on a path that is no resource.
    #[must_use]
    pub fn forbidden_path(why: &str) -> Self {
        let mut status = Self::new(403, "Forbidden", format!("forbidden: {why}"));
        status.details = Some(Box::default());
        status
    }

    /// 404 `NotFound` of a named object.
    #[must_use]
    pub fn not_found(gvr: &GroupVersionResource, name: &str) -> Self {
        let message = format!("{} {} not found", gvr.group_resource(), quote(name));
        Self::new(404, "NotFound", message).about(gvr, name)
    }

    /// 404 `NotFound` of a path nobody serves.
    #[must_use]
    pub fn path_not_found() -> Self {
        let mut status = Self::new(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    /// 409 `AlreadyExists`.
    #[must_use]
    pub fn already_exists(gvr: &GroupVersionResource, name: &str) -> Self {
        let message = format!("{} {} already exists", gvr.group_resource(), quote(name));
        Self::new(409, "AlreadyExists", message).about(gvr, name)
    }

    /// 409 `Conflict`: the object changed since the writer read it.
    #[must_use]
    pub fn conflict(gvr: &GroupVersionResource, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {}: {why}", gvr.group_resource(), quote(name));
        Self::new(409, "Conflict", message).about(gvr, name)
    }

    /// 405 `MethodNotAllowed`: `action` (a verb) is not supported on this resource.
    #[must_use]
    pub fn method_not_supported(gvr: &GroupVersionResource, action: &str) -> Self {
        let message =
            format!("{action} is not supported on resources of kind {}", quote(&gvr.group_resource()));
        Self::new(405, "MethodNotAllowed", message).about(gvr, "")
    }

    /// 406 `NotAcceptable` with the media types that would have been.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 415 `UnsupportedMediaType` with the media types a body may have.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 410 `Expired`: a watch or exact list asks for a version that is no longer held.
    #[must_use]
    pub fn expired(requested: u64, oldest: u64) -> Self {
        Self::expired_message(format!("too old resource version: {requested} ({oldest})"))
    }

    /// 410 `Expired` with another text, e.g. for a continue token that is no longer valid.
    pub fn expired_message(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 504 `Timeout` with cause `ResourceVersionTooLarge`: the client knows a newer version than we do.
    #[must_use]
    pub fn too_large_resource_version(requested: u64, current: u64) -> Self {
        let mut status =
            Self::timeout(&format!("Too large resource version: {requested}, current: {current}"), 1);
        if let Some(details) = &mut status.details {
            details.causes.push(StatusCause {
                reason: Cow::Borrowed("ResourceVersionTooLarge"),
                message: "Too large resource version".to_owned(),
                field: String::new(),
            });
        }
        status
    }

    /// 504 `Timeout`; `retry_after` in seconds, 0 for none.
    #[must_use]
    pub fn timeout(message: &str, retry_after: u32) -> Self {
        let mut status = Self::new(504, "Timeout", format!("Timeout: {message}"));
        status.details = Some(Box::default());
        if retry_after > 0 {
            status = status.with_retry_after(retry_after);
        }
        status
    }

    /// 429 `TooManyRequests`; clients wait `retry_after` seconds and keep their resource version.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Self {
        Self::new(429, "TooManyRequests", message).with_retry_after(retry_after)
    }

    /// 503 `ServiceUnavailable` without Retry-After, so that client-go does not block its caller on it.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 500 `InternalError`.
    #[must_use]
    pub fn internal(message: &str) -> Self {
        let mut status = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        status.details = Some(Box::new(StatusDetails {
            causes: vec![StatusCause { message: message.to_owned(), ..StatusCause::default() }],
            ..StatusDetails::default()
        }));
        status
    }

    /// 413 `RequestEntityTooLarge`.
    #[must_use]
    pub fn request_entity_too_large(message: &str) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity is too large: {message}"))
    }

    /// The JSON document, byte for byte as the API server prints it, with its final newline.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let plain = serde_json::to_vec(&Document {
            kind: "Status",
            api_version: "v1",
            metadata: EmptyListMeta {},
            status: "Failure",
            message: &self.message,
            reason: &self.reason,
            details: self.details.as_deref(),
            code: self.code,
        })
        .expect("strings and numbers always serialize");
        let mut escaped = escape_as_go(&plain);
        escaped.push(b'\n');
        escaped
    }

    /// The bare protobuf `Status` message: no `k8s\0`, no type meta.
    ///
    /// Empty strings are written too, as the server's generated code does.
    #[must_use]
    pub fn to_protobuf(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.message.len());
        // An empty ListMeta: selfLink, resourceVersion and continue, all "".
        put_bytes(&mut out, 1, &[0x0a, 0, 0x12, 0, 0x1a, 0]);
        put_bytes(&mut out, 2, b"Failure");
        put_bytes(&mut out, 3, self.message.as_bytes());
        put_bytes(&mut out, 4, self.reason.as_bytes());
        if let Some(details) = &self.details {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, details.name.as_bytes());
            put_bytes(&mut inner, 2, details.group.as_bytes());
            put_bytes(&mut inner, 3, details.kind.as_bytes());
            for cause in &details.causes {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, cause.reason.as_bytes());
                put_bytes(&mut entry, 2, cause.message.as_bytes());
                put_bytes(&mut entry, 3, cause.field.as_bytes());
                put_bytes(&mut inner, 4, &entry);
            }
            put_varint(&mut inner, 5 << 3, u64::from(details.retry_after_seconds));
            put_bytes(&mut inner, 6, details.uid.as_bytes());
            put_bytes(&mut out, 5, &inner);
        }
        put_varint(&mut out, 6 << 3, u64::from(self.code));
        out
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for Status {}

/// Quotes like Go's `%q`, which the server's messages are made with.
#[must_use]
pub(crate) fn quote(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                write!(out, "\\x{:02x}", c as u32).expect("writing to a String cannot fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The server's JSON encoder escapes what HTML and JavaScript could trip over.
fn escape_as_go(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + 16);
    let mut rest = json;
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            b'<' => out.extend_from_slice(b"\\u003c"),
            b'>' => out.extend_from_slice(b"\\u003e"),
            b'&' => out.extend_from_slice(b"\\u0026"),
            0xe2 if tail.starts_with(&[0x80, 0xa8]) => {
                out.extend_from_slice(b"\\u2028");
                rest = &tail[2..];
                continue;
            }
            0xe2 if tail.starts_with(&[0x80, 0xa9]) => {
                out.extend_from_slice(b"\\u2029");
                rest = &tail[2..];
                continue;
            }
            other => out.push(other),
        }
        rest = tail;
    }
    out
}

fn put_varint(out: &mut Vec<u8>, tag: u8, mut value: u64) {
    out.push(tag);
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_varint(out, (field << 3) | 2, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> GroupVersionResource {
        GroupVersionResource::new("", "v1", "pods")
    }

    fn json(status: &Status) -> String {
        String::from_utf8(status.to_json()).expect("JSON is text")
    }

    #[test]
    fn statuses_print_as_the_server_prints_them() {
        let deployments = GroupVersionResource::new("apps", "v1", "deployments");
        let cases = [
            (
                Status::not_found(&pods(), "x"),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#,
            ),
            (
                Status::already_exists(&deployments, "x"),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"x\" already exists","reason":"AlreadyExists","details":{"name":"x","group":"apps","kind":"deployments"},"code":409}"#,
            ),
            (
                Status::unauthorized(),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#,
            ),
            (
                Status::forbidden_path("User \"u\" cannot get path \"/x\""),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"forbidden: User \"u\" cannot get path \"/x\"","reason":"Forbidden","details":{},"code":403}"#,
            ),
            (
                Status::forbidden(&pods(), "", "no"),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods is forbidden: no","reason":"Forbidden","details":{"kind":"pods"},"code":403}"#,
            ),
            (
                Status::too_large_resource_version(9, 5),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Timeout: Too large resource version: 9, current: 5","reason":"Timeout","details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1},"code":504}"#,
            ),
            (
                Status::expired(3, 7),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 3 (7)","reason":"Expired","code":410}"#,
            ),
            (
                Status::bad_request("a <b> & \u{2028}"),
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"a \u003cb\u003e \u0026 \u2028","reason":"BadRequest","code":400}"#,
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(json(&status), format!("{expected}\n"));
        }
    }

    #[test]
    fn every_status_says_when_to_come_back_in_both_places_or_in_neither() {
        let pods = pods();
        for status in [
            Status::too_many_requests("busy", 3),
            Status::too_large_resource_version(2, 1),
            Status::service_unavailable("cut off"),
            Status::internal("x"),
            Status::timeout("x", 0),
            Status::expired(1, 2),
            Status::conflict(&pods, "x", "changed"),
            Status::method_not_supported(&pods, "watch"),
            Status::request_entity_too_large("limit is 1"),
            Status::unsupported_media_type(&["application/json"]),
            Status::path_not_found(),
        ] {
            let said = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
            assert_eq!(status.retry_after.unwrap_or(0), said, "{status}");
        }
        assert_eq!(Status::service_unavailable("x").retry_after, None);
        assert_eq!(Status::too_many_requests("x", 3).retry_after, Some(3));
    }

    #[test]
    fn protobuf_has_the_fields_of_the_servers_message() {
        let bytes = Status::too_large_resource_version(9, 5).to_protobuf();
        let mut expected = b"\x0a\x06\x0a\x00\x12\x00\x1a\x00\x12\x07Failure\x1a\x32".to_vec();
        expected.extend_from_slice(b"Timeout: Too large resource version: 9, current: 5");
        expected.extend_from_slice(b"\x22\x07Timeout\x2a\x43\x0a\x00\x12\x00\x1a\x00\x22\x37");
        expected
            .extend_from_slice(b"\x0a\x17ResourceVersionTooLarge\x12\x1aToo large resource version\x1a\x00");
        expected.extend_from_slice(b"\x28\x01\x32\x00\x30\xf8\x03");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn names_are_quoted_like_the_server_quotes_them() {
        assert_eq!(quote("a\"b\\c\n\u{1}é"), "\"a\\\"b\\\\c\\n\\x01é\"");
    }
}
