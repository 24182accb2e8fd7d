//! Names of resource types: what a URL, a cache key and a log line call "apps/v1/deployments".

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// Characters a path segment carries as they are; everything else is percent-encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// A subresource may hold a rest path (`proxy/metrics`), so its slashes stay.
const REST: &AsciiSet = &SEGMENT.remove(b'/');

/// Group, version and plural resource name, e.g. (`apps`, `v1`, `deployments`); the core group is `""`.
///
/// `Display` writes `apps/v1/deployments`, and `v1/pods` for the core group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupVersionResource {
    /// API group; empty for the core group.
    pub group: Box<str>,
    /// Version inside the group, e.g. `v1`.
    pub version: Box<str>,
    /// Plural lower-case resource name, e.g. `pods`.
    pub resource: Box<str>,
}

impl GroupVersionResource {
    /// Builds a name from its three parts; `group` is `""` for the core group.
    pub fn new(
        group: impl Into<Box<str>>,
        version: impl Into<Box<str>>,
        resource: impl Into<Box<str>>,
    ) -> Self {
        Self { group: group.into(), version: version.into(), resource: resource.into() }
    }

    /// The `apiVersion` of this resource's objects: `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The form used inside error messages: `pods`, `deployments.apps`.
    #[must_use]
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// The request path of a collection, an object or a subresource, percent-encoded.
    ///
    /// `subresource` is only used together with `name`; it may hold a rest path (`proxy/metrics`).
    #[must_use]
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path = String::with_capacity(64);
        if self.group.is_empty() {
            path.push_str("/api");
        } else {
            path.push_str("/apis");
            push_segment(&mut path, &self.group);
        }
        push_segment(&mut path, &self.version);
        if let Some(namespace) = namespace {
            path.push_str("/namespaces");
            push_segment(&mut path, namespace);
        }
        push_segment(&mut path, &self.resource);
        if let Some(name) = name {
            push_segment(&mut path, name);
            if let Some(subresource) = subresource {
                path.push('/');
                path.extend(utf8_percent_encode(subresource, REST));
            }
        }
        path
    }
}

fn push_segment(path: &mut String, segment: &str) {
    path.push('/');
    path.extend(utf8_percent_encode(segment, SEGMENT));
}

impl fmt::Display for GroupVersionResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        write!(f, "{}/{}", self.version, self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_and_named_groups_print_as_the_api_writes_them() {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let deployments = GroupVersionResource::new("apps", "v1", "deployments");
        assert_eq!(pods.to_string(), "v1/pods");
        assert_eq!(pods.api_version(), "v1");
        assert_eq!(pods.group_resource(), "pods");
        assert_eq!(deployments.to_string(), "apps/v1/deployments");
        assert_eq!(deployments.api_version(), "apps/v1");
        assert_eq!(deployments.group_resource(), "deployments.apps");
    }

    #[test]
    fn paths_cover_collections_objects_and_subresources() {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let roles = GroupVersionResource::new("rbac.authorization.k8s.io", "v1", "clusterroles");
        assert_eq!(pods.path(None, None, None), "/api/v1/pods");
        assert_eq!(pods.path(Some("kube-system"), None, None), "/api/v1/namespaces/kube-system/pods");
        assert_eq!(
            pods.path(Some("a"), Some("b"), Some("proxy/x/y")),
            "/api/v1/namespaces/a/pods/b/proxy/x/y"
        );
        assert_eq!(
            roles.path(None, Some("system:node"), None),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node"
        );
        assert_eq!(
            roles.path(None, Some("a b?#%"), None),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/a%20b%3F%23%25"
        );
    }
}
