//! What a request is about: verb, resource, namespace and name, resolved as the API server resolves them.

use percent_encoding::percent_decode_str;

use crate::gvr::GroupVersionResource;
use crate::list_options::{Peek, escapes_are_whole};
pub use crate::resource_request::{ResourceRequest, Verb};
use crate::status::Status;

/// Longest request path that is read, in bytes, before decoding.
pub const MAX_PATH_BYTES: usize = 8192;
/// Longest group, version, resource, namespace, name or subresource, in bytes, after decoding.
const MAX_SEGMENT_BYTES: usize = 512;

/// A request, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestInfo {
    /// About objects of a resource.
    Resource(ResourceRequest),
    /// About anything else: discovery, health, OpenAPI.
    NonResource(NonResourceRequest),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resource(method: &str, path: &str, query: Option<&str>) -> ResourceRequest {
        match RequestInfo::parse(method, path, query) {
            Ok(RequestInfo::Resource(request)) => request,
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    /// `verb gvr ns=.. name=.. sub=.. rest=.. authz=..`, absent parts as `-`.
    fn summary(request: &ResourceRequest) -> String {
        let show = |part: &Option<Box<str>>| part.as_deref().unwrap_or("-").to_owned();
        format!(
            "{} {} {} {} {} {} {}",
            request.verb,
            request.gvr,
            show(&request.namespace),
            show(&request.name),
            show(&request.subresource),
            show(&request.path_rest),
            show(&request.authorization_namespace),
        )
    }

    #[test]
    fn resource_paths_resolve_as_in_the_server() {
        let cases = [
            ("GET", "/api/v1/namespaces", "list v1/namespaces - - - - -"),
            ("GET", "/api/v1/namespaces/foo", "get v1/namespaces - foo - - foo"),
            ("PUT", "/api/v1/namespaces/foo/status", "update v1/namespaces - foo status - foo"),
            ("PUT", "/api/v1/namespaces/foo/finalize", "update v1/namespaces - foo finalize - foo"),
            ("GET", "/api/v1/namespaces/foo/pods", "list v1/pods foo - - - foo"),
            ("GET", "/api/v1/namespaces/foo/pods/", "list v1/pods foo - - - foo"),
            ("GET", "/api/v1/namespaces/foo/pods/bar", "get v1/pods foo bar - - foo"),
            ("HEAD", "/api/v1/namespaces/foo/pods/bar", "get v1/pods foo bar - - foo"),
            ("GET", "/api/v1/namespaces/foo/pods/bar?", "get v1/pods foo bar? - - foo"),
            ("GET", "/api/v1/pods", "list v1/pods - - - - -"),
            ("POST", "/api/v1/namespaces/foo/pods", "create v1/pods foo - - - foo"),
            ("PATCH", "/api/v1/namespaces/foo/pods/bar/status", "patch v1/pods foo bar status - foo"),
            ("DELETE", "/api/v1/namespaces/foo/pods/bar", "delete v1/pods foo bar - - foo"),
            ("DELETE", "/api/v1/namespaces/foo/pods", "deletecollection v1/pods foo - - - foo"),
            ("GET", "/api/v1/nodes/n1/proxy/metrics/cadvisor", "get v1/nodes - n1 proxy metrics/cadvisor -"),
            (
                "GET",
                "/api/v1/namespaces/a/services/https:b:443/proxy/x",
                "get v1/services a https:b:443 proxy x a",
            ),
            ("GET", "/apis/apps/v1/deployments", "list apps/v1/deployments - - - - -"),
            (
                "GET",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                "get rbac.authorization.k8s.io/v1/clusterroles - system:node - - -",
            ),
            (
                "POST",
                "/api/v1/namespaces/foo/serviceaccounts/sa/token",
                "create v1/serviceaccounts foo sa token - foo",
            ),
            ("GET", "/api/v1/watch/pods", "watch v1/pods - - - - -"),
            ("GET", "/api/v1/watch/namespaces/foo/pods/bar", "watch v1/pods foo bar - - foo"),
            ("GET", "/api/v1/watch/namespaces/foo", "watch v1/namespaces - foo - - foo"),
            ("GET", "/apis/apps/v1/watch/deployments", "watch apps/v1/deployments - - - - -"),
            // The server decodes before it splits, so an escaped slash is a slash.
            ("GET", "/api/v1/namespaces%2Ffoo/pods", "list v1/pods foo - - - foo"),
        ];
        for (method, path, expected) in cases {
            // A "?" inside the path can only come from an escape.
            let path = path.replace('?', "%3F");
            assert_eq!(summary(&resource(method, &path, None)), expected, "{method} {path}");
        }
        assert!(resource("GET", "/api/v1/watch/pods", None).legacy_watch);
        assert!(!resource("GET", "/api/v1/pods", Some("watch=1")).legacy_watch);
    }

    #[test]
    fn the_query_decides_between_list_and_watch_and_may_name_an_object() {
        let cases = [
            ("watch=true", "watch", None),
            ("watch=1", "watch", None),
            ("watch=", "watch", None),
            ("watch", "watch", None),
            ("watch=FALSE", "list", None),
            ("watch=0&watch=1", "list", None),
            ("limit=x&watch=1", "watch", None),
            ("limit=x&fieldSelector=metadata.name%3Da", "list", None),
            ("fieldSelector=metadata.name%3Da", "list", Some("a")),
            ("fieldSelector=metadata.name%3Da,spec.nodeName%3Db&watch=1", "watch", Some("a")),
            ("fieldSelector=metadata.name!%3Da", "list", None),
            ("fieldSelector=metadata.name%3D..", "list", None),
        ];
        for (query, verb, name) in cases {
            let request = resource("GET", "/api/v1/pods", Some(query));
            assert_eq!(request.verb.as_str(), verb, "{query}");
            assert_eq!(request.name.as_deref(), name, "{query}");
        }
        let named = resource("GET", "/api/v1/namespaces/a/pods/b", Some("watch=true"));
        assert_eq!(named.verb, Verb::Get);
    }

    #[test]
    fn everything_else_is_not_about_resources() {
        for path in [
            "/",
            "/api",
            "/api/",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/version",
            "/openapi/v3/apis/apps/v1",
            "/readyz/etcd",
            "/api/v1/proxy/nodes/n1",
        ] {
            match RequestInfo::parse("GET", path, None) {
                Ok(RequestInfo::NonResource(request)) => {
                    assert_eq!(&*request.path, path);
                    assert_eq!(&*request.verb, "get");
                }
                other => panic!("{path}: {other:?}"),
            }
        }
    }

    #[test]
    fn paths_that_could_mean_two_things_are_refused() {
        let long = format!("/api/v1/pods/{}", "a".repeat(MAX_SEGMENT_BYTES + 1));
        let longer = format!("/{}", "a".repeat(MAX_PATH_BYTES));
        for (method, path, code) in [
            ("GET", "/api/v1/namespaces/../secrets", 400),
            ("GET", "/api/v1/nodes/n/proxy/%2e%2e/x", 400),
            ("GET", "/healthz/./x", 400),
            ("GET", "/api/v1/pods/a%", 400),
            ("GET", "/api/v1/pods/%zz", 400),
            ("GET", "/api/v1/pods/%ff", 400),
            ("GET", "/api/v1/pods/a%00", 400),
            ("GET", "api/v1/pods", 400),
            ("GET", "", 400),
            ("GET", "/api/v1/watch", 400),
            ("GET", long.as_str(), 400),
            ("GET", longer.as_str(), 400),
            ("GET", "/apis//v1/secrets", 404),
            ("GET", "/api//pods", 404),
            ("GET", "/api/v1//pods", 404),
            ("GET", "/api/v1/namespaces//pods", 404),
            ("GET", "/api/v1/pods//status", 404),
            ("OPTIONS", "/api/v1/pods", 405),
            ("get", "/api/v1/pods", 405),
            ("DELETE", "/api/v1/watch/pods", 405),
        ] {
            let status = RequestInfo::parse(method, path, None).expect_err(path);
            assert_eq!(status.code, code, "{method} {path}: {status}");
        }
    }

    proptest! {
        #[test]
        fn no_request_line_breaks_the_resolver(
            method in prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "X"]),
            path in prop_oneof!["(/(api|apis|v1|namespaces|watch|proxy|pods|a|%2[Fe]|\\.|)){0,9}", any::<String>()],
            query in proptest::option::of(any::<String>()),
        ) {
            if let Ok(RequestInfo::Resource(request)) = RequestInfo::parse(method, &path, query.as_deref()) {
                prop_assert!(!request.gvr.resource.is_empty());
                prop_assert!(!request.gvr.version.is_empty());
                prop_assert!(request.namespace.as_deref() != Some(""));
                prop_assert!(request.name.as_deref() != Some(""));
            }
        }

        #[test]
        fn a_path_built_from_names_resolves_to_those_names(
            group in "([a-z]{1,5}(\\.io)?)?",
            resource_name in "[a-z]{1,6}s",
            namespace in proptest::option::of("[a-z0-9]{1,5}"),
            name in "[a-z0-9:+=@ ?#%é]{1,8}",
            subresource in proptest::option::of("x[a-z]{1,5}"),
        ) {
            prop_assume!(resource_name != "namespaces");
            let gvr = GroupVersionResource::new(group, "v1", resource_name);
            let path = gvr.path(namespace.as_deref(), Some(&name), subresource.as_deref());
            let request = resource("GET", &path, None);
            prop_assert_eq!(&request.gvr, &gvr);
            prop_assert_eq!(request.namespace.as_deref(), namespace.as_deref());
            prop_assert_eq!(request.name.as_deref(), Some(name.as_str()));
            prop_assert_eq!(request.subresource.as_deref(), subresource.as_deref());
        }
    }
}
