//! While the cloud is cut, each request of a kubelet that restarts gets what the offline table says.
//!
//! Each test is one row, named after it, with the neighbours that must not match.

use edge_hub_core::access::Access;
use edge_hub_core::identity::Principal;
use edge_hub_core::offline::{Held, Holding, OfflineAnswer, Unavailable, decide};
use proto_kube::request_info::RequestInfo;

use OfflineAnswer::{
    AlreadyExists409, CachedToken, Forbidden403, LocalLease, NotComplete429, NotFound404,
    ReadThenUnavailable503, RememberedReview, ServeFromCache, SpoolEvent, Unavailable503,
};
use Unavailable::{AccessUnknown, CertificateRequest, Connection, ForeignLease, NotHeld, Write};

const NODE: &str = "a";

/// Nothing is held and nothing was ever asked.
fn nothing() -> Held<'static> {
    Held::default()
}

/// The API server allowed it, and all of it is held.
fn all() -> Held<'static> {
    Held {
        access: Access::Allowed,
        fields: "",
        collection_complete: true,
        object: Holding::Present,
        followed: true,
        answer: true,
        own_node: true,
        own_lease: true,
    }
}

fn allowed_but_absent() -> Held<'static> {
    Held { object: Holding::Absent, ..all() }
}

fn allowed_but_unknown() -> Held<'static> {
    Held { object: Holding::Unknown, collection_complete: false, ..all() }
}

fn with_fields(fields: &'static str, held: Held<'static>) -> Held<'static> {
    Held { fields, access: Access::Unknown, ..held }
}

#[track_caller]
fn answer(principal: &Principal, line: &str, held: &Held<'_>) -> OfflineAnswer {
    let (method, target) = line.split_once(' ').expect("METHOD path");
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let request = RequestInfo::parse(method, path, query).expect("a valid request line");
    let answer = decide(&request, principal, NODE, held);
    if let Some(status) = answer.status(&request) {
        let expected = match answer {
            Unavailable503(_) | ReadThenUnavailable503 => 503,
            NotComplete429 => 429,
            NotFound404 => 404,
            Forbidden403 => 403,
            AlreadyExists409 => 409,
            other => panic!("{other:?} is no error"),
        };
        assert_eq!(status.code, expected, "{line}");
        assert_eq!(status.retry_after.is_some(), expected == 429, "only a 429 may ask for a pause: {line}");
    }
    answer
}

#[track_caller]
fn kubelet(line: &str, held: Held<'_>, expected: OfflineAnswer) {
    assert_eq!(answer(&Principal::node(NODE), line, &held), expected, "{line} with {held:?}");
}

#[track_caller]
fn pod(line: &str, held: Held<'_>, expected: OfflineAnswer) {
    let principal = Principal::service_account("media", "engine");
    assert_eq!(answer(&principal, line, &held), expected, "{line} with {held:?}");
}

#[test]
fn list_or_watchlist_of_the_own_node() {
    for line in [
        "GET /api/v1/nodes?fieldSelector=metadata.name%3Da",
        "GET /api/v1/nodes?watch=1&fieldSelector=metadata.name%3Da",
    ] {
        kubelet(line, all(), ServeFromCache);
        kubelet(line, with_fields("metadata.name=a", all()), ServeFromCache);
        kubelet(line, nothing(), NotComplete429);
        pod(line, with_fields("metadata.name=a", all()), Unavailable503(AccessUnknown));
    }
    kubelet("GET /api/v1/nodes/a", all(), ServeFromCache);
    kubelet("GET /api/v1/nodes", with_fields("", all()), Unavailable503(AccessUnknown));
}

#[test]
fn post_nodes() {
    kubelet("POST /api/v1/nodes", all(), AlreadyExists409);
    kubelet("POST /api/v1/nodes", nothing(), Unavailable503(Write));
    pod("POST /api/v1/nodes", all(), Unavailable503(Write));
}

#[test]
fn list_or_watchlist_of_the_own_pods() {
    let own = "spec.nodeName=a";
    for line in ["GET /api/v1/pods?fieldSelector=x", "GET /api/v1/pods?watch=true"] {
        kubelet(line, with_fields(own, all()), ServeFromCache);
        kubelet(line, with_fields(own, nothing()), NotComplete429);
        kubelet(line, with_fields("spec.nodeName=b", all()), Unavailable503(AccessUnknown));
        kubelet(line, with_fields("", all()), Unavailable503(AccessUnknown));
        pod(line, with_fields(own, all()), Unavailable503(AccessUnknown));
    }
}

