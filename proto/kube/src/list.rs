//! Lists cut into items and put together again without decoding an item.

use bytes::Bytes;

pub use crate::document::{ListError, encode_document, encode_table_document, split_document};
use crate::document::{
    UNKNOWN_TAIL, read_table, read_unknown, unknown_head, write_list_meta, write_table_head,
    write_type_members,
};
use crate::json;
use crate::media_type::{Encoding, Form, Format};
use crate::object::TypeMeta;
use crate::wire;

/// Field numbers of every list message.
const METADATA: u32 = 1;
const ITEMS: u32 = 2;
/// ListMeta field numbers.
const SELF_LINK: u32 = 1;
const RESOURCE_VERSION: u32 = 2;
const CONTINUE: u32 = 3;

/// What a list says besides its items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListHead {
    /// The list's own type: `v1` `PodList`.
    pub type_meta: TypeMeta,
    /// The version the list was taken at; empty when the server gave none.
    pub resource_version: Box<str>,
    /// Empty on the last page.
    pub continue_token: Box<str>,
    /// Tables: the text of `columnDefinitions`.
    pub columns: Option<Bytes>,
}

/// Cuts a list into its head and its items, each a slice of `body` that shares its memory.
///
/// # Errors
/// When the body is malformed, or is not a list: an object of another kind never passes for an empty list.
pub fn split_list(format: Format, body: &Bytes) -> Result<(ListHead, Vec<Bytes>), ListError> {
    match (format.encoding, format.form) {
        (Encoding::Protobuf, Form::Table) => Err(ListError::ProtobufTable),
        (Encoding::Protobuf, _) => split_protobuf(body),
        (Encoding::Json, Form::Table) => split_table(body),
        (Encoding::Json, _) => split_json(body),
    }
}

fn split_protobuf(body: &Bytes) -> Result<(ListHead, Vec<Bytes>), ListError> {
    let (type_meta, list) = read_unknown(body)?;
    if !type_meta.kind.ends_with("List") {
        return Err(ListError::Kind { found: type_meta.kind, expected: "list" });
    }
    let mut head = ListHead { type_meta, ..ListHead::default() };
    let mut items = Vec::new();
    for field in wire::fields(list) {
        let field = field?;
        match field.number {
            METADATA => {
                for field in wire::fields(field.bytes()?) {
                    let field = field?;
                    match field.number {
                        RESOURCE_VERSION => head.resource_version = field.string()?.into(),
                        CONTINUE => head.continue_token = field.string()?.into(),
                        _ => {}
                    }
                }
            }
            ITEMS => items.push(body.slice_ref(field.bytes()?)),
            _ => {}
        }
    }
    Ok((head, items))
}

fn split_json(body: &Bytes) -> Result<(ListHead, Vec<Bytes>), ListError> {
    let mut head = ListHead::default();
    let (mut kind, mut api_version, mut items) = (None, None, None);
    for entry in json::members(body)? {
        let (key, value) = entry?;
        match key.as_ref() {
            "kind" => kind = Some(json::string(value)?),
            "apiVersion" => api_version = Some(json::string(value)?),
            "metadata" => read_list_meta(value, &mut head)?,
            "items" if items.is_some() => return Err(ListError::Twice("items")),
            "items" => items = Some(json_items(body, value)?),
            _ => {}
        }
    }
    let kind = kind.ok_or(ListError::Missing("kind"))?;
    let Some(items) = items else {
        return Err(ListError::Kind { found: kind.into(), expected: "list (a body with `items`)" });
    };
    head.type_meta = TypeMeta::new(api_version.ok_or(ListError::Missing("apiVersion"))?, kind);
    Ok((head, items))
}

fn json_items(body: &Bytes, value: &[u8]) -> Result<Vec<Bytes>, ListError> {
    // A typed list without items is written as null.
    if json::is_null(value) {
        return Ok(Vec::new());
    }
    let mut items = Vec::new();
    for item in json::elements(value)? {
        let item = item?;
        if item.first() != Some(&b'{') {
            let at = item.as_ptr() as usize - body.as_ptr() as usize;
            return Err(json::JsonError { at, what: "an item of a list must be an object" }.into());
        }
        items.push(body.slice_ref(item));
    }
    Ok(items)
}

