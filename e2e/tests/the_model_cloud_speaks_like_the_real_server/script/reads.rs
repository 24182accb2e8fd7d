//! GET of one object, HEAD, and revisions.

use super::objects::{NAMESPACE, below, config_map_path};
use crate::step::{Act, Step, Who, get};

pub(super) fn acts() -> Vec<Act> {
    let first = config_map_path("first");
    let mut acts: Vec<Act> = vec![
        get(&first)
            .save("first-version", "/metadata/resourceVersion")
            .save("first-uid", "/metadata/uid")
            .into(),
        get(config_map_path("absent")).into(),
        get(below("secrets/sealed")).into(),
        get(below("serviceaccounts/reader")).into(),
        get("/apis/coordination.k8s.io/v1/namespaces/script/leases/leader").into(),
        get("/apis/coordination.k8s.io/v1/namespaces/script/leases/absent").into(),
        get("/api/v1/namespaces/absent/configmaps/first").into(),
        get(NAMESPACE).into(),
        get(format!("{first}?pretty=false")).into(),
        get(format!("{first}/status")).into(),
        get(format!("{first}/nonsense")).into(),
        get(below("nonsenses/first")).into(),
        get("/apis/nonsense.io/v1/namespaces/script/things/first").into(),
        get("/api/v2/namespaces/script/configmaps/first").into(),
        Step::new("HEAD", &first).into(),
        Step::new("HEAD", config_map_path("absent")).into(),
    ];
    for version in ["0", "1", "${first-version}"] {
        acts.push(get(format!("{first}?resourceVersion={version}")).into());
        acts.push(get(format!("{}?resourceVersion={version}", config_map_path("absent"))).into());
    }
    acts.push(get(format!("{first}?resourceVersion=nonsense")).into());
    acts.push(get(format!("{first}?resourceVersion=999999999")).into());
    for who in [Who::Node, Who::Reader, Who::Forger, Who::Nobody] {
        acts.push(get(&first).by(who).into());
        acts.push(get(config_map_path("absent")).by(who).into());
        acts.push(get(below("secrets/sealed")).by(who).into());
    }
    acts
}
