//! Filters: what some clients of a node are shown differently, so that OpenYurt's labels and annotations keep their
//! meaning, and what they need not see at all.
//!
//! A filter is a pure function of an object and the [`Inputs`]: it keeps the object, gives other bytes for it or drops
//! it, and applied to its own outcome it changes nothing. A [`Chain`] is the filters of one client for one resource,
//! always in the same order; the [`Policy`] says which. Views and lists apply a chain after the client's selector,
//! which sees the object as it is upstream.

mod answer;
mod authority;
mod chain;
mod endpoints;
mod inputs;
mod noise;
mod pods;
mod services;
pub(crate) mod value;

use bytes::Bytes;
use proto_kube::edit::EditError;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::json::JsonError;
use proto_kube::list::ListError;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::{ObjectKey, ScanError};

pub use answer::ShownList;
pub use authority::{CERTIFICATES_KEY, ROOT_CERTIFICATES, without_authority};
pub use chain::{Chain, Filter, Policy, Rule};
pub(crate) use endpoints::SERVICE_NAME;
pub use inputs::{BUCKET_POOL_LABEL, HubAddress, Inputs, NODE_POOL_LABEL, Reach, TOPOLOGY_KEYS, ZONE_LABEL};
pub use services::{DISCARD, NODE_PORT_LISTEN};

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is shown as it is.
    Keep,
    /// It is shown with these bytes, of the same format.
    Replace(Bytes),
    /// It is not shown.
    Drop,
}

impl Outcome {
    /// `Keep` when there is no change, or none in effect.
    fn of(before: &[u8], after: Option<Vec<u8>>) -> Self {
        match after {
            Some(after) if after != before => Self::Replace(after.into()),
            _ => Self::Keep,
        }
    }
}

/// The object a filter looks at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its resource.
    pub gvr: &'a GroupVersionResource,
    /// The format of its bytes.
    pub format: Format,
    /// Namespace and name.
    pub key: &'a ObjectKey,
    /// Its bytes, as the list and watch splitters cut them out.
    pub raw: &'a [u8],
}

impl Subject<'_> {
    fn is(&self, (namespace, name): (&str, &str)) -> bool {
        *self.key.namespace == *namespace && *self.key.name == *name
    }

    fn encoding(&self) -> Encoding {
        self.format.encoding
    }
}

/// Why an object cannot be filtered. It must not be shown then, because nobody knows what would be left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The object is malformed, or has no metadata.
    #[error("the object cannot be read: {0}")]
    Scan(#[from] ScanError),
    /// The object is malformed where it would be changed.
    #[error("the object cannot be changed: {0}")]
    Edit(#[from] EditError),
    /// The cloud's answer is not what was asked for.
    #[error("the answer cannot be read: {0}")]
    Answer(#[from] ListError),
    /// The bytes do not carry what the filter reads.
    #[error("the object is held in a form that cannot be filtered")]
    Form,
    /// A pool or a bucket lists more nodes than are read.
    #[error("too many nodes in one list")]
    TooManyNodes,
}

impl From<JsonError> for FilterError {
    fn from(error: JsonError) -> Self {
        Self::Edit(error.into())
    }
}
