//! From an object held as protobuf to the JSON that kube-apiserver would have sent for it.
//!
//! The rules are those of Go's `encoding/json` on the API's structs, as the [`descriptor`](crate::descriptor) tells
//! them: what is on the wire is written unless Go leaves it out when empty; what is not on the wire is written where
//! Go would write its zero value. Fields that the descriptor does not know (a server newer than this program) are not
//! in the JSON; whoever passes protobuf on still passes them on.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::descriptor::{Cardinality, Descriptor, Field, Flags, Kind, Message, Shape};
use crate::document::write_type_members;
use crate::edit::PARTIAL_METADATA_HEAD;
use crate::json;
use crate::object::{METADATA, TypeMeta};
use crate::wire::{self, Value, WireError};

/// Levels of messages in one another that are followed; a schema of a custom resource has two for each of its own.
pub const MAX_DEPTH: usize = 200;
/// Seconds from the Unix epoch to the zero of Go's time, 0001-01-01, which counts as no time at all.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

/// Why an object could not be written as JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscodeError {
    /// The descriptor does not know this type.
    #[error("objects of type {kind} in {api_version} cannot be read here")]
    Unknown {
        /// Its version.
        api_version: Box<str>,
        /// Its kind.
        kind: Box<str>,
    },
    /// The bytes are not protobuf.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A field's bytes are not of the field's type.
    #[error("the field {0} is laid out as another type")]
    Type(&'static str),
    /// A value that JSON cannot carry: a time of no calendar, a number that is none, text that is not JSON.
    #[error("the field {0} holds a value that JSON cannot carry")]
    Value(&'static str),
    /// More than [`MAX_DEPTH`] messages in one another.
    #[error("messages are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The JSON would be longer than the caller allows.
    #[error("the JSON is longer than {0} bytes")]
    TooLong(usize),
}

/// The JSON of the object `raw` (a bare message of type `type_meta`): an item as [`crate::object`] defines it, so
/// without its kind and apiVersion. At most about `max_bytes` long.
///
/// # Errors
/// When the type is unknown, the bytes are malformed, or the JSON would be too long.
pub fn to_json(type_meta: &TypeMeta, raw: &[u8], max_bytes: usize) -> Result<Vec<u8>, TranscodeError> {
    let table = Descriptor::kubernetes();
    let message = table.find(type_meta).ok_or_else(|| TranscodeError::Unknown {
        api_version: type_meta.api_version.clone(),
        kind: type_meta.kind.clone(),
    })?;
    // JSON is about twice as long as protobuf.
    let out = Vec::with_capacity((raw.len() * 2).min(max_bytes) + 64);
    let mut writer = Writer { table, out, max_bytes, depth: 0 };
    writer.message(message, raw)?;
    Ok(writer.out)
}

/// The JSON item of a `PartialObjectMetadata` made of the object `raw`, a bare message of any kind: its metadata alone.
///
/// # Errors
/// When the metadata is missing or malformed, or the JSON would be too long.
pub fn metadata_to_json(raw: &[u8], max_bytes: usize) -> Result<Vec<u8>, TranscodeError> {
    let metadata = wire::last(raw, METADATA)?.ok_or(TranscodeError::Type("metadata"))?;
    let inside = to_json(&TypeMeta::partial_object_metadata(), metadata.record, max_bytes)?;
    Ok([PARTIAL_METADATA_HEAD, &inside[1..]].concat())
}

struct Writer {
    table: &'static Descriptor,
    out: Vec<u8>,
    max_bytes: usize,
    depth: usize,
}

/// One field on the wire: its index among the message's fields, and its value.
type Occurrence<'a> = (usize, Value<'a>);

type Outcome = Result<(), TranscodeError>;

