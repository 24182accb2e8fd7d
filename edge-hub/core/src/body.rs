//! The few request and answer bodies that the hub itself reads or amends: TokenRequest, Event, Lease.
//!
//! A body stays the bytes that it came as. One field is found or replaced in place, in JSON or in Kubernetes
//! protobuf (`k8s\0` + `Unknown` envelope); everything else, unknown fields too, is kept byte for byte.

use std::borrow::Cow;
use std::time::Duration;

use proto_kube::media_type::Encoding;
use proto_kube::{json, wire};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const MAGIC: &[u8] = b"k8s\0";
/// `runtime.Unknown`: typeMeta 1 {apiVersion 1, kind 2}, raw 2.
const UNKNOWN_TYPE_META: u32 = 1;
const UNKNOWN_RAW: u32 = 2;

/// Why a body could not be used. Holds nothing of the body.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than the caller allows.
    #[error("the body is too large")]
    TooLarge,
    /// Not the JSON or protobuf it should be.
    #[error("the body is malformed")]
    Malformed,
    /// Another apiVersion or kind than the path demands.
    #[error("the body is of another kind than its path")]
    OtherKind,
    /// A field that is needed here is missing or does not fit the request.
    #[error("the field {0} is missing or does not fit the request")]
    Field(&'static str),
}

impl From<wire::WireError> for BodyError {
    fn from(_: wire::WireError) -> Self {
        Self::Malformed
    }
}

impl From<json::JsonError> for BodyError {
    fn from(_: json::JsonError) -> Self {
        Self::Malformed
    }
}

/// Where a field lies: its member names in JSON, its field numbers in protobuf.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Path {
    pub(crate) json: &'static [&'static str],
    pub(crate) wire: &'static [u32],
}

/// `metadata.name`, at the same place in every kind.
pub(crate) const NAME: Path = Path { json: &["metadata", "name"], wire: &[1, 1] };
/// `metadata.generateName`.
pub(crate) const GENERATE_NAME: Path = Path { json: &["metadata", "generateName"], wire: &[1, 2] };
/// `metadata.namespace`.
pub(crate) const NAMESPACE: Path = Path { json: &["metadata", "namespace"], wire: &[1, 3] };
/// `metadata.resourceVersion`.
pub(crate) const RESOURCE_VERSION: Path = Path { json: &["metadata", "resourceVersion"], wire: &[1, 6] };

/// A body whose envelope has been read.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Document<'a> {
    encoding: Encoding,
    body: &'a [u8],
    /// Protobuf: the bare message inside the envelope. JSON: the body.
    content: &'a [u8],
}

