//! What every service of a hub stands on: the settings of this node, its clock, its store, and its way to the cloud.

use std::sync::Arc;

use edge_hub_core::{
    collection::CollectionSpec,
    identity::Principal,
    link::{LinkState, PROBE_INTERVAL, PROBE_TIMEOUT},
    record::RecordChange,
};
use proto_daemon::{shutdown::Shutdown, tls::ReloadingResolver};
use proto_kube::{
    gvr::GroupVersionResource,
    media_type::Format,
    selector::{FieldSelector, LabelSelector},
};
use tokio::sync::{Notify, watch};

use crate::{
    clock::Clock,
    config::Config,
    metrics::Metrics,
    store::{BlobClass, BlobKey, Store},
    upstream::Upstream,
};

/// The hub's own certificates; each follows its files.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// What clients see.
    pub serving: Arc<ReloadingResolver>,
    /// What the API server sees: this node's own.
    pub credential: Arc<ReloadingResolver>,
}

/// This node, its disk and its link.
pub struct Site {
    /// Checked settings.
    pub config: Config,
    /// The clock.
    pub clock: Clock,
    /// The hub's own certificates.
    pub certificates: Certificates,
    /// The way to the cloud.
    pub upstream: Upstream,
    /// Is the cloud there?
    pub link: watch::Sender<LinkState>,
    /// A server was reached by a new connection: its state may be older than the one before.
    pub reconnected: Notify,
    /// What outlives the process.
    pub store: Store,
    /// Counters.
    pub metrics: Metrics,
    /// This node's own identity.
    pub node: Principal,
    /// Running, draining, stopped.
    pub shutdown: Shutdown,
}

impl Site {
    /// The verdict on the link.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.borrow().is_connected()
    }

    /// A request failed in a way that a dead link explains. Waits until that verdict is passed, at most for the time
    /// that it takes. Returns whether the link is cut.
    pub async fn await_verdict(&self) -> bool {
        let mut link = self.link.subscribe();
        let cut = link.wait_for(|link| !link.is_connected());
        // Nobody answers within the bound, a probe and a new connection: the link stands, and only that connection died.
        tokio::time::timeout(PROBE_INTERVAL + 2 * PROBE_TIMEOUT, cut).await.is_ok()
    }

    /// Own Node and own Pods: what the hub needs itself to know which tokens belong here.
    #[must_use]
    pub fn own_specs(&self) -> [CollectionSpec; 2] {
        let name = &self.config.file.node_name;
        let own = |resource: &str, path: &str| CollectionSpec {
            gvr: GroupVersionResource::new("", "v1", resource),
            namespace: None,
            labels: LabelSelector::default(),
            fields: FieldSelector::parse(&format!("{path}={name}")).expect("a node name needs no escaping"),
            format: Format::PROTOBUF,
        };
        [own("nodes", "metadata.name"), own("pods", "spec.nodeName")]
    }

    /// Writes what a memory wants kept.
    pub fn save_records(&self, class: BlobClass, changes: Vec<RecordChange>) {
        for change in changes {
            match change {
                RecordChange::Put { key, value } => {
                    self.store.put(BlobKey { class, key: key.into() }, value.into())
                }
                RecordChange::Remove { key } => self.store.remove(BlobKey { class, key: key.into() }),
            }
        }
    }
}
