//! What each principal may and may not read, and in which words it is refused.

use super::objects::below;
use crate::step::{Act, Who, delete, get};

pub(super) fn acts() -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    let paths = [
        "/api/v1/secrets".to_owned(),
        "/api/v1/services?limit=1&labelSelector=none".to_owned(),
        "/api/v1/serviceaccounts?labelSelector=none".to_owned(),
        below("secrets"),
        below("pods?labelSelector=none"),
        below("configmaps?fieldSelector=metadata.name%3Ds1"),
        "/apis/apps/v1/deployments?labelSelector=none".to_owned(),
        "/apis/storage.k8s.io/v1/csidrivers?labelSelector=none".to_owned(),
        "/apis/node.k8s.io/v1/runtimeclasses?labelSelector=none".to_owned(),
        "/metrics/nonsense".to_owned(),
        "/version/nonsense".to_owned(),
    ];
    for path in paths {
        for who in [Who::Node, Who::Reader] {
            acts.push(get(&path).by(who).into());
        }
    }
    for who in [Who::Node, Who::Reader] {
        acts.push(delete(below("configmaps/first")).by(who).into());
        acts.push(delete(below("configmaps?labelSelector=none")).by(who).into());
        acts.push(get(below("pods/p/log")).by(who).into());
    }
    acts
}