impl<'a> Document<'a> {
    /// Reads the envelope of a body of at most `max_bytes` and checks its type.
    ///
    /// A JSON body may leave `apiVersion` and `kind` out, as the API server allows on typed endpoints.
    pub(crate) fn parse(
        encoding: Encoding,
        body: &'a [u8],
        max_bytes: usize,
        api_version: &str,
        kind: &str,
    ) -> Result<Self, BodyError> {
        if body.len() > max_bytes {
            return Err(BodyError::TooLarge);
        }
        let (found_version, found_kind, content) = match encoding {
            Encoding::Json => {
                // The scanner is lenient; what goes on from here as our answer must be JSON through and through.
                serde_json::from_slice::<serde::de::IgnoredAny>(body).map_err(|_| BodyError::Malformed)?;
                (json_text(body, &["apiVersion"])?, json_text(body, &["kind"])?, body)
            }
            Encoding::Protobuf => {
                let unknown = body.strip_prefix(MAGIC).ok_or(BodyError::Malformed)?;
                let raw = wire::last(unknown, UNKNOWN_RAW)?.ok_or(BodyError::Malformed)?.bytes()?;
                (
                    wire_text(unknown, &[UNKNOWN_TYPE_META, 1])?,
                    wire_text(unknown, &[UNKNOWN_TYPE_META, 2])?,
                    raw,
                )
            }
        };
        let fits = |found: Option<Cow<'_, str>>, expected: &str| {
            found.is_none_or(|found| found.is_empty() || found == expected)
        };
        if !fits(found_version, api_version) || !fits(found_kind, kind) {
            return Err(BodyError::OtherKind);
        }
        Ok(Self { encoding, body, content })
    }

    /// The JSON text or the bare message.
    pub(crate) fn content(&self) -> &'a [u8] {
        self.content
    }

    /// The string at `path`; `None` if it is absent, null or empty.
    pub(crate) fn text(&self, path: Path) -> Result<Option<Cow<'a, str>>, BodyError> {
        let text = match self.encoding {
            Encoding::Json => json_text(self.content, path.json)?,
            Encoding::Protobuf => wire_text(self.content, path.wire)?,
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// The `Time` or `MicroTime` at `path`, since 1970.
    pub(crate) fn time(&self, path: Path) -> Result<Option<Duration>, BodyError> {
        match self.encoding {
            Encoding::Json => match json_text(self.content, path.json)? {
                None => Ok(None),
                Some(text) => parse_time(&text).map(Some).ok_or(BodyError::Malformed),
            },
            Encoding::Protobuf => match wire_bytes(self.content, path.wire)? {
                None => Ok(None),
                Some(message) => wire_time(message),
            },
        }
    }

    /// The whole body with the string at `path` set.
    pub(crate) fn with_text(&self, path: Path, text: &str) -> Result<Vec<u8>, BodyError> {
        match self.encoding {
            Encoding::Json => {
                let mut literal = Vec::with_capacity(text.len() + 2);
                json::write_string(&mut literal, text);
                json_set(self.body, path.json, &literal)
            }
            Encoding::Protobuf => self.with_message(path, text.as_bytes()),
        }
    }

    /// The whole body with the `Time` at `path` set, cut to whole seconds as `metav1.Time` is.
    pub(crate) fn with_time(&self, path: Path, time: Duration) -> Result<Vec<u8>, BodyError> {
        match self.encoding {
            Encoding::Json => {
                let text = format_time(time).ok_or(BodyError::Malformed)?;
                json_set(self.body, path.json, format!("\"{text}\"").as_bytes())
            }
            Encoding::Protobuf => {
                let mut message = Vec::new();
                wire::put_varint_field(&mut message, 1, time.as_secs());
                self.with_message(path, &message)
            }
        }
    }

    /// The whole body with the value at `path` set: `literal` in JSON, `message` in protobuf.
    pub(crate) fn with_value(
        &self,
        path: Path,
        literal: &[u8],
        message: &[u8],
    ) -> Result<Vec<u8>, BodyError> {
        match self.encoding {
            Encoding::Json => json_set(self.body, path.json, literal),
            Encoding::Protobuf => self.with_message(path, message),
        }
    }

    fn with_message(&self, path: Path, value: &[u8]) -> Result<Vec<u8>, BodyError> {
        let content = wire_set(self.content, path.wire, value)?;
        let unknown = self.body.strip_prefix(MAGIC).ok_or(BodyError::Malformed)?;
        let mut body = MAGIC.to_vec();
        body.extend(wire_set(unknown, &[UNKNOWN_RAW], &content)?);
        Ok(body)
    }
}

/// Seconds of an RFC 3339 text; `None` if it is none or lies before 1970.
pub(crate) fn parse_time(text: &str) -> Option<Duration> {
    let nanoseconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

/// `metav1.Time` as JSON has it: RFC 3339, UTC, whole seconds. `None` beyond the year 9999.
pub(crate) fn format_time(time: Duration) -> Option<String> {
    let seconds = i64::try_from(time.as_secs()).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

fn wire_time(message: &[u8]) -> Result<Option<Duration>, BodyError> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in wire::fields(message) {
        match field? {
            wire::Field { number: 1, value: wire::Value::Varint(value), .. } => seconds = value,
            wire::Field { number: 2, value: wire::Value::Varint(value), .. } => nanoseconds = value,
            _ => {}
        }
    }
    // A moment before 1970 is a negative number, which the wire shows as a huge one; Go's zero time is such.
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|nanoseconds| *nanoseconds < 1_000_000_000);
    Ok(nanoseconds
        .filter(|_| i64::try_from(seconds).is_ok())
        .map(|nanoseconds| Duration::new(seconds, nanoseconds)))
}

fn json_value<'a>(text: &'a [u8], path: &[&str]) -> Result<Option<&'a [u8]>, BodyError> {
    let mut value = text;
    for name in path {
        match json::member(value, name)? {
            Some(inner) if !json::is_null(inner) => value = inner,
            _ => return Ok(None),
        }
    }
    Ok(Some(value))
}

fn json_text<'a>(text: &'a [u8], path: &[&str]) -> Result<Option<Cow<'a, str>>, BodyError> {
    json_value(text, path)?.map(json::string).transpose().map_err(Into::into)
}

