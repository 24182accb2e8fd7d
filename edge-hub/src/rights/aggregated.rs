//! Kinds that an aggregated API server answers. kube-apiserver tells it who asks, and what it shows may depend on that:
//! each user of OpenShift lists projects of its own. That somebody may list such a kind does not say that it is the same
//! list, so nothing of it is shared among users, and nothing is kept.
//!
//! kube-aggregator has an APIService for each group and version. It labels those that it makes itself, for what
//! kube-apiserver serves and for CustomResourceDefinitions; the others are aggregated. Their names are asked for when a
//! kind is read that this program does not know as Kubernetes' own, so a node that reads no other never asks.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use edge_hub_core::definition::is_built_in;
use http::{Request, StatusCode, header};
use proto_kube::gvr::GroupVersionResource;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::{
    collections::Collections,
    site::Site,
    upstream::{Credential, empty, read_all},
};

/// kube-aggregator's label is absent.
const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices\
    ?labelSelector=%21kube-aggregator.kubernetes.io%2Fautomanaged&resourceVersion=0";
/// Names are all that is wanted.
const ACCEPT: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long an answer counts. What is registered later is shared for so long at most, then it is dropped.
const BELIEVED: Duration = Duration::from_secs(30);
/// Pause after a question that was not answered.
const RETRY: Duration = Duration::from_secs(2);
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What is known of aggregated API servers. Who comes while it is asked for waits for the same answer.
pub struct Aggregated {
    site: Arc<Site>,
    collections: Arc<Collections>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// APIServices by name, `VERSION.GROUP`; `None` before the first answer.
    services: Option<BTreeSet<Box<str>>>,
    /// Until when nothing is asked, on the monotonic clock.
    settled_until: Duration,
}

impl Known {
    fn holds(&self, gvr: &GroupVersionResource) -> bool {
        let name = format!("{}.{}", gvr.version, gvr.group);
        self.services.as_ref().is_some_and(|services| services.contains(name.as_str()))
    }
}

enum Answer {
    Names(BTreeSet<Box<str>>),
    /// This node may not know, and will not if it asks again.
    Refused,
    /// None came.
    Nothing,
}

impl Aggregated {
    /// Knows of none yet.
    #[must_use]
    pub fn new(site: &Arc<Site>, collections: &Arc<Collections>) -> Self {
        let known = Mutex::default();
        Self { site: Arc::clone(site), collections: Arc::clone(collections), known }
    }

    /// Whether what is shown of this kind may depend on who asks. Before that is known, nothing is shared either.
    pub async fn answers(&self, gvr: &GroupVersionResource) -> bool {
        if is_built_in(gvr) {
            return false;
        }
        let mut known = self.known.lock().await;
        let now = self.site.clock.now().monotonic;
        if self.site.is_connected() && now >= known.settled_until {
            let answer = ask(&self.site).await;
            let pause = if matches!(answer, Answer::Nothing) { RETRY } else { BELIEVED };
            known.settled_until = self.site.clock.now().monotonic + pause;
            match answer {
                Answer::Names(services) => known.services = Some(services),
                Answer::Refused if known.services.is_none() => {
                    tracing::warn!(
                        "this node may not list APIServices (deploy/rbac.yaml): what an aggregated API server shows to \
                         one user is taken for what it shows to all who may list it"
                    );
                    known.services = Some(BTreeSet::new());
                }
                Answer::Refused | Answer::Nothing => {}
            }
            // What was kept before its API server was registered, or by an earlier release.
            for cell in self.collections.cells().into_iter().filter(|cell| known.holds(&cell.spec.gvr)) {
                self.collections.remove(&cell);
            }
        }
        match known.services {
            Some(_) => known.holds(gvr),
            // While cut, what there is was kept because it was known once to be everybody's.
            None => self.site.is_connected(),
        }
    }
}

#[derive(Deserialize)]
struct List {
    /// kube-apiserver writes `null` where there is none.
    items: Option<Vec<Item>>,
}

impl List {
    fn names(self) -> BTreeSet<Box<str>> {
        self.items.into_iter().flatten().map(|item| item.metadata.name).collect()
    }
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: Box<str>,
}

/// One question with the node's own credential.
async fn ask(site: &Site) -> Answer {
    let request = Request::get(PATH)
        .header(header::ACCEPT, ACCEPT)
        .header(header::USER_AGENT, crate::USER_AGENT)
        .body(empty());
    let Ok(request) = request else { return Answer::Nothing };
    let Ok(response) = site.send(&Credential::Node, request, ASK_TIMEOUT).await else {
        return Answer::Nothing;
    };
    match response.status() {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => return Answer::Refused,
        _ => return Answer::Nothing,
    }
    let Ok(body) = read_all(response.into_body(), MAX_ANSWER_BYTES, ASK_TIMEOUT).await else {
        return Answer::Nothing;
    };
    match serde_json::from_slice::<List>(&body) {
        Ok(list) => Answer::Names(list.names()),
        Err(error) => {
            tracing::warn!(%error, "the list of APIServices cannot be read");
            Answer::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_none_is_read_in_each_way_that_servers_write_it() {
        for (text, names) in [
            (r#"{"kind":"PartialObjectMetadataList","items":null}"#, vec![]),
            (r#"{"items":[]}"#, vec![]),
            ("{}", vec![]),
            (r#"{"items":[{"metadata":{"name":"v1beta1.metrics.k8s.io"}}]}"#, vec!["v1beta1.metrics.k8s.io"]),
        ] {
            let list: List = serde_json::from_str(text).expect("a list");
            assert_eq!(list.names().iter().map(AsRef::as_ref).collect::<Vec<&str>>(), names, "{text}");
        }
    }
}
