//! One object as it travels alone: the answer to a GET, the object inside a watch event.
//!
//! Protobuf: `k8s\0` and a `runtime.Unknown` around the bare message. JSON: the object with its kind and apiVersion.
//! Table: a table of one row.

use bytes::Bytes;

use crate::json::{self, JsonError};
use crate::media_type::{Encoding, Form, Format};
use crate::object::{ScanError, TypeMeta};
use crate::wire::{self, WireError};

/// The first bytes of every protobuf document.
const MAGIC: &[u8] = b"k8s\0";
/// `runtime.Unknown` fields: {1: TypeMeta {1: apiVersion, 2: kind}, 2: raw, 3: contentEncoding, 4: contentType}.
const TYPE_META: u32 = 1;
const RAW: u32 = 2;
const CONTENT_ENCODING: u32 = 3;
/// The two last fields, empty; kube-apiserver writes them all the same.
pub(crate) const UNKNOWN_TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

/// Why a body is not the document or the list it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The body is not protobuf.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The body is not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// An item in it cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A protobuf body without the four leading bytes `k8s\0`.
    #[error("the body does not begin with the four bytes of a Kubernetes protobuf document")]
    NoMagic,
    /// The document says that its inside is compressed or the like.
    #[error("the document's content encoding `{0}` is not supported")]
    ContentEncoding(String),
    /// A member without which the body is not what it should be.
    #[error("the body has no `{0}`")]
    Missing(&'static str),
    /// A member that may stand there only once stands there again.
    #[error("the body has two `{0}`")]
    Twice(&'static str),
    /// The body is something else, a `Status` for example; it must never pass for an empty list.
    #[error("the body is a `{found}`, expected a {expected}")]
    Kind {
        /// The kind it says it is.
        found: Box<str>,
        /// What was asked for.
        expected: &'static str,
    },
    /// A table that stands for one object has another number of rows.
    #[error("the table of one object has {0} rows")]
    Rows(usize),
    /// Tables exist only in JSON.
    #[error("a Table cannot be protobuf")]
    ProtobufTable,
}

/// Splits a protobuf document into its type and the bare message.
pub(crate) fn read_unknown(body: &[u8]) -> Result<(TypeMeta, &[u8]), ListError> {
    let unknown = body.strip_prefix(MAGIC).ok_or(ListError::NoMagic)?;
    let (mut type_meta, mut raw) = (TypeMeta::default(), None);
    for field in wire::fields(unknown) {
        let field = field?;
        match field.number {
            TYPE_META => type_meta = read_type_meta(field.bytes()?)?,
            RAW => raw = Some(field.bytes()?),
            CONTENT_ENCODING if !field.bytes()?.is_empty() => {
                return Err(ListError::ContentEncoding(field.string()?.to_owned()));
            }
            _ => {}
        }
    }
    // Writers write even an empty message; a body cut before it must not pass for an empty object or list.
    Ok((type_meta, raw.ok_or(ListError::Missing("raw"))?))
}

fn read_type_meta(message: &[u8]) -> Result<TypeMeta, WireError> {
    let (mut api_version, mut kind) = ("", "");
    for field in wire::fields(message) {
        let field = field?;
        match field.number {
            1 => api_version = field.string()?,
            2 => kind = field.string()?,
            _ => {}
        }
    }
    Ok(TypeMeta::new(api_version, kind))
}

/// Everything of a protobuf document up to its raw message of `length` bytes; [`UNKNOWN_TAIL`] ends it.
pub(crate) fn unknown_head(type_meta: &TypeMeta, length: usize) -> Vec<u8> {
    let mut inner = Vec::with_capacity(type_meta.api_version.len() + type_meta.kind.len() + 8);
    wire::put_bytes(&mut inner, 1, type_meta.api_version.as_bytes());
    wire::put_bytes(&mut inner, 2, type_meta.kind.as_bytes());
    let mut head = Vec::with_capacity(MAGIC.len() + inner.len() + 16);
    head.extend_from_slice(MAGIC);
    wire::put_bytes(&mut head, TYPE_META, &inner);
    wire::put_bytes_head(&mut head, RAW, length);
    head
}

/// A whole protobuf document around the bare message `raw`.
pub(crate) fn write_unknown(type_meta: &TypeMeta, raw: &[u8]) -> Vec<u8> {
    let mut document = unknown_head(type_meta, raw.len());
    document.reserve_exact(raw.len() + UNKNOWN_TAIL.len());
    document.extend_from_slice(raw);
    document.extend_from_slice(UNKNOWN_TAIL);
    document
}

/// The bytes kept of a JSON object: its own text, or what is left of it without the leading kind and apiVersion.
pub(crate) enum JsonItem<'a> {
    Whole(&'a [u8]),
    Stripped(Vec<u8>),
}

impl JsonItem<'_> {
    /// An own copy, so that the item does not hold on to the buffer it came in.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            JsonItem::Whole(text) => Bytes::copy_from_slice(text),
            JsonItem::Stripped(text) => text.into(),
        }
    }
}

