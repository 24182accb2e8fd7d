//! Tables, metadata alone, and what else may stand in `Accept`.

use super::objects::{below, config_map_path};
use crate::step::{Act, JSON, PARTIAL, PARTIAL_LIST, TABLE, Until, get};

const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const INFORMER: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

pub(super) fn acts() -> Vec<Act> {
    let list = format!("{}?labelSelector=series", below("configmaps"));
    let mut acts: Vec<Act> = Vec::new();
    for accept in [TABLE, KUBECTL, PARTIAL, PARTIAL_LIST, INFORMER] {
        acts.push(get(&list).accept(accept).into());
        let watch = format!("{list}&watch=1&timeoutSeconds=1");
        acts.push(get(&watch).accept(accept).watch(Until::End, []).into());
    }
    for accept in [TABLE, KUBECTL, PARTIAL, INFORMER] {
        acts.push(get(config_map_path("s1")).accept(accept).into());
        acts.push(get(config_map_path("absent")).accept(accept).into());
    }
    for include in ["None", "Object", "Metadata", "Nonsense"] {
        acts.push(get(format!("{list}&limit=1&includeObject={include}")).accept(TABLE).into());
    }
    for path in [
        below("secrets"),
        below("serviceaccounts"),
        "/apis/coordination.k8s.io/v1/namespaces/script/leases".to_owned(),
        "/api/v1/namespaces?fieldSelector=metadata.name%3Dscript".to_owned(),
        "/api/v1/namespaces/script-empty/configmaps".to_owned(),
    ] {
        acts.push(get(path).accept(TABLE).into());
    }
    for accept in [
        "*/*",
        "application/*",
        "text/plain",
        "application/cbor",
        "application/yaml;q=0.5,application/json",
        "application/json;q=0.1,application/yaml;q=0.05",
        "application/json;as=Nonsense;v=v1;g=meta.k8s.io",
        "application/json;as=Table;v=v9;g=meta.k8s.io",
        "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
        "application/json;stream=watch",
        JSON,
    ] {
        acts.push(get(config_map_path("s1")).accept(accept).into());
    }
    acts.push(get(format!("{list}&watch=1")).accept("text/plain").into());
    acts
}
