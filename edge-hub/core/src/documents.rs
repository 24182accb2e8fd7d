//! Whole answers kept as they came: single objects that were read by name, discovery, OpenAPI, versions.
//!
//! A key says exactly what was asked (path, query, representation). Who may see an answer is not decided here. An answer
//! counts for the user who read it first, or for this node once it has read it.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    budget::{Budget, Limits},
    identity::Principal,
};

/// Largest key, in bytes.
const MAX_KEY_BYTES: usize = 8 * 1024;
/// First byte of a stored document; a new layout takes the next number. The first had no word on whose it is.
const LAYOUT: u8 = 2;
const LAYOUT_WITHOUT_OWNER: u8 = 1;
/// What an answer takes beside its texts.
const EACH: usize = 512;

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
    /// Whether this node itself reads it.
    pub is_nodes: bool,
}

impl Document {
    /// Bytes for the store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.body.len() + self.content_type.len() + 96);
        out.put_u8(LAYOUT);
        out.put_u8(u8::from(self.is_nodes));
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
        let is_nodes = match bytes.try_get_u8().ok()? {
            LAYOUT => bytes.try_get_u8().ok()? == 1,
            LAYOUT_WITHOUT_OWNER => true,
            _ => return None,
        };
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
        Some(Self { content_type: content_type.into_boxed_str(), etag, body: bytes, fetched_unix, is_nodes })
    }
}

/// Kept answers, within a [`Budget`] of bytes.
pub struct DocumentCache {
    held: BTreeMap<Box<str>, Document>,
    budget: Budget<Box<str>>,
    node: Principal,
}

impl DocumentCache {
    /// Holds answers within `limits`, in bytes, on the node `node`.
    #[must_use]
    pub fn new(limits: Limits, node: Principal) -> Self {
        Self { held: BTreeMap::new(), budget: Budget::new(limits, node.clone()), node }
    }

    /// Keeps an answer that `user` read. Returns the keys that had to go for it (the new one itself, if it is too large).
    pub fn insert(&mut self, key: &str, mut document: Document, user: &Principal) -> Vec<Box<str>> {
        if key.len() > MAX_KEY_BYTES {
            self.remove(key);
            return vec![key.into()];
        }
        let gone = self.budget.put(&key.into(), user, size_of(key, &document));
        document.is_nodes = self.budget.owner(&key.into()) == Some(&self.node);
        self.held.insert(key.into(), document);
        for key in &gone {
            self.held.remove(key);
        }
        gone
    }

    /// Takes back a stored answer. Whoever else than this node read it is not known, and counts as one.
    pub fn restore(&mut self, key: &str, document: Document) {
        let user = if document.is_nodes { self.node.clone() } else { Principal::new("", [""]) };
        self.insert(key, document, &user);
    }

    /// An answer, and it counts as used.
    pub fn get(&mut self, key: &str) -> Option<&Document> {
        let document = self.held.get(key)?;
        self.budget.touch(&key.into());
        Some(document)
    }

    /// Forgets an answer. Returns whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        self.budget.remove(&key.into());
        self.held.remove(key).is_some()
    }

    /// Everything that is kept.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Document)> {
        self.held.iter().map(|(key, document)| (&**key, document))
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.budget.size()
    }
}

fn size_of(key: &str, document: &Document) -> usize {
    key.len() * 2 + document.body.len() + document.content_type.len() + EACH
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
            is_nodes: false,
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

    fn user(name: &str) -> Principal {
        Principal::new(name, ["system:authenticated"])
    }

    fn cache(total: usize, of_one_user: usize) -> DocumentCache {
        DocumentCache::new(Limits { total, of_one_user, reserve: 0 }, Principal::node("a"))
    }

    #[test]
    fn a_record_without_a_word_on_whose_it_is_stays_this_nodes() {
        let mut old = vec![LAYOUT_WITHOUT_OWNER];
        old.extend_from_slice(&document(3).encode()[2..]);
        assert!(Document::decode(old.into()).is_some_and(|document| document.is_nodes));
    }

    #[test]
    fn the_longest_unused_of_its_user_goes_and_what_the_node_read_stays() {
        let mut cache = cache(3 * 1024, 2 * 1024);
        assert!(cache.insert("csinode", document(300), &Principal::node("a")).is_empty());
        assert!(cache.insert("a", document(300), &user("pod")).is_empty());
        assert!(cache.insert("b", document(300), &user("pod")).is_empty());
        assert!(cache.get("a").is_some());
        assert_eq!(cache.insert("c", document(300), &user("pod")), vec![Box::from("b")]);
        for turn in 0..20 {
            cache.insert(&format!("k{turn}"), document(300), &user("other"));
        }
        assert!(cache.get("csinode").is_some_and(|document| document.is_nodes));
        assert!(cache.get("k19").is_some_and(|document| !document.is_nodes));
    }

    #[test]
    fn bytes_are_bounded_and_counted_exactly() {
        let mut cache = cache(4000, 4000);
        assert_eq!(cache.insert("huge", document(5000), &user("a")), vec![Box::from("huge")]);
        for turn in 0..50 {
            cache.insert(&format!("k{turn}"), document(300), &user("a"));
            assert!(cache.bytes() <= 4000);
        }
        for turn in 0..50 {
            cache.remove(&format!("k{turn}"));
        }
        assert_eq!(cache.bytes(), 0);
    }
}
