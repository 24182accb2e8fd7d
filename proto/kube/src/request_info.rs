//! What a request is about: verb, resource, namespace and name, resolved as the API server resolves them.

use percent_encoding::percent_decode_str;

use crate::gvr::GroupVersionResource;
use crate::list_options::{Peek, escapes_are_whole};
use crate::status::Status;

/// Longest request path that is read, in bytes, before decoding.
pub const MAX_PATH_BYTES: usize = 8192;
/// Longest group, version, resource, namespace, name or subresource, in bytes, after decoding.
const MAX_SEGMENT_BYTES: usize = 512;

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

/// A request, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestInfo {
    /// About objects of a resource.
    Resource(ResourceRequest),
    /// About anything else: discovery, health, OpenAPI.
    NonResource(NonResourceRequest),
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

/// A request that is not about objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonResourceRequest {
    /// The lower-case method, as RBAC rules spell it.
    pub verb: Box<str>,
    /// The path, decoded.
    pub path: Box<str>,
}

impl RequestInfo {
    /// Resolves a request line; `path` and `query` (without `?`) are as sent, percent-encoded.
    ///
    /// # Errors
    /// 400 for a path that is malformed, too long or has `.` or `..` segments, 404 for one with empty
    /// segments where a name must be, 405 for a method that is no verb of a resource.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, Status> {
        let path = decode_path(path)?;
        match Parts::split(&path)? {
            Some(parts) => parts.resolve(method, query).map(Self::Resource),
            None => Ok(Self::NonResource(NonResourceRequest {
                verb: method.to_ascii_lowercase().into(),
                path: path.into(),
            })),
        }
    }
}

fn decode_path(path: &str) -> Result<String, Status> {
    if path.len() > MAX_PATH_BYTES {
        return Err(Status::bad_request(format!("the path is longer than {MAX_PATH_BYTES} bytes")));
    }
    if !path.starts_with('/') || !escapes_are_whole(path) {
        return Err(Status::bad_request("the path is malformed"));
    }
    let decoded = percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| Status::bad_request("the path is not valid UTF-8"))?;
    if decoded.chars().any(char::is_control) {
        return Err(Status::bad_request("the path has control characters"));
    }
    // Nobody may resolve such a path differently from the server behind us.
    if decoded.split('/').any(|part| part == "." || part == "..") {
        return Err(Status::bad_request("the path has '.' or '..' segments"));
    }
    Ok(decoded.into_owned())
}

/// A resource path taken apart, the old `/watch/` prefix noted and removed.
struct Parts<'a> {
    group: &'a str,
    version: &'a str,
    legacy_watch: bool,
    /// `[namespaces, NAMESPACE,] RESOURCE [, NAME [, SUBRESOURCE [, REST..]]]`.
    rest: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    /// `None` when the path is not about a resource.
    fn split(path: &'a str) -> Result<Option<Self>, Status> {
        let all: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match all.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                // An empty group must not pass for the core group.
                check_segment(group)?;
                (*group, *version, rest)
            }
            _ => return Ok(None),
        };
        check_segment(version)?;
        let (legacy_watch, rest) = match rest {
            // The old proxy prefix is served by no server any more.
            ["proxy", _, ..] => return Ok(None),
            ["watch" | "proxy"] => {
                return Err(Status::bad_request(format!(
                    "unable to determine kind and namespace from url, {path}"
                )));
            }
            ["watch", rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        Ok(Some(Self { group, version, legacy_watch, rest: rest.to_vec() }))
    }

    fn resolve(self, method: &str, query: Option<&str>) -> Result<ResourceRequest, Status> {
        let (namespace, authorization_namespace, rest) = match self.rest.as_slice() {
            ["namespaces", name] | ["namespaces", name, "status" | "finalize", ..] => {
                (None, Some(*name), self.rest.as_slice())
            }
            ["namespaces", namespace, rest @ ..] => (Some(*namespace), Some(*namespace), rest),
            rest => (None, None, rest),
        };
        if let Some(namespace) = authorization_namespace {
            check_segment(namespace)?;
        }
        for segment in rest.iter().take(3) {
            check_segment(segment)?;
        }
        let resource = rest.first().ok_or_else(Status::path_not_found)?;
        let gvr = GroupVersionResource::new(self.group, self.version, *resource);
        let mut name: Option<Box<str>> = rest.get(1).map(|name| Box::from(*name));
        let verb = match method {
            "GET" | "HEAD" if self.legacy_watch => Verb::Watch,
            _ if self.legacy_watch => return Err(Status::method_not_supported(&gvr, method)),
            "GET" | "HEAD" if name.is_some() => Verb::Get,
            "GET" | "HEAD" => {
                let peek = Peek::read(query)?;
                name = peek.name.filter(|name| can_be_name(name));
                if peek.watch { Verb::Watch } else { Verb::List }
            }
            "POST" => Verb::Create,
            "PUT" => Verb::Update,
            "PATCH" => Verb::Patch,
            "DELETE" if name.is_some() => Verb::Delete,
            "DELETE" => Verb::DeleteCollection,
            _ => return Err(Status::method_not_supported(&gvr, method)),
        };
        Ok(ResourceRequest {
            verb,
            gvr,
            namespace: namespace.map(Box::from),
            name,
            subresource: rest.get(2).map(|part| Box::from(*part)),
            path_rest: rest.get(3..).filter(|r| !r.is_empty()).map(|r| r.join("/").into()),
            authorization_namespace: authorization_namespace.map(Box::from),
            legacy_watch: self.legacy_watch,
        })
    }
}

fn check_segment(segment: &str) -> Result<(), Status> {
    if segment.is_empty() {
        return Err(Status::path_not_found());
    }
    if segment.len() > MAX_SEGMENT_BYTES {
        return Err(Status::bad_request(format!("a path segment is longer than {MAX_SEGMENT_BYTES} bytes")));
    }
    Ok(())
}

/// Whether a name from a selector could also stand in a path.
fn can_be_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_SEGMENT_BYTES
        && name != "."
        && name != ".."
        && !name.contains(['/', '%'])
}