#[test]
fn list_or_watchlist_of_services() {
    let line = "GET /api/v1/services?watch=1&labelSelector=x";
    kubelet(line, with_fields("spec.clusterIP!=None", all()), ServeFromCache);
    kubelet(line, with_fields("spec.clusterIP!=None", nothing()), NotComplete429);
}

#[test]
fn secrets_and_configmaps_per_object() {
    for resource in ["secrets", "configmaps"] {
        let get = format!("GET /api/v1/namespaces/media/{resource}/x");
        let watch =
            format!("GET /api/v1/namespaces/media/{resource}?watch=1&fieldSelector=metadata.name%3Dx");
        kubelet(&get, all(), ServeFromCache);
        kubelet(&get, allowed_but_absent(), NotFound404);
        kubelet(&get, allowed_but_unknown(), Unavailable503(NotHeld));
        kubelet(&watch, all(), ServeFromCache);
        kubelet(&watch, allowed_but_unknown(), NotComplete429);
        for line in [&get, &watch] {
            pod(line, Held { access: Access::Unknown, ..all() }, Unavailable503(AccessUnknown));
            pod(line, Held { access: Access::Denied, ..all() }, Forbidden403);
            kubelet(line, Held { access: Access::Unknown, ..all() }, Unavailable503(AccessUnknown));
        }
    }
}

#[test]
fn post_serviceaccounts_token() {
    let line = "POST /api/v1/namespaces/media/serviceaccounts/engine/token";
    kubelet(line, nothing(), CachedToken);
    kubelet(line, Held { access: Access::Denied, ..all() }, Forbidden403);
    kubelet("POST /api/v1/namespaces/media/serviceaccounts", all(), Unavailable503(Write));
}

#[test]
fn runtimeclasses_and_csidrivers() {
    for line in ["GET /apis/node.k8s.io/v1/runtimeclasses?watch=1", "GET /apis/storage.k8s.io/v1/csidrivers"]
    {
        kubelet(line, all(), ServeFromCache);
        kubelet(line, allowed_but_unknown(), NotComplete429);
    }
}

#[test]
fn get_csinodes() {
    let line = "GET /apis/storage.k8s.io/v1/csinodes/a";
    kubelet(line, all(), ServeFromCache);
    kubelet(line, allowed_but_unknown(), Unavailable503(NotHeld));
    kubelet(line, allowed_but_absent(), Unavailable503(NotHeld));
}

#[test]
fn get_of_volumes_and_claims() {
    for line in [
        "GET /api/v1/namespaces/media/persistentvolumeclaims/x",
        "GET /api/v1/persistentvolumes/x",
        "GET /apis/storage.k8s.io/v1/volumeattachments/x",
        "GET /apis/resource.k8s.io/v1/namespaces/media/resourceclaims/x",
    ] {
        kubelet(line, all(), ServeFromCache);
        kubelet(line, allowed_but_unknown(), Unavailable503(NotHeld));
    }
}

#[test]
fn lease_get_and_put() {
    const OWN: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
    kubelet(&format!("GET {OWN}"), all(), LocalLease);
    kubelet(&format!("GET {OWN}"), nothing(), Unavailable503(NotHeld));
    kubelet(&format!("PUT {OWN}"), all(), LocalLease);
    kubelet(&format!("PUT {OWN}"), nothing(), LocalLease);
    kubelet(&format!("PATCH {OWN}"), all(), Unavailable503(Write));
    let post = "POST /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    kubelet(post, all(), AlreadyExists409);
    kubelet(post, nothing(), Unavailable503(Write));
    for method in ["GET", "PUT", "PATCH", "DELETE"] {
        pod(&format!("{method} {OWN}"), all(), Unavailable503(ForeignLease));
        kubelet(&format!("{method} {OWN}b"), all(), Unavailable503(ForeignLease));
        let leader = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/leader";
        pod(&format!("{method} {leader}"), all(), Unavailable503(ForeignLease));
    }
}

