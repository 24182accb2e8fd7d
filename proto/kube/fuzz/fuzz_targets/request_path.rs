//! No request line breaks the resolver, and what it resolves to has no empty names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_kube::request_info::RequestInfo;

fuzz_target!(|text: &str| {
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if let Ok(RequestInfo::Resource(request)) = RequestInfo::parse(method, path, query) {
        assert!(!request.gvr.version.is_empty() && !request.gvr.resource.is_empty());
        assert_ne!(request.namespace.as_deref(), Some(""));
        assert_ne!(request.name.as_deref(), Some(""));
    }
});