/// Splits a JSON object, known to be well formed, into its type and its item.
pub(crate) fn read_json(form: Form, text: &[u8]) -> Result<(TypeMeta, JsonItem<'_>), ListError> {
    let text = text.trim_ascii();
    // Items of a PartialObjectMetadataList carry kind and apiVersion, so partial objects keep them everywhere.
    if form == Form::Object
        && let Some((kind, api_version, rest)) = json::leading_type_meta(text)
    {
        let type_meta = TypeMeta::new(api_version, kind);
        return Ok((type_meta, JsonItem::Stripped([b"{", &text[rest..]].concat())));
    }
    let (mut kind, mut api_version) = (None, None);
    for entry in json::members(text)? {
        let (key, value) = entry?;
        match key.as_ref() {
            "kind" => kind = Some(json::string(value)?),
            "apiVersion" => api_version = Some(json::string(value)?),
            _ => continue,
        }
        if kind.is_some() && api_version.is_some() {
            break;
        }
    }
    let kind = kind.ok_or(ListError::Missing("kind"))?;
    let api_version = api_version.ok_or(ListError::Missing("apiVersion"))?;
    Ok((TypeMeta::new(api_version, kind), JsonItem::Whole(text)))
}

/// Appends the object's text with its kind and apiVersion, put back if the item lacks them.
pub(crate) fn write_json(out: &mut Vec<u8>, type_meta: &TypeMeta, raw: &[u8]) {
    let inside = raw.strip_prefix(b"{").filter(|_| lacks_type_meta(raw));
    let Some(inside) = inside else {
        out.extend_from_slice(raw);
        return;
    };
    out.push(b'{');
    write_type_members(out, type_meta);
    if inside.trim_ascii_start().first() != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(inside);
}

/// Appends `"kind":"K","apiVersion":"V"`.
pub(crate) fn write_type_members(out: &mut Vec<u8>, type_meta: &TypeMeta) {
    out.extend_from_slice(b"\"kind\":");
    json::write_string(out, &type_meta.kind);
    out.extend_from_slice(b",\"apiVersion\":");
    json::write_string(out, &type_meta.api_version);
}

/// Whether an item's text has no kind and apiVersion of its own. The first member tells for what Go writes (typed:
/// kind, or metadata when stripped; unstructured: sorted names); anything else is searched.
fn lacks_type_meta(raw: &[u8]) -> bool {
    if raw.starts_with(b"{\"kind\":") || raw.starts_with(b"{\"apiVersion\":") {
        return false;
    }
    raw.starts_with(b"{\"metadata\":") || matches!(json::member(raw, "apiVersion"), Ok(None))
}

/// A server-printed table.
pub(crate) struct Table<'a> {
    pub(crate) metadata: Option<&'a [u8]>,
    /// The text of `columnDefinitions`; `None` when absent or null.
    pub(crate) columns: Option<&'a [u8]>,
    /// The text of `rows`; `None` when absent or null.
    pub(crate) rows: Option<&'a [u8]>,
}

/// Reads the parts of a table.
pub(crate) fn read_table(text: &[u8]) -> Result<Table<'_>, ListError> {
    let mut table = Table { metadata: None, columns: None, rows: None };
    let (mut kind, mut has_rows) = (None, false);
    for entry in json::members(text)? {
        let (key, value) = entry?;
        let present = Some(value).filter(|value| !json::is_null(value));
        match key.as_ref() {
            "kind" => kind = Some(json::string(value)?),
            "metadata" => table.metadata = present,
            "columnDefinitions" => table.columns = present,
            "rows" if has_rows => return Err(ListError::Twice("rows")),
            "rows" => (table.rows, has_rows) = (present, true),
            _ => {}
        }
    }
    match kind {
        Some(kind) if kind == "Table" => {}
        Some(found) => return Err(ListError::Kind { found: found.into(), expected: "Table" }),
        None => return Err(ListError::Missing("kind")),
    }
    if !has_rows {
        return Err(ListError::Missing("rows"));
    }
    Ok(table)
}

