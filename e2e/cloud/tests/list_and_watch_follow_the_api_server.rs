//! LIST and WATCH of the model have the API server's semantics; if not, tests of the hub prove nothing.

use std::time::Duration;

use e2e_cloud::{
    AnswerKind, Cloud, Gvr, Identity, Principal, Replica, Request, Response, TokenSigner, WatchCursor,
};
use serde_json::{Value, json};

struct NoKey;

impl TokenSigner for NoKey {
    fn sign(&self, _: &[u8]) -> Vec<u8> {
        vec![0; 64]
    }
    fn public_jwk(&self) -> Value {
        json!({"kid": "none"})
    }
}

const START: Duration = Duration::from_secs(1_700_000_000);

fn admin() -> Identity {
    Identity::Certificate(Principal::new("admin", &["system:masters"]))
}

fn cloud() -> Cloud {
    Cloud::new(START, "https://issuer", Box::new(NoKey))
}

fn config_maps() -> Gvr {
    Gvr::core("configmaps")
}

fn put(cloud: &mut Cloud, name: &str, app: &str) -> u64 {
    let object = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": app}}});
    let patch = json!({"metadata": {"labels": {"app": app}}});
    if cloud.create(START, &config_maps(), object).is_err() {
        cloud.merge(START, &config_maps(), "default", name, &patch).expect("it exists");
    }
    cloud.store().revision()
}

fn full(cloud: &mut Cloud, path: &str) -> Response {
    match cloud.handle(START, &Request::new(admin(), "GET", path)).kind {
        AnswerKind::Full { response, .. } => response,
        AnswerKind::Watch { .. } => panic!("{path} is no watch"),
    }
}

fn list(cloud: &mut Cloud, query: &str) -> (u16, Value) {
    let response = full(cloud, &format!("/api/v1/configmaps?{query}"));
    (response.status, serde_json::from_slice(&response.body).expect("JSON"))
}

fn watch(cloud: &mut Cloud, query: &str) -> Box<WatchCursor> {
    let path = format!("/api/v1/configmaps?watch=1&timeoutSeconds=600&{query}");
    match cloud.handle(START, &Request::new(admin(), "GET", &path)).kind {
        AnswerKind::Watch { cursor, .. } => cursor,
        AnswerKind::Full { response, .. } => panic!("{path}: {response:?}"),
    }
}

/// Each frame as `TYPE name@app`, bookmarks as `BOOKMARK rv [end]`, errors with their code.
fn frames(cursor: &mut WatchCursor, cloud: &Cloud, now: Duration) -> Vec<String> {
    let read = |frame: bytes::Bytes| {
        let event: Value = serde_json::from_slice(&frame).expect("one JSON document per frame");
        let (kind, object) = (event["type"].as_str().expect("type"), &event["object"]);
        let meta = &object["metadata"];
        match kind {
            "BOOKMARK" => {
                let end = meta["annotations"]["k8s.io/initial-events-end"] == "true";
                format!(
                    "BOOKMARK {}{}",
                    meta["resourceVersion"].as_str().unwrap(),
                    if end { " end" } else { "" }
                )
            }
            "ERROR" => format!("ERROR {}", object["code"]),
            _ => format!(
                "{kind} {}@{}",
                meta["name"].as_str().unwrap(),
                meta["labels"]["app"].as_str().unwrap()
            ),
        }
    };
    cursor.poll(cloud, now).into_iter().map(read).collect()
}

#[test]
fn a_watch_starts_as_its_revision_and_initial_events_say() {
    let mut cloud = cloud();
    let first = put(&mut cloud, "a", "x");
    let second = put(&mut cloud, "b", "x");
    let both = || vec!["ADDED a@x".to_owned(), "ADDED b@x".to_owned()];
    let marked = |mut events: Vec<String>| {
        events.push(format!("BOOKMARK {second} end"));
        events
    };
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let unmarked = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let none = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for (query, expected) in [
        (String::new(), both()),
        ("resourceVersion=0".into(), both()),
        (format!("resourceVersion={first}"), vec!["ADDED b@x".into()]),
        (format!("resourceVersion={second}"), vec![]),
        (initial.into(), marked(both())),
        (format!("{initial}&resourceVersion=0"), marked(both())),
        (format!("{initial}&resourceVersion={first}"), marked(both())),
        (unmarked.into(), both()),
        (none.into(), vec![]),
        (format!("{none}&resourceVersion=0"), vec![]),
        (format!("{none}&resourceVersion={first}"), vec!["ADDED b@x".into()]),
    ] {
        let mut cursor = watch(&mut cloud, &query);
        assert_eq!(frames(&mut cursor, &cloud, START), expected, "{query}");
    }
}

#[test]
fn a_selector_turns_changes_into_arrivals_and_departures() {
    let mut cloud = cloud();
    let start = put(&mut cloud, "a", "x");
    let mut cursor = watch(&mut cloud, &format!("resourceVersion={start}&labelSelector=app%3Dx"));
    put(&mut cloud, "a", "y");
    put(&mut cloud, "b", "y");
    put(&mut cloud, "b", "x");
    cloud.delete(START, &config_maps(), "default", "b").unwrap();
    assert_eq!(frames(&mut cursor, &cloud, START), ["DELETED a@x", "ADDED b@x", "DELETED b@x"]);
}

