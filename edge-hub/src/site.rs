//! What every service of a hub stands on: the settings of this node, its clock, its store, and its way to the cloud.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use edge_hub_core::{
    collection::CollectionSpec,
    identity::Principal,
    impairment::Impairment,
    link::{LinkState, PROBE_INTERVAL, PROBE_TIMEOUT},
    plan::Cloud,
    record::RecordChange,
};
use http::{Request, Response, StatusCode};
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
    sync::lock,
    upstream::{Body, Credential, Upstream, UpstreamBody, UpstreamError},
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
    /// How often a new connection proved the link.
    pub proofs: watch::Sender<u64>,
    /// What comes of this node's own requests.
    impairment: Mutex<Impairment>,
    /// Since when they fail although a server is there, on the wall clock.
    pub impaired_since: watch::Sender<Option<Duration>>,
    /// What outlives the process.
    pub store: Store,
    /// Counters.
    pub metrics: Metrics,
    /// This node's own identity.
    pub node: Principal,
    /// Running, draining, stopped.
    pub shutdown: Shutdown,
}

/// What a [`Site`] is made from.
pub struct SiteParts {
    /// Checked settings.
    pub config: Config,
    /// The clock.
    pub clock: Clock,
    /// The hub's own certificates.
    pub certificates: Certificates,
    /// Connections.
    pub upstream: Upstream,
    /// The store, empty or not.
    pub store: Store,
    /// Counters.
    pub metrics: Metrics,
    /// Running, draining, stopped.
    pub shutdown: Shutdown,
}

impl Site {
    /// The link counts as cut since `last_contact`, on the wall clock.
    #[must_use]
    pub fn new(parts: SiteParts, last_contact: Duration) -> Self {
        let SiteParts { config, clock, certificates, upstream, store, metrics, shutdown } = parts;
        Self {
            node: Principal::node(&config.file.node_name),
            link: watch::Sender::new(LinkState::Cut { since_unix: last_contact }),
            reconnected: Notify::new(),
            proofs: watch::Sender::new(0),
            impairment: Mutex::default(),
            impaired_since: watch::Sender::new(None),
            config,
            clock,
            certificates,
            upstream,
            store,
            metrics,
            shutdown,
        }
    }

    /// The way to the cloud, as a plan has it.
    #[must_use]
    pub fn cloud(&self) -> Cloud {
        match (self.is_connected(), *self.impaired_since.borrow()) {
            (false, _) => Cloud::Cut,
            (true, Some(_)) => Cloud::Impaired,
            (true, None) => Cloud::Answers,
        }
    }

    /// Since when the cloud says nothing, on the wall clock: now, if it does.
    #[must_use]
    pub fn silent_since(&self) -> Duration {
        match *self.link.borrow() {
            LinkState::Cut { since_unix } => since_unix,
            LinkState::Connected | LinkState::Relayed { .. } => {
                self.impaired_since.borrow().unwrap_or_else(|| self.clock.now().unix)
            }
        }
    }

    /// Sends a request, and takes note of what comes of those of this node itself.
    ///
    /// # Errors
    /// As [`Upstream::send`].
    pub async fn send(
        &self,
        credential: &Credential,
        request: Request<Body>,
        head_timeout: Duration,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        let outcome = self.upstream.send(credential, request, head_timeout).await;
        match &outcome {
            _ if *credential != Credential::Node || !self.is_connected() => {}
            Ok(response) => self.note_outcome(is_failure(response.status())),
            Err(UpstreamError::Request(_)) => {}
            Err(_) => self.note_outcome(true),
        }
        outcome
    }

    fn note_outcome(&self, failed: bool) {
        let mut impairment = lock(&self.impairment);
        let is_news =
            if failed { impairment.handle_failure(self.clock.now()) } else { impairment.handle_answer() };
        if is_news {
            self.impaired_since.send_replace(impairment.since_unix());
            if failed {
                tracing::warn!(
                    "the API server is there and fails this node's requests; what is held answers for it"
                );
            } else {
                tracing::info!("the API server answers requests again");
            }
        }
    }

    /// Another server is there, or none: what the last one failed counts no more.
    pub fn forget_failures(&self) {
        let is_news = lock(&self.impairment).handle_answer();
        if is_news {
            self.impaired_since.send_replace(None);
        }
    }

    /// The verdict on the link.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.borrow().is_connected()
    }

    /// A request failed in a way that a dead link explains. Waits until that verdict is passed or another connection proves
    /// the link, at most for the time that this takes.
    pub async fn await_verdict(&self) {
        let (mut link, mut proofs) = (self.link.subscribe(), self.proofs.subscribe());
        let verdict = async {
            tokio::select! {
                _ = link.wait_for(|link| !link.is_connected()) => {}
                _ = proofs.changed() => {}
            }
        };
        // Nobody answers within the bound, a probe and a new connection: the link stands, and only that connection died.
        let _ = tokio::time::timeout(PROBE_INTERVAL + 2 * PROBE_TIMEOUT, verdict).await;
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

/// Whether a server says that it cannot, rather than that it will not.
#[must_use]
pub fn is_failure(code: StatusCode) -> bool {
    matches!(code.as_u16(), 500 | 502..=504)
}
