//! A LIST with a limit comes in pages, as from the API server: what Kubernetes' own conformance specs on chunking ask for
//! (`test/e2e/apimachinery/chunking.go`), whether the hub holds the collection already or not.

use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Rule};
use serde_json::{Value, json};

use crate::rig::{Informer, POD_USER, Rig, run};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const TOTAL: usize = 40;

fn rig() -> Rig {
    let rig = Rig::new();
    for number in 0..TOTAL {
        let secret = json!({"metadata": {"name": name(number), "namespace": "default"}});
        rig.cloud.create(&Gvr::core("secrets"), secret).expect("the name is free");
    }
    rig.cloud.allow(Rule::allow(POD_USER, &["get", "list", "watch"], &["secrets"]).in_namespace("default"));
    rig
}

fn name(number: usize) -> String {
    format!("template-{number:04}")
}

async fn list(client: &Client, query: &str) -> (u16, Value) {
    client.get(&format!("{SECRETS}?{query}")).await.expect("an answer")
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn text<'a>(list: &'a Value, member: &str) -> &'a str {
    list["metadata"][member].as_str().unwrap_or_default()
}

/// Keeps the collection alive in the hub.
async fn hold(rig: &Rig) -> Informer {
    let mut informer = Informer::of(rig.pod(), SECRETS, |_| String::new());
    let all: Vec<String> = (0..TOTAL).map(name).collect();
    let wanted: Vec<(&str, &str)> = all.iter().map(|name| (name.as_str(), "")).collect();
    informer.until(&wanted).await;
    informer
}

#[test]
fn chunks_of_results_are_returned_for_list_calls() {
    run(async {
        for is_held in [false, true] {
            let mut rig = rig();
            rig.start_hub().await;
            rig.heal_seen().await;
            let informer = if is_held { Some(hold(&rig).await) } else { None };
            let pod = rig.pod();
            for limit in [1, 7, 39, 40, 41, 500] {
                let (mut found, mut token, mut version) = (0, String::new(), String::new());
                loop {
                    let (status, page) = list(&pod, &format!("limit={limit}&continue={token}")).await;
                    assert_eq!(status, 200, "{page}");
                    let held = names(&page);
                    assert!(!held.is_empty() && held.len() <= limit, "limit {limit}: {}", held.len());
                    assert_eq!(held, (found..found + held.len()).map(name).collect::<Vec<_>>());
                    found += held.len();
                    assert!(version.is_empty() || version == text(&page, "resourceVersion"));
                    version = text(&page, "resourceVersion").to_owned();
                    let remaining = page["metadata"]["remainingItemCount"].as_u64();
                    token = text(&page, "continue").to_owned();
                    if token.is_empty() {
                        assert_eq!((found, remaining), (TOTAL, None));
                        break;
                    }
                    assert_eq!(remaining, u64::try_from(TOTAL - found).ok());
                }
                let (status, whole) = list(&pod, &format!("resourceVersion={version}")).await;
                assert_eq!((status, names(&whole).len()), (200, TOTAL));
            }
            drop(informer);
            rig.stop_hub().await;
        }
    });
}

#[test]
fn a_list_goes_on_from_its_last_key_when_its_version_was_compacted_away() {
    run(async {
        let mut rig = rig();
        rig.start_hub().await;
        rig.heal_seen().await;
        let _informer = hold(&rig).await;
        let pod = rig.pod();
        let limit = TOTAL / 10;
        let (_, first) = list(&pod, &format!("limit={limit}")).await;
        let token = text(&first, "continue");
        assert_eq!((names(&first).len(), token.is_empty()), (limit, false));
        // The history goes on without the version of the first page.
        rig.put("a", "2");
        rig.cloud.compact();
        let (status, expired) = list(&pod, &format!("limit={limit}&continue={token}")).await;
        assert_eq!((status, &expired["reason"]), (410, &json!("Expired")), "{expired}");
        let mut token = text(&expired, "continue").to_owned();
        assert!(!token.is_empty(), "the way to go on inconsistently");
        let mut found = limit;
        while !token.is_empty() {
            let (status, page) = list(&pod, &format!("limit={limit}&continue={token}")).await;
            assert_eq!(status, 200, "{page}");
            assert_ne!(text(&page, "resourceVersion"), text(&first, "resourceVersion"));
            let held = names(&page);
            assert!(held.len() <= limit);
            assert_eq!(held, (found..found + held.len()).map(name).collect::<Vec<_>>());
            found += held.len();
            token = text(&page, "continue").to_owned();
        }
        assert_eq!(found, TOTAL);
        rig.stop_hub().await;
    });
}

#[test]
fn version_zero_and_a_cut_know_no_pages() {
    run(async {
        let mut rig = rig();
        rig.start_hub().await;
        rig.heal_seen().await;
        let query = "limit=7&resourceVersion=0";
        let (_, direct) = list(&rig.direct_pod(), query).await;
        let (_, hub) = list(&rig.pod(), query).await;
        assert_eq!((names(&hub), text(&hub, "continue")), (names(&direct), text(&direct, "continue")));
        assert_eq!(names(&hub).len(), TOTAL);
        let (_, first) = list(&rig.pod(), "limit=7").await;
        rig.cut(LinkState::Refused).await;
        // A client that begins is given all; one amid a list begins anew.
        let (status, whole) = list(&rig.pod(), "limit=7").await;
        assert_eq!((status, names(&whole).len(), text(&whole, "continue")), (200, TOTAL, ""));
        let (status, _) = list(&rig.pod(), &format!("limit=7&continue={}", text(&first, "continue"))).await;
        assert_eq!(status, 410);
        rig.stop_hub().await;
    });
}