fn read_list_meta(value: &[u8], head: &mut ListHead) -> Result<(), ListError> {
    if json::is_null(value) {
        return Ok(());
    }
    for entry in json::members(value)? {
        let (key, value) = entry?;
        let slot = match key.as_ref() {
            "resourceVersion" => &mut head.resource_version,
            "continue" => &mut head.continue_token,
            _ => continue,
        };
        *slot = json::string(value)?.into();
    }
    Ok(())
}

fn split_table(body: &Bytes) -> Result<(ListHead, Vec<Bytes>), ListError> {
    let table = read_table(body)?;
    let mut head = ListHead { type_meta: TypeMeta::table(), ..ListHead::default() };
    if let Some(metadata) = table.metadata {
        read_list_meta(metadata, &mut head)?;
    }
    head.columns = table.columns.map(|columns| body.slice_ref(columns));
    let rows = table.rows.map_or_else(|| Ok(Vec::new()), |rows| json_items(body, rows))?;
    Ok((head, rows))
}

/// The chunks of a list's body, to be sent in order: the head, the items (not copied) with what stands between
/// them, the tail.
#[must_use]
pub fn encode_list(format: Format, head: &ListHead, items: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    match (format.encoding, format.form) {
        (Encoding::Protobuf, _) => encode_protobuf(head, items),
        (Encoding::Json, form) => {
            let mut start = Vec::with_capacity(256 + head.columns.as_ref().map_or(0, Bytes::len));
            if form == Form::Table {
                write_table_head(
                    &mut start,
                    head.columns.as_deref(),
                    &head.resource_version,
                    &head.continue_token,
                );
            } else {
                start.push(b'{');
                write_type_members(&mut start, &head.type_meta);
                start.extend_from_slice(b",\"metadata\":");
                write_list_meta(&mut start, &head.resource_version, &head.continue_token);
                start.extend_from_slice(b",\"items\":[");
            }
            let mut chunks = Vec::with_capacity(items.size_hint().0 * 2 + 2);
            chunks.push(start.into());
            for (index, item) in items.enumerate() {
                if index > 0 {
                    chunks.push(Bytes::from_static(b","));
                }
                chunks.push(item);
            }
            chunks.push(Bytes::from_static(b"]}\n"));
            chunks
        }
    }
}

fn encode_protobuf(head: &ListHead, items: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    let items: Vec<Bytes> = items.collect();
    let mut meta = Vec::with_capacity(head.resource_version.len() + head.continue_token.len() + 12);
    wire::put_bytes(&mut meta, SELF_LINK, b"");
    wire::put_bytes(&mut meta, RESOURCE_VERSION, head.resource_version.as_bytes());
    wire::put_bytes(&mut meta, CONTINUE, head.continue_token.as_bytes());
    let in_items: usize = items.iter().map(|item| wire::bytes_field_length(ITEMS, item.len())).sum();
    let length = wire::bytes_field_length(METADATA, meta.len()) + in_items;

    let mut start = unknown_head(&head.type_meta, length);
    wire::put_bytes(&mut start, METADATA, &meta);

    // The tags and lengths before the items share one allocation; the chunks are slices of it.
    let mut prefixes = Vec::with_capacity(items.len() * 4);
    let mut ends = Vec::with_capacity(items.len());
    for item in &items {
        wire::put_bytes_head(&mut prefixes, ITEMS, item.len());
        ends.push(prefixes.len());
    }
    let prefixes = Bytes::from(prefixes);
    let mut chunks = Vec::with_capacity(items.len() * 2 + 2);
    chunks.push(start.into());
    let mut begin = 0;
    for (item, end) in items.into_iter().zip(ends) {
        chunks.push(prefixes.slice(begin..end));
        chunks.push(item);
        begin = end;
    }
    chunks.push(Bytes::from_static(UNKNOWN_TAIL));
    chunks
}