#[test]
fn bookmarks_come_each_minute_on_demand_and_before_the_deadline() {
    let mut cloud = cloud();
    let start = put(&mut cloud, "a", "x");
    let mut cursor = watch(&mut cloud, &format!("resourceVersion={start}&allowWatchBookmarks=true"));
    let mut quiet = watch(&mut cloud, &format!("resourceVersion={start}"));
    cloud.store_mut().skip_revisions(5);
    let bookmark = [format!("BOOKMARK {}", start + 5)];
    assert!(frames(&mut cursor, &cloud, START + Duration::from_secs(59)).is_empty());
    assert_eq!(frames(&mut cursor, &cloud, START + Duration::from_secs(60)), bookmark);
    cloud.ask_bookmarks();
    assert_eq!(frames(&mut cursor, &cloud, START + Duration::from_secs(61)), bookmark);
    assert_eq!(frames(&mut cursor, &cloud, START + Duration::from_secs(560)), bookmark);
    assert_eq!(cursor.wake_at(), START + Duration::from_secs(598), "two seconds before the end");
    assert_eq!(frames(&mut cursor, &cloud, START + Duration::from_secs(598)), bookmark);
    assert!(frames(&mut cursor, &cloud, START + Duration::from_secs(600)).is_empty());
    assert!(cursor.is_ended());
    assert!(frames(&mut quiet, &cloud, START + Duration::from_secs(600)).is_empty());
}

#[test]
fn compaction_expires_watches_exact_lists_and_pages() {
    let mut cloud = cloud();
    let old = put(&mut cloud, "a", "x");
    put(&mut cloud, "b", "x");
    let (_, page) = list(&mut cloud, "limit=1");
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    put(&mut cloud, "c", "x");
    let now = cloud.store().revision();
    cloud.store_mut().compact(now);
    let mut cursor = watch(&mut cloud, &format!("resourceVersion={old}"));
    assert_eq!(frames(&mut cursor, &cloud, START), ["ERROR 410"]);
    assert!(cursor.is_ended());
    let mut cursor = watch(&mut cloud, &format!("resourceVersion={now}"));
    assert!(
        frames(&mut cursor, &cloud, START).is_empty(),
        "the compacted revision itself can be resumed from"
    );
    let (code, status) = list(&mut cloud, &format!("resourceVersion={old}&resourceVersionMatch=Exact"));
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    assert_eq!(list(&mut cloud, &format!("limit=1&continue={token}")).0, 410);
    assert_eq!(list(&mut cloud, &format!("resourceVersion={old}")).1["items"].as_array().unwrap().len(), 3);
}

#[test]
fn pages_show_one_snapshot_whatever_happens_between_them() {
    let mut cloud = cloud();
    for name in ["a", "b", "c"] {
        put(&mut cloud, name, "x");
    }
    let (_, first) = list(&mut cloud, "limit=2");
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    put(&mut cloud, "c", "changed");
    put(&mut cloud, "d", "x");
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = list(&mut cloud, &format!("limit=2&continue={token}"));
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(second["items"][0]["metadata"]["labels"]["app"], "x");
    let whole = list(&mut cloud, "limit=1&resourceVersion=0").1;
    assert_eq!(whole["items"].as_array().unwrap().len(), 4, "a cached list ignores the limit");
}

#[test]
fn a_lagging_replica_shows_the_past_and_refuses_the_future() {
    let mut cloud = cloud();
    let old = put(&mut cloud, "a", "x");
    cloud.set_replica(0, Replica::Frozen(old));
    let new = put(&mut cloud, "b", "x");
    assert_eq!(list(&mut cloud, "resourceVersion=0").1["metadata"]["resourceVersion"], old.to_string());
    assert_eq!(list(&mut cloud, "").1["metadata"]["resourceVersion"], new.to_string());
    let (code, status) = list(&mut cloud, &format!("resourceVersion={new}"));
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
    assert_eq!(list(&mut cloud, &format!("resourceVersion={}&resourceVersionMatch=Exact", new + 9)).0, 504);
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut waiting = watch(&mut cloud, initial);
    assert!(frames(&mut waiting, &cloud, START).is_empty(), "the most recent state is not there yet");
    let mut refused = watch(&mut cloud, initial);
    cloud.set_replica(0, Replica::Current);
    let late = START + Duration::from_secs(2);
    assert_eq!(
        frames(&mut waiting, &cloud, late),
        ["ADDED a@x".into(), "ADDED b@x".into(), format!("BOOKMARK {new} end")]
    );
    cloud.set_replica(0, Replica::Frozen(old));
    assert_eq!(frames(&mut refused, &cloud, START + Duration::from_secs(3)), ["ERROR 504"]);
}

#[test]
fn who_is_unknown_or_not_permitted_gets_nothing() {
    let mut cloud = cloud();
    let ask = |cloud: &mut Cloud, identity: Identity, path: &str| match cloud
        .handle(START, &Request::new(identity, "GET", path))
        .kind
    {
        AnswerKind::Full { response, .. } => response.status,
        AnswerKind::Watch { .. } => 0,
    };
    let node = || Identity::Certificate(Principal::node("n1"));
    assert_eq!(ask(&mut cloud, Identity::Anonymous, "/api/v1/nodes"), 401);
    assert_eq!(ask(&mut cloud, Identity::Bearer("guess".into()), "/version"), 401);
    assert_eq!(ask(&mut cloud, node(), "/api/v1/nodes"), 403);
    assert_eq!(ask(&mut cloud, node(), "/api/v1/nodes?fieldSelector=metadata.name%3Dn1"), 200);
    assert_eq!(ask(&mut cloud, node(), "/openid/v1/jwks"), 406, "keys are no plain JSON");
    let seen: Vec<_> = cloud.records().iter().map(|r| (r.user.as_str(), r.status)).collect();
    assert_eq!(seen[2], ("system:node:n1", 403));
}
