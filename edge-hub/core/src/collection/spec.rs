//! The identity of a collection, and which requests it can answer.

use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::Format;
use proto_kube::object::ObjectKey;
use proto_kube::selector::{FieldSelector, LabelSelector};

/// The identity of one upstream list-watch: what is asked for and in which format. Credentials are not part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionSpec {
    /// The resource type.
    pub gvr: GroupVersionResource,
    /// One namespace, or `None` for all of them and for cluster-scoped kinds.
    pub namespace: Option<Box<str>>,
    /// Label selector sent upstream.
    pub labels: LabelSelector,
    /// Field selector sent upstream.
    pub fields: FieldSelector,
    /// Encoding and form in which the objects are held.
    pub format: Format,
}

/// Which objects of a collection a client wants. The default selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selection {
    /// One namespace, or `None` for all.
    pub namespace: Option<Box<str>>,
    /// One name, or `None` for all.
    pub name: Option<Box<str>>,
    /// Label selector.
    pub labels: LabelSelector,
    /// Field selector.
    pub fields: FieldSelector,
}