/// Replaces the value at `path`, or adds it as the first member of its parent, which must be there.
fn json_set(text: &[u8], path: &[&str], literal: &[u8]) -> Result<Vec<u8>, BodyError> {
    let (name, parents) = path.split_last().ok_or(BodyError::Malformed)?;
    let parent = json_value(text, parents)?.ok_or(BodyError::Malformed)?;
    let mut out = Vec::with_capacity(text.len() + literal.len() + name.len() + 4);
    if let Some(value) = json::member(parent, name)? {
        let start = offset_in(text, value);
        out.extend_from_slice(&text[..start]);
        out.extend_from_slice(literal);
        out.extend_from_slice(&text[start + value.len()..]);
        return Ok(out);
    }
    let brace = parent.iter().position(|byte| *byte == b'{').ok_or(BodyError::Malformed)?;
    let start = offset_in(text, parent) + brace + 1;
    out.extend_from_slice(&text[..start]);
    json::write_string(&mut out, name);
    out.push(b':');
    out.extend_from_slice(literal);
    if json::members(parent)?.next().is_some() {
        out.push(b',');
    }
    out.extend_from_slice(&text[start..]);
    Ok(out)
}

/// Where `part`, a subslice of `whole`, begins in it.
pub(crate) fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

fn wire_bytes<'a>(message: &'a [u8], path: &[u32]) -> Result<Option<&'a [u8]>, BodyError> {
    let mut value = message;
    for number in path {
        match wire::last(value, *number)? {
            Some(field) => value = field.bytes()?,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

fn wire_text<'a>(message: &'a [u8], path: &[u32]) -> Result<Option<Cow<'a, str>>, BodyError> {
    let Some(bytes) = wire_bytes(message, path)? else { return Ok(None) };
    std::str::from_utf8(bytes).map(|text| Some(Cow::Borrowed(text))).map_err(|_| BodyError::Malformed)
}

