//! The rules that keep unmodified clients from crashing, spinning or listing again: R1-R14 of the wire contract, each
//! under the name of its promise. Those that have a file of their own:
//!
//! - R3, R4: `edge-hub/core/tests/a_relist_reaches_clients_as_events_never_as_410.rs`, and bookmarks in
//!   `bookmarks_promise_only_what_was_delivered.rs` beside it
//! - R5, R6: `edge-hub/core/tests/a_client_resumes_after_a_day_a_restart_or_a_compaction.rs`
//! - R7: `edge-hub/core/tests/a_view_is_consistent_with_its_selector.rs`
//! - R8: `an_update_of_heartbeats_alone_is_kept_quiet` of
//!   `edge-hub/core/tests/a_filtered_view_folds_to_the_filtered_history.rs`
//! - R10: `edge-hub/core/tests/each_row_of_the_offline_table_holds.rs`
//! - R12, R13: `edge-hub/core/tests/an_answer_is_complete_or_not_given.rs`

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH, WARNING};
use http_body_util::BodyExt as _;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::watch::{EventType, WatchDecoder, read_error};
use serde_json::Value;

use crate::rig::{CONFIG_MAPS, Informer, Rig, run};

/// A hub that holds the ConfigMaps, and the pod that reads them.
async fn synced() -> (Rig, Client) {
    let mut rig = Rig::new();
    rig.start_hub().await;
    let pod = rig.pod();
    Informer::new(pod.clone()).until(&[("a", "1"), ("b", "1")]).await;
    (rig, pod)
}

/// The resource version of a list that the hub gives from its store.
async fn held_version(client: &Client) -> u64 {
    let (status, list) = client.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.expect("an answer");
    assert_eq!(status, 200, "{list}");
    list["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
}

#[test]
fn r1_whoever_gets_a_connection_gets_an_answer_from_a_loaded_store() {
    run(async {
        let (mut rig, pod) = synced().await;
        rig.cut(LinkState::Refused).await;
        rig.stop_hub().await;
        let refused = pod.get(CONFIG_MAPS).await;
        assert!(refused.is_err(), "a stopped hub refuses connections: {refused:?}");
        // Returns with the first connection that is accepted.
        rig.start_hub().await;
        let (status, list) = pod.get(CONFIG_MAPS).await.expect("an answer");
        assert_eq!(status, 200, "{list}");
        assert_eq!(list["items"].as_array().expect("items").len(), 2);
    });
}

#[test]
fn r2_a_stream_opens_at_once_and_ends_cleanly_at_its_time_out() {
    run(async {
        let (rig, pod) = synced().await;
        for link in [LinkState::Up, LinkState::Refused] {
            if link == LinkState::Refused {
                rig.cut(link).await;
            }
            let version = held_version(&pod).await;
            let began = Instant::now();
            // Nothing happens in this collection: the head of the answer must not wait for an event.
            let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}&timeoutSeconds=2");
            let mut stream = pod.watch(&path).await.expect("the head comes before any event");
            assert_eq!(stream.status, 200);
            let event = stream.next().await.expect("the end is clean");
            assert_eq!(event, None);
            // A client takes a shorter stream without an event for a failure and lists again.
            assert!(began.elapsed() >= Duration::from_secs(1));
        }
    });
}

#[test]
fn r9_versions_never_fall_on_a_stream_whatever_happens_upstream() {
    run(async {
        let (rig, pod) = synced().await;
        let version = held_version(&pod).await;
        let path = format!(
            "{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=300"
        );
        let mut stream = pod.watch(&path).await.expect("a stream");
        let mut last = version;
        for (round, value) in ["2", "3", "4"].into_iter().enumerate() {
            rig.cut(LinkState::Refused).await;
            rig.put("a", value);
            rig.put("b", value);
            if round == 1 {
                rig.cloud.compact();
            }
            rig.heal().await;
            let mut seen = 0;
            while seen < 2 {
                let event = stream.next().await.expect("no break").expect("no end");
                let object = &event["object"];
                let version = object["metadata"]["resourceVersion"].as_str().expect("a version");
                let version: u64 = version.parse().expect("a number");
                assert!(version >= last, "{event} after {last}");
                last = version;
                seen += usize::from(object["data"]["v"] == value);
            }
        }
    });
}

#[test]
fn r11_an_error_is_a_status_and_inside_a_stream_it_has_the_streams_encoding() {
    run(async {
        let (rig, _) = synced().await;
        rig.cut(LinkState::Refused).await;
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        let typed = rig.kubelet().with_header(ACCEPT, protobuf);
        let answer = typed.send("DELETE", "/api/v1/nodes/n1", "", Bytes::new()).await.expect("an answer");
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let status: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            (&status["kind"], &status["code"], &status["reason"]),
            (&"Status".into(), &503.into(), &"ServiceUnavailable".into())
        );
        // Before the first list of this collection nobody knows what was there.
        let path = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&watch=true&resourceVersion=1";
        let answer = typed.send("GET", path, "", Bytes::new()).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/vnd.kubernetes.protobuf;stream=watch");
        let body = answer.into_body().collect().await.expect("a clean end").to_bytes();
        let mut decoder = WatchDecoder::new(Format::PROTOBUF, 1 << 20);
        decoder.push(&body);
        let event = decoder.next().expect("a whole frame").expect("one event");
        assert_eq!(event.event_type, EventType::Error);
        let error = read_error(Encoding::Protobuf, &event.raw).expect("a Status");
        assert_eq!((error.code, error.reason.as_ref()), (410, "Expired"));
    });
}

#[test]
fn r14_discovery_is_the_clouds_own_also_while_cut_and_after_a_restart() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        let aggregated =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        let paths = ["/version", "/api", "/apis", "/api/v1", "/apis/apps/v1", "/openapi/v3"];
        let mut online = Vec::new();
        for accept in ["application/json", aggregated] {
            let client = rig.kubelet().with_header(ACCEPT, accept);
            for path in paths {
                let answer = client.send("GET", path, "", Bytes::new()).await.expect("an answer");
                assert_eq!(answer.status(), 200, "{path}");
                let etag = answer.headers().get(ETAG).cloned();
                let body = answer.into_body().collect().await.expect("a body").to_bytes();
                online.push((accept, path, etag, body));
            }
        }
        rig.cut(LinkState::Refused).await;
        for restart in [false, true] {
            if restart {
                rig.stop_hub().await;
                rig.start_hub().await;
            }
            for (accept, path, etag, held) in &online {
                let client = rig.kubelet().with_header(ACCEPT, accept);
                let answer = client.send("GET", path, "", Bytes::new()).await.expect("an answer");
                assert_eq!(answer.status(), 200, "{path}, restart {restart}");
                assert!(answer.headers().contains_key(WARNING), "{path}: its age is told");
                assert_eq!(answer.headers().get(ETAG), etag.as_ref(), "{path}");
                let body = answer.into_body().collect().await.expect("a body").to_bytes();
                assert_eq!(body, held, "{path}, restart {restart}");
                if let Some(etag) = etag {
                    let client = client.with_header(IF_NONE_MATCH, etag.to_str().expect("text"));
                    let answer = client.send("GET", path, "", Bytes::new()).await.expect("an answer");
                    assert_eq!(answer.status(), 304, "{path}");
                }
            }
        }
    });
}
