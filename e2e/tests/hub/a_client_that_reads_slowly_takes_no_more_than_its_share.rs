//! What a client does not read stays in the hub: it counts as a request in flight, and lists that are filtered on their
//! way have one bounded room together.

use bytes::Bytes;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Principal, Rule};
use http::header;
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::rig::{POD_USER, Rig, eventually, run};

const PROXY: &str = "system:serviceaccount:kube-system:kube-proxy";
const SERVICES: &str = "/api/v1/services";
/// More than the 2 MiB of a stream's window between the hub and a client.
const LIST_BYTES: usize = 4 * 1024 * 1024;
/// More than sockets hold between the hub and a client of HTTP/1.1.
const LONG_BYTES: usize = 12 * 1024 * 1024;
const NOTE_BYTES: usize = 200 * 1024;

/// Services that are a list of more than so many bytes.
fn rig(bytes: usize) -> Rig {
    let mut rig = Rig::new();
    // A filter that reads nothing but the list itself.
    let rule = json!({"user": PROXY, "resource": "services", "filter": "managedfields"});
    rig.set_filters(json!({"usual": false, "rules": [rule]}));
    for number in 0..bytes.div_ceil(NOTE_BYTES) {
        let metadata = json!({"name": format!("s{number}"), "namespace": "default",
            "annotations": {"note": "x".repeat(NOTE_BYTES)}});
        rig.cloud
            .create(&Gvr::core("services"), json!({"metadata": metadata, "spec": {"type": "ClusterIP"}}))
            .expect("the name is free");
    }
    rig.cloud.add_token("proxy-token", Principal::service_account("kube-system", "kube-proxy"));
    for user in [PROXY, POD_USER] {
        rig.cloud.allow(Rule::allow(user, &["get", "list", "watch"], &["services"]));
    }
    rig
}

fn proxy(rig: &Rig) -> Client {
    rig.nobody().with_token("proxy-token")
}

/// The list once there is room for it; its body is not read.
async fn unread(client: &Client) -> http::Response<hyper::body::Incoming> {
    eventually(async || {
        let answer = client.send("GET", SERVICES, "", Bytes::new()).await.expect("an answer");
        (answer.status() == 200).then_some(answer)
    })
    .await
}

#[test]
fn a_filtered_list_that_can_never_be_held_says_so() {
    run(async {
        let mut rig = rig(LIST_BYTES);
        rig.set_limits(json!({"listMib": 1}));
        rig.start_hub().await;
        let client = proxy(&rig);
        // First the hub tries to hold the collection, too.
        let (status, refused) = eventually(async || {
            let (status, answer) = client.get(SERVICES).await.expect("an answer");
            (status != 429).then_some((status, answer))
        })
        .await;
        assert_eq!(status, 500);
        assert!(refused["message"].as_str().is_some_and(|why| why.contains("limits.listMib")), "{refused}");
        let (status, page) = client.get(&format!("{SERVICES}?limit=2")).await.expect("an answer");
        assert_eq!((status, page["items"].as_array().map(Vec::len)), (200, Some(2)));
        rig.stop_hub().await;
    });
}

#[test]
fn filtered_lists_that_nobody_reads_leave_no_room_for_another() {
    run(async {
        let mut rig = rig(LIST_BYTES);
        rig.set_limits(json!({"listMib": 6}));
        rig.start_hub().await;
        let client = proxy(&rig);
        // The first list is that of the collection; those that follow are the cloud's, on their way.
        assert_eq!(client.get(SERVICES).await.expect("an answer").0, 200);
        let first = unread(&client).await;
        let second = client.send("GET", SERVICES, "", Bytes::new()).await.expect("an answer");
        assert_eq!(second.status(), 429);
        assert!(second.headers().contains_key(header::RETRY_AFTER));
        let read = first.into_body().collect().await.expect("whole").to_bytes();
        assert!(read.len() > LIST_BYTES);
        let again = unread(&client).await;
        drop(again);
        drop(unread(&client).await);
        rig.stop_hub().await;
    });
}

#[test]
fn an_answer_that_nobody_reads_is_a_request_in_flight() {
    run(async {
        let mut rig = rig(LIST_BYTES);
        rig.set_limits(json!({"requestsPerPrincipal": 1}));
        rig.start_hub().await;
        // Filtered, and passed on as it is.
        for client in [proxy(&rig), rig.pod()] {
            refuses_another(&client).await;
        }
        rig.stop_hub().await;
    });
}

#[test]
fn an_upgrade_that_was_not_granted_is_a_request_in_flight_until_its_answer_has_ended() {
    run(async {
        let mut rig = rig(LONG_BYTES);
        rig.set_limits(json!({"requestsPerPrincipal": 1, "watchesPerPrincipal": 1}));
        rig.start_hub().await;
        let upgrading = rig.pod().over_http1().with_header(header::UPGRADE, "websocket");
        refuses_another(&upgrading.with_header(header::CONNECTION, "upgrade")).await;
        rig.stop_hub().await;
    });
}

async fn refuses_another(client: &Client) {
    let first = unread(client).await;
    let second = client.send("GET", SERVICES, "", Bytes::new()).await.expect("an answer");
    assert_eq!(second.status(), 429);
    drop(first);
    drop(unread(client).await);
}
