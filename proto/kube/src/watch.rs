//! Watch streams: frames cut out of chunks as they come, events written as kube-apiserver writes them.
//!
//! JSON: objects `{"type":..,"object":..}` one after another, a newline between them or not. Protobuf: a big-endian
//! u32 length and a bare `WatchEvent {1: type, 2: RawExtension {1: document}}`.

use bytes::Bytes;

use crate::document::{
    ListError, UNKNOWN_TAIL, read_json, read_table, read_unknown, unknown_head, write_json, write_table_head,
    write_unknown,
};
use crate::json::{self, JsonError};
use crate::media_type::{Encoding, Form, Format};
use crate::object::{self, META_ANNOTATIONS, META_RESOURCE_VERSION, METADATA, TypeMeta};
use crate::status::Status;
use crate::wire::{self, Value, WireError};

/// The annotation of the bookmark that ends the initial events of a streamed list; its value is `true`.
pub const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Bytes before the message of a protobuf frame.
const LENGTH_PREFIX: usize = 4;
/// A buffer above this is given back when it runs empty, so that one large object does not cost its size for ever.
const KEPT_BUFFER: usize = 1 << 18;

/// What happened to the object of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It appeared, or is part of the initial state.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the event carries its last state.
    Deleted,
    /// Nothing happened up to the resource version that the event carries.
    Bookmark,
    /// The watch is over; the event carries a `Status`.
    Error,
}

impl EventType {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }

    fn parse(word: &str) -> Result<Self, FrameError> {
        [Self::Added, Self::Modified, Self::Deleted, Self::Bookmark, Self::Error]
            .into_iter()
            .find(|known| known.as_str() == word)
            .ok_or_else(|| FrameError::UnknownType(word.chars().take(64).collect()))
    }
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub event_type: EventType,
    /// The type of the event's object; `v1` `Status` for errors, `Table` for tables.
    pub type_meta: TypeMeta,
    /// The item, owned by the event alone (bookmarks too). Errors: the whole `Status` document; see [`read_error`].
    pub raw: Bytes,
    /// Tables: the text of `columnDefinitions`, which the server sends on the first event only.
    pub columns: Option<Bytes>,
}

