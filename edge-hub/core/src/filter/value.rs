//! One field of an object in both encodings: reading it, setting it, and rewriting what a path of fields leads to.
//!
//! Filters are written once, over fields that know their protobuf number and their JSON name. In protobuf every other
//! byte stays; in JSON every other value's text and the order of members stay, only white space between the members
//! of a rewritten object may go.

use std::borrow::Cow;

use proto_kube::edit::{self, EditError, Rewrite};
use proto_kube::json;
use proto_kube::media_type::Encoding;
use proto_kube::wire;

/// A field of a message: its protobuf number and its JSON name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
}

pub(crate) const fn field(number: u32, name: &'static str) -> Field {
    Field { number, name }
}

/// What a field is set to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// The field goes.
    Absent,
    /// JSON's null; in protobuf the field goes.
    Null,
    /// A string.
    Text(&'a str),
    /// A list of one string.
    OneText(&'a str),
    /// A list of one message.
    OneMessage(&'a [u8]),
    /// A message.
    Message(&'a [u8]),
    /// An integer.
    Number(u16),
    /// A truth value.
    Flag(bool),
}

impl Value<'_> {
    fn json(self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Absent => return None,
            Self::Null => out.extend_from_slice(b"null"),
            Self::Text(text) => json::write_string(&mut out, text),
            Self::OneText(text) => {
                out.push(b'[');
                json::write_string(&mut out, text);
                out.push(b']');
            }
            Self::OneMessage(message) => out.extend([b"[", message, b"]"].concat()),
            Self::Message(message) => out.extend_from_slice(message),
            Self::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Self::Flag(flag) => out.extend_from_slice(flag.to_string().as_bytes()),
        }
        Some(out)
    }

    fn put(self, out: &mut Vec<u8>, number: u32) {
        match self {
            Self::Absent | Self::Null => {}
            Self::Text(text) | Self::OneText(text) => wire::put_bytes(out, number, text.as_bytes()),
            Self::OneMessage(message) | Self::Message(message) => wire::put_bytes(out, number, message),
            Self::Number(value) => wire::put_varint_field(out, number, value.into()),
            Self::Flag(flag) => wire::put_varint_field(out, number, flag.into()),
        }
    }
}

/// The message or string bytes of a singular field; `None` when it is absent or null.
///
/// # Errors
/// When `message` is malformed.
pub(crate) fn child(encoding: Encoding, message: &[u8], of: Field) -> Result<Option<&[u8]>, EditError> {
    match encoding {
        Encoding::Protobuf => Ok(match wire::last(message, of.number)? {
            Some(found) => Some(found.bytes()?),
            None => None,
        }),
        Encoding::Json => Ok(json::member(message, of.name)?.filter(|value| !json::is_null(value))),
    }
}

/// The messages of a repeated field; none when it is absent or null.
///
/// # Errors
/// When `message` is malformed.
pub(crate) fn children(encoding: Encoding, message: &[u8], of: Field) -> Result<Vec<&[u8]>, EditError> {
    match encoding {
        Encoding::Protobuf => {
            let found = wire::fields(message)
                .filter(|found| found.as_ref().map_or(true, |found| found.number == of.number));
            found.map(|found| Ok(found?.bytes()?)).collect()
        }
        Encoding::Json => match child(encoding, message, of)? {
            Some(array) => Ok(json::elements(array)?.collect::<Result<_, _>>()?),
            None => Ok(Vec::new()),
        },
    }
}

/// A string field; `None` when it is absent.
///
/// # Errors
/// When `message` is malformed.
pub(crate) fn text<'a>(
    encoding: Encoding,
    message: &'a [u8],
    of: Field,
) -> Result<Option<Cow<'a, str>>, EditError> {
    match encoding {
        Encoding::Protobuf => Ok(match wire::last(message, of.number)? {
            Some(found) => Some(Cow::Borrowed(found.string()?)),
            None => None,
        }),
        Encoding::Json => match child(encoding, message, of)? {
            Some(value) => Ok(Some(json::string(value)?)),
            None => Ok(None),
        },
    }
}

/// `message` with one field set; the message as it is where it says that already.
///
/// # Errors
/// When `message` is malformed.
pub(crate) fn set<'a>(
    encoding: Encoding,
    message: &'a [u8],
    of: Field,
    value: Value<'_>,
) -> Result<Cow<'a, [u8]>, EditError> {
    let changed = match encoding {
        Encoding::Protobuf => set_protobuf(message, of.number, value)?,
        Encoding::Json => set_json(message, of.name, value.json())?,
    };
    Ok(changed.map_or(Cow::Borrowed(message), Cow::Owned))
}

