//! A request about objects and its verb, which reading its path and reading its query have in common.

use crate::gvr::GroupVersionResource;

/// The RBAC verb of a resource request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Follow a collection.
    Watch,
    /// Add an object, or call a subresource.
    Create,
    /// Replace an object.
    Update,
    /// Change parts of an object.
    Patch,
    /// Remove one object.
    Delete,
    /// Remove a collection's objects.
    DeleteCollection,
}

impl Verb {
    /// The verb as RBAC rules spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// Whether the request changes nothing.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request about objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRequest {
    /// What is to be done.
    pub verb: Verb,
    /// The resource.
    pub gvr: GroupVersionResource,
    /// The namespace the objects live in; `None` for all namespaces, for cluster-scoped resources and
    /// for requests about a namespace itself.
    pub namespace: Option<Box<str>>,
    /// The object's name: from the path or, for LIST and WATCH, from a `metadata.name=` field selector.
    pub name: Option<Box<str>>,
    /// The part of the object, e.g. `status` or `proxy`.
    pub subresource: Option<Box<str>>,
    /// What follows the subresource, decoded, without the first slash: `metrics` of `.../proxy/metrics`.
    pub path_rest: Option<Box<str>>,
    /// The namespace the server authorizes the request in: as `namespace`, and a namespace's own name
    /// for `/api/v1/namespaces/<name>`.
    pub authorization_namespace: Option<Box<str>>,
    /// Whether the path has the old `/watch/` prefix.
    pub legacy_watch: bool,
}