/// Why a stream cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame above the limit.
    #[error("a watch frame of at least {length} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Bytes announced, or seen so far.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Something other than an object where a JSON event should begin.
    #[error("a watch event begins with byte {0:#04x}, expected '{{'")]
    NotAnEvent(u8),
    /// An event type that does not exist.
    #[error("unknown watch event type `{0}`")]
    UnknownType(String),
    /// A part without which there is no event.
    #[error("the watch event has no `{0}`")]
    Missing(&'static str),
    /// The event's object is not what the stream should carry.
    #[error("in a watch event: {0}")]
    Object(#[from] ListError),
}

impl From<WireError> for FrameError {
    fn from(error: WireError) -> Self {
        Self::Object(error.into())
    }
}

impl From<JsonError> for FrameError {
    fn from(error: JsonError) -> Self {
        Self::Object(error.into())
    }
}

/// Where the search for the end of a JSON event stands, so that no byte is looked at twice.
#[derive(Debug, Default)]
struct JsonProgress {
    /// Bytes of the frame already searched.
    searched: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// Cuts a watch stream into events. Chunks may end anywhere.
///
/// Call [`push`](Self::push) with each chunk, then [`next`](Self::next) until it gives `None`. It then holds less
/// than one frame, so it never keeps more than `max_frame_bytes` and one chunk. After an error every further call
/// gives the same error: the place of the next frame is lost.
#[derive(Debug)]
pub struct WatchDecoder {
    format: Format,
    max_frame_bytes: usize,
    buffer: Vec<u8>,
    /// Where the unread part of the buffer begins.
    start: usize,
    progress: JsonProgress,
    failed: Option<FrameError>,
}

impl WatchDecoder {
    /// A decoder for a stream in `format`, with frames of at most `max_frame_bytes`.
    #[must_use]
    pub fn new(format: Format, max_frame_bytes: usize) -> Self {
        Self {
            format,
            max_frame_bytes,
            buffer: Vec::new(),
            start: 0,
            progress: JsonProgress::default(),
            failed: None,
        }
    }

    /// Takes in the next bytes of the stream.
    pub fn push(&mut self, chunk: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.start == self.buffer.len() && self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::with_capacity(chunk.len());
        } else {
            self.buffer.drain(..self.start);
        }
        self.start = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole event; `None` when more bytes are needed.
    ///
    /// # Errors
    /// When the stream is malformed, carries something else, or a frame is too long.
    #[expect(clippy::should_implement_trait, reason = "None means not yet here, not the end")]
    pub fn next(&mut self) -> Result<Option<WatchEvent>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let event = match self.format.encoding {
            Encoding::Json => self.next_json(),
            Encoding::Protobuf => self.next_protobuf(),
        };
        if let Err(error) = &event {
            self.failed = Some(error.clone());
            (self.buffer, self.start) = (Vec::new(), 0);
        }
        event
    }

    /// Whether the stream stands inside a frame: ending here, it would have been cut off.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        let rest = &self.buffer[self.start..];
        match self.format.encoding {
            Encoding::Json => !rest.trim_ascii().is_empty(),
            Encoding::Protobuf => !rest.is_empty(),
        }
    }

    fn next_protobuf(&mut self) -> Result<Option<WatchEvent>, FrameError> {
        if self.format.form == Form::Table {
            return Err(ListError::ProtobufTable.into());
        }
        let Some((prefix, rest)) = self.buffer[self.start..].split_first_chunk::<LENGTH_PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        self.check_length(length)?;
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let event = read_protobuf_event(frame)?;
        self.start += LENGTH_PREFIX + length;
        Ok(Some(event))
    }

    fn check_length(&self, length: usize) -> Result<(), FrameError> {
        if length > self.max_frame_bytes {
            return Err(FrameError::TooLong { length, limit: self.max_frame_bytes });
        }
        Ok(())
    }

    fn next_json(&mut self) -> Result<Option<WatchEvent>, FrameError> {
        if self.progress.depth == 0 {
            let rest = &self.buffer[self.start..];
            self.start += rest.len() - rest.trim_ascii_start().len();
            match self.buffer.get(self.start) {
                None => return Ok(None),
                Some(b'{') => {}
                Some(other) => return Err(FrameError::NotAnEvent(*other)),
            }
        }
        let rest = &self.buffer[self.start..];
        let Some(length) = self.progress.advance(rest) else {
            self.check_length(rest.len())?;
            return Ok(None);
        };
        self.check_length(length)?;
        let event = read_json_event(self.format.form, &rest[..length])?;
        self.start += length;
        self.progress = JsonProgress::default();
        Ok(Some(event))
    }
}

