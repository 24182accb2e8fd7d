//! Label and field selectors, good and bad.

use super::objects::below;
use crate::step::{Act, get};

fn labels(path: &str) -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    for selector in [
        "series",
        "!series",
        "series=yes",
        "series==yes",
        "series!=yes",
        "name in (s1,s2)",
        "name in ( s1 , s3 )",
        "name notin (s1,s2),series",
        "name=s1,series=yes",
        "name=s1,series=no",
        "series=",
        "",
        "a b c",
        "name of (s1)",
        "name in (s1",
        "name in ()",
        "=yes",
        "series=bad value!",
        "bad key!=x",
        "series>1",
        "series>x",
        "name=s1,",
        ",name=s1",
    ] {
        let encoded: String = form_encode(selector);
        acts.push(get(format!("{path}?labelSelector={encoded}")).into());
    }
    acts
}

pub(super) fn acts() -> Vec<Act> {
    let path = below("configmaps");
    let mut acts = labels(&path);
    for selector in [
        "metadata.name=s1",
        "metadata.name==s1",
        "metadata.name!=s1,metadata.name!=s2",
        "metadata.namespace=script,metadata.name=s2",
        "metadata.name=absent",
        "metadata.namespace=default",
        "",
        "metadata.labels=x",
        "data.v=1",
        "spec.nodeName=edge-1",
        "nonsense",
        "metadata.name",
        "metadata.name>s1",
        "metadata.name=a\\,b",
        "metadata.name=s1,",
    ] {
        let encoded = form_encode(selector);
        acts.push(get(format!("{path}?fieldSelector={encoded}")).into());
    }
    for (resource, selector) in [
        ("secrets", "type=Opaque"),
        ("secrets", "type!=Opaque"),
        ("secrets", "data=1"),
        ("pods", "spec.nodeName=edge-1"),
        ("pods", "status.phase!=Failed,spec.restartPolicy=Always"),
        ("pods", "spec.image=x"),
        ("events", "involvedObject.name=p"),
        ("services", "spec.type=ClusterIP"),
        ("serviceaccounts", "metadata.name=reader"),
        ("serviceaccounts", "type=x"),
    ] {
        acts.push(get(format!("{}?fieldSelector={}", below(resource), form_encode(selector))).into());
    }
    for (path, selector) in [
        ("/api/v1/nodes", "metadata.name=absent"),
        ("/api/v1/nodes", "spec.unschedulable=true"),
        ("/api/v1/nodes", "status.phase=x"),
        ("/api/v1/namespaces", "metadata.name=script"),
        ("/api/v1/namespaces", "status.phase=Terminating"),
        ("/apis/coordination.k8s.io/v1/leases", "spec.holderIdentity=x"),
        ("/apis/discovery.k8s.io/v1/endpointslices", "metadata.namespace=script"),
    ] {
        acts.push(get(format!("{path}?fieldSelector={}", form_encode(selector))).into());
    }
    acts
}

/// As a client encodes a query value.
fn form_encode(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let encode = |c: char| if keep(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) };
    text.chars().map(encode).collect()
}
