//! What a test asks of the model cloud happens on the socket: links cut and heal, faults hit the requests they name.

use std::future::Future;
use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

use e2e::cloud::client::{Client, ClientError};
use e2e::cloud::model::{Credential, Fault, Gvr, RequestMatch};
use e2e::cloud::{CloudControl, LinkState, pki::Authority};
use http::header;
use serde_json::json;

const PATH: &str = "/api/v1/configmaps";
const WATCH_LIST: &str = "/api/v1/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                          &allowWatchBookmarks=true&timeoutSeconds=600";

struct World {
    control: CloudControl,
    admin: Client,
    node: Client,
}

fn world() -> World {
    let authority = Authority::new("test").unwrap();
    let control = CloudControl::start(&authority, &["127.0.0.1"]).unwrap();
    let address = control.listen(TcpListener::bind("127.0.0.1:0").unwrap(), 0).unwrap();
    let client =
        |identity| Client::new(address, "127.0.0.1", authority.roots().unwrap(), Some(&identity)).unwrap();
    let admin = client(authority.client("admin", "system:masters").unwrap());
    let node = client(authority.node("n1").unwrap());
    put(&control, "a");
    World { control, admin, node }
}

fn put(control: &CloudControl, name: &str) {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "data": {"k": "v"}});
    control.create(&Gvr::core("configmaps"), object).unwrap();
}

/// Nothing here waits on time; the bound only turns a hang into a failure.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
    });
}

#[test]
fn a_watch_runs_over_both_protocols_and_is_recorded_with_its_identity() {
    run(async {
        let World { control, admin, node } = world();
        for client in [admin.clone(), admin.over_http1()] {
            let mut stream = client.watch(WATCH_LIST).await.unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap()["object"]["metadata"]["name"], "a");
            assert_eq!(stream.next().await.unwrap().unwrap()["type"], "BOOKMARK");
            control
                .merge(
                    &Gvr::core("configmaps"),
                    "default",
                    "a",
                    &json!({"data": {"n": control.revision().to_string()}}),
                )
                .unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap()["type"], "MODIFIED");
            let open = control.open_streams();
            assert_eq!((open.len(), open[0].credential), (1, Credential::Certificate));
            drop(stream);
            control.wait_for(|records| records.iter().all(|r| r.ended)).await;
        }
        assert_eq!(node.get(PATH).await.unwrap().0, 403);
        let last = control.records().pop().unwrap();
        assert_eq!((last.user.as_str(), last.status, last.is_list()), ("system:node:n1", 403, true));
        assert!(last.bytes_out > 0);
    });
}

#[test]
fn a_refused_link_refuses_and_a_black_hole_only_delays() {
    run(async {
        let World { control, admin, .. } = world();
        control.set_link(0, LinkState::Refused).await;
        assert!(matches!(admin.get(PATH).await, Err(ClientError::Connect(_))));
        control.set_link(0, LinkState::Up).await;
        let mut stream = admin.watch(WATCH_LIST).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap()["type"], "ADDED");
        stream.next().await.unwrap();
        control.set_link(0, LinkState::BlackHole).await;
        let mark = control.mark();
        let pending = tokio::spawn(async move { admin.get(PATH).await });
        put(&control, "b");
        tokio::select! {
            biased;
            event = stream.next() => panic!("{event:?} came through a black hole"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(control.mark(), mark);
        control.set_link(0, LinkState::Up).await;
        assert_eq!(stream.next().await.unwrap().unwrap()["object"]["metadata"]["name"], "b");
        assert_eq!(pending.await.unwrap().unwrap().0, 200);
    });
}

#[test]
fn a_fault_hits_as_many_requests_as_it_was_given() {
    run(async {
        let World { control, admin, .. } = world();
        let lists = RequestMatch::verb("list").resource("configmaps");
        control.fault(lists.clone(), 2, Fault::Status { code: 429, retry_after: Some(1) });
        let refused = admin.send("GET", PATH, "", bytes::Bytes::new()).await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (429, &http::HeaderValue::from(1))
        );
        assert_eq!(admin.get("/api/v1/nodes").await.unwrap().0, 200);
        assert_eq!(admin.get(PATH).await.unwrap().0, 429);
        assert_eq!(admin.get(PATH).await.unwrap().0, 200);
        control.fault(lists.clone(), 1, Fault::Reset);
        assert!(admin.get(PATH).await.is_err());
        control.fault(lists.clone(), 1, Fault::Truncate);
        assert!(matches!(admin.get(PATH).await, Err(ClientError::Frame(_))));
        control.fault(lists, 1, Fault::GoAway);
        assert_eq!(admin.get(PATH).await.unwrap().0, 200, "the request that meets GOAWAY is answered");
        control.fault(RequestMatch::verb("watch"), 1, Fault::ErrorEvent { code: 410 });
        let mut stream = admin.watch("/api/v1/configmaps?watch=1").await.unwrap();
        assert_eq!(
            (stream.status, stream.next().await.unwrap().unwrap()["type"].clone()),
            (200, json!("ADDED"))
        );
        assert_eq!(stream.next().await.unwrap().unwrap()["object"]["code"], 410);
        assert!(stream.next().await.unwrap().is_none());
    });
}

