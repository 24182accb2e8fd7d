//! Changes to an object's bytes that leave every other byte as it was, unknown fields included.
//!
//! Protobuf edits follow a path of field numbers and rewrite only the lengths of the messages on it; JSON edits
//! replace or insert the text of one value.

use crate::json::{self, JsonError};
use crate::media_type::{Encoding, Form, Format};
use crate::object::{META_RESOURCE_VERSION, METADATA, ScanError, row_object};
use crate::wire::{self, Field, WireError};

/// Field numbers from the root to a field; longer paths are refused.
pub const MAX_PATH: usize = 16;

/// Why an object could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The bytes are not a protobuf message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The bytes are not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The object lacks the part that was to be changed.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The path of field numbers is empty or longer than [`MAX_PATH`].
    #[error("a path of {0} field numbers cannot be edited")]
    Path(usize),
}

/// What becomes of one occurrence of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// It stays, byte for byte.
    Keep,
    /// It goes.
    Remove,
    /// Its value becomes these bytes (of a string, bytes or message field).
    Replace(Vec<u8>),
}

/// Puts `value` as the one occurrence of the field at `path`: over the first that is there, else at its place in
/// the order of numbers. Messages missing on the way are made.
///
/// # Errors
/// When `raw` is malformed on the path, or the path is not usable.
pub fn set(raw: &[u8], path: &[u32], value: &[u8]) -> Result<Vec<u8>, EditError> {
    let (number, ancestors) = split(path)?;
    let mut out = Vec::with_capacity(raw.len() + value.len() + 16);
    set_in(raw, ancestors, number, value, &mut out)?;
    Ok(out)
}

/// Appends one more occurrence of the field at `path` to every message that its parents name; where there is no
/// such message nothing changes (a container is not invented to hold an environment).
///
/// # Errors
/// As [`set`].
pub fn append(raw: &[u8], path: &[u32], value: &[u8]) -> Result<Vec<u8>, EditError> {
    let (number, ancestors) = split(path)?;
    let mut addition = Vec::with_capacity(wire::bytes_field_length(number, value.len()));
    wire::put_bytes(&mut addition, number, value);
    if ancestors.is_empty() {
        check(raw)?;
        return Ok([raw, &addition].concat());
    }
    rewrite(raw, ancestors, &mut |parent| {
        check(parent)?;
        Ok(Rewrite::Replace([parent, &addition].concat()))
    })
}

/// Removes every occurrence of the field at `path`, of any wire type.
///
/// # Errors
/// As [`set`].
pub fn remove(raw: &[u8], path: &[u32]) -> Result<Vec<u8>, EditError> {
    let (number, ancestors) = split(path)?;
    let mut strip = |message: &[u8]| -> Result<Rewrite, EditError> {
        let mut kept = Vec::with_capacity(message.len());
        for field in wire::fields(message) {
            let field = field?;
            if field.number != number {
                kept.extend_from_slice(field.record);
            }
        }
        Ok(if kept.len() == message.len() { Rewrite::Keep } else { Rewrite::Replace(kept) })
    };
    if !ancestors.is_empty() {
        return rewrite(raw, ancestors, &mut strip);
    }
    match strip(raw)? {
        Rewrite::Replace(kept) => Ok(kept),
        Rewrite::Keep | Rewrite::Remove => Ok(raw.to_vec()),
    }
}

/// Asks `decide` about every occurrence of the field at `path`, in every message its parents name.
///
/// # Errors
/// As [`set`], and whatever `decide` gives.
pub fn rewrite(
    raw: &[u8],
    path: &[u32],
    decide: &mut dyn FnMut(&[u8]) -> Result<Rewrite, EditError>,
) -> Result<Vec<u8>, EditError> {
    split(path)?;
    let mut out = Vec::with_capacity(raw.len() + 64);
    rewrite_in(raw, path, decide, &mut out)?;
    Ok(out)
}

fn split(path: &[u32]) -> Result<(u32, &[u32]), EditError> {
    match path.split_last() {
        Some((last, ancestors)) if path.len() <= MAX_PATH => Ok((*last, ancestors)),
        _ => Err(EditError::Path(path.len())),
    }
}

/// Reads a message to its end so that appending to it cannot hide that it is cut.
fn check(message: &[u8]) -> Result<(), WireError> {
    wire::fields(message).try_for_each(|field| field.map(|_| ()))
}

/// Recursion is as deep as the path, which is ours and bounded by [`MAX_PATH`].
fn rewrite_in(
    message: &[u8],
    path: &[u32],
    decide: &mut dyn FnMut(&[u8]) -> Result<Rewrite, EditError>,
    out: &mut Vec<u8>,
) -> Result<(), EditError> {
    let (number, deeper) = path.split_first().ok_or(EditError::Path(0))?;
    for field in wire::fields(message) {
        let field = field?;
        if field.number != *number {
            out.extend_from_slice(field.record);
            continue;
        }
        let value = field.bytes()?;
        let verdict = if deeper.is_empty() {
            decide(value)?
        } else {
            let mut inner = Vec::with_capacity(value.len() + 64);
            rewrite_in(value, deeper, decide, &mut inner)?;
            if inner == value { Rewrite::Keep } else { Rewrite::Replace(inner) }
        };
        match verdict {
            Rewrite::Keep => out.extend_from_slice(field.record),
            Rewrite::Remove => {}
            Rewrite::Replace(value) => wire::put_bytes(out, *number, &value),
        }
    }
    Ok(())
}

