//! What a collection holds, and what it tells the store: objects, tombstones, the envelope around them, changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_kube::object::{ObjectKey, TypeMeta};

/// One object as it came from upstream. Always behind an `Arc`; never changed after it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Namespace (empty for cluster-scoped kinds) and name.
    pub key: ObjectKey,
    /// `metadata.uid`; empty where the server gives none.
    pub uid: Box<str>,
    /// `metadata.resourceVersion` as a number; `raw` carries the same.
    pub resource_version: u64,
    /// The item's bytes in the collection's format, as the list and watch splitters cut them out.
    pub raw: Bytes,
}

impl Object {
    /// Whether this is the same state of the same object: equal key, uid and resource version.
    #[must_use]
    pub fn is_same_state(&self, other: &Self) -> bool {
        self.resource_version == other.resource_version && self.key == other.key && self.uid == other.uid
    }

    /// The object with bytes of its own. A slice of a list body would keep the whole body in memory for as long as
    /// one of its items lives.
    pub(crate) fn detached(self) -> Self {
        Self { raw: Bytes::copy_from_slice(&self.raw), ..self }
    }
}

/// What a list or an event says besides its objects; the same for every object of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Type of one item, e.g. `v1 Pod`, or `meta.k8s.io/v1 PartialObjectMetadata`.
    pub type_meta: TypeMeta,
    /// Kind of the list, e.g. `PodList`.
    pub list_kind: Box<str>,
    /// `columnDefinitions` of a Table as JSON text; `None` for every other form.
    pub columns: Option<Bytes>,
}

/// A deleted object: what lets a client that was away learn of the deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Last state. Its `resource_version` is the deletion's, and `raw` carries it.
    pub object: Arc<Object>,
    /// Wall clock, since 1970, when the deletion became known here.
    pub deleted_unix: Duration,
}

/// What the store remembered of a whole collection besides its objects: the last [`Change::Watermark`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The collection is exactly the state at this resource version.
    pub resource_version: u64,
    /// A watch from any resource version not below this one can be answered.
    pub horizon: u64,
    /// Wall clock, since 1970, of the last word from upstream.
    pub synced_unix: Duration,
    /// What surrounds the objects.
    pub envelope: Envelope,
}

/// One thing for the store to remember.
///
/// The changes that one operation returns belong together: objects first, then the watermark that makes them count,
/// then what the raised horizon allows to be forgotten. A `Forget` must not become durable before the watermark of
/// its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This is now the state of its key.
    Put(Arc<Object>),
    /// The key is gone; its tombstone replaces any older tombstone of the key.
    Delete(Tombstone),
    /// The tombstone of this key with this resource version is no longer needed.
    Forget(ObjectKey, u64),
    /// The state of the collection as a whole; fields as in [`Watermark`].
    Watermark {
        /// The collection is exactly the state at this resource version.
        resource_version: u64,
        /// A watch from any resource version not below this one can be answered.
        horizon: u64,
        /// Wall clock, since 1970, of the last word from upstream.
        synced_unix: Duration,
        /// What surrounds the objects.
        envelope: Envelope,
    },
    /// Everything held of this collection goes; what follows in the batch stays.
    Reset,
}
