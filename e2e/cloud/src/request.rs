//! From method, path and query to what is asked for: a resource, or a plain path.

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::authorization::Principal;
use crate::options::parameters;
use crate::resource::Gvr;
use crate::status::Status;

/// How the caller proved who it is, as the TLS layer and the headers show it.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    /// A verified client certificate.
    Certificate(Principal),
    /// A bearer token, not yet checked.
    Bearer(String),
    /// Nothing.
    Anonymous,
}

/// One request as the core sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which replica the connection reached.
    pub replica: usize,
    /// The caller's credentials.
    pub identity: Identity,
    /// HTTP method.
    pub method: String,
    /// Path as sent (percent-encoded).
    pub path: String,
    /// Query as sent, empty when absent.
    pub query: String,
    /// `Accept`.
    pub accept: String,
    /// `Accept-Encoding` offers gzip.
    pub accepts_gzip: bool,
    /// `Content-Type`.
    pub content_type: String,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// `User-Agent`.
    pub user_agent: String,
    /// Any `Impersonate-*` header was sent; the model refuses those.
    pub impersonates: bool,
    /// The whole body.
    pub body: Bytes,
}

impl Request {
    /// A bodyless request to the first replica.
    #[must_use]
    pub fn new(identity: Identity, method: &str, path_and_query: &str) -> Self {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        Self {
            replica: 0,
            identity,
            method: method.into(),
            path: path.into(),
            query: query.into(),
            accept: "application/json".into(),
            accepts_gzip: false,
            content_type: "application/json".into(),
            if_none_match: None,
            user_agent: String::new(),
            impersonates: false,
            body: Bytes::new(),
        }
    }
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A resource of an API group.
    Resource(ResourceTarget),
    /// Anything else; the decoded path.
    Path(String),
}

/// A resource request in the words of RBAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceTarget {
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: &'static str,
    /// Which resource.
    pub gvr: Gvr,
    /// Namespace, when the path names one.
    pub namespace: Option<String>,
    /// Object name, when the path names one.
    pub name: Option<String>,
    /// Subresource, when the path names one.
    pub subresource: Option<String>,
}

impl Target {
    /// Parse method, path and query.
    ///
    /// # Errors
    /// 400 for a path that cannot be decoded, 405 for an unknown method.
    pub fn parse(method: &str, path: &str, query: &str) -> Result<Self, Status> {
        let decoded = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| Status::bad_request("path is not UTF-8"))?
            .into_owned();
        let mut parts: Vec<&str> = decoded.trim_matches('/').split('/').collect();
        if parts.contains(&"..") {
            return Err(Status::bad_request("path has a parent segment"));
        }
        if parts.len() > 1 && parts.contains(&"") {
            return Err(Status::no_such_path());
        }
        let (group, version, skip) = match parts.as_slice() {
            ["api", version, _, ..] => ("", *version, 2),
            ["apis", group, version, _, ..] => (*group, *version, 3),
            _ => return Ok(Self::Path(decoded)),
        };
        parts.drain(..skip);
        let legacy_watch = parts[0] == "watch" && parts.len() > 1;
        if legacy_watch {
            parts.remove(0);
        }
        // A namespace itself is a cluster-scoped object with two subresources of its own.
        let in_namespace =
            parts.len() > 2 && parts[0] == "namespaces" && !matches!(parts[2], "status" | "finalize");
        let namespace = in_namespace.then(|| parts[1].to_owned());
        if in_namespace {
            parts.drain(..2);
        }
        let name = parts.get(1).map(|p| (*p).to_owned());
        let subresource = (parts.len() > 2).then(|| parts[2..].join("/"));
        let verb = verb(method, name.is_some(), legacy_watch, is_watch(query))?;
        Ok(Self::Resource(ResourceTarget {
            verb,
            gvr: Gvr::new(group, version, parts[0]),
            namespace,
            name,
            subresource,
        }))
    }
}

fn is_watch(query: &str) -> bool {
    parameters(query).get("watch").is_some_and(|value| value != "false" && value != "0")
}

/// `watch` in the query makes a watch of a list, never of a GET of one object.
fn verb(method: &str, named: bool, watch_path: bool, watch: bool) -> Result<&'static str, Status> {
    Ok(match (method, named) {
        ("GET" | "HEAD", _) if watch_path => "watch",
        ("GET" | "HEAD", false) if watch => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(Status::method_not_allowed()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(method: &str, path: &str, query: &str) -> String {
        match Target::parse(method, path, query).expect(path) {
            Target::Resource(r) => {
                format!("{} {} {:?} {:?} {:?}", r.verb, r.gvr, r.namespace, r.name, r.subresource)
            }
            Target::Path(path) => path,
        }
    }

    #[test]
    fn paths_are_read_as_the_server_reads_them() {
        assert_eq!(resource("GET", "/api/v1/pods", ""), "list v1/pods None None None");
        assert_eq!(resource("GET", "/api/v1/pods", "watch=1"), "watch v1/pods None None None");
        assert_eq!(resource("GET", "/api/v1/nodes/a", "watch=1"), "get v1/nodes None Some(\"a\") None");
        assert_eq!(resource("GET", "/api/v1/watch/nodes/a", ""), "watch v1/nodes None Some(\"a\") None");
        assert!(Target::parse("GET", "/api/v1//nodes", "").is_err());
        assert_eq!(
            resource("PATCH", "/api/v1/namespaces/a/pods/b/status", ""),
            "patch v1/pods Some(\"a\") Some(\"b\") Some(\"status\")"
        );
        assert_eq!(resource("GET", "/api/v1/namespaces/a", ""), "get v1/namespaces None Some(\"a\") None");
        assert_eq!(
            resource("PUT", "/api/v1/namespaces/a/finalize", ""),
            "update v1/namespaces None Some(\"a\") Some(\"finalize\")"
        );
        assert_eq!(
            resource("GET", "/apis/apps/v1/watch/namespaces/a/deployments", ""),
            "watch apps/v1/deployments Some(\"a\") None None"
        );
        assert_eq!(resource("GET", "/apis/apps/v1", ""), "/apis/apps/v1");
        assert!(Target::parse("GET", "/api/v1/../secrets/x", "").is_err());
    }
}