#[test]
fn an_answer_can_stay_away_or_come_in_small_pieces() {
    run(async {
        let World { control, admin, .. } = world();
        let lists = RequestMatch::verb("list").resource("configmaps");
        control.fault(lists.clone(), 1, Fault::Hang);
        tokio::select! {
            answer = admin.get(PATH) => panic!("{answer:?} came"),
            () = control.wait_for(|records| records.iter().any(|r| r.fault.is_some())) => {}
        }
        control.fault(lists, 1, Fault::SlowBody { chunk_bytes: 40, pause: Duration::from_millis(1) });
        let mut pieces = admin.watch(PATH).await.unwrap();
        let mut lengths = Vec::new();
        while let Some(piece) = pieces.chunk().await.unwrap() {
            lengths.push(piece.len());
        }
        assert!(lengths.len() > 1 && lengths.iter().all(|length| *length <= 40), "{lengths:?}");
        let record = control.records().pop().unwrap();
        assert_eq!(record.bytes_out, lengths.iter().sum::<usize>() as u64);
    });
}

#[test]
fn a_request_is_recorded_with_who_asked_for_what_and_what_it_weighed() {
    run(async {
        let World { control, node, .. } = world();
        let pods = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&resourceVersion=1";
        let (_, list) = node.get(pods).await.unwrap();
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Node"}});
        let path = "/api/v1/namespaces/default/events";
        assert_eq!(node.call("POST", path, "application/json", &event).await.unwrap().0, 201);
        let unknown = node.clone().with_token("guess").get(pods).await.unwrap();
        assert_eq!(unknown.0, 401);
        let seen = control.records();
        let who = |at: usize| (seen[at].credential, seen[at].user.as_str(), seen[at].verb.as_str());
        assert_eq!(who(0), (Credential::Certificate, "system:node:n1", "list"));
        assert_eq!(who(1), (Credential::Certificate, "system:node:n1", "create"));
        assert_eq!(who(2), (Credential::Token, "", "list"));
        assert_eq!(seen[0].resource_version.as_deref(), Some("1"));
        assert_eq!(seen[0].bytes_out, list.to_string().len() as u64 + 1, "the document and its line end");
        assert_eq!(
            (seen[1].bytes_in, seen[1].resource_version.as_deref()),
            (event.to_string().len() as u64, None)
        );
        assert!(seen.iter().all(|record| record.ended));
    });
}

#[test]
fn a_running_stream_can_be_cut_inside_a_frame_or_ended() {
    run(async {
        let World { control, admin, .. } = world();
        let open = async || {
            let mut stream = admin.watch(WATCH_LIST).await.unwrap();
            stream.next().await.unwrap();
            stream.next().await.unwrap();
            stream
        };
        let mut stream = open().await;
        assert_eq!(control.fault_streams(&RequestMatch::verb("watch"), &Fault::Truncate), 1);
        assert!(matches!(stream.next().await, Err(ClientError::Frame(_))));
        let mut stream = open().await;
        control.fault_streams(&RequestMatch::verb("watch"), &Fault::End);
        assert!(stream.next().await.unwrap().is_none());
        let mut stream = open().await;
        control.fault_streams(&RequestMatch::verb("watch"), &Fault::StallMidFrame);
        let half = stream.chunk().await.unwrap().unwrap();
        assert!(!half.contains(&b'\n'), "half a frame");
        assert_eq!(control.open_streams().len(), 1, "and the stream stays open");
        let mut other = open().await;
        control.reset_connections();
        assert!(other.next().await.is_err());
        assert!(stream.chunk().await.is_err());
    });
}

#[test]
fn a_compressed_watch_list_is_one_gzip_member_for_each_flush() {
    run(async {
        let World { control, admin, .. } = world();
        control.with(|cloud, _| cloud.set_gzip_watch_list(true));
        let mut stream = admin.with_header(header::ACCEPT_ENCODING, "gzip").watch(WATCH_LIST).await.unwrap();
        assert_eq!(stream.headers[header::CONTENT_ENCODING], "gzip");
        for (name, frames) in [("b", 2), ("c", 1)] {
            let member = stream.chunk().await.unwrap().unwrap();
            let mut text = String::new();
            flate2::read::GzDecoder::new(&member[..]).read_to_string(&mut text).unwrap();
            assert_eq!(text.lines().count(), frames, "{text}");
            put(&control, name);
        }
    });
}

#[test]
fn a_large_list_is_compressed_when_the_client_offers_it() {
    run(async {
        let World { control, admin, .. } = world();
        let object =
            json!({"metadata": {"name": "big", "namespace": "default"}, "data": {"k": "v".repeat(200_000)}});
        control.create(&Gvr::core("configmaps"), object).unwrap();
        let gzip = admin.clone().with_header(header::ACCEPT_ENCODING, "gzip");
        let packed = gzip.send("GET", PATH, "", bytes::Bytes::new()).await.unwrap();
        assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
        assert!(control.records().pop().unwrap().bytes_out < 10_000);
        let plain = admin.send("GET", PATH, "", bytes::Bytes::new()).await.unwrap();
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
    });
}