impl JsonProgress {
    /// Searches on in `frame`, which begins with the event; its length once its last bracket is there.
    ///
    /// Only strings and brackets are followed; whether the text is JSON is found out when the frame is whole.
    fn advance(&mut self, frame: &[u8]) -> Option<usize> {
        while let Some(&byte) = frame.get(self.searched) {
            if self.in_string && !self.escaped {
                let rest = &frame[self.searched..];
                let skipped = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                self.searched += skipped;
                if skipped == rest.len() {
                    return None;
                }
                self.in_string = frame[self.searched] == b'\\';
                self.escaped = self.in_string;
                self.searched += 1;
                continue;
            }
            self.searched += 1;
            if self.escaped {
                self.escaped = false;
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(self.searched);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

fn read_protobuf_event(frame: &[u8]) -> Result<WatchEvent, FrameError> {
    let (mut word, mut extension) = ("", None);
    for field in wire::fields(frame) {
        let field = field?;
        match field.number {
            1 => word = field.string()?,
            2 => extension = Some(field.bytes()?),
            _ => {}
        }
    }
    let event_type = EventType::parse(word)?;
    let extension = extension.ok_or(FrameError::Missing("object"))?;
    let document = wire::last(extension, 1)?.ok_or(FrameError::Missing("object.raw"))?.bytes()?;
    let (type_meta, raw) = read_unknown(document)?;
    if type_meta.kind.is_empty() {
        return Err(ListError::Missing("kind").into());
    }
    let raw = if event_type == EventType::Error { document } else { raw };
    // A copy: the event must not keep the whole chunk it came in.
    Ok(WatchEvent { event_type, type_meta, raw: Bytes::copy_from_slice(raw), columns: None })
}

fn read_json_event(form: Form, frame: &[u8]) -> Result<WatchEvent, FrameError> {
    let (mut word, mut object) = (None, None);
    for entry in json::members(frame)? {
        let (key, value) = entry?;
        match key.as_ref() {
            "type" => word = Some(json::string(value)?),
            "object" => object = Some(value),
            _ => {}
        }
    }
    let event_type = EventType::parse(&word.ok_or(FrameError::Missing("type"))?)?;
    let object = object.ok_or(FrameError::Missing("object"))?;
    if event_type == EventType::Error {
        let (type_meta, _) = read_json(form, object)?;
        return Ok(WatchEvent { event_type, type_meta, raw: Bytes::copy_from_slice(object), columns: None });
    }
    if form != Form::Table {
        let (type_meta, item) = read_json(form, object)?;
        return Ok(WatchEvent { event_type, type_meta, raw: item.into_bytes(), columns: None });
    }
    let table = read_table(object)?;
    let raw = if event_type == EventType::Bookmark {
        bookmark_row(&table)?
    } else {
        Bytes::copy_from_slice(table.single_row()?)
    };
    let columns = table.columns.map(Bytes::copy_from_slice);
    Ok(WatchEvent { event_type, type_meta: TypeMeta::table(), raw, columns })
}

/// A bookmark's row. Servers put the version into the row's object, or only into the table's own metadata; then a
/// row is made of it, so that readers find it in one place.
fn bookmark_row(table: &crate::document::Table<'_>) -> Result<Bytes, FrameError> {
    let format = Format { encoding: Encoding::Json, form: Form::Table };
    if let [row] = table.row_texts()?.as_slice()
        && object::scan(format, row).is_ok_and(|meta| !meta.resource_version.is_empty())
    {
        return Ok(Bytes::copy_from_slice(row));
    }
    let metadata = table.metadata.ok_or(FrameError::Missing("metadata.resourceVersion"))?;
    let rv = json::member(metadata, "resourceVersion")?;
    let rv = json::string(rv.ok_or(FrameError::Missing("metadata.resourceVersion"))?)?;
    let mut row = Vec::new();
    write_bookmark_row(&mut row, &rv, false);
    Ok(row.into())
}

/// One event as the server would send it. `raw` is an item; of an error it is the whole `Status` document. Tables
/// carry their `columns` on the first event of a stream, and null after it.
#[must_use]
pub fn encode_event(
    format: Format,
    event_type: EventType,
    type_meta: &TypeMeta,
    raw: &[u8],
    columns: Option<&[u8]>,
) -> Bytes {
    match (format.encoding, format.form) {
        (Encoding::Protobuf, _) if event_type == EventType::Error => protobuf_frame(event_type, &[raw]),
        (Encoding::Protobuf, _) => {
            protobuf_frame(event_type, &[&unknown_head(type_meta, raw.len()), raw, UNKNOWN_TAIL])
        }
        (Encoding::Json, form) => {
            let mut out = Vec::with_capacity(raw.len() + columns.map_or(0, <[u8]>::len) + 256);
            write_json_event_head(&mut out, event_type);
            if event_type == EventType::Error {
                out.extend_from_slice(raw.trim_ascii());
            } else if form == Form::Table {
                let rv = object::scan(format, raw).map(|meta| meta.resource_version).unwrap_or_default();
                write_table_head(&mut out, columns, &rv, "");
                out.extend_from_slice(raw);
                out.extend_from_slice(b"]}");
            } else {
                write_json(&mut out, type_meta, raw);
            }
            out.extend_from_slice(b"}\n");
            out.into()
        }
    }
}

/// A bookmark: an object of the collection's kind that holds only `rv`, and the mark that the initial events are
/// over when it is that one.
#[must_use]
pub fn encode_bookmark(format: Format, type_meta: &TypeMeta, rv: &str, initial_events_end: bool) -> Bytes {
    match (format.encoding, format.form) {
        (Encoding::Protobuf, _) => {
            let mut meta = Vec::new();
            wire::put_bytes(&mut meta, META_RESOURCE_VERSION, rv.as_bytes());
            if initial_events_end {
                let mut entry = Vec::new();
                wire::put_bytes(&mut entry, 1, INITIAL_EVENTS_END.as_bytes());
                wire::put_bytes(&mut entry, 2, b"true");
                wire::put_bytes(&mut meta, META_ANNOTATIONS, &entry);
            }
            let mut raw = Vec::new();
            wire::put_bytes(&mut raw, METADATA, &meta);
            protobuf_frame(EventType::Bookmark, &[&write_unknown(type_meta, &raw)])
        }
        (Encoding::Json, Form::Table) => {
            let mut row = Vec::new();
            write_bookmark_row(&mut row, rv, initial_events_end);
            encode_event(format, EventType::Bookmark, type_meta, &row, None)
        }
        (Encoding::Json, _) => {
            let mut raw = Vec::new();
            write_bookmark_object(&mut raw, rv, initial_events_end);
            encode_event(format, EventType::Bookmark, type_meta, &raw, None)
        }
    }
}

/// The ERROR event that ends a watch, in the stream's own encoding (a client cannot decode another one there).
#[must_use]
pub fn encode_error(encoding: Encoding, status: &Status) -> Bytes {
    match encoding {
        Encoding::Json => {
            let mut out = Vec::new();
            write_json_event_head(&mut out, EventType::Error);
            out.extend_from_slice(status.to_json().trim_ascii());
            out.extend_from_slice(b"}\n");
            out.into()
        }
        Encoding::Protobuf => {
            let document = write_unknown(&TypeMeta::new("v1", "Status"), &status.to_protobuf());
            protobuf_frame(EventType::Error, &[&document])
        }
    }
}

/// Whether a bookmark's item says that the initial events of a streamed list are over.
#[must_use]
pub fn bookmark_marks_initial_events_end(format: Format, raw: &[u8]) -> bool {
    matches!(object::annotation(format, raw, INITIAL_EVENTS_END), Ok(Some(value)) if value == "true")
}

/// What the `Status` of an ERROR event says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorSummary {
    /// The HTTP code it stands for; 0 when it names none.
    pub code: u16,
    /// `Expired`, `Gone`, `TooManyRequests` ...
    pub reason: Box<str>,
    /// For people.
    pub message: Box<str>,
}

/// Reads the `Status` document of an ERROR event.
///
/// # Errors
/// When the document is malformed.
pub fn read_error(encoding: Encoding, raw: &[u8]) -> Result<ErrorSummary, ListError> {
    let mut summary = ErrorSummary::default();
    match encoding {
        Encoding::Protobuf => {
            for field in wire::fields(read_unknown(raw)?.1) {
                let field = field?;
                match (field.number, field.value) {
                    (3, _) => summary.message = field.string()?.into(),
                    (4, _) => summary.reason = field.string()?.into(),
                    (6, Value::Varint(code)) => summary.code = u16::try_from(code).unwrap_or_default(),
                    _ => {}
                }
            }
        }
        Encoding::Json => {
            for entry in json::members(raw)? {
                let (key, value) = entry?;
                match key.as_ref() {
                    "message" => summary.message = json::string(value)?.into(),
                    "reason" => summary.reason = json::string(value)?.into(),
                    "code" => summary.code = serde_json::from_slice(value).unwrap_or_default(),
                    _ => {}
                }
            }
        }
    }
    Ok(summary)
}

/// A frame around the document that `parts` make together.
fn protobuf_frame(event_type: EventType, parts: &[&[u8]]) -> Bytes {
    let document: usize = parts.iter().map(|part| part.len()).sum();
    let extension = wire::bytes_field_length(1, document);
    let word = event_type.as_str().as_bytes();
    let length = wire::bytes_field_length(1, word.len()) + wire::bytes_field_length(2, extension);
    let prefix = u32::try_from(length)
        .expect("an object is far below 4 GiB, both encodings are bounded on the way in");
    let mut frame = Vec::with_capacity(LENGTH_PREFIX + length);
    frame.extend_from_slice(&prefix.to_be_bytes());
    wire::put_bytes(&mut frame, 1, word);
    wire::put_bytes_head(&mut frame, 2, extension);
    wire::put_bytes_head(&mut frame, 1, document);
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.into()
}

fn write_json_event_head(out: &mut Vec<u8>, event_type: EventType) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event_type.as_str().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

fn write_bookmark_object(out: &mut Vec<u8>, rv: &str, initial_events_end: bool) {
    out.extend_from_slice(b"{\"metadata\":{\"resourceVersion\":");
    json::write_string(out, rv);
    if initial_events_end {
        out.extend_from_slice(b",\"annotations\":{");
        json::write_string(out, INITIAL_EVENTS_END);
        out.extend_from_slice(b":\"true\"}");
    }
    out.extend_from_slice(b"}}");
}

fn write_bookmark_row(out: &mut Vec<u8>, rv: &str, initial_events_end: bool) {
    let mut object = Vec::new();
    write_bookmark_object(&mut object, rv, initial_events_end);
    out.extend_from_slice(b"{\"cells\":[],\"object\":");
    write_json(out, &TypeMeta::partial_object_metadata(), &object);
    out.push(b'}');
}
