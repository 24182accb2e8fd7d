//! What a write must not take from here to the cloud: the resource versions that it depends on, where they are the
//! hub's own, and the hub's own authority. Where they stand in its body, and the body with something else in their
//! place; every other byte stays as it came.

use std::borrow::Cow;
use std::collections::BTreeMap;

use proto_kube::edit::{EditError, Rewrite, rewrite};
use proto_kube::json;
use proto_kube::media_type::Encoding;

use crate::body::{BodyError, offset_in};
use crate::filter::{CERTIFICATES_KEY, without_authority};

const MAGIC: &[u8] = b"k8s\0";
/// `runtime.Unknown.raw`.
const UNKNOWN_RAW: u32 = 2;

/// A text in an object that a write must not take from here to the cloud.
struct Part {
    /// Names of the members that lead to it; none needs escapes in a pointer.
    members: [&'static str; 2],
    /// Field numbers that lead to it, from the envelope on.
    fields: [u32; 3],
}

const VERSION: Part = Part { members: ["metadata", "resourceVersion"], fields: [UNKNOWN_RAW, 1, 6] };
const PRECONDITION: Part =
    Part { members: ["preconditions", "resourceVersion"], fields: [UNKNOWN_RAW, 2, 2] };
/// `dryRun` of `DeleteOptions`.
const DRY_RUN: [u32; 2] = [UNKNOWN_RAW, 5];
/// Of a ConfigMap; in protobuf the value of any of its entries.
const CERTIFICATES: Part = Part { members: ["data", CERTIFICATES_KEY], fields: [UNKNOWN_RAW, 2, 2] };

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
    fn version(self) -> &'static Part {
        match self {
            Self::Object | Self::JsonPatch => &VERSION,
            Self::DeleteOptions => &PRECONDITION,
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
            for place in places(kind, kind.version(), body)? {
                found.push(json::string(place)?.into());
            }
        }
        Encoding::Protobuf => {
            edit(&kind.version().fields, body, &mut |text| {
                found.push(text.into());
                None
            })?;
        }
    }
    Ok(found)
}

/// Whether `DeleteOptions` ask for a dry run. What cannot be read asks for none: the server refuses it.
#[must_use]
pub fn asks_for_dry_run(encoding: Encoding, options: &[u8]) -> bool {
    match encoding {
        Encoding::Json => {
            let options: serde_json::Value = serde_json::from_slice(options).unwrap_or_default();
            options["dryRun"].as_array().is_some_and(|stages| !stages.is_empty())
        }
        Encoding::Protobuf => {
            let mut asked = false;
            let read = edit(&DRY_RUN, options, &mut |_| {
                asked = true;
                None
            });
            asked && read.is_ok()
        }
    }
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
    exchange(kind, kind.version(), encoding, body, &mut |text| others.get(text).map(u64::to_string))
}

/// The body of a write of a ConfigMap without this authority among its certificates.
///
/// # Errors
/// As [`named_versions`].
pub fn without_own_authority(
    kind: WriteBody,
    encoding: Encoding,
    body: &[u8],
    authority: &str,
) -> Result<Vec<u8>, BodyError> {
    exchange(kind, &CERTIFICATES, encoding, body, &mut |text| match without_authority(text, authority) {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => Some(text),
    })
}

