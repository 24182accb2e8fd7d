//! Clients of every format of a kind that has protobuf share one upstream list and watch; each proves its own right.

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Principal, ResourceKind, Rule};
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::BodyExt as _;
use proto_kube::list::split_list;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::scan;
use serde_json::{Value, json};

use crate::rig::{CONFIG_MAPS, Informer, Rig, run};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const METADATA: Format = Format { encoding: Encoding::Json, form: Form::PartialMetadata };

/// A LIST from the cache in this format: the type of the list and its objects' names.
async fn listed(client: &Client, format: Format) -> (String, Vec<String>) {
    let client = client.clone().with_header(ACCEPT, format.accept_list());
    let answer =
        client.send("GET", &format!("{CONFIG_MAPS}?resourceVersion=0"), "", Bytes::new()).await.unwrap();
    assert_eq!(answer.status(), 200, "{format:?}");
    assert_eq!(answer.headers()[CONTENT_TYPE], format.content_type(false));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let (head, items) = split_list(format, &body).unwrap();
    let name = |item: &Bytes| scan(format, item).unwrap().name.into_owned();
    (head.type_meta.kind.into(), items.iter().map(name).collect())
}

/// The name and what is left of a ConfigMap reduced to its metadata.
fn only_metadata(object: &Value) -> String {
    assert_eq!(object["kind"], "PartialObjectMetadata");
    object["data"].to_string()
}

#[test]
fn one_upstream_watch_serves_clients_of_every_format_online_and_cut() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        rig.heal_seen().await;
        let mark = rig.cloud.mark();
        let pod = rig.pod();
        let mut whole = Informer::new(pod.clone());
        let metadata = pod.clone().with_header(ACCEPT, METADATA.accept_object());
        let mut metadata = Informer::of(metadata, CONFIG_MAPS, only_metadata);
        whole.until(&[("a", "1"), ("b", "1")]).await;
        metadata.until(&[("a", "null"), ("b", "null")]).await;
        let shown = |kind: &str| (kind.to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let binary_metadata = Format { encoding: Encoding::Protobuf, ..METADATA };
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            for format in [Format::PROTOBUF, Format::JSON] {
                assert_eq!(listed(&pod, format).await, shown("ConfigMapList"), "cut {cut}");
            }
            for format in [METADATA, binary_metadata] {
                assert_eq!(listed(&pod, format).await, shown("PartialObjectMetadataList"), "cut {cut}");
            }
            let (status, a) = pod.get(&format!("{CONFIG_MAPS}/a?resourceVersion=0")).await.unwrap();
            assert_eq!((status, &a["kind"], &a["data"]), (200, &json!("ConfigMap"), &json!({"v": "1"})));
        }
        rig.put("a", "2");
        rig.remove("b");
        rig.heal().await;
        whole.until(&[("a", "2")]).await;
        metadata.until(&[("a", "null")]).await;
        let seen = rig.cloud.records_since(mark);
        let of_hub = seen
            .iter()
            .filter(|r| r.gvr == Some(Gvr::core("configmaps")) && r.user_agent != crate::rig::CLIENT);
        let accepts: Vec<_> =
            of_hub.filter(|r| r.is_list() || r.is_watch()).map(|r| r.accept.as_str()).collect();
        assert!(accepts.iter().all(|accept| accept.starts_with(PROTOBUF)), "{accepts:?}");
        assert_eq!(rig.transfers(mark, "configmaps"), (1, 0));
        assert_eq!(whole.full_syncs + metadata.full_syncs, 2, "nobody started over");
    });
}

#[test]
fn a_client_of_another_format_proves_its_own_right_to_what_is_held() {
    run(async {
        let mut rig = Rig::new();
        rig.cloud.add_token("entitled-token", Principal::new("entitled", &[]));
        rig.cloud.add_token("other-token", Principal::new("other", &[]));
        rig.cloud.allow(Rule::allow("entitled", &["get", "list", "watch"], &["configmaps"]));
        rig.start_hub().await;
        rig.heal_seen().await;
        assert_eq!(listed(&rig.pod(), Format::PROTOBUF).await.1, ["a", "b"]);
        let mark = rig.cloud.mark();
        let entitled = rig.nobody().with_token("entitled-token");
        let other = rig.nobody().with_token("other-token");
        let path = format!("{CONFIG_MAPS}?resourceVersion=0");
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            for format in [Format::JSON, METADATA] {
                assert_eq!(listed(&entitled, format).await.1, ["a", "b"], "cut {cut}");
                let other = other.clone().with_header(ACCEPT, format.accept_list());
                let (status, document) = other.get(&path).await.unwrap();
                assert!(matches!(status, 403 | 503), "cut {cut} {format:?}: {status} {document}");
            }
        }
        let seen = rig.cloud.records_since(mark);
        let asked =
            seen.iter().filter(|r| r.gvr.as_ref().is_some_and(|g| g.resource == "subjectaccessreviews"));
        assert!(asked.count() >= 2, "the cloud was asked about each of them");
        assert_eq!(rig.transfers(mark, "configmaps").0, 0, "nothing was fetched again");
    });
}

#[test]
fn a_kind_newer_than_the_hub_is_fetched_in_json_for_json() {
    run(async {
        let mut rig = Rig::new();
        let capsules = Gvr::core("capsules");
        rig.cloud.with(|cloud, _| {
            cloud.registry_mut().add(ResourceKind {
                gvr: capsules.clone(),
                kind: "Capsule".into(),
                namespaced: true,
                protobuf: true,
                status: false,
                create_only: false,
                columns: Vec::new(),
            });
        });
        let capsule = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {"depth": 7}});
        rig.cloud.create(&capsules, capsule).unwrap();
        rig.cloud.allow(Rule::allow(crate::rig::POD_USER, &["get", "list", "watch"], &["capsules"]));
        rig.start_hub().await;
        rig.heal_seen().await;
        let path = "/api/v1/namespaces/default/capsules?resourceVersion=0";
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            let (status, list) = rig.pod().get(path).await.unwrap();
            assert_eq!((status, &list["items"][0]["spec"]["depth"]), (200, &json!(7)), "cut {cut}: {list}");
        }
    });
}
