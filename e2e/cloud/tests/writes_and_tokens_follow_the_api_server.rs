//! Writes, deletion and ServiceAccount tokens of the model behave as the API server's do.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e_cloud::{AnswerKind, Cloud, Gvr, Identity, Principal, Request, TokenSigner};
use serde_json::{Value, json};

struct NoKey;

impl TokenSigner for NoKey {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        vec![message.len().to_le_bytes()[0]; 64]
    }
    fn public_jwk(&self) -> Value {
        json!({"kid": "none"})
    }
}

const START: Duration = Duration::from_secs(1_700_000_000);

fn cloud() -> Cloud {
    let mut cloud = Cloud::new(START, "https://issuer", Box::new(NoKey));
    cloud.create(START, &Gvr::core("nodes"), json!({"metadata": {"name": "n1"}})).unwrap();
    let pod = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "n1"}});
    cloud.create(START, &Gvr::core("pods"), pod).unwrap();
    cloud
}

fn send(
    cloud: &mut Cloud,
    now: Duration,
    identity: Identity,
    method: &str,
    path: &str,
    kind: &str,
    body: &Value,
) -> (u16, Value) {
    let mut request = Request::new(identity, method, path);
    request.content_type = format!("application/{kind}");
    if !body.is_null() {
        request.body = body.to_string().into();
    }
    match cloud.handle(now, &request).kind {
        AnswerKind::Full { response, .. } => {
            // A path that nobody serves is answered with plain text.
            (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
        }
        AnswerKind::Watch { .. } => panic!("{path} is no watch"),
    }
}

fn admin() -> Identity {
    Identity::Certificate(Principal::new("admin", &["system:masters"]))
}

fn node() -> Identity {
    Identity::Certificate(Principal::node("n1"))
}

const POD: &str = "/api/v1/namespaces/default/pods/p";

#[test]
fn a_stale_write_conflicts_and_an_empty_one_makes_no_revision() {
    let mut cloud = cloud();
    let (_, pod) = send(&mut cloud, START, admin(), "GET", POD, "json", &json!({}));
    let before = cloud.store().revision();
    assert_eq!(send(&mut cloud, START, admin(), "PUT", POD, "json", &pod).0, 200);
    assert_eq!(cloud.store().revision(), before, "nothing changed");
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(send(&mut cloud, START, admin(), "PATCH", POD, "merge-patch+json", &labels).0, 200);
    let (code, status) = send(&mut cloud, START, admin(), "PUT", POD, "json", &pod);
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
}

#[test]
fn the_status_subresource_changes_the_status_and_the_main_path_does_not() {
    let mut cloud = cloud();
    let patch = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "elsewhere"}});
    let kind = "strategic-merge-patch+json";
    let (code, pod) = send(&mut cloud, START, node(), "PATCH", &format!("{POD}/status"), kind, &patch);
    assert_eq!(
        (code, &pod["status"]["phase"], &pod["spec"]["nodeName"]),
        (200, &json!("Running"), &json!("n1"))
    );
    let (_, pod) =
        send(&mut cloud, START, admin(), "PATCH", POD, kind, &json!({"status": {"phase": "Failed"}}));
    assert_eq!(pod["status"]["phase"], "Running");
}

