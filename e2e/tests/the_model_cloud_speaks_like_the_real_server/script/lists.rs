//! LIST: revisions, pages, and what the parameters may not say.

use super::objects::{below, labelled};
use crate::step::{Act, NO_JSON, Who, get, post};

fn versions(path: &str) -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    for query in [
        "resourceVersion=",
        "resourceVersion=0",
        "resourceVersion=1",
        "resourceVersion=${listed}",
        "resourceVersion=0&resourceVersionMatch=NotOlderThan",
        "resourceVersion=${listed}&resourceVersionMatch=NotOlderThan",
        "resourceVersion=0&limit=1",
        "resourceVersionMatch=NotOlderThan",
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=${listed}&resourceVersionMatch=Sometimes",
        "resourceVersion=nonsense",
        "resourceVersion=-1",
        "resourceVersion=999999999",
        "resourceVersion=999999999&resourceVersionMatch=NotOlderThan",
        "resourceVersion=999999999&resourceVersionMatch=Exact",
        "sendInitialEvents=true",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        "limit=nonsense",
        "limit=-1",
        "limit=0",
        "continue=${continue}&resourceVersion=5",
        "continue=${continue}&resourceVersion=0",
        "continue=${continue}&resourceVersionMatch=Exact",
        "timeoutSeconds=10",
        "timeoutSeconds=nonsense",
        "watch=false",
        "watch=0",
        "allowWatchBookmarks=true",
        "unknown=parameter",
    ] {
        acts.push(get(format!("{path}?labelSelector=series&{query}")).into());
    }
    for query in ["resourceVersion=${listed}&resourceVersionMatch=Exact", "resourceVersion=${listed}&limit=1"]
    {
        acts.push(get(format!("{path}?labelSelector=series&{query}")).pinned("listed").into());
    }
    acts
}

fn pages(path: &str) -> Vec<Act> {
    let first = |limit: u32| get(format!("{path}?limit={limit}")).save("continue", "/metadata/continue");
    let next = |limit: u32| get(format!("{path}?limit={limit}&continue=${{continue}}")).pinned("page");
    vec![
        first(2).save("page", "/metadata/resourceVersion").into(),
        post(path, &series("s9")).into(),
        next(2).save("continue", "/metadata/continue").into(),
        next(500).into(),
        get(format!("{path}?continue=${{continue}}")).pinned("page").into(),
        // With a selector the server does not count what remains.
        get(format!("{path}?limit=1&labelSelector=series")).save("continue", "/metadata/continue").into(),
        get(format!("{path}?limit=1&labelSelector=series&continue=${{continue}}")).into(),
        get(format!("{path}?limit=500")).into(),
        get("/api/v1/configmaps?limit=1&fieldSelector=metadata.namespace%3Dscript").into(),
    ]
}

fn series(name: &str) -> serde_json::Value {
    let mut object = labelled(name, "listed");
    object["metadata"]["labels"]["series"] = "yes".into();
    object
}

/// What the history has lost. The token has the server's own form, with a revision that is gone.
pub(super) fn expired() -> Vec<Act> {
    let path = below("configmaps");
    // {"v":"meta.k8s.io/v1","rv":2,"start":"s1\u0000"}
    let token = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6Miwic3RhcnQiOiJzMVx1MDAwMCJ9";
    vec![
        get(format!("{path}?resourceVersion=2&resourceVersionMatch=Exact")).into(),
        get(format!("{path}?resourceVersion=2&limit=1")).into(),
        get(format!("{path}?limit=1&continue={token}")).into(),
        get(format!("{path}?resourceVersion=2&labelSelector=series")).into(),
    ]
}

pub(super) fn acts() -> Vec<Act> {
    let path = below("configmaps");
    let mut acts: Vec<Act> = Vec::new();
    for name in ["s1", "s2", "s3"] {
        acts.push(post(&path, &series(name)).save("written", "/metadata/resourceVersion").into());
    }
    acts.extend([
        get(&path).save("listed", "/metadata/resourceVersion").into(),
        get("/api/v1/namespaces/script-empty/configmaps").into(),
        get("/api/v1/namespaces/absent/configmaps").into(),
        get("/api/v1/configmaps?labelSelector=series").into(),
        get(below("secrets")).into(),
        get(below("pods")).into(),
        get(below("serviceaccounts")).into(),
        get("/apis/coordination.k8s.io/v1/namespaces/script/leases").into(),
        get("/apis/discovery.k8s.io/v1/namespaces/script/endpointslices").into(),
        get(below("nonsenses")).into(),
        get("/apis/nonsense.io/v1/things").into(),
    ]);
    let nonsense = get(format!("{path}?continue=nonsense")).note(NO_JSON);
    acts.push(nonsense.into());
    acts.extend(pages(&path));
    acts.extend(versions(&path));
    for who in [Who::Node, Who::Reader, Who::Forger, Who::Nobody] {
        acts.push(get(format!("{path}?labelSelector=series")).by(who).into());
        acts.push(get("/api/v1/configmaps?labelSelector=series").by(who).into());
    }
    acts
}
