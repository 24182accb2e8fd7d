//! The resource versions that a write depends on: where they stand in its body, and the body with others in their
//! place. Every other byte stays as it came.

use std::collections::BTreeMap;

use proto_kube::edit::{EditError, Rewrite, rewrite};
use proto_kube::json;
use proto_kube::media_type::Encoding;

use crate::body::{BodyError, offset_in};

const MAGIC: &[u8] = b"k8s\0";
/// `runtime.Unknown.raw`.
const UNKNOWN_RAW: u32 = 2;
/// The pointer at which a JSON patch speaks of the version itself; both names are without escapes.
const POINTER: &str = "/metadata/resourceVersion";

/// What a write's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteBody {
    /// An object, or a patch that is shaped like one: merge, strategic merge, apply.
    Object,
    /// A list of operations (RFC 6902), always JSON.
    JsonPatch,
    /// `meta/v1 DeleteOptions`.
    DeleteOptions,
}

impl WriteBody {
    /// Names of the members that lead to the version.
    fn members(self) -> [&'static str; 2] {
        match self {
            Self::Object | Self::JsonPatch => ["metadata", "resourceVersion"],
            Self::DeleteOptions => ["preconditions", "resourceVersion"],
        }
    }

    /// Field numbers that lead to the version, from the envelope on.
    fn fields(self) -> [u32; 3] {
        match self {
            Self::Object | Self::JsonPatch => [UNKNOWN_RAW, 1, 6],
            Self::DeleteOptions => [UNKNOWN_RAW, 2, 2],
        }
    }
}

/// Every version that the body names, as often as it does: of a name that stands twice a server takes one or the other.
///
/// # Errors
/// [`BodyError`] for a body that no server could read either.
pub fn named_versions(kind: WriteBody, encoding: Encoding, body: &[u8]) -> Result<Vec<Box<str>>, BodyError> {
    let mut found = Vec::new();
    match encoding {
        Encoding::Json => {
            for place in places(kind, body)? {
                found.push(json::string(place)?.into());
            }
        }
        Encoding::Protobuf => {
            edit(kind, body, &mut |value| {
                found.extend(std::str::from_utf8(value).ok().map(Into::into));
                None
            })?;
        }
    }
    Ok(found)
}

/// The body with each of these versions replaced wherever it is named.
///
/// # Errors
/// As [`named_versions`].
pub fn with_versions(
    kind: WriteBody,
    encoding: Encoding,
    body: &[u8],
    others: &BTreeMap<Box<str>, u64>,
) -> Result<Vec<u8>, BodyError> {
    if encoding == Encoding::Protobuf {
        return edit(kind, body, &mut |value| {
            others.get(std::str::from_utf8(value).ok()?).map(|other| other.to_string().into_bytes())
        });
    }
    let mut out = Vec::with_capacity(body.len() + 16);
    let mut copied = 0;
    for place in places(kind, body)? {
        let Some(other) = others.get(&*json::string(place)?) else { continue };
        let start = offset_in(body, place);
        out.extend_from_slice(&body[copied..start]);
        json::write_string(&mut out, &other.to_string());
        copied = start + place.len();
    }
    out.extend_from_slice(&body[copied..]);
    Ok(out)
}