fn set_protobuf(message: &[u8], number: u32, value: Value<'_>) -> Result<Option<Vec<u8>>, EditError> {
    let mut out = Vec::with_capacity(message.len() + 32);
    let mut written = false;
    for found in wire::fields(message) {
        let found = found?;
        if found.number != number {
            out.extend_from_slice(found.record);
        } else if !written {
            value.put(&mut out, number);
            written = true;
        }
    }
    if !written {
        value.put(&mut out, number);
    }
    Ok((out != message).then_some(out))
}

fn set_json(message: &[u8], name: &str, value: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, EditError> {
    let (mut out, mut written, mut changed) = (Members::new(message.len() + 32), false, false);
    for member in json::members(message)? {
        let (key, former) = member?;
        if key != name {
            out.push(&key, former);
            continue;
        }
        match &value {
            Some(value) if !written => {
                out.push(&key, value);
                changed |= *value != former;
            }
            _ => changed = true,
        }
        written = true;
    }
    if let (Some(value), false) = (&value, written) {
        out.push(name, value);
        changed = true;
    }
    Ok(changed.then(|| out.finish()))
}

/// Asks `decide` about every value that `path` leads to; a repeated field on the way or at its end is entered.
/// `None` when nothing changes.
///
/// # Errors
/// When `raw` is malformed on the path, and whatever `decide` gives.
pub(crate) fn rewrite(
    encoding: Encoding,
    raw: &[u8],
    path: &[Field],
    decide: &mut dyn FnMut(&[u8]) -> Result<Rewrite, EditError>,
) -> Result<Option<Vec<u8>>, EditError> {
    match encoding {
        Encoding::Protobuf => {
            let numbers: Vec<u32> = path.iter().map(|step| step.number).collect();
            let out = edit::rewrite(raw, &numbers, decide)?;
            Ok((out != raw).then_some(out))
        }
        Encoding::Json => rewrite_json(raw, path, decide),
    }
}

/// Recursion is as deep as the path, which is a filter's own.
fn rewrite_json(
    message: &[u8],
    path: &[Field],
    decide: &mut dyn FnMut(&[u8]) -> Result<Rewrite, EditError>,
) -> Result<Option<Vec<u8>>, EditError> {
    let (step, deeper) = path.split_first().ok_or(EditError::Path(0))?;
    let mut decide_one = |value: &[u8]| match deeper {
        [] => decide(value),
        _ => Ok(rewrite_json(value, deeper, decide)?.map_or(Rewrite::Keep, Rewrite::Replace)),
    };
    let (mut out, mut changed) = (Members::new(message.len() + 64), false);
    for member in json::members(message)? {
        let (key, value) = member?;
        if key != step.name || json::is_null(value) {
            out.push(&key, value);
            continue;
        }
        let verdict = match value.first() {
            Some(b'[') => rewrite_elements(value, &mut decide_one)?,
            _ => decide_one(value)?,
        };
        match verdict {
            Rewrite::Keep => out.push(&key, value),
            Rewrite::Remove => changed = true,
            Rewrite::Replace(value) => {
                out.push(&key, &value);
                changed = true;
            }
        }
    }
    Ok(changed.then(|| out.finish()))
}

fn rewrite_elements(
    array: &[u8],
    decide: &mut dyn FnMut(&[u8]) -> Result<Rewrite, EditError>,
) -> Result<Rewrite, EditError> {
    let (mut out, mut changed) = (vec![b'['], false);
    for element in json::elements(array)? {
        let element = element?;
        let verdict = decide(element)?;
        let kept = match &verdict {
            Rewrite::Keep => element,
            Rewrite::Remove => {
                changed = true;
                continue;
            }
            Rewrite::Replace(value) => {
                changed = true;
                value
            }
        };
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(kept);
    }
    out.push(b']');
    Ok(if changed { Rewrite::Replace(out) } else { Rewrite::Keep })
}

/// Writes a JSON object of names and values' texts.
struct Members {
    out: Vec<u8>,
}

impl Members {
    fn new(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.push(b'{');
        Self { out }
    }

    fn push(&mut self, name: &str, value: &[u8]) {
        if self.out.len() > 1 {
            self.out.push(b',');
        }
        json::write_string(&mut self.out, name);
        self.out.push(b':');
        self.out.extend_from_slice(value);
    }

    fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }
}
