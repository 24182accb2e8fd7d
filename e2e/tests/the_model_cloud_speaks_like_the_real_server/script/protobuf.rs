//! Protobuf answers: objects, lists, pages, streams, refusals, metadata alone.

use serde_json::json;

use super::objects::{below, config_map, config_map_path};
use crate::step::{Act, PROTOBUF, Until, Who, delete, get, merge, post, put};

const TYPED: &str = "application/vnd.kubernetes.protobuf,application/json";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const ONE: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

pub(super) fn acts() -> Vec<Act> {
    let list = format!("{}?labelSelector=series", below("configmaps"));
    let mut acts: Vec<Act> = Vec::new();
    for path in [
        config_map_path("s1"),
        config_map_path("full"),
        config_map_path("absent"),
        list.clone(),
        format!("{list}&limit=1"),
        format!("{list}&resourceVersion=0"),
        below("secrets"),
        below("secrets/sealed"),
        "/api/v1/namespaces/script".to_owned(),
        "/api/v1/namespaces/script-empty/configmaps".to_owned(),
        below("nonsenses"),
        format!("{list}&resourceVersionMatch=Exact"),
    ] {
        acts.push(get(path).accept(PROTOBUF).into());
    }
    for who in [Who::Node, Who::Reader, Who::Forger, Who::Nobody] {
        acts.push(get(&list).by(who).accept(TYPED).into());
    }
    acts.push(get(&list).accept(METADATA).into());
    acts.push(get(config_map_path("s1")).accept(ONE).into());
    acts.push(
        get(config_map_path("s1"))
            .accept("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1")
            .into(),
    );
    acts.extend(streams(&list));
    // Writes are answered in the encoding that is asked for, too.
    let (path, collection) = (config_map_path("binary"), below("configmaps"));
    acts.push(post(&collection, &config_map("binary", "1")).accept(TYPED).into());
    acts.push(post(&collection, &config_map("binary", "1")).accept(TYPED).into());
    acts.push(put(&path, &config_map("binary", "2")).accept(TYPED).into());
    acts.push(merge(&path, &json!({"data": {"m": "1"}})).accept(TYPED).into());
    acts.push(delete(&path).accept(TYPED).into());
    acts.push(delete(&path).accept(TYPED).into());
    acts
}

fn streams(list: &str) -> Vec<Act> {
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let watch = |query: &str| get(format!("{list}&watch=1&{query}")).accept(TYPED);
    let touch = |value: &str| Act::from(merge(config_map_path("s2"), &json!({"data": {"v": value}})));
    vec![
        watch("timeoutSeconds=1").watch(Until::End, []).into(),
        watch(initial).watch(Until::Marked, []).into(),
        watch("resourceVersionMatch=Exact").watch(Until::End, []).into(),
        get(format!("{list}&watch=1&{initial}")).accept(METADATA).watch(Until::Marked, []).into(),
        get(below("configmaps")).save("start", "/metadata/resourceVersion").into(),
        watch("resourceVersion=${start}").watch(Until::Named("s2"), [touch("p1")]).into(),
    ]
}
