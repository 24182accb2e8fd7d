//! SubjectAccessReview in both forms.

use serde_json::{Value, json};

use crate::step::{Act, Who, get, post};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const OWN: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const READER: &str = "system:serviceaccount:script:reader";

fn review(user: &str, groups: &[&str], attributes: Value) -> Value {
    let mut spec = json!({"user": user, "resourceAttributes": attributes});
    if !groups.is_empty() {
        spec["groups"] = json!(groups);
    }
    json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": spec})
}

fn path_review(user: &str, path: &str) -> Value {
    json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"user": user, "groups": ["system:authenticated"],
            "nonResourceAttributes": {"path": path, "verb": "get"}}})
}

fn own(attributes: Value) -> Value {
    json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": attributes}})
}

pub(super) fn acts() -> Vec<Act> {
    let attributes = |verb: &str, resource: &str, namespace: &str, name: &str| {
        let mut attributes = json!({"verb": verb, "version": "v1", "resource": resource});
        for (member, value) in [("namespace", namespace), ("name", name)] {
            if !value.is_empty() {
                attributes[member] = value.into();
            }
        }
        attributes
    };
    let on_node = |node: &str| {
        let mut pods = attributes("list", "pods", "", "");
        pods["fieldSelector"] =
            json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": [node]}]});
        review("system:node:edge-1", &["system:nodes"], pods)
    };
    let mut acts: Vec<Act> = vec![
        post(REVIEWS, &on_node("edge-1")).into(),
        post(REVIEWS, &on_node("edge-2")).into(),
        post(REVIEWS, &on_node("edge-1")).by(Who::Node).into(),
        post(REVIEWS, &on_node("edge-1")).by(Who::Reader).into(),
        post(REVIEWS, &path_review("somebody", "/version")).into(),
        post(REVIEWS, &path_review("somebody", "/metrics")).into(),
        post(
            REVIEWS,
            &json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {}}),
        )
        .into(),
        get(REVIEWS).into(),
    ];
    for (verb, resource, namespace) in [
        ("get", "configmaps", "script"),
        ("list", "configmaps", "script"),
        ("watch", "pods", "script"),
        ("create", "configmaps", "script"),
        ("get", "secrets", "script"),
        ("list", "configmaps", "default"),
        ("list", "configmaps", ""),
    ] {
        acts.push(post(REVIEWS, &review(READER, &[], attributes(verb, resource, namespace, ""))).into());
        acts.push(post(OWN, &own(attributes(verb, resource, namespace, ""))).by(Who::Reader).into());
    }
    for who in [Who::Admin, Who::Node, Who::Nobody] {
        acts.push(post(OWN, &own(attributes("get", "nodes", "", "edge-1"))).by(who).into());
    }
    let masters = review("anybody", &["system:masters"], attributes("delete", "nodes", "", "edge-1"));
    acts.push(post(REVIEWS, &masters).into());
    acts
}