/// Recursion is as deep as the path, which is ours and bounded by [`MAX_PATH`].
fn set_in(
    message: &[u8],
    ancestors: &[u32],
    number: u32,
    value: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), EditError> {
    let target = ancestors.first().copied().unwrap_or(number);
    // Counted first: fields may stand in any order, and one that comes late must not be made anew before it.
    let mut to_come = 0_usize;
    for field in wire::fields(message) {
        to_come += usize::from(field?.number == target);
    }
    let mut written = to_come > 0;
    let mut first = true;
    let write = |existing: Option<Field<'_>>, out: &mut Vec<u8>| -> Result<(), EditError> {
        match ancestors.split_first() {
            None => wire::put_bytes(out, target, value),
            Some((_, deeper)) => {
                let old = existing.map(|field| field.bytes()).transpose()?.unwrap_or_default();
                let mut inner = Vec::with_capacity(old.len() + value.len() + 16);
                set_in(old, deeper, number, value, &mut inner)?;
                wire::put_bytes(out, target, &inner);
            }
        }
        Ok(())
    };
    for field in wire::fields(message) {
        let field = field?;
        if field.number == target {
            to_come -= 1;
            // Of a parent that occurs again the last counts, for readers that merge and for those that do not.
            if ancestors.is_empty() {
                if first {
                    write(Some(field), out)?;
                }
            } else if to_come == 0 {
                write(Some(field), out)?;
            } else {
                out.extend_from_slice(field.record);
            }
            first = false;
            continue;
        }
        if field.number > target && !written {
            write(None, out)?;
            written = true;
        }
        out.extend_from_slice(field.record);
    }
    if !written {
        write(None, out)?;
    }
    Ok(())
}

/// The object with `metadata.resourceVersion` set to `rv`, every other byte as it was. In a table's row it is the
/// one of the row's object.
///
/// # Errors
/// When the object is malformed as far as it must be read, or has no metadata.
pub fn with_resource_version(format: Format, raw: &[u8], rv: &str) -> Result<Vec<u8>, EditError> {
    match (format.encoding, format.form) {
        (Encoding::Protobuf, Form::Table) => Err(ScanError::ProtobufTable.into()),
        (Encoding::Protobuf, _) => {
            if wire::last(raw, METADATA)?.is_none() {
                return Err(ScanError::Missing("metadata").into());
            }
            set(raw, &[METADATA, META_RESOURCE_VERSION], rv.as_bytes())
        }
        (Encoding::Json, form) => {
            let object = if form == Form::Table { row_object(raw)? } else { raw };
            let metadata = json::member(object, "metadata")?.ok_or(ScanError::Missing("metadata"))?;
            let mut text = Vec::with_capacity(raw.len() + rv.len() + 24);
            let place = if json::is_null(metadata) {
                text.extend_from_slice(&raw[..offset(raw, metadata)]);
                text.extend_from_slice(b"{\"resourceVersion\":");
                json::write_string(&mut text, rv);
                text.push(b'}');
                offset(raw, metadata) + metadata.len()
            } else if let Some(old) = json::member(metadata, "resourceVersion")? {
                text.extend_from_slice(&raw[..offset(raw, old)]);
                json::write_string(&mut text, rv);
                offset(raw, old) + old.len()
            } else {
                let inside = offset(raw, metadata) + 1;
                text.extend_from_slice(&raw[..inside]);
                text.extend_from_slice(b"\"resourceVersion\":");
                json::write_string(&mut text, rv);
                if json::members(metadata)?.next().is_some() {
                    text.push(b',');
                }
                inside
            };
            text.extend_from_slice(&raw[place..]);
            Ok(text)
        }
    }
}

/// Where `part`, a slice of `whole`, begins in it.
pub(crate) fn offset(whole: &[u8], part: &[u8]) -> usize {
    let range = whole.as_ptr_range();
    debug_assert!(range.contains(&part.as_ptr()));
    part.as_ptr() as usize - range.start as usize
}

/// How the text of a `PartialObjectMetadata` begins: its items carry their type everywhere.
pub(crate) const PARTIAL_METADATA_HEAD: &[u8] =
    b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",";

/// Reduces a full object's item to the item of a `PartialObjectMetadata` (`meta.k8s.io/v1`) in the same encoding:
/// the metadata's bytes as they were and nothing else.
///
/// # Errors
/// When the object is malformed, or has no metadata.
pub fn partial_metadata(encoding: Encoding, raw: &[u8]) -> Result<Vec<u8>, EditError> {
    match encoding {
        Encoding::Protobuf => {
            let mut out = Vec::new();
            for field in wire::fields(raw) {
                let field = field?;
                if field.number == METADATA {
                    field.bytes()?;
                    out.extend_from_slice(field.record);
                }
            }
            if out.is_empty() {
                return Err(ScanError::Missing("metadata").into());
            }
            Ok(out)
        }
        Encoding::Json => {
            let metadata = json::member(raw, "metadata")?.ok_or(ScanError::Missing("metadata"))?;
            Ok([PARTIAL_METADATA_HEAD, b"\"metadata\":", metadata, b"}"].concat())
        }
    }
}