/// The body with other texts, where there are any, for those at this part's places.
fn exchange(
    kind: WriteBody,
    part: &Part,
    encoding: Encoding,
    body: &[u8],
    other: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<Vec<u8>, BodyError> {
    if encoding == Encoding::Protobuf {
        return edit(&part.fields, body, other);
    }
    let mut out = Vec::with_capacity(body.len() + 16);
    let mut copied = 0;
    for place in places(kind, part, body)? {
        let Some(text) = other(&json::string(place)?) else { continue };
        let start = offset_in(body, place);
        out.extend_from_slice(&body[copied..start]);
        json::write_string(&mut out, &text);
        copied = start + place.len();
    }
    out.extend_from_slice(&body[copied..]);
    Ok(out)
}

/// The body with other texts, where there are any, for those to which these field numbers lead from the envelope on.
fn edit(
    fields: &[u32],
    body: &[u8],
    other: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<Vec<u8>, BodyError> {
    let unknown = body.strip_prefix(MAGIC).ok_or(BodyError::Malformed)?;
    let edited = rewrite(unknown, fields, &mut |value| {
        let text = std::str::from_utf8(value).ok().and_then(&mut *other);
        Ok(text.map_or(Rewrite::Keep, |text| Rewrite::Replace(text.into_bytes())))
    });
    match edited {
        Ok(edited) => Ok([MAGIC, &edited].concat()),
        Err(EditError::Wire(error)) => Err(error.into()),
        Err(_) => Err(BodyError::Malformed),
    }
}

/// The string literals at this part's places, in their order.
fn places<'a>(kind: WriteBody, part: &Part, text: &'a [u8]) -> Result<Vec<&'a [u8]>, BodyError> {
    let mut found = Vec::new();
    if kind != WriteBody::JsonPatch {
        follow(text, &part.members, &mut found)?;
        return Ok(found);
    }
    let [outer, inner] = part.members;
    let (pointer, above) = (format!("/{outer}/{inner}"), format!("/{outer}"));
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
        for value in values {
            for path in &paths {
                match &**path {
                    path if path == pointer => follow(value, &[], &mut found)?,
                    path if path == above => follow(value, &[inner], &mut found)?,
                    "" => follow(value, &part.members, &mut found)?,
                    _ => {}
                }
            }
        }
    }
    // A member that stands twice leads to the same place by several ways, and not in order.
    found.sort_by_key(|place| offset_in(text, place));
    found.dedup_by_key(|place| offset_in(text, place));
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

    #[test]
    fn a_dry_run_is_asked_for_by_its_stages() {
        for (options, asked) in [("", false), ("{", false), ("{}", false), (r#"{"dryRun":[]}"#, false)] {
            assert_eq!(asks_for_dry_run(Encoding::Json, options.as_bytes()), asked, "{options}");
        }
        assert!(asks_for_dry_run(Encoding::Json, br#"{"dryRun":["All"]}"#));
        let options = |fields: &[(u32, &[u8])]| envelope("v1", "DeleteOptions", &message(fields));
        assert!(asks_for_dry_run(Encoding::Protobuf, &options(&[(4, b"Orphan"), (5, b"All")])));
        assert!(!asks_for_dry_run(Encoding::Protobuf, &options(&[(4, b"Orphan")])));
        assert!(!asks_for_dry_run(Encoding::Protobuf, b"garbage"));
    }

    #[test]
    fn the_hubs_authority_stays_at_home() {
        let authority = "-----BEGIN CERTIFICATE-----\nhub\n-----END CERTIFICATE-----\n";
        let both = format!("cluster\n{authority}");
        let object =
            |certificates: &str| serde_json::json!({ "data": { "ca.crt": certificates, "b": both } });
        let patch = |certificates: &str| {
            serde_json::json!([
                { "op": "replace", "path": "/data/ca.crt", "value": certificates },
                { "op": "add", "path": "/data", "value": { "ca.crt": certificates } },
                { "op": "test", "path": "/data/b", "value": both },
            ])
        };
        let strip = |kind, body: serde_json::Value| {
            let body = body.to_string();
            let stripped = without_own_authority(kind, Encoding::Json, body.as_bytes(), authority);
            serde_json::from_slice::<serde_json::Value>(&stripped.expect("a body")).expect("JSON")
        };
        for held in [both.as_str(), "cluster\n"] {
            assert_eq!(strip(WriteBody::Object, object(held)), object("cluster\n"));
            assert_eq!(strip(WriteBody::JsonPatch, patch(held)), patch("cluster\n"));
        }
        let protobuf = |certificates: &str| {
            let entry = message(&[(1, b"ca.crt"), (2, certificates.as_bytes())]);
            envelope("v1", "ConfigMap", &message(&[(1, &message(&[(1, b"a")])), (2, &entry), (9, b"x")]))
        };
        let stripped =
            without_own_authority(WriteBody::Object, Encoding::Protobuf, &protobuf(&both), authority);
        assert_eq!(stripped, Ok(protobuf("cluster\n")));
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

        #[test]
        fn members_that_stand_twice_and_anywhere_are_each_exchanged_once(
            members in proptest::collection::vec(
                prop_oneof![
                    Just(r#""path":"""#), Just(r#""path":"/metadata""#), Just(r#""path":"/data""#),
                    Just(r#""path":"/metadata/resourceVersion""#), Just(r#""path":"/data/ca.crt""#),
                    Just(r#""value":"7""#), Just(r#""value":{"resourceVersion":"7","ca.crt":"7"}"#),
                    Just(r#""value":{"metadata":{"resourceVersion":"7"},"data":{"ca.crt":"7"}}"#),
                ],
                0..7,
            ),
        ) {
            let body = format!("[{{{}}}]", members.join(","));
            let written = replaced(WriteBody::JsonPatch, Encoding::Json, body.as_bytes());
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&written).is_ok());
            prop_assert_eq!(written.len(), body.len());
            let kind = WriteBody::JsonPatch;
            let again = named_versions(kind, Encoding::Json, &written).expect("JSON");
            prop_assert!(again.iter().all(|version| &**version == "5"));
            let stripped = without_own_authority(kind, Encoding::Json, body.as_bytes(), "7").expect("JSON");
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&stripped).is_ok());
        }
    }
}
