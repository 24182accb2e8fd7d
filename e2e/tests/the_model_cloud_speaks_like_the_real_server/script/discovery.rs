//! Discovery in both forms, versions, health, and the issuer's documents.

use crate::step::{Act, Step, Who, get};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

pub(super) fn acts() -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    for path in [
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        "/apis/coordination.k8s.io/v1",
        "/apis/discovery.k8s.io/v1",
        "/apis/authentication.k8s.io/v1",
        "/apis/authorization.k8s.io/v1",
        "/apis/storage.k8s.io/v1",
        "/apis/node.k8s.io/v1",
        "/apis/nonsense.io",
        "/apis/nonsense.io/v1",
        "/apis/apps/v9",
        "/api/v9",
        "/version",
        "/healthz",
        "/livez",
        "/readyz",
        "/nonsense",
        "/openid/v1/jwks",
        "/.well-known/openid-configuration",
    ] {
        acts.push(get(path).into());
    }
    for path in ["/api", "/apis"] {
        acts.push(get(path).accept(AGGREGATED).into());
    }
    for who in [Who::Node, Who::Reader, Who::Forger, Who::Nobody] {
        for path in ["/api", "/apis", "/api/v1", "/version", "/healthz", "/openid/v1/jwks", "/metrics"] {
            acts.push(get(path).by(who).into());
        }
    }
    acts.push(Step::new("POST", "/version").into());
    acts.push(Step::new("DELETE", "/api").into());
    acts
}
