//! Kubernetes protobuf as far as the demo's clients read it. It shares nothing with the hub's reader on purpose: a
//! mistake made in one of the two shows against the other.

use bytes::{Buf as _, Bytes};

use crate::cloud::model::Key;

/// First bytes of every document.
const MAGIC: &[u8] = b"k8s\0";
/// Wire types.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// What a client knows of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) uid: String,
    pub(super) revision: u64,
    /// The object's message, every byte of it.
    pub(super) message: Bytes,
}

/// A frame of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// ADDED or MODIFIED.
    Put(Key, Held),
    /// DELETED.
    Deleted(Key, Held),
    /// BOOKMARK.
    Bookmark {
        revision: u64,
        /// It marks the end of the state that the stream began with.
        initial_end: bool,
    },
    /// ERROR, with the code of its Status.
    Error(u64),
}

/// The values of a field of a message: numbers as they are, the rest as bytes.
struct Fields(Vec<(u64, u64, Bytes)>);

impl Fields {
    /// `None` when the bytes are no message.
    fn read(mut bytes: Bytes) -> Option<Self> {
        let mut fields = Vec::new();
        while bytes.has_remaining() {
            let key = varint(&mut bytes)?;
            let (mut number, mut value) = (0, Bytes::new());
            match key & 7 {
                VARINT => number = varint(&mut bytes)?,
                DELIMITED => {
                    let length = usize::try_from(varint(&mut bytes)?).ok()?;
                    value = (length <= bytes.len()).then(|| bytes.split_to(length))?;
                }
                FIXED_64 if bytes.len() >= 8 => bytes.advance(8),
                FIXED_32 if bytes.len() >= 4 => bytes.advance(4),
                _ => return None,
            }
            fields.push((key >> 3, number, value));
        }
        Some(Self(fields))
    }

    fn all(&self, field: u64) -> impl Iterator<Item = Bytes> {
        self.0.iter().filter(move |(number, ..)| *number == field).map(|(.., value)| value.clone())
    }

    /// Bytes of a field; empty when it is absent, as protobuf has it.
    fn bytes(&self, field: u64) -> Bytes {
        self.all(field).last().unwrap_or_default()
    }

    fn message(&self, field: u64) -> Option<Self> {
        Self::read(self.bytes(field))
    }

    fn text(&self, field: u64) -> String {
        String::from_utf8_lossy(&self.bytes(field)).into_owned()
    }

    fn number(&self, field: u64) -> u64 {
        self.0.iter().rfind(|(number, ..)| *number == field).map_or(0, |(_, number, _)| *number)
    }
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The message inside a document's envelope.
pub(super) fn message(mut document: Bytes) -> Option<Bytes> {
    if !document.starts_with(MAGIC) {
        return None;
    }
    document.advance(MAGIC.len());
    Some(Fields::read(document)?.bytes(2))
}

/// An object from its message.
fn object(message: Bytes) -> Option<(Key, Held)> {
    let meta = Fields::read(message.clone())?.message(1)?;
    let held = Held { uid: meta.text(5), revision: meta.text(6).parse().ok()?, message };
    Some(((meta.text(3), meta.text(1)), held))
}

/// The revision of a list and what is in it.
pub(super) fn list(document: Bytes) -> Option<(u64, Vec<(Key, Held)>)> {
    let list = Fields::read(message(document)?)?;
    let revision = list.message(1)?.text(2).parse().ok()?;
    Some((revision, list.all(2).map(object).collect::<Option<_>>()?))
}

/// A frame of a watch, without the length before it.
pub(super) fn frame(bytes: Bytes) -> Option<Frame> {
    let event = Fields::read(bytes)?;
    let inner = message(event.message(2)?.bytes(1))?;
    Some(match event.text(1).as_str() {
        "ADDED" | "MODIFIED" => {
            let (key, held) = object(inner)?;
            Frame::Put(key, held)
        }
        "DELETED" => {
            let (key, held) = object(inner)?;
            Frame::Deleted(key, held)
        }
        "BOOKMARK" => {
            let meta = Fields::read(inner)?.message(1)?;
            let marks = |entry| {
                let entry = Fields::read(entry);
                entry.is_some_and(|e| e.text(1) == "k8s.io/initial-events-end" && e.text(2) == "true")
            };
            Frame::Bookmark { revision: meta.text(6).parse().ok()?, initial_end: meta.all(12).any(marks) }
        }
        "ERROR" => Frame::Error(Fields::read(inner)?.number(6)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field `number` with `value`; both short.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat()
    }

    fn meta(revision: &str, more: &[u8]) -> Vec<u8> {
        let meta =
            [field(1, b"a"), field(3, b"ns"), field(5, b"u-1"), field(6, revision.as_bytes())].concat();
        field(1, &[&meta[..], more].concat())
    }

    fn envelope(message: &[u8]) -> Vec<u8> {
        [MAGIC, &field(1, b""), &field(2, message)].concat()
    }

    fn event(kind: &str, message: &[u8]) -> Bytes {
        [field(1, kind.as_bytes()), field(2, &field(1, &envelope(message)))].concat().into()
    }

    #[test]
    fn frames_and_lists_are_read() {
        let message = [meta("7", b""), field(2, b"spec")].concat();
        let held = Held { uid: "u-1".into(), revision: 7, message: message.clone().into() };
        let key: Key = ("ns".into(), "a".into());
        assert_eq!(frame(event("ADDED", &message)), Some(Frame::Put(key.clone(), held.clone())));
        assert_eq!(frame(event("DELETED", &message)), Some(Frame::Deleted(key.clone(), held.clone())));
        let mark = field(12, &[field(1, b"k8s.io/initial-events-end"), field(2, b"true")].concat());
        let bookmark = |initial_end| Some(Frame::Bookmark { revision: 9, initial_end });
        assert_eq!(frame(event("BOOKMARK", &meta("9", &mark))), bookmark(true));
        assert_eq!(frame(event("BOOKMARK", &meta("9", b""))), bookmark(false));
        assert_eq!(frame(event("ERROR", &[0x30, 0x9a, 0x03])), Some(Frame::Error(410)));
        let listed = [field(1, &field(2, b"8")), field(2, &message)].concat();
        assert_eq!(list(envelope(&listed).into()), Some((8, vec![(key, held)])));
    }

    #[test]
    fn broken_bytes_are_refused() {
        let whole = event("ADDED", &meta("7", b""));
        for end in 0..whole.len() {
            assert_eq!(frame(whole.slice(..end)), None, "{end} bytes");
        }
        assert_eq!(list(Bytes::from_static(b"{}")), None);
    }
}