impl Writer {
    fn message(&mut self, message: &'static Message, raw: &[u8]) -> Outcome {
        if self.depth == MAX_DEPTH {
            return Err(TranscodeError::TooDeep);
        }
        if self.out.len() > self.max_bytes {
            return Err(TranscodeError::TooLong(self.max_bytes));
        }
        self.depth += 1;
        match message.shape {
            Shape::Object => {
                self.out.push(b'{');
                let mut first = true;
                self.fields(message, raw, &mut first)?;
                self.out.push(b'}');
            }
            Shape::List => self.wrapped_list(message, raw)?,
            Shape::Time | Shape::MicroTime => self.time(message, raw)?,
            Shape::Quantity => match wire::last(raw, 1)? {
                Some(field) => self.text(field.bytes()?),
                None => self.out.extend_from_slice(b"\"0\""),
            },
            Shape::IntOrString => self.int_or_string(raw)?,
            Shape::Raw => self.raw_json(message, raw)?,
            Shape::ListOrMessage => self.list_or_message(message, raw)?,
            Shape::MessageOrBool => self.message_or_bool(message, raw)?,
        }
        self.depth -= 1;
        Ok(())
    }

    /// The members that a message's fields become; those of inlined messages among them.
    fn fields(&mut self, message: &'static Message, raw: &[u8], first: &mut bool) -> Outcome {
        let known = self.table.fields(message);
        let occurrences = occurrences(known, raw)?;
        let mut rest = occurrences.as_slice();
        for (index, field) in known.iter().enumerate() {
            let count = rest.iter().take_while(|(of, _)| *of == index).count();
            let (mine, others) = rest.split_at(count);
            rest = others;
            if field.flags.has(Flags::INLINE) {
                self.inline(field, mine, first)?;
            } else if !is_left_out(field, mine)? {
                if !std::mem::take(first) {
                    self.out.push(b',');
                }
                json::write_string(&mut self.out, field.name);
                self.out.push(b':');
                self.field(field, mine)?;
            }
        }
        Ok(())
    }