/// Sets the length-delimited field at `path`. Where a parent stands more than once the last one is amended:
/// a decoder merges them in order, so the value set there wins.
fn wire_set(message: &[u8], path: &[u32], value: &[u8]) -> Result<Vec<u8>, BodyError> {
    let (&number, rest) = path.split_first().ok_or(BodyError::Malformed)?;
    let fields = wire::fields(message).collect::<Result<Vec<_>, _>>()?;
    let last = fields.iter().rposition(|field| field.number == number);
    let inner = match last {
        _ if rest.is_empty() => value.to_vec(),
        Some(at) => wire_set(fields[at].bytes()?, rest, value)?,
        None => wire_set(&[], rest, value)?,
    };
    let mut out = Vec::with_capacity(message.len() + inner.len() + 8);
    for (at, field) in fields.iter().enumerate() {
        if Some(at) == last {
            wire::put_bytes(&mut out, number, &inner);
        } else if field.number != number || !rest.is_empty() {
            out.extend_from_slice(field.record);
        }
    }
    if last.is_none() {
        wire::put_bytes(&mut out, number, &inner);
    }
    Ok(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A protobuf body: the envelope around `message`, with a field that nobody knows.
    pub(crate) fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
        let mut type_meta = Vec::new();
        wire::put_bytes(&mut type_meta, 1, api_version.as_bytes());
        wire::put_bytes(&mut type_meta, 2, kind.as_bytes());
        let mut body = MAGIC.to_vec();
        wire::put_bytes(&mut body, UNKNOWN_TYPE_META, &type_meta);
        wire::put_bytes(&mut body, UNKNOWN_RAW, message);
        wire::put_bytes(&mut body, 4, b"application/future");
        body
    }

    /// A message with one nested string or message: `field(1, &[field(1, b"name")])`.
    pub(crate) fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in fields {
            wire::put_bytes(&mut out, *number, value);
        }
        out
    }

    const LEASE: (&str, &str) = ("coordination.k8s.io/v1", "Lease");

    fn parse(encoding: Encoding, body: &[u8]) -> Result<Document<'_>, BodyError> {
        Document::parse(encoding, body, 4096, LEASE.0, LEASE.1)
    }

    #[test]
    fn a_json_field_is_replaced_or_added_and_the_rest_stays() {
        let body = br#"{"kind":"Lease", "metadata": { "name" : "a","x":{"name":"b"}} ,"future":[1,{}]}"#;
        let document = parse(Encoding::Json, body).expect("valid");
        let renamed = document.with_text(NAME, "q\"").expect("set");
        assert_eq!(
            renamed,
            br#"{"kind":"Lease", "metadata": { "name" : "q\"","x":{"name":"b"}} ,"future":[1,{}]}"#
        );
        let added = document.with_text(RESOURCE_VERSION, "7").expect("set");
        let read = parse(Encoding::Json, &added).expect("still valid");
        assert_eq!(read.text(RESOURCE_VERSION), Ok(Some("7".into())));
        assert_eq!(read.text(NAME), Ok(Some("a".into())));
        let empty = br#"{"metadata":{}}"#;
        let named = parse(Encoding::Json, empty).expect("valid").with_text(NAME, "a").expect("set");
        assert_eq!(named, br#"{"metadata":{"name":"a"}}"#);
    }

    #[test]
    fn a_protobuf_field_is_replaced_and_unknown_fields_stay() {
        let metadata = message(&[(1, b"a"), (99, b"future"), (6, b"5")]);
        let body = envelope(LEASE.0, LEASE.1, &message(&[(1, &metadata), (98, b"later")]));
        let document = parse(Encoding::Protobuf, &body).expect("valid");
        let renamed = document.with_text(NAME, "other").expect("set");
        let metadata = message(&[(1, b"other"), (99, b"future"), (6, b"5")]);
        assert_eq!(renamed, envelope(LEASE.0, LEASE.1, &message(&[(1, &metadata), (98, b"later")])));
    }

    #[test]
    fn of_a_repeated_message_only_the_last_is_amended() {
        let [first, last] = [message(&[(1, b"a"), (9, b"x")]), message(&[(6, b"5")])];
        let body = envelope(LEASE.0, LEASE.1, &message(&[(1, &first), (1, &last), (2, b"")]));
        let renamed = parse(Encoding::Protobuf, &body).expect("valid").with_text(NAME, "b").expect("set");
        let last = message(&[(6, b"5"), (1, b"b")]);
        assert_eq!(renamed, envelope(LEASE.0, LEASE.1, &message(&[(1, &first), (1, &last), (2, b"")])));
    }

    #[test]
    fn a_body_of_another_kind_or_too_long_is_refused() {
        assert_eq!(parse(Encoding::Json, br#"{"kind":"Pod"}"#).err(), Some(BodyError::OtherKind));
        assert_eq!(
            parse(Encoding::Protobuf, &envelope("v1", "Lease", b"")).err(),
            Some(BodyError::OtherKind)
        );
        assert_eq!(parse(Encoding::Json, &[b' '; 4097]).err(), Some(BodyError::TooLarge));
        assert_eq!(parse(Encoding::Protobuf, b"{}").err(), Some(BodyError::Malformed));
        assert_eq!(parse(Encoding::Json, b"{}x").err(), Some(BodyError::Malformed));
        assert!(parse(Encoding::Json, b"{}").is_ok());
    }

    #[test]
    fn times_are_read_in_both_encodings() {
        const AT: Path = Path { json: &["at"], wire: &[1] };
        let text = br#"{"at":"2026-11-24T03:00:00.250000Z"}"#;
        let found = parse(Encoding::Json, text).expect("valid").time(AT).expect("a time");
        assert_eq!(found, Some(Duration::from_millis(1_795_489_200_250)));
        let mut time = Vec::new();
        wire::put_varint_field(&mut time, 1, 1_795_489_200);
        wire::put_varint_field(&mut time, 2, 250_000_000);
        let body = envelope(LEASE.0, LEASE.1, &message(&[(1, &time)]));
        assert_eq!(parse(Encoding::Protobuf, &body).expect("valid").time(AT), Ok(found));
        // Go's zero time is a negative number of seconds.
        let mut zero = Vec::new();
        wire::put_varint_field(&mut zero, 1, (-62_135_596_800_i64).cast_unsigned());
        let body = envelope(LEASE.0, LEASE.1, &message(&[(1, &zero)]));
        assert_eq!(parse(Encoding::Protobuf, &body).expect("valid").time(AT), Ok(None));
    }

    proptest! {
        #[test]
        fn no_json_breaks_reading_or_setting(text in r#"[{}\[\]:,"a-z0-9\\ ]{0,60}"#, wrap in any::<bool>()) {
            let text = if wrap { format!(r#"{{"metadata":{{{text}}}}}"#) } else { text };
            if let Ok(document) = parse(Encoding::Json, text.as_bytes())
                && let Ok(set) = document.with_text(NAME, "n")
            {
                let read = parse(Encoding::Json, &set).expect("an amended body is a body");
                prop_assert_eq!(read.text(NAME), Ok(Some("n".into())));
            }
        }

        #[test]
        fn no_bytes_break_reading_or_setting(bytes in proptest::collection::vec(0_u8..20, 0..60), wrap in any::<bool>()) {
            let body = if wrap { envelope(LEASE.0, LEASE.1, &bytes) } else { [MAGIC, &bytes].concat() };
            if let Ok(document) = parse(Encoding::Protobuf, &body)
                && let Ok(set) = document.with_text(NAME, "n")
            {
                let read = parse(Encoding::Protobuf, &set).expect("an amended body is a body");
                prop_assert_eq!(read.text(NAME), Ok(Some("n".into())));
            }
        }
    }
}