impl<'a> Table<'a> {
    /// The texts of the rows.
    pub(crate) fn row_texts(&self) -> Result<Vec<&'a [u8]>, JsonError> {
        self.rows.map_or_else(|| Ok(Vec::new()), |rows| json::elements(rows)?.collect())
    }

    /// The row of a table that stands for one object.
    pub(crate) fn single_row(&self) -> Result<&'a [u8], ListError> {
        match self.row_texts()?.as_slice() {
            [row] => Ok(row),
            rows => Err(ListError::Rows(rows.len())),
        }
    }
}

/// Appends a table up to the inside of its rows; `]}` ends it.
pub(crate) fn write_table_head(out: &mut Vec<u8>, columns: Option<&[u8]>, rv: &str, continue_token: &str) {
    out.push(b'{');
    write_type_members(out, &TypeMeta::table());
    out.extend_from_slice(b",\"metadata\":");
    write_list_meta(out, rv, continue_token);
    out.extend_from_slice(b",\"columnDefinitions\":");
    out.extend_from_slice(columns.unwrap_or(b"null"));
    out.extend_from_slice(b",\"rows\":[");
}

/// Appends a list's metadata as JSON, empty values left out.
pub(crate) fn write_list_meta(out: &mut Vec<u8>, rv: &str, continue_token: &str) {
    out.push(b'{');
    if !rv.is_empty() {
        out.extend_from_slice(b"\"resourceVersion\":");
        json::write_string(out, rv);
    }
    if !continue_token.is_empty() {
        if !rv.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(b"\"continue\":");
        json::write_string(out, continue_token);
    }
    out.push(b'}');
}

/// Splits the answer to a GET into the object's type and its item. Of a table it is the type `Table` and the one
/// row; [`crate::list::split_list`] reads the same body with its columns.
///
/// # Errors
/// When the body is malformed, is not of this format, or is a table of another number of rows than one.
pub fn split_document(format: Format, body: &Bytes) -> Result<(TypeMeta, Bytes), ListError> {
    match (format.encoding, format.form) {
        (Encoding::Protobuf, Form::Table) => Err(ListError::ProtobufTable),
        (Encoding::Protobuf, _) => {
            let (type_meta, raw) = read_unknown(body)?;
            if type_meta.kind.is_empty() {
                return Err(ListError::Missing("kind"));
            }
            Ok((type_meta, body.slice_ref(raw)))
        }
        (Encoding::Json, Form::Table) => {
            let row = read_table(body)?.single_row()?;
            Ok((TypeMeta::table(), body.slice_ref(row)))
        }
        (Encoding::Json, form) => {
            json::members(body)?.try_for_each(|entry| entry.map(|_| ()))?;
            let (type_meta, item) = read_json(form, body)?;
            let item = match item {
                JsonItem::Whole(text) => body.slice_ref(text),
                JsonItem::Stripped(text) => text.into(),
            };
            Ok((type_meta, item))
        }
    }
}

/// The answer to a GET of one object. For a table's row use [`encode_table_document`]: a row alone does not carry
/// the columns, and this writes it with none.
#[must_use]
pub fn encode_document(format: Format, type_meta: &TypeMeta, raw: &[u8]) -> Bytes {
    match (format.encoding, format.form) {
        (Encoding::Json, Form::Table) => {
            let rv = crate::object::scan(format, raw).map(|meta| meta.resource_version).unwrap_or_default();
            encode_table_document(None, raw, &rv)
        }
        (Encoding::Json, _) => {
            let mut out =
                Vec::with_capacity(raw.len() + type_meta.kind.len() + type_meta.api_version.len() + 32);
            write_json(&mut out, type_meta, raw);
            out.push(b'\n');
            out.into()
        }
        (Encoding::Protobuf, _) => write_unknown(type_meta, raw).into(),
    }
}

/// The answer to a GET of one object as a table: its columns' text (`None` writes null), its row, its version.
#[must_use]
pub fn encode_table_document(columns: Option<&[u8]>, row: &[u8], rv: &str) -> Bytes {
    let mut out = Vec::with_capacity(row.len() + columns.map_or(4, <[u8]>::len) + rv.len() + 128);
    write_table_head(&mut out, columns, rv, "");
    out.extend_from_slice(row);
    out.extend_from_slice(b"]}\n");
    out.into()
}