    fn inline(&mut self, field: &Field, mine: &[Occurrence<'_>], first: &mut bool) -> Outcome {
        let Kind::Message(index) = field.kind else { return Err(TranscodeError::Type(field.name)) };
        if mine.is_empty() && field.flags.has(Flags::POINTER) {
            return Ok(());
        }
        let inner = self.table.message(index);
        if self.depth == MAX_DEPTH {
            return Err(TranscodeError::TooDeep);
        }
        self.depth += 1;
        self.fields(inner, &merged(field, mine)?, first)?;
        self.depth -= 1;
        Ok(())
    }

    /// The value of a field that is written.
    fn field(&mut self, field: &Field, mine: &[Occurrence<'_>]) -> Outcome {
        match (field.cardinality, mine.last()) {
            (Cardinality::List | Cardinality::Map, None) => self.null(),
            (Cardinality::List, Some(_)) => return self.list(field, mine),
            (Cardinality::Map, Some(_)) => return self.map(field, mine),
            (Cardinality::Single, None) if field.flags.has(Flags::POINTER) => self.null(),
            (Cardinality::Single, last) => match field.kind {
                Kind::Message(index) => {
                    return self.message(self.table.message(index), &merged(field, mine)?);
                }
                _ => return self.scalar(field, last.map(|(_, value)| *value)),
            },
        }
        Ok(())
    }

    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    /// A scalar, or its zero value.
    fn scalar(&mut self, field: &Field, value: Option<Value<'_>>) -> Outcome {
        match (field.kind, value) {
            (Kind::String, Some(Value::Bytes(text))) => self.text(text),
            (Kind::String, None) => self.text(b""),
            (Kind::Bytes, Some(Value::Bytes(bytes))) => {
                self.out.push(b'"');
                self.out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
                self.out.push(b'"');
            }
            (Kind::Bytes, None) => self.null(),
            (Kind::Bool, Some(Value::Varint(value))) => self.bool(value != 0),
            (Kind::Bool, None) => self.bool(false),
            // Protobuf's integers are the low bits of what is on the wire.
            (Kind::Int32, Some(Value::Varint(value))) => self.number(i64::from(low_bits(value))),
            (Kind::Int64, Some(Value::Varint(value))) => self.number(value.cast_signed()),
            (Kind::Int32 | Kind::Int64, None) => self.number(0),
            (Kind::Double, Some(Value::Fixed64(bytes))) => {
                let value = f64::from_le_bytes(bytes);
                if !value.is_finite() {
                    return Err(TranscodeError::Value(field.name));
                }
                self.out.extend_from_slice(double(value).as_bytes());
            }
            (Kind::Double, None) => self.number(0),
            _ => return Err(TranscodeError::Type(field.name)),
        }
        Ok(())
    }

    fn number(&mut self, value: i64) {
        self.out.extend_from_slice(value.to_string().as_bytes());
    }

    fn bool(&mut self, value: bool) {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Go puts U+FFFD for what is not UTF-8, and so does this.
    fn text(&mut self, text: &[u8]) {
        json::write_string(&mut self.out, &String::from_utf8_lossy(text));
    }

    /// One element of a list, or a map's value: a scalar or a message.
    fn element(&mut self, field: &Field, value: Option<Value<'_>>) -> Outcome {
        match (field.kind, value) {
            (Kind::Message(index), Some(Value::Bytes(raw))) if field.flags.has(Flags::TYPED) => {
                self.out.push(b'{');
                write_type_members(&mut self.out, &self.table.type_meta(index));
                self.fields(self.table.message(index), raw, &mut false)?;
                self.out.push(b'}');
                Ok(())
            }
            (Kind::Message(index), Some(Value::Bytes(raw))) => self.message(self.table.message(index), raw),
            (Kind::Message(index), None) => self.message(self.table.message(index), b""),
            (_, value) => self.scalar(field, value),
        }
    }

    fn list(&mut self, field: &Field, mine: &[Occurrence<'_>]) -> Outcome {
        self.out.push(b'[');
        let mut first = true;
        let is_number = matches!(field.kind, Kind::Bool | Kind::Int32 | Kind::Int64);
        for (_, value) in mine {
            match value {
                // Packed: how newer writers lay out lists of numbers.
                Value::Bytes(packed) if is_number => {
                    for value in wire::packed_varints(packed) {
                        self.comma(&mut first);
                        self.scalar(field, Some(Value::Varint(value?)))?;
                    }
                }
                value => {
                    self.comma(&mut first);
                    self.element(field, Some(*value))?;
                }
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn comma(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
    }

    fn map(&mut self, field: &Field, mine: &[Occurrence<'_>]) -> Outcome {
        let mut entries = Vec::with_capacity(mine.len());
        for (_, entry) in mine {
            let Value::Bytes(entry) = entry else { return Err(TranscodeError::Type(field.name)) };
            let key = wire::last(entry, 1)?.map(|key| key.bytes()).transpose()?.unwrap_or_default();
            let value = wire::last(entry, 2)?.map(|value| value.value);
            entries.push((String::from_utf8_lossy(key), value));
        }
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        self.out.push(b'{');
        let mut first = true;
        for (index, (key, value)) in entries.iter().enumerate() {
            // Of a key that is there again, the last counts.
            if entries.get(index + 1).is_some_and(|(next, _)| next == key) {
                continue;
            }
            self.comma(&mut first);
            json::write_string(&mut self.out, key);
            self.out.push(b':');
            self.element(field, *value)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn wrapped_list(&mut self, message: &'static Message, raw: &[u8]) -> Outcome {
        let known = self.table.fields(message);
        let occurrences = occurrences(known, raw)?;
        match known {
            [items] if !occurrences.is_empty() => self.list(items, &occurrences),
            _ => {
                self.null();
                Ok(())
            }
        }
    }

    fn time(&mut self, message: &'static Message, raw: &[u8]) -> Outcome {
        let bad = TranscodeError::Value(message.name);
        let number = |field: u32| -> Result<i64, TranscodeError> {
            match wire::last(raw, field)?.map(|field| field.value) {
                Some(Value::Varint(value)) => Ok(value.cast_signed()),
                None => Ok(0),
                Some(_) => Err(TranscodeError::Type(message.name)),
            }
        };
        let (seconds, nanoseconds) = (number(1)?, number(2)?);
        if raw.is_empty() || seconds == GO_ZERO_SECONDS {
            self.null();
            return Ok(());
        }
        let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| bad.clone())?;
        let text = if message.shape == Shape::MicroTime {
            let nanoseconds = u32::try_from(nanoseconds).map_err(|_| bad.clone())?;
            let time = time.replace_nanosecond(nanoseconds).map_err(|_| bad.clone())?;
            time.format(format_description!(
                "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
            ))
        } else {
            time.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
        };
        json::write_string(&mut self.out, &text.map_err(|_| bad)?);
        Ok(())
    }

    fn int_or_string(&mut self, raw: &[u8]) -> Outcome {
        const NAME: &str = "IntOrString";
        let number = |field: u32| -> Result<u64, TranscodeError> {
            match wire::last(raw, field)?.map(|field| field.value) {
                Some(Value::Varint(value)) => Ok(value),
                None => Ok(0),
                Some(_) => Err(TranscodeError::Type(NAME)),
            }
        };
        match number(1)? {
            0 => self.number(i64::from(low_bits(number(2)?))),
            1 => self.text(wire::last(raw, 3)?.map(|text| text.bytes()).transpose()?.unwrap_or_default()),
            _ => return Err(TranscodeError::Value(NAME)),
        }
        Ok(())
    }

    fn raw_json(&mut self, message: &'static Message, raw: &[u8]) -> Outcome {
        let text = wire::last(raw, 1)?.map(|text| text.bytes()).transpose()?.unwrap_or_default();
        if text.is_empty() {
            self.null();
            return Ok(());
        }
        serde_json::from_slice::<IgnoredAny>(text).map_err(|_| TranscodeError::Value(message.name))?;
        self.out.extend_from_slice(text.trim_ascii());
        Ok(())
    }

    fn list_or_message(&mut self, message: &'static Message, raw: &[u8]) -> Outcome {
        let (one, many) = self.two_fields(message)?;
        let occurrences = occurrences(self.table.fields(message), raw)?;
        let of_many = occurrences.partition_point(|(index, _)| *index == 0);
        match occurrences.split_at(of_many) {
            ([], []) => self.null(),
            (of_one, []) => self.field(one, of_one)?,
            (_, of_many) => self.field(many, of_many)?,
        }
        Ok(())
    }

    fn message_or_bool(&mut self, message: &'static Message, raw: &[u8]) -> Outcome {
        let (allowed, schema) = self.two_fields(message)?;
        let occurrences = occurrences(self.table.fields(message), raw)?;
        let of_schema = occurrences.partition_point(|(index, _)| *index == 0);
        match occurrences.split_at(of_schema) {
            (of_allowed, []) => self.field(allowed, of_allowed)?,
            (_, of_schema) => self.field(schema, of_schema)?,
        }
        Ok(())
    }

    fn two_fields(
        &self,
        message: &'static Message,
    ) -> Result<(&'static Field, &'static Field), TranscodeError> {
        match self.table.fields(message) {
            [one, two] => Ok((one, two)),
            _ => Err(TranscodeError::Type(message.name)),
        }
    }
}

/// The known fields on the wire in the order of the table, those of one field in the order of the wire.
fn occurrences<'a>(known: &[Field], raw: &'a [u8]) -> Result<Vec<Occurrence<'a>>, WireError> {
    let mut found = Vec::new();
    for field in wire::fields(raw) {
        let field = field?;
        if let Ok(index) = known.binary_search_by_key(&field.number, |known| known.number) {
            found.push((index, field.value));
        }
    }
    // Writers write in order, and then this costs one look at each.
    found.sort_by_key(|(index, _)| *index);
    Ok(found)
}

/// A singular message that occurs again is one message: protobuf's readers merge, which joining the bytes does.
fn merged<'a>(field: &Field, mine: &[Occurrence<'a>]) -> Result<Cow<'a, [u8]>, TranscodeError> {
    let part = |value: &Value<'a>| match value {
        Value::Bytes(bytes) => Ok(*bytes),
        _ => Err(TranscodeError::Type(field.name)),
    };
    match mine {
        [] => Ok(Cow::Borrowed(b"")),
        [(_, value)] => Ok(Cow::Borrowed(part(value)?)),
        many => {
            let parts = many.iter().map(|(_, value)| part(value)).collect::<Result<Vec<_>, _>>()?;
            Ok(Cow::Owned(parts.concat()))
        }
    }
}

/// Whether Go leaves this field out of the JSON.
fn is_left_out(field: &Field, mine: &[Occurrence<'_>]) -> Result<bool, TranscodeError> {
    let (omit_empty, pointer) = (field.flags.has(Flags::OMIT_EMPTY), field.flags.has(Flags::POINTER));
    if field.cardinality != Cardinality::Single || pointer {
        return Ok(omit_empty && mine.is_empty());
    }
    Ok(match (field.kind, mine.last().map(|(_, value)| value)) {
        // A struct is never empty to Go, however little is in it; only times may be left out when zero.
        (Kind::Message(_), _) => field.flags.has(Flags::OMIT_ZERO) && is_zero_time(&merged(field, mine)?)?,
        (_, None) => omit_empty,
        (Kind::String | Kind::Bytes, Some(Value::Bytes(bytes))) => omit_empty && bytes.is_empty(),
        (Kind::Int32, Some(Value::Varint(value))) => omit_empty && low_bits(*value) == 0,
        (Kind::Bool | Kind::Int64, Some(Value::Varint(value))) => omit_empty && *value == 0,
        (Kind::Double, Some(Value::Fixed64(bytes))) => omit_empty && f64::from_le_bytes(*bytes) == 0.0,
        _ => return Err(TranscodeError::Type(field.name)),
    })
}

fn is_zero_time(raw: &[u8]) -> Result<bool, WireError> {
    let seconds = wire::last(raw, 1)?.map(|field| field.value);
    Ok(raw.is_empty() || seconds == Some(Value::Varint(GO_ZERO_SECONDS.cast_unsigned())))
}

/// A number as Go writes it: without a fraction where it has none, with an exponent where it is very long.
fn double(value: f64) -> String {
    if value != 0.0 && !(1e-6..1e21).contains(&value.abs()) {
        format!("{value:e}")
    } else {
        value.to_string()
    }
}

/// The 32 bits that an `int32` is.
fn low_bits(value: u64) -> i32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in fields {
            wire::put_bytes(&mut out, *number, value);
        }
        out
    }

    fn numbers(fields: &[(u32, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in fields {
            wire::put_varint_field(&mut out, *number, *value);
        }
        out
    }

    fn json(api_version: &str, kind: &str, raw: &[u8]) -> String {
        let text = to_json(&TypeMeta::new(api_version, kind), raw, 1 << 20).expect("a good object");
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    #[test]
    fn zero_values_are_written_as_go_writes_them() {
        assert_eq!(json("v1", "Pod", b""), r#"{"metadata":{},"spec":{"containers":null},"status":{}}"#);
        assert_eq!(json("v1", "ConfigMap", b""), r#"{"metadata":{}}"#);
        let empty = r#"{"metadata":{},"involvedObject":{},"source":{},"firstTimestamp":null,"lastTimestamp":null,"eventTime":null,"reportingComponent":"","reportingInstance":""}"#;
        assert_eq!(json("v1", "Event", b""), empty);
    }

    #[test]
    fn what_is_there_is_left_out_only_where_go_would() {
        // name "" (omitempty) and an unset creationTimestamp; replicas: a pointer to 0
        let meta = message(&[(1, b""), (8, b"")]);
        let spec = numbers(&[(1, 0)]);
        let deployment = json("apps/v1", "Deployment", &message(&[(1, &meta), (2, &spec)]));
        assert!(
            deployment.starts_with(r#"{"metadata":{},"spec":{"replicas":0,"selector":null,"#),
            "{deployment}"
        );
        // automountServiceAccountToken: a pointer to false
        let account = [message(&[(1, b"")]), numbers(&[(4, 0)])].concat();
        assert_eq!(
            json("v1", "ServiceAccount", &account),
            r#"{"metadata":{},"automountServiceAccountToken":false}"#
        );
    }

    #[test]
    fn special_scalars_are_written_as_their_types_do() {
        let time = |seconds: u64, nanos: u64| numbers(&[(1, seconds), (2, nanos)]);
        let meta = message(&[(8, &time(1_700_000_000, 5))]);
        let spec = message(&[(4, &time(1_700_000_000, 123_456_789))]);
        assert_eq!(
            json("coordination.k8s.io/v1", "Lease", &message(&[(1, &meta), (2, &spec)])),
            r#"{"metadata":{"creationTimestamp":"2023-11-14T22:13:20Z"},"spec":{"renewTime":"2023-11-14T22:13:20.123456Z"}}"#
        );
        let number = [message(&[(1, b"http")]), numbers(&[(3, 80)]), message(&[(4, &numbers(&[(2, 8080)]))])];
        let named = message(&[(4, &[numbers(&[(1, 1)]), message(&[(3, b"web")])].concat())]);
        let ports = message(&[(1, &number.concat()), (1, &named)]);
        let service = json("v1", "Service", &message(&[(2, &ports)]));
        let expected =
            r#"{"ports":[{"name":"http","port":80,"targetPort":8080},{"port":0,"targetPort":"web"}]}"#;
        assert!(service.contains(expected), "{service}");
        let entry = message(&[(1, b"cpu"), (2, &message(&[(1, b"100m")]))]);
        let empty = message(&[(1, b"memory"), (2, b"")]);
        let quota = message(&[(2, &message(&[(1, &empty), (1, &entry)]))]);
        let quota = json("v1", "ResourceQuota", &quota);
        assert!(quota.contains(r#""hard":{"cpu":"100m","memory":"0"}"#), "{quota}");
    }

    #[test]
    fn bytes_maps_and_text_that_is_none_are_written_as_go_writes_them() {
        let pair = |key: &[u8], value: &[u8]| message(&[(1, key), (2, value)]);
        let secret = message(&[
            (2, &pair(b"b", b"\x00\xff")),
            (2, &pair(b"a", b"old")),
            (2, &pair(b"a", b"new")),
            (3, b"not \xff UTF-8"),
        ]);
        assert_eq!(
            json("v1", "Secret", &secret),
            "{\"metadata\":{},\"data\":{\"a\":\"bmV3\",\"b\":\"AP8=\"},\"type\":\"not \u{fffd} UTF-8\"}"
        );
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let cases = [(0.0, "0"), (-0.0, "-0"), (1.5, "1.5"), (1e20, "100000000000000000000"), (1e21, "1e21")];
        for (value, text) in cases.into_iter().chain([(-2.5e-7, "-2.5e-7"), (1e-6, "0.000001")]) {
            assert_eq!(double(value), text);
            assert_eq!(serde_json::from_str::<f64>(text).expect("JSON"), value);
        }
    }

    #[test]
    fn fields_are_read_in_any_order_and_merged() {
        let raw = message(&[
            (2, &message(&[(1, b"k"), (2, b"v")])),
            (1, &message(&[(1, b"first"), (3, b"ns")])),
            (1, &message(&[(1, b"second")])),
        ]);
        assert_eq!(
            json("v1", "ConfigMap", &raw),
            r#"{"metadata":{"name":"second","namespace":"ns"},"data":{"k":"v"}}"#
        );
    }

    #[test]
    fn what_json_cannot_carry_is_named() {
        let to_json = |kind, raw: &[u8]| super::to_json(&TypeMeta::new("v1", kind), raw, 1 << 20);
        let far = message(&[(1, &message(&[(8, &numbers(&[(1, i64::MAX.cast_unsigned())]))]))]);
        assert_eq!(to_json("Pod", &far), Err(TranscodeError::Value("Time")));
        let field = message(&[(1, &message(&[(17, &message(&[(7, &message(&[(1, b"{nonsense")]))]))]))]);
        assert_eq!(to_json("Pod", &field), Err(TranscodeError::Value("FieldsV1")));
        assert_eq!(to_json("Pod", &numbers(&[(1, 7)])), Err(TranscodeError::Type("metadata")));
        let name = message(&[(1, &numbers(&[(1, 7)]))]);
        assert_eq!(to_json("Pod", &name), Err(TranscodeError::Type("name")));
    }
}
