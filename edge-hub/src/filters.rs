//! Filters in the shell: whose they are, what they read and how fresh that is, and who needs it.

mod keeper;
mod kinds;
mod record;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use edge_hub_core::{
    filter::{Chain, Inputs, Policy},
    identity::Principal,
};
use proto_kube::gvr::GroupVersionResource;
use tokio::sync::{Notify, watch};

pub use self::{keeper::run, record::inputs_key};

use self::{kinds::PoolKinds, record::KINDS};
use crate::{
    collections::{Collections, cell::Cell},
    config::Config,
    site::Site,
    sync::lock,
};

/// How long a request waits for the inputs of its filters before it is told to come again.
const INPUTS_TIMEOUT: Duration = Duration::from_secs(8);

/// Who is shown what, and what that depends on.
pub struct Filters {
    site: Arc<Site>,
    collections: Arc<Collections>,
    policy: Policy,
    /// Complete once everything that filters read was known; it stays so.
    inputs: watch::Sender<Arc<Inputs>>,
    /// What pods of this node are told to trust besides the cluster's authorities, as PEM.
    pub authority: Option<Box<str>>,
    /// Whether the inputs are as fresh as they can be.
    settled: watch::Sender<bool>,
    /// Streams that are open and depend on the inputs.
    open: AtomicUsize,
    /// When somebody last needed the inputs, on the monotonic clock.
    last_use: Mutex<Option<Duration>>,
    attention: Notify,
    /// `None` before the cloud was asked.
    kinds: Mutex<Option<PoolKinds>>,
}

impl Filters {
    /// By configuration; nothing is known of the cluster.
    #[must_use]
    pub fn new(site: &Arc<Site>, collections: &Arc<Collections>) -> Self {
        let config = &site.config;
        let (node, file) = (&*config.file.node_name, &config.file.filters);
        Self {
            policy: file.policy(node),
            inputs: watch::Sender::new(Arc::new(pending(config))),
            authority: own_authority(config),
            settled: watch::Sender::new(false),
            open: AtomicUsize::new(0),
            last_use: Mutex::new(None),
            attention: Notify::new(),
            kinds: Mutex::new(None),
            collections: Arc::clone(collections),
            site: Arc::clone(site),
        }
    }

    /// The filters of a client for a resource.
    #[must_use]
    pub fn chain(&self, principal: &Principal, gvr: &GroupVersionResource) -> Chain {
        self.policy.chain(principal, gvr)
    }

    /// The inputs of now.
    #[must_use]
    pub fn inputs(&self) -> Arc<Inputs> {
        Arc::clone(&self.inputs.borrow())
    }

    /// Whether the inputs are being kept fresh.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    fn touch(&self) {
        *lock(&self.last_use) = Some(self.site.clock.now().monotonic);
        if !self.is_settled() {
            self.attention.notify_one();
        }
    }

    fn is_needed(&self, now: Duration, idle: Duration) -> bool {
        self.open.load(Ordering::Relaxed) > 0
            || lock(&self.last_use).is_some_and(|last| now.saturating_sub(last) < idle)
    }
}

fn pending(config: &Config) -> Inputs {
    let file = &config.file.filters;
    Inputs::pending(&*config.file.node_name, file.hub())
        .with_own_pool(file.node_pool.clone())
        .with_authority(own_authority(config))
}

/// The hub's own authority, where pods are led to the hub and its certificate is not the operator's.
fn own_authority(config: &Config) -> Option<Box<str>> {
    if config.file.serving.is_some() || config.file.filters.hub_address.is_none() {
        return None;
    }
    match crate::certificates::authority::pem(&config.own_pki()) {
        Ok(certificate) => Some(certificate.into()),
        Err(error) => {
            tracing::warn!(%error, "pods cannot be told to trust this node's hub");
            None
        }
    }
}

/// A stream that depends on the inputs, for as long as it is open.
pub struct InUse(Arc<Filters>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

impl Filters {
    /// Waits until the inputs of these filters are as fresh as they can be. What is not known after that is said by
    /// the collection: 429, and never an answer without the filters.
    pub async fn await_inputs(&self, chain: &Chain) {
        if !chain.reads_sources() {
            return;
        }
        self.touch();
        let mut settled = self.settled.subscribe();
        // Late inputs are no reason to refuse what may be shown by older ones.
        let _ = tokio::time::timeout(INPUTS_TIMEOUT, settled.wait_for(|settled| *settled)).await;
    }

    /// Counts an open stream behind these filters; `None` when it depends on nothing.
    #[must_use]
    pub fn hold_inputs(self: &Arc<Self>, chain: &Chain) -> Option<InUse> {
        chain.reads_sources().then(|| {
            self.open.fetch_add(1, Ordering::Relaxed);
            InUse(Arc::clone(self))
        })
    }

    /// Tells a collection the inputs of now, its readers what that changes, and the store both.
    pub fn give_inputs(&self, cell: &Cell) {
        let record = cell.with(|inner| {
            let is_new = inner.collection.set_filter_inputs(&self.inputs());
            is_new.then(|| inner.collection.filter_inputs_record())
        });
        let Some(record) = record else { return };
        cell.change(|_| ());
        match record {
            Some(record) => self.site.store.put(inputs_key(cell), record.into()),
            None => self.site.store.remove(inputs_key(cell)),
        }
    }

    /// Everything of filters that the store holds.
    #[must_use]
    pub fn records(&self) -> Vec<(Vec<u8>, Bytes)> {
        let record = |cell: &Arc<Cell>| {
            let record = cell.with(|inner| inner.collection.filter_inputs_record())?;
            Some((inputs_key(cell).key.into_vec(), record.into()))
        };
        let mut records: Vec<(Vec<u8>, Bytes)> = self.collections.cells().iter().filter_map(record).collect();
        if let Some(kinds) = &*lock(&self.kinds) {
            records.push((KINDS.as_bytes().to_vec(), encode(kinds)));
        }
        records
    }

    /// Takes back what a predecessor stored; its collections are there already. False for what nobody can use.
    pub fn restore(&self, key: &[u8], value: &[u8]) -> bool {
        if key == KINDS.as_bytes() {
            let kinds = serde_json::from_slice(value).ok();
            let is_good = kinds.is_some();
            *lock(&self.kinds) = kinds;
            return is_good;
        }
        let held: BTreeMap<Vec<u8>, Arc<Cell>> = self
            .collections
            .cells()
            .into_iter()
            .map(|cell| (inputs_key(&cell).key.into_vec(), cell))
            .collect();
        held.get(key)
            .is_some_and(|cell| cell.with(|inner| inner.collection.restore_filter_inputs(value).is_ok()))
    }
}

fn encode(kinds: &PoolKinds) -> Bytes {
    serde_json::to_vec(kinds).expect("two texts, written to memory").into()
}
