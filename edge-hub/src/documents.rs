//! Answers kept whole (single objects, discovery), in memory and on disk, and under what each is kept.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use edge_hub_core::{
    budget::Limits,
    documents::{Document, DocumentCache},
    identity::Principal,
};
use http::Uri;
use proto_kube::{
    media_type::{Encoding, Form, Format},
    request_info::RequestInfo,
};

use crate::{
    site::Site,
    store::{BlobClass, BlobKey},
    sync::lock,
};

/// Their bytes: all of them, and for one user a part of so many.
const DOCUMENT_BYTES: usize = 16 * 1024 * 1024;
const PARTS: usize = 4;

/// The answers that are kept.
pub struct Documents {
    site: Arc<Site>,
    held: Mutex<DocumentCache>,
}

impl Documents {
    /// None is kept yet.
    #[must_use]
    pub fn new(site: &Arc<Site>) -> Self {
        let limits = Limits::one_part_of(PARTS, DOCUMENT_BYTES);
        Self { held: Mutex::new(DocumentCache::new(limits, site.node.clone())), site: Arc::clone(site) }
    }

    /// One of them, and it counts as used.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Document> {
        lock(&self.held).get(key).cloned()
    }

    /// The paths of all single objects of which an answer is kept.
    #[must_use]
    pub fn single_paths(&self) -> Vec<Box<str>> {
        let held = lock(&self.held);
        held.all().filter_map(|(key, _)| path_of_single(key).map(Into::into)).collect()
    }

    /// The answers of one class, as the store has them.
    #[must_use]
    pub fn records(&self, class: BlobClass) -> Vec<(Vec<u8>, Bytes)> {
        let held = lock(&self.held);
        let of_class = held.all().filter(|(key, _)| key.starts_with(SINGLE) == (class == BlobClass::Single));
        of_class.map(|(key, document)| (key.as_bytes().to_vec(), document.encode())).collect()
    }

    /// Takes back a stored answer. False for what nobody can use.
    pub fn restore(&self, key: &BlobKey, value: Bytes) -> bool {
        let (Some(document), Ok(text)) = (Document::decode(value), std::str::from_utf8(&key.key)) else {
            return false;
        };
        lock(&self.held).restore(text, document);
        true
    }

    /// Keeps a whole answer that `user` read, unless it would push out most others. Returns its bytes: those that are held
    /// already, where they are the same, which are not worth a write.
    pub fn keep(&self, class: BlobClass, key: &str, mut document: Document, user: &Principal) -> Bytes {
        let body = document.body.clone();
        if body.len() > DOCUMENT_BYTES / 2 {
            self.forget(class, key);
            return body;
        }
        let held = lock(&self.held).get(key).cloned();
        let same = held.filter(|held| held.body == body && held.content_type == document.content_type);
        // What came counts for its reader for as long as it is in use, so what is kept is a copy.
        document.body = same.as_ref().map_or_else(|| Bytes::copy_from_slice(&body), |same| same.body.clone());
        let (kept, dropped) = {
            let mut documents = lock(&self.held);
            let dropped = documents.insert(key, document, user);
            (documents.get(key).cloned(), dropped)
        };
        let is_written = |kept: &Document| same.as_ref().is_some_and(|same| same.is_nodes == kept.is_nodes);
        if let Some(kept) = kept.filter(|kept| !is_written(kept)) {
            self.site.store.put(BlobKey { class, key: key.as_bytes().into() }, kept.encode());
        }
        for key in dropped {
            for class in [BlobClass::Single, BlobClass::Discovery] {
                self.site.store.remove(BlobKey { class, key: key.as_bytes().into() });
            }
        }
        same.map_or(body, |same| same.body)
    }

    /// Forgets a whole answer.
    pub fn forget(&self, class: BlobClass, key: &str) {
        if lock(&self.held).remove(key) {
            self.site.store.remove(BlobKey { class, key: key.as_bytes().into() });
        }
    }

    /// The object at this path is gone: no kept answer may bring it back, in whatever form.
    pub fn forget_single(&self, path: &str) {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            for form in [Form::Object, Form::Table, Form::PartialMetadata] {
                self.forget(BlobClass::Single, &single_path_key(path, Format { encoding, form }));
            }
        }
    }
}

/// Under what a single object's answer is kept.
#[must_use]
pub fn single_key(uri: &Uri, format: Format) -> String {
    single_path_key(&canonical_path(uri), format)
}

/// The path as the hub itself writes it, however the client spelled it: what is kept under one spelling must not outlive
/// what is forgotten under another.
#[must_use]
pub fn canonical_path(uri: &Uri) -> String {
    match RequestInfo::parse("GET", uri.path(), None) {
        Ok(RequestInfo::Resource(request)) => {
            let (namespace, name) = (request.namespace.as_deref(), request.name.as_deref());
            request.gvr.path(namespace, name, request.subresource.as_deref())
        }
        _ => uri.path().to_owned(),
    }
}

/// The same of a path as the hub writes it.
#[must_use]
pub fn single_path_key(path: &str, format: Format) -> String {
    format!("{SINGLE}{path} {:?} {:?}", format.encoding, format.form)
}

/// Tells the keys of single objects from those of discovery, which begin with their path.
const SINGLE: &str = "object ";

/// The path of the object whose answer is kept under this key.
fn path_of_single(key: &str) -> Option<&str> {
    key.strip_prefix(SINGLE)?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_kept_and_forgotten_under_one_path_however_it_is_spelled() {
        let plain = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt";
        for spelled in [
            plain,
            "/api/v1/namespaces/default/configmaps/kube%2Droot-ca.crt",
            "/api/v1/namespaces/def%61ult/configmaps/kube-root-ca.crt",
        ] {
            assert_eq!(canonical_path(&Uri::from_static(spelled)), plain);
        }
        let scale = "/apis/apps/v1/namespaces/default/deployments/web/scale";
        assert_eq!(canonical_path(&Uri::from_static(scale)), scale);
        assert_eq!(canonical_path(&Uri::from_static("/version")), "/version");
    }
}
