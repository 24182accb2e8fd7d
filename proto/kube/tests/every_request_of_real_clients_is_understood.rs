//! Each request that kubelet, kube-proxy, CoreDNS and kubectl send is parsed as what it is. The lab recorded them
//! (`eyot lab requests`); names, namespaces and numbers are left open.

use proto_kube::list_options::ListOptions;
use proto_kube::media_type::{Acceptable, Encoding, Form, Format};
use proto_kube::request_info::{RequestInfo, ResourceRequest, Verb};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Recorded {
    client: String,
    method: String,
    path: String,
    query: String,
    accept: String,
    content_type: String,
}

fn recorded() -> Vec<Recorded> {
    let text = include_str!("recorded/requests.json");
    let open = [("{namespace}", "default"), ("{name}", "a"), ("{value}", "a"), ("{n}", "7")];
    let closed = open.iter().fold(text.to_owned(), |text, (mark, value)| text.replace(mark, value));
    serde_json::from_str(&closed).expect("the recording is JSON")
}

fn resource(request: &Recorded) -> Option<ResourceRequest> {
    let query = Some(request.query.as_str()).filter(|query| !query.is_empty());
    match RequestInfo::parse(&request.method, &request.path, query).expect("a valid request") {
        RequestInfo::Resource(resource) => Some(resource),
        RequestInfo::NonResource(_) => None,
    }
}

fn is_collection_read(request: &ResourceRequest) -> bool {
    matches!(request.verb, Verb::List | Verb::Watch) && request.subresource.is_none()
}

#[test]
fn every_path_is_a_resource_of_a_known_verb_or_discovery() {
    let requests = recorded();
    assert!(requests.len() > 40, "{}", requests.len());
    for client in ["kubelet", "kube-proxy", "coredns", "kubectl"] {
        assert!(requests.iter().any(|request| request.client == client), "{client}");
    }
    for request in &requests {
        let discovery = ["/api", "/apis", "/openapi/", "/version"];
        match resource(request) {
            Some(resource) => assert!(!resource.gvr.resource.is_empty(), "{request:?}"),
            None => assert!(discovery.iter().any(|start| request.path.starts_with(start)), "{request:?}"),
        }
    }
}

#[test]
fn every_watch_from_the_start_is_known_as_one() {
    let mut from_the_start = 0;
    for request in recorded() {
        let Some(resource) = resource(&request).filter(is_collection_read) else { continue };
        let options = ListOptions::for_request(&resource, Some(&request.query)).expect("valid options");
        let asked = request.query.contains("sendInitialEvents=true");
        assert_eq!(options.sends_initial_events(), asked, "{request:?}");
        assert_eq!(resource.verb == Verb::Watch, request.query.contains("watch=true"), "{request:?}");
        from_the_start += usize::from(asked);
    }
    assert!(from_the_start > 10);
}

#[test]
fn every_read_gets_the_format_that_it_asks_for_first() {
    for request in recorded() {
        let Some(resource) = resource(&request).filter(is_collection_read) else { continue };
        let accept = Some(request.accept.as_str()).filter(|accept| !accept.is_empty());
        let formats = Acceptable::parse(accept, None).expect("an Accept header");
        let first = formats.formats().first().copied().expect("a format that the hub serves");
        let (encoding, form) = if request.accept.contains("as=Table") {
            (Encoding::Json, Form::Table)
        } else if request.accept.starts_with("application/vnd.kubernetes.protobuf") {
            (Encoding::Protobuf, Format::JSON.form)
        } else {
            (Encoding::Json, Format::JSON.form)
        };
        assert_eq!((first.encoding, first.form), (encoding, form), "{request:?} {resource:?}");
    }
}

#[test]
fn every_body_has_a_known_type() {
    let mut bodies = 0;
    for request in recorded().iter().filter(|request| !request.content_type.is_empty()) {
        let patch = request.content_type.contains("patch");
        assert_eq!(patch, request.method == "PATCH", "{request:?}");
        assert!(patch || Format::from_content_type(&request.content_type).is_some(), "{request:?}");
        bodies += 1;
    }
    assert!(bodies > 10);
}
