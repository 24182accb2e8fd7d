//! WATCH and WatchList: starts, selectors, bookmarks, errors, ends, both path forms.

use serde_json::{Value, json};

use super::objects::{below, config_map, config_map_path, labelled};
use crate::step::{Act, PROTOBUF, Until, Who, delete, get, merge, post};

const INITIAL: &str = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

fn flow(name: &str) -> Value {
    labelled(name, "flow")
}

/// What one stream sees of creation, change, and deletion, up to a last object.
fn life(path: &str, end: &str, last: &'static str) -> Vec<Act> {
    let own = below("configmaps");
    let acts: Vec<Act> = vec![
        post(&own, &flow("w1")).into(),
        merge(config_map_path("w1"), &json!({"data": {"v": "2"}})).into(),
        merge(config_map_path("w1"), &json!({"metadata": {"labels": {"group": "elsewhere"}}})).into(),
        merge(config_map_path("w1"), &json!({"metadata": {"labels": {"group": "flow"}}})).into(),
        delete(config_map_path("w1")).into(),
        post(&own, &flow(last)).into(),
    ];
    let start = get(format!("{own}?limit=500")).save("start", "/metadata/resourceVersion");
    let watch = get(format!("{path}{end}")).watch(Until::Named(last), acts);
    vec![start.into(), watch.into(), delete(config_map_path(last)).into()]
}

fn lives() -> Vec<Act> {
    let from = "watch=1&resourceVersion=${start}";
    let mut acts = life(&below("configmaps"), &format!("?{from}"), "z1");
    acts.extend(life(&below("configmaps"), &format!("?{from}&labelSelector=group%3Dflow"), "z2"));
    acts.extend(life("/api/v1/configmaps", &format!("?{from}&labelSelector=group%3Dflow"), "z3"));
    acts.extend(life("/api/v1/watch/namespaces/script/configmaps", "?resourceVersion=${start}", "z4"));
    acts.extend(life(&below("configmaps"), &format!("?{from}&fieldSelector=metadata.name!%3Dw1"), "z5"));
    acts
}

fn named() -> Vec<Act> {
    let start = get(below("configmaps")).save("start", "/metadata/resourceVersion");
    let change = |value: &str| merge(config_map_path("s1"), &json!({"data": {"v": value}}));
    let acts = |first: &str, last: &str| [Act::from(change(first)), Act::from(change(last))];
    let path = config_map_path("s1");
    vec![
        start.into(),
        get(format!("{path}?watch=1&resourceVersion=${{start}}&timeoutSeconds=1"))
            .watch(Until::End, acts("n1", "n2"))
            .into(),
        get("/api/v1/watch/namespaces/script/configmaps/s1?timeoutSeconds=1").watch(Until::End, []).into(),
        get(format!("{}?watch=1&fieldSelector=metadata.name%3Ds1&timeoutSeconds=1", below("configmaps")))
            .watch(Until::End, [])
            .into(),
        get(format!("{}?watch=1&timeoutSeconds=1", config_map_path("absent"))).watch(Until::End, []).into(),
        get(format!("{path}?watch=1&fieldSelector=metadata.name%3Ds2")).watch(Until::End, []).into(),
    ]
}

/// How a stream begins, by what it asks for.
fn beginnings() -> Vec<Act> {
    let path = format!("{}?watch=1&labelSelector=series", below("configmaps"));
    let mut acts: Vec<Act> = vec![get(below("configmaps")).save("start", "/metadata/resourceVersion").into()];
    for query in ["", "&resourceVersion=0", "&resourceVersion=${start}"] {
        acts.push(get(format!("{path}{query}&timeoutSeconds=1")).watch(Until::End, []).into());
        acts.push(get(format!("{path}{query}&{INITIAL}")).watch(Until::Marked, []).into());
        let unmarked = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        acts.push(get(format!("{path}{query}&{unmarked}&timeoutSeconds=1")).watch(Until::End, []).into());
        let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        acts.push(get(format!("{path}{query}&{none}&timeoutSeconds=1")).watch(Until::End, []).into());
    }
    let empty = "/api/v1/namespaces/script-empty/configmaps?watch=1";
    acts.push(get(format!("{empty}&{INITIAL}")).watch(Until::Marked, []).into());
    acts.push(get(format!("{empty}&timeoutSeconds=1")).watch(Until::End, []).into());
    acts.push(
        get(format!("{path}&{INITIAL}"))
            .watch(
                Until::Named("s4"),
                [post(below("configmaps"), &{
                    let mut object = config_map("s4", "new");
                    object["metadata"]["labels"] = json!({"series": "yes"});
                    object
                })
                .into()],
            )
            .into(),
    );
    acts
}

fn refused() -> Vec<Act> {
    let path = below("configmaps");
    let mut acts: Vec<Act> = Vec::new();
    for query in [
        "resourceVersion=nonsense",
        "resourceVersionMatch=NotOlderThan",
        "resourceVersionMatch=NotOlderThan&resourceVersion=5",
        "resourceVersionMatch=Exact&resourceVersion=5",
        "sendInitialEvents=true",
        "sendInitialEvents=true&resourceVersionMatch=Exact",
        "sendInitialEvents=false",
        "timeoutSeconds=nonsense",
        "fieldSelector=nonsense",
        "fieldSelector=spec.nodeName%3Dn1",
        "labelSelector=a%20b",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=999999999",
    ] {
        acts.push(get(format!("{path}?watch=1&{query}")).watch(Until::End, []).into());
    }
    acts.push(get(format!("{}?watch=1&resourceVersion=1", below("nonsenses"))).watch(Until::End, []).into());
    for who in [Who::Node, Who::Reader, Who::Forger, Who::Nobody] {
        let query = "watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Ds1";
        acts.push(get(format!("{path}?{query}")).by(who).watch(Until::End, []).into());
        let all = "/api/v1/secrets?watch=1&timeoutSeconds=1&labelSelector=series";
        acts.push(get(all).by(who).watch(Until::End, []).into());
    }
    acts
}

/// From revisions that the history has lost.
pub(super) fn expired() -> Vec<Act> {
    let path = below("configmaps");
    let watch = |query: &str| get(format!("{path}?watch=1&{query}")).watch(Until::End, []);
    vec![
        watch("resourceVersion=1").into(),
        watch("resourceVersion=1&allowWatchBookmarks=true").into(),
        watch("resourceVersion=1&labelSelector=series").into(),
        watch("resourceVersion=1").accept(PROTOBUF).into(),
        get("/api/v1/watch/namespaces/script/configmaps?resourceVersion=1").watch(Until::End, []).into(),
        watch("resourceVersion=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan").into(),
        get(format!("{path}?watch=1&labelSelector=series&resourceVersion=1&{INITIAL}"))
            .watch(Until::Marked, [])
            .into(),
    ]
}

pub(super) fn acts() -> Vec<Act> {
    let mut acts = lives();
    acts.extend(named());
    acts.extend(beginnings());
    // A last bookmark comes before the end.
    let path = format!("{}?watch=1&resourceVersion=${{start}}", below("configmaps"));
    acts.push(
        get(format!("{path}&allowWatchBookmarks=true&timeoutSeconds=4")).watch(Until::Bookmark, []).into(),
    );
    acts.extend(refused());
    acts
}
