//! Answers kept whole (single objects, discovery), in memory and on disk.

use bytes::Bytes;
use edge_hub_core::documents::{Document, DocumentCache};

use crate::{
    hub::{Hub, lock},
    store::{BlobClass, BlobKey},
};

/// Their bytes and their number.
const DOCUMENT_BYTES: usize = 16 * 1024 * 1024;
const DOCUMENTS: usize = 4096;

/// Room for all of them; nothing is kept yet.
#[must_use]
pub fn cache() -> DocumentCache {
    DocumentCache::new(DOCUMENT_BYTES, DOCUMENTS)
}

impl Hub {
    /// Takes back a stored answer. False for what nobody can use.
    pub fn restore_document(&self, key: &BlobKey, value: Bytes) -> bool {
        let (Some(document), Ok(text)) = (Document::decode(value), std::str::from_utf8(&key.key)) else {
            return false;
        };
        lock(&self.documents).insert(text, document);
        true
    }

    /// Keeps a whole answer, unless it would push out most others. The same bytes again are not worth a write.
    pub fn keep_document(&self, class: BlobClass, key: &str, document: Document) {
        if document.body.len() > DOCUMENT_BYTES / 2 {
            return self.drop_document(class, key);
        }
        let is_held = lock(&self.documents)
            .get(key)
            .is_some_and(|held| held.body == document.body && held.content_type == document.content_type);
        let stored = (!is_held).then(|| document.encode());
        let dropped = lock(&self.documents).insert(key, document);
        if let Some(stored) = stored {
            self.store.put(BlobKey { class, key: key.as_bytes().into() }, stored);
        }
        for key in dropped {
            for class in [BlobClass::Single, BlobClass::Discovery] {
                self.store.remove(BlobKey { class, key: key.as_bytes().into() });
            }
        }
    }

    /// Forgets a whole answer.
    pub fn drop_document(&self, class: BlobClass, key: &str) {
        if lock(&self.documents).remove(key) {
            self.store.remove(BlobKey { class, key: key.as_bytes().into() });
        }
    }
}