#[test]
fn patch_of_node_and_pod_status() {
    let node = "PATCH /api/v1/nodes/a/status";
    let pods = "PATCH /api/v1/namespaces/media/pods/engine-0/status";
    kubelet(node, all(), ReadThenUnavailable503);
    kubelet(pods, all(), ReadThenUnavailable503);
    kubelet("PATCH /api/v1/nodes/b/status", all(), Unavailable503(Write));
    pod(pods, all(), Unavailable503(Write));
    assert_eq!(answer(&Principal::node("b"), pods, &all()), Unavailable503(Write));
}

#[test]
fn post_and_patch_of_events() {
    for prefix in ["/api/v1", "/apis/events.k8s.io/v1"] {
        let post = format!("POST {prefix}/namespaces/media/events");
        let patch = format!("PATCH {prefix}/namespaces/media/events/e");
        kubelet(&post, nothing(), SpoolEvent);
        kubelet(&patch, nothing(), NotFound404);
        pod(&post, all(), SpoolEvent);
        pod(&patch, nothing(), NotFound404);
        pod(&post, nothing(), Unavailable503(AccessUnknown));
        for line in [&post, &patch] {
            pod(line, Held { access: Access::Denied, ..all() }, Forbidden403);
        }
        pod(&format!("DELETE {prefix}/namespaces/media/events/e"), all(), Unavailable503(Write));
    }
    pod("POST /apis/other.io/v1/namespaces/media/events", all(), Unavailable503(Write));
}

#[test]
fn post_of_mirror_pods_and_delete_of_pods() {
    kubelet("POST /api/v1/namespaces/kube-system/pods", all(), Unavailable503(Write));
    kubelet("DELETE /api/v1/namespaces/media/pods/engine-0", all(), Unavailable503(Write));
}

#[test]
fn post_of_tokenreviews_and_subjectaccessreviews() {
    for line in [
        "POST /apis/authentication.k8s.io/v1/tokenreviews",
        "POST /apis/authorization.k8s.io/v1/subjectaccessreviews",
    ] {
        kubelet(line, all(), RememberedReview);
        pod(line, all(), Unavailable503(Write));
    }
    // These are about the asker, whom only the API server knows wholly.
    kubelet("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews", all(), Unavailable503(Write));
}

#[test]
fn certificatesigningrequests_get_503_only() {
    for held in [all(), nothing(), Held { access: Access::Denied, ..all() }, allowed_but_absent()] {
        for line in ["POST", "GET", "DELETE"] {
            let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
            kubelet(&format!("{line} {path}/csr-1"), held, Unavailable503(CertificateRequest));
        }
    }
}

#[test]
fn everything_else_is_an_honest_503() {
    for line in [
        "PUT /api/v1/namespaces/media/configmaps/x",
        "DELETE /apis/apps/v1/namespaces/media/deployments",
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "POST /openapi/v2",
    ] {
        pod(line, all(), Unavailable503(Write));
    }
    for subresource in ["exec", "attach", "portforward", "proxy/metrics", "log"] {
        let line = format!("GET /api/v1/namespaces/media/pods/engine-0/{subresource}");
        pod(&line, all(), Unavailable503(Connection));
    }
}

#[test]
fn a_404_needs_knowledge_of_absence_r13() {
    let line = "GET /api/v1/namespaces/media/pods/engine-0";
    kubelet(line, all(), ServeFromCache);
    kubelet(line, allowed_but_absent(), NotFound404);
    kubelet(line, allowed_but_unknown(), Unavailable503(NotHeld));
    kubelet(&format!("{line}/status"), allowed_but_absent(), Unavailable503(NotHeld));
}

#[test]
fn discovery_and_version_are_served_if_they_were_kept() {
    for line in ["GET /version", "GET /api/v1", "GET /openapi/v3", "GET /apis"] {
        pod(line, all(), ServeFromCache);
        pod(line, Held { answer: false, ..all() }, Unavailable503(NotHeld));
        pod(line, Held { access: Access::Unknown, ..all() }, Unavailable503(AccessUnknown));
        pod(line, Held { access: Access::Denied, ..all() }, Forbidden403);
    }
}

#[test]
fn only_what_was_followed_until_the_cut_knows_what_does_not_exist() {
    let line = "GET /api/v1/namespaces/ns/configmaps/a";
    pod(line, allowed_but_absent(), NotFound404);
    pod(line, Held { followed: false, ..allowed_but_absent() }, Unavailable503(NotHeld));
    pod(line, Held { followed: false, ..all() }, ServeFromCache);
}