fn edit(
    kind: WriteBody,
    body: &[u8],
    other: &mut dyn FnMut(&[u8]) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, BodyError> {
    let unknown = body.strip_prefix(MAGIC).ok_or(BodyError::Malformed)?;
    let edited = rewrite(unknown, &kind.fields(), &mut |value| {
        Ok(other(value).map_or(Rewrite::Keep, Rewrite::Replace))
    });
    match edited {
        Ok(edited) => Ok([MAGIC, &edited].concat()),
        Err(EditError::Wire(error)) => Err(error.into()),
        Err(_) => Err(BodyError::Malformed),
    }
}

/// The string literals that are versions, in their order.
fn places(kind: WriteBody, text: &[u8]) -> Result<Vec<&[u8]>, BodyError> {
    let mut found = Vec::new();
    if kind != WriteBody::JsonPatch {
        follow(text, &kind.members(), &mut found)?;
        return Ok(found);
    }
    for operation in json::elements(text)? {
        let mut paths = Vec::new();
        let mut values = Vec::new();
        for member in json::members(operation?)? {
            match member? {
                (name, path) if name == "path" => paths.push(json::string(path)?),
                (name, value) if name == "value" => values.push(value),
                _ => {}
            }
        }
        let [_, version] = kind.members();
        for value in values {
            for path in &paths {
                match &**path {
                    POINTER => follow(value, &[], &mut found)?,
                    "/metadata" => follow(value, &[version], &mut found)?,
                    "" => follow(value, &kind.members(), &mut found)?,
                    _ => {}
                }
            }
        }
    }
    Ok(found)
}

/// Collects the strings at this path, through every member of that name. Recursion is as deep as the path.
fn follow<'a>(value: &'a [u8], path: &[&str], found: &mut Vec<&'a [u8]>) -> Result<(), BodyError> {
    let value = value.trim_ascii();
    let Some((name, deeper)) = path.split_first() else {
        if value.starts_with(b"\"") {
            found.push(value);
        }
        return Ok(());
    };
    if !value.starts_with(b"{") {
        return Ok(());
    }
    for member in json::members(value)? {
        let (key, inner) = member?;
        if key == *name {
            follow(inner, deeper, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::tests::{envelope, message};
    use proptest::prelude::*;

    fn named(kind: WriteBody, text: &str) -> Vec<Box<str>> {
        named_versions(kind, Encoding::Json, text.as_bytes()).expect("JSON")
    }

    fn replaced(kind: WriteBody, encoding: Encoding, body: &[u8]) -> Vec<u8> {
        with_versions(kind, encoding, body, &BTreeMap::from([("7".into(), 5)])).expect("a body")
    }

    #[test]
    fn each_kind_of_body_names_its_version_and_nothing_else_is_touched() {
        let cases = [
            (WriteBody::Object, r#"{"a":"7","metadata":{"resourceVersion" : "7" ,"x":[7]}}"#, 1),
            (
                WriteBody::Object,
                r#"{"metadata":{"resourceVersion":"7"},"metadata":{"resourceVersion":"7"}}"#,
                2,
            ),
            (WriteBody::Object, r#"{"metadata":{"resourceVersion":7}}"#, 0),
            (WriteBody::Object, r#"{"metadata":null}"#, 0),
            (WriteBody::DeleteOptions, r#"{"preconditions":{"uid":"7","resourceVersion":"7"}}"#, 1),
            (WriteBody::JsonPatch, r#"[{"op":"test","path":"/metadata/resourceVersion","value":"7"}]"#, 1),
            (
                WriteBody::JsonPatch,
                r#"[{"value":{"resourceVersion":"7"},"path":"\/metadata","op":"add"}]"#,
                1,
            ),
            (
                WriteBody::JsonPatch,
                r#"[{"path":"","value":{"metadata":{"resourceVersion":"7"}}},{"op":"x"}]"#,
                1,
            ),
            (WriteBody::JsonPatch, r#"[{"op":"test","path":"/metadata/uid","value":"7"}]"#, 0),
        ];
        for (kind, text, count) in cases {
            assert_eq!(named(kind, text), vec![Box::from("7"); count], "{text}");
            let written = String::from_utf8(replaced(kind, Encoding::Json, text.as_bytes())).expect("text");
            let version = r#""resourceVersion":"7""#;
            let expected = match count {
                0 => text.to_owned(),
                _ => text
                    .replace(version, &version.replace('7', "5"))
                    .replace(r#""resourceVersion" : "7""#, r#""resourceVersion" : "5""#)
                    .replace(r#"/resourceVersion","value":"7""#, r#"/resourceVersion","value":"5""#),
            };
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn protobuf_bodies_name_theirs_at_the_same_places() {
        for (kind, [outer, inner]) in [(WriteBody::Object, [1, 6]), (WriteBody::DeleteOptions, [2, 2])] {
            let body = |version: &[u8]| {
                let meta = message(&[(1, b"7"), (inner, version), (99, b"7")]);
                envelope("v1", "Any", &message(&[(outer, &meta), (98, b"7")]))
            };
            assert_eq!(named_versions(kind, Encoding::Protobuf, &body(b"7")), Ok(vec!["7".into()]));
            assert_eq!(replaced(kind, Encoding::Protobuf, &body(b"7")), body(b"5"));
            assert_eq!(replaced(kind, Encoding::Protobuf, &body(b"8")), body(b"8"));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for kind in [WriteBody::Object, WriteBody::JsonPatch, WriteBody::DeleteOptions] {
                for encoding in [Encoding::Json, Encoding::Protobuf] {
                    let _ = named_versions(kind, encoding, &bytes);
                    let _ = named_versions(kind, encoding, &envelope("v1", "Any", &bytes));
                }
            }
        }
    }
}
