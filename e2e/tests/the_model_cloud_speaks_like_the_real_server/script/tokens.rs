//! TokenRequest and TokenReview.

use serde_json::{Value, json};

use super::objects::below;
use crate::step::{Act, Who, get, post};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

fn request(spec: Value) -> Value {
    json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec})
}

fn review(token: &str, audiences: &[&str]) -> Value {
    let mut spec = json!({"token": token});
    if !audiences.is_empty() {
        spec["audiences"] = json!(audiences);
    }
    json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": spec})
}

/// Tokens of a pod that runs on the node; the pod is `bound`.
pub(super) fn bound() -> Vec<Act> {
    let path = below("serviceaccounts/default/token");
    let pod = |name: &str, uid: &str| {
        request(json!({"expirationSeconds": 3600, "audiences": ["https://kubernetes.default.svc"],
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}))
    };
    let stranger = "0c8a31c6-6a4f-4d0e-9d5e-00000000000a";
    vec![
        get(below("pods/bound")).save("bound-uid", "/metadata/uid").into(),
        post(&path, &pod("bound", "${bound-uid}")).by(Who::Node).save("pod-token", "/status/token").into(),
        post(&path, &pod("bound", "${bound-uid}")).by(Who::Node).save("gone-token", "/status/token").into(),
        post(&path, &pod("bound", stranger)).into(),
        post(&path, &pod("absent", stranger)).into(),
        post(
            &path,
            &request(json!({"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1",
            "name": "bound", "uid": "${bound-uid}"}})),
        )
        .by(Who::Node)
        .into(),
        post(REVIEWS, &review("${pod-token}", &[])).into(),
        post(below("serviceaccounts/reader/token"), &pod("bound", "${bound-uid}")).by(Who::Node).into(),
    ]
}

pub(super) fn acts() -> Vec<Act> {
    let path = below("serviceaccounts/reader/token");
    vec![
        post(&path, &request(json!({}))).into(),
        post(&path, &request(json!({"expirationSeconds": 600, "audiences": ["a", "b"]})))
            .save("foreign", "/status/token")
            .into(),
        post(&path, &request(json!({"expirationSeconds": 599}))).into(),
        post(&path, &request(json!({"expirationSeconds": 4_294_967_296_u64 + 1}))).into(),
        post(
            &path,
            &request(json!({"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "x"}})),
        )
        .into(),
        post(
            &path,
            &request(json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "absent"}})),
        )
        .into(),
        post(
            &path,
            &request(json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "sealed"}})),
        )
        .into(),
        post(below("serviceaccounts/absent/token"), &request(json!({}))).into(),
        post(&path, &request(json!({}))).by(Who::Node).into(),
        post(&path, &request(json!({}))).by(Who::Reader).into(),
        get(&path).into(),
        post(REVIEWS, &review("${reader}", &[])).into(),
        post(REVIEWS, &review("${reader}", &[])).by(Who::Node).into(),
        post(REVIEWS, &review("${reader}", &[])).by(Who::Reader).into(),
        post(REVIEWS, &review("${reader}", &["https://kubernetes.default.svc", "a"])).into(),
        post(REVIEWS, &review("${reader}", &["a"])).into(),
        post(REVIEWS, &review("${foreign}", &["b", "c"])).into(),
        post(REVIEWS, &review("${foreign}", &[])).into(),
        post(REVIEWS, &review("nobody.issued.this", &[])).into(),
        post(REVIEWS, &review("", &[])).into(),
        // The pod of this one is gone. The server remembers for a while what it has found good, so it is another one.
        post(REVIEWS, &review("${gone-token}", &[])).into(),
        get(REVIEWS).into(),
    ]
}