#[test]
fn a_bound_pod_goes_when_its_node_has_let_go_and_finalizers_hold() {
    let mut cloud = cloud();
    let finalizer = json!({"metadata": {"finalizers": ["test/hold"]}});
    send(&mut cloud, START, admin(), "PATCH", POD, "merge-patch+json", &finalizer);
    let (code, pod) = send(&mut cloud, START, admin(), "DELETE", POD, "json", &json!({}));
    assert_eq!((code, &pod["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    let late = json!({"metadata": {"finalizers": ["test/hold", "test/late"]}});
    assert_eq!(send(&mut cloud, START, admin(), "PATCH", POD, "merge-patch+json", &late).0, 422);
    let now = json!({"gracePeriodSeconds": 0});
    send(&mut cloud, START, node(), "DELETE", POD, "json", &now);
    assert_eq!(send(&mut cloud, START, admin(), "GET", POD, "json", &json!({})).0, 200);
    let release = json!({"metadata": {"finalizers": null}});
    send(&mut cloud, START, admin(), "PATCH", POD, "merge-patch+json", &release);
    assert_eq!(send(&mut cloud, START, admin(), "GET", POD, "json", &json!({})).0, 404);
}

#[test]
fn a_token_is_good_while_its_pod_lives_and_its_time_lasts() {
    let mut cloud = cloud();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let ask = |pod: &str| json!({"spec": {"expirationSeconds": 3600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod}}});
    assert_eq!(send(&mut cloud, START, node(), "POST", path, "json", &ask("absent")).0, 404);
    let (code, answer) = send(&mut cloud, START, node(), "POST", path, "json", &ask("p"));
    assert_eq!(code, 201);
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "p");
    assert_eq!(claims["kubernetes.io"]["node"]["name"], "n1");
    let version = |cloud: &mut Cloud, now| {
        send(cloud, now, Identity::Bearer(token.clone()), "GET", "/version", "json", &json!({})).0
    };
    assert_eq!(version(&mut cloud, START + Duration::from_secs(3599)), 200);
    assert_eq!(version(&mut cloud, START + Duration::from_secs(3600)), 401);
    let review = json!({"spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, review) = send(&mut cloud, START, node(), "POST", reviews, "json", &review);
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(review["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    cloud.delete(START, &Gvr::core("pods"), "default", "p").unwrap();
    assert_eq!(version(&mut cloud, START), 401, "the pod is gone");
}

#[test]
fn an_access_review_says_what_a_request_would_meet() {
    let mut cloud = cloud();
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = |verb: &str, field: &str| {
        json!({"spec": {"user": "system:node:n1", "groups": ["system:nodes"], "resourceAttributes": {
            "verb": verb, "resource": "pods", "version": "v1",
            "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": [field]}]},
        }}})
    };
    let mut allowed = |verb, field| {
        send(&mut cloud, START, node(), "POST", path, "json", &review(verb, field)).1["status"]["allowed"]
            .clone()
    };
    assert_eq!(allowed("list", "n1"), true);
    assert_eq!(allowed("list", "n2"), false);
    assert_eq!(allowed("deletecollection", "n1"), false);
}

#[test]
fn a_custom_resource_is_served_once_its_definition_is_there() {
    let mut cloud = cloud();
    assert_eq!(
        send(&mut cloud, START, admin(), "GET", "/apis/eyot.io/v1/nodepools", "json", &json!({})).0,
        404
    );
    let crd = json!({"metadata": {"name": "nodepools.eyot.io"}, "spec": {
        "group": "eyot.io", "scope": "Cluster", "names": {"plural": "nodepools", "kind": "NodePool"}, "versions": [{"name": "v1"}],
    }});
    cloud.create(START, &Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions"), crd).unwrap();
    let pool = json!({"metadata": {"name": "room-1"}, "spec": {"nodes": ["n1"]}});
    assert_eq!(send(&mut cloud, START, admin(), "POST", "/apis/eyot.io/v1/nodepools", "json", &pool).0, 201);
    let (_, list) = send(&mut cloud, START, node(), "GET", "/apis/eyot.io/v1/nodepools", "json", &json!({}));
    assert_eq!(list["items"][0]["kind"], "NodePool");
}

#[test]
fn a_dry_run_answers_as_if_and_changes_nothing() {
    let mut cloud = cloud();
    let before = cloud.store().revision();
    let settings = json!({"metadata": {"name": "c"}, "data": {"k": "v"}});
    let path = "/api/v1/namespaces/default/configmaps";
    let (code, answer) =
        send(&mut cloud, START, admin(), "POST", &format!("{path}?dryRun=All"), "json", &settings);
    assert_eq!((code, &answer["metadata"]["resourceVersion"]), (201, &Value::Null));
    let dry = json!({"dryRun": ["All"]});
    for target in [POD, path] {
        assert_eq!(send(&mut cloud, START, admin(), "DELETE", target, "json", &dry).0, 200);
        let target = format!("{target}?dryRun=All");
        assert_eq!(send(&mut cloud, START, admin(), "DELETE", &target, "json", &Value::Null).0, 200);
    }
    assert_eq!(cloud.store().revision(), before);
    assert_eq!(send(&mut cloud, START, admin(), "GET", POD, "json", &json!({})).0, 200);
    // A body says all there is to say.
    let target = format!("{POD}?dryRun=All");
    assert_eq!(send(&mut cloud, START, admin(), "DELETE", &target, "json", &json!({})).0, 200);
    assert!(cloud.store().revision() > before);
}

#[test]
fn a_collection_goes_at_once_but_for_what_finalizers_hold() {
    let mut cloud = cloud();
    let path = "/api/v1/namespaces/default/configmaps";
    for (name, finalizers) in [("a", json!([])), ("b", json!(["test/hold"]))] {
        let settings = json!({"metadata": {"name": name, "finalizers": finalizers, "labels": {"x": "y"}}});
        assert_eq!(send(&mut cloud, START, admin(), "POST", path, "json", &settings).0, 201);
    }
    let query = format!("{path}?labelSelector=x%3Dy");
    let (code, gone) = send(&mut cloud, START, admin(), "DELETE", &query, "json", &json!({}));
    assert_eq!((code, gone["items"].as_array().unwrap().len()), (200, 2));
    let (_, left) = send(&mut cloud, START, admin(), "GET", &query, "json", &json!({}));
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert!(left["items"][0]["metadata"]["deletionTimestamp"].is_string());
}

#[test]
fn a_pod_is_bound_once_and_its_node_may_then_report_it() {
    let mut cloud = cloud();
    let pods = "/api/v1/namespaces/default/pods";
    let path = format!("{pods}/free");
    send(&mut cloud, START, admin(), "POST", pods, "json", &json!({"metadata": {"name": "free"}}));
    let status = json!({"status": {"phase": "Running"}});
    let report = |cloud: &mut Cloud| {
        send(cloud, START, node(), "PATCH", &format!("{path}/status"), "strategic-merge-patch+json", &status)
            .0
    };
    assert_eq!(report(&mut cloud), 403, "it is on no node");
    let binding = json!({"metadata": {"name": "free"}, "target": {"kind": "Node", "name": "n1"}});
    let mut bind =
        || send(&mut cloud, START, admin(), "POST", &format!("{path}/binding"), "json", &binding).0;
    assert_eq!((bind(), bind()), (201, 409));
    assert_eq!(report(&mut cloud), 200);
}
