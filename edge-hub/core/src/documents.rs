//! Whole answers kept as they came: single objects that were read by name, discovery, OpenAPI, versions.
//!
//! A key says exactly what was asked (path, query, representation). Who may see an answer is not decided here.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest key, in bytes.
const MAX_KEY_BYTES: usize = 8 * 1024;
/// First byte of a stored document; a new layout takes the next number.
const LAYOUT: u8 = 1;

/// One kept answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// `Content-Type` as the cloud sent it.
    pub content_type: Box<str>,
    /// `ETag`, if there was one.
    pub etag: Option<Box<str>>,
    /// The body, not compressed.
    pub body: Bytes,
    /// Wall clock of the moment when the cloud sent it.
    pub fetched_unix: Duration,
}

impl Document {
    /// Bytes for the store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.body.len() + self.content_type.len() + 96);
        out.put_u8(LAYOUT);
        out.put_u64(u64::try_from(self.fetched_unix.as_millis()).unwrap_or(u64::MAX));
        for text in [Some(&*self.content_type), self.etag.as_deref()] {
            let text = text.unwrap_or_default();
            out.put_u16(u16::try_from(text.len()).unwrap_or(0));
            if u16::try_from(text.len()).is_ok() {
                out.put_slice(text.as_bytes());
            }
        }
        out.put_slice(&self.body);
        out.freeze()
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != LAYOUT {
            return None;
        }
        let fetched_unix = Duration::from_millis(bytes.try_get_u64().ok()?);
        let mut texts = [const { String::new() }; 2];
        for text in &mut texts {
            let length = usize::from(bytes.try_get_u16().ok()?);
            if bytes.len() < length {
                return None;
            }
            *text = String::from_utf8(bytes.split_to(length).to_vec()).ok()?;
        }
        let [content_type, etag] = texts;
        let etag = (!etag.is_empty()).then(|| etag.into_boxed_str());
        Some(Self { content_type: content_type.into_boxed_str(), etag, body: bytes, fetched_unix })
    }
}

struct Held {
    document: Document,
    used: u64,
}

/// Kept answers, the longest unused dropped first.
pub struct DocumentCache {
    held: BTreeMap<Box<str>, Held>,
    by_use: BTreeMap<u64, Box<str>>,
    bytes: usize,
    max_bytes: usize,
    max_count: usize,
    turn: u64,
}

impl DocumentCache {
    /// Holds at most `max_count` answers of together at most `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize, max_count: usize) -> Self {
        Self { held: BTreeMap::new(), by_use: BTreeMap::new(), bytes: 0, max_bytes, max_count, turn: 0 }
    }

    /// Keeps an answer. Returns the keys that had to go for it (the new one itself, if it is too large).
    pub fn insert(&mut self, key: &str, document: Document) -> Vec<Box<str>> {
        self.remove(key);
        let size = size_of(key, &document);
        if key.len() > MAX_KEY_BYTES || size > self.max_bytes {
            return vec![key.into()];
        }
        self.turn += 1;
        self.bytes += size;
        self.by_use.insert(self.turn, key.into());
        self.held.insert(key.into(), Held { document, used: self.turn });
        let mut dropped = Vec::new();
        while self.bytes > self.max_bytes || self.held.len() > self.max_count {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(held) = self.held.remove(&oldest) {
                self.bytes -= size_of(&oldest, &held.document);
            }
            dropped.push(oldest);
        }
        dropped
    }

    /// An answer, and it counts as used.
    pub fn get(&mut self, key: &str) -> Option<&Document> {
        let held = self.held.get_mut(key)?;
        self.by_use.remove(&held.used);
        self.turn += 1;
        held.used = self.turn;
        self.by_use.insert(self.turn, key.into());
        Some(&held.document)
    }

    /// Forgets an answer. Returns whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(held) = self.held.remove(key) else { return false };
        self.by_use.remove(&held.used);
        self.bytes -= size_of(key, &held.document);
        true
    }

    /// Everything that is kept.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Document)> {
        self.held.iter().map(|(key, held)| (&**key, &held.document))
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn size_of(key: &str, document: &Document) -> usize {
    key.len() * 2 + document.body.len() + document.content_type.len() + 128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(size: usize) -> Document {
        Document {
            content_type: "application/json".into(),
            etag: Some("\"A\"".into()),
            body: Bytes::from(vec![b'x'; size]),
            fetched_unix: Duration::from_millis(1_700_000_000_123),
        }
    }

    #[test]
    fn what_was_stored_is_read_back() {
        for document in [document(0), document(1000), Document { etag: None, ..document(3) }] {
            assert_eq!(Document::decode(document.encode()), Some(document));
        }
    }

    #[test]
    fn cut_records_are_no_documents() {
        let whole = document(10).encode();
        for length in 0..whole.len() - 10 {
            assert_eq!(Document::decode(whole.slice(..length)), None, "{length}");
        }
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut cache = DocumentCache::new(1 << 20, 2);
        assert!(cache.insert("a", document(1)).is_empty());
        assert!(cache.insert("b", document(1)).is_empty());
        assert!(cache.get("a").is_some());
        assert_eq!(cache.insert("c", document(1)), vec![Box::from("b")]);
        assert!(cache.get("b").is_none());
    }

    #[test]
    fn bytes_are_bounded_and_counted_exactly() {
        let mut cache = DocumentCache::new(2000, 100);
        assert_eq!(cache.insert("huge", document(5000)), vec![Box::from("huge")]);
        for turn in 0..50 {
            cache.insert(&format!("k{turn}"), document(300));
            assert!(cache.bytes() <= 2000);
        }
        for turn in 0..50 {
            cache.remove(&format!("k{turn}"));
        }
        assert_eq!(cache.bytes(), 0);
    }
}
