//! Answers kept whole (single objects, discovery), in memory and on disk.

use bytes::Bytes;
use edge_hub_core::{
    budget::Limits,
    documents::{Document, DocumentCache},
    identity::Principal,
};

use crate::{
    hub::{Hub, lock},
    store::{BlobClass, BlobKey},
};

/// Their bytes: all of them, and for one user a part of so many.
const DOCUMENT_BYTES: usize = 16 * 1024 * 1024;
const PARTS: usize = 4;

/// Room for all of them on the node `node`; nothing is kept yet.
#[must_use]
pub fn cache(node: &Principal) -> DocumentCache {
    DocumentCache::new(Limits::one_part_of(PARTS, DOCUMENT_BYTES), node.clone())
}

impl Hub {
    /// Takes back a stored answer. False for what nobody can use.
    pub fn restore_document(&self, key: &BlobKey, value: Bytes) -> bool {
        let (Some(document), Ok(text)) = (Document::decode(value), std::str::from_utf8(&key.key)) else {
            return false;
        };
        lock(&self.documents).restore(text, document);
        true
    }

    /// Keeps a whole answer that `user` read, unless it would push out most others. Returns its bytes: those that are held
    /// already, where they are the same, which are not worth a write.
    pub fn keep_document(
        &self,
        class: BlobClass,
        key: &str,
        mut document: Document,
        user: &Principal,
    ) -> Bytes {
        let body = document.body.clone();
        if body.len() > DOCUMENT_BYTES / 2 {
            self.drop_document(class, key);
            return body;
        }
        let held = lock(&self.documents).get(key).cloned();
        let same = held.filter(|held| held.body == body && held.content_type == document.content_type);
        // What came counts for its reader for as long as it is in use, so what is kept is a copy.
        document.body = same.as_ref().map_or_else(|| Bytes::copy_from_slice(&body), |same| same.body.clone());
        let (kept, dropped) = {
            let mut documents = lock(&self.documents);
            let dropped = documents.insert(key, document, user);
            (documents.get(key).cloned(), dropped)
        };
        let is_written = |kept: &Document| same.as_ref().is_some_and(|same| same.is_nodes == kept.is_nodes);
        if let Some(kept) = kept.filter(|kept| !is_written(kept)) {
            self.store.put(BlobKey { class, key: key.as_bytes().into() }, kept.encode());
        }
        for key in dropped {
            for class in [BlobClass::Single, BlobClass::Discovery] {
                self.store.remove(BlobKey { class, key: key.as_bytes().into() });
            }
        }
        same.map_or(body, |same| same.body)
    }

    /// Forgets a whole answer.
    pub fn drop_document(&self, class: BlobClass, key: &str) {
        if lock(&self.documents).remove(key) {
            self.store.remove(BlobKey { class, key: key.as_bytes().into() });
        }
    }
}
