//! Which of OpenYurt's kinds the cluster has, and in which version: asked of discovery, because to list a kind that a
//! node has no right to is refused in the same words whether it exists or not.

use std::time::Duration;

use edge_hub_core::collection::CollectionSpec;
use http::{Request, StatusCode, header};
use proto_kube::{gvr::GroupVersionResource, media_type::Format};
use serde::{Deserialize, Serialize};

use crate::{
    site::Site,
    upstream::{Credential, empty, read_all},
};

const GROUP: &str = "apps.openyurt.io";
/// Each kind with its versions, the one that is read first.
const POOLS: (&str, &[&str]) = ("nodepools", &["v1beta2", "v1beta1", "v1alpha1"]);
const BUCKETS: (&str, &[&str]) = ("nodebuckets", &["v1alpha1"]);

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 1024 * 1024;

/// The versions that the cluster serves; `None` for a kind that it does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PoolKinds {
    pools: Option<Box<str>>,
    buckets: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Group {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: Box<str>,
}

#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: Box<str>,
}

impl PoolKinds {
    /// The collections of what there is.
    pub(super) fn specs(&self) -> Vec<CollectionSpec> {
        let kinds = [(POOLS.0, &self.pools), (BUCKETS.0, &self.buckets)];
        let spec = |(resource, version): (&str, &Option<Box<str>>)| {
            let version = version.clone()?;
            Some(whole(GroupVersionResource::new(GROUP, version, resource), Format::JSON))
        };
        kinds.into_iter().filter_map(spec).collect()
    }

    /// Asks the cloud; `None` when it does not answer, or in words that nobody understands.
    pub(super) async fn ask(site: &Site) -> Option<Self> {
        let Some(group) = get::<Group>(site, &format!("/apis/{GROUP}")).await? else {
            return Some(Self::default());
        };
        let served: Vec<Box<str>> = group.versions.into_iter().map(|version| version.version).collect();
        let mut found = Self::default();
        for (kind, (resource, versions)) in [(&mut found.pools, POOLS), (&mut found.buckets, BUCKETS)] {
            for version in
                versions.iter().copied().filter(|version| served.iter().any(|held| **held == **version))
            {
                let list = get::<Resources>(site, &format!("/apis/{GROUP}/{version}")).await?;
                if list.is_some_and(|list| list.resources.iter().any(|held| *held.name == *resource)) {
                    *kind = Some(version.into());
                    break;
                }
            }
        }
        Some(found)
    }
}

/// All objects of a kind.
pub(super) fn whole(gvr: GroupVersionResource, format: Format) -> CollectionSpec {
    CollectionSpec { gvr, namespace: None, labels: Default::default(), fields: Default::default(), format }
}

/// A discovery document, `Some(None)` where there is none; `None` when the cloud gave no answer to go by.
async fn get<T: for<'de> Deserialize<'de>>(site: &Site, path: &str) -> Option<Option<T>> {
    let request = Request::get(path)
        .header(header::ACCEPT, Format::JSON.accept_object())
        .header(header::USER_AGENT, crate::USER_AGENT)
        .body(empty())
        .ok()?;
    let response = site.send(&Credential::Node, request, ANSWER_TIMEOUT).await.ok()?;
    match response.status() {
        StatusCode::NOT_FOUND => return Some(None),
        StatusCode::OK => {}
        status => {
            tracing::warn!(path, %status, "the cloud does not say which kinds it has");
            return None;
        }
    }
    let body = read_all(response.into_body(), MAX_BYTES, ANSWER_TIMEOUT).await.ok()?;
    let document = serde_json::from_slice(&body);
    if let Err(error) = &document {
        tracing::warn!(path, %error, "the cloud's list of kinds cannot be read");
    }
    document.ok().map(Some)
}
