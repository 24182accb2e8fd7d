//! The endpoint overlay in the shell: reads the kubelet's refused patches, keeps what follows on disk, and tells the
//! collections of EndpointSlices. Nothing is told before the disk has what a later process must know of it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use edge_hub_core::{
    collection::{Collection, Lookup, Selection},
    overlay::{Amendments, CloudPod, OwnVersions, PodMemory, concerns, publishes_unready},
    record::RecordChange,
};
use proto_kube::{
    gvr::GroupVersionResource,
    media_type::{Form, Format},
    object::ObjectKey,
    request_info::{ResourceRequest, Verb},
};

use crate::{
    cell::Cell,
    hub::{Hub, lock},
    store::BlobClass,
};

/// How long the disk may take; after that what is true is told all the same.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Versions that one answer of the cloud may need. More are given out, too, and written at once.
const ROOM: u64 = 1024;
/// The patch that kubelets send.
const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";

/// What the kubelet said, and what clients were told of it.
pub struct Overlay {
    memory: Mutex<PodMemory>,
    versions: Arc<Mutex<OwnVersions>>,
    amendments: Mutex<Arc<Amendments>>,
    /// Held while the disk is waited for, so that nobody takes a reserve for durable that is on its way.
    reserving: tokio::sync::Mutex<()>,
    attention: tokio::sync::Notify,
}

impl Overlay {
    /// Of this node; nothing was said yet.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let memory = PodMemory::new(node);
        Self {
            versions: Arc::default(),
            amendments: Mutex::new(Arc::new(memory.amendments(BTreeSet::new()))),
            memory: Mutex::new(memory),
            reserving: tokio::sync::Mutex::default(),
            attention: tokio::sync::Notify::new(),
        }
    }

    /// Takes back what a predecessor stored. False for what nobody can use.
    pub fn restore(&self, key: &[u8], value: &[u8]) -> bool {
        if OwnVersions::is_key(key) {
            return lock(&self.versions).restore(value).is_ok();
        }
        lock(&self.memory).restore(key, value).is_ok()
    }

    /// Everything that the store is to hold.
    #[must_use]
    pub fn records(&self) -> Vec<(Vec<u8>, Bytes)> {
        let pods = lock(&self.memory).records();
        let mut records: Vec<_> = pods.into_iter().map(|(key, value)| (key, Bytes::from(value))).collect();
        let versions = lock(&self.versions);
        if versions.last() > 0
            && let RecordChange::Put { key, value } = versions.record()
        {
            records.push((key, value.into()));
        }
        records
    }

    /// Makes a new collection one of those that are amended, if its kind is.
    pub fn join(&self, collection: &mut Collection, now: edge_hub_core::clock::Now) {
        if concerns(&collection.spec().gvr) {
            collection.share_versions(Arc::clone(&self.versions));
            collection.amend(now, Arc::clone(&lock(&self.amendments)));
        }
    }

    /// Whether this version of this kind may be one of the hub's own, which nobody else knows.
    #[must_use]
    pub fn made_up(&self, gvr: &GroupVersionResource, version: u64) -> bool {
        concerns(gvr) && lock(&self.versions).holds(version)
    }

    /// The version that a new collection is to begin with, so that its first client can watch on from there.
    #[must_use]
    pub fn seed(&self, gvr: &GroupVersionResource, version: Option<u64>) -> Option<u64> {
        version.filter(|version| *version > 0 && !self.made_up(gvr, *version))
    }

    /// Whether clients may ever have been told versions of this kind that are the hub's own.
    #[must_use]
    pub fn may_have_told(&self, gvr: &GroupVersionResource) -> bool {
        concerns(gvr) && lock(&self.versions).last() > 0
    }

    /// Pods of which the kubelet said something that the cloud may not know.
    #[must_use]
    pub fn pods(&self) -> usize {
        lock(&self.memory).told()
    }
}

/// Runs until the hub drains.
pub async fn run(hub: Arc<Hub>) {
    let draining = hub.shutdown.clone();
    let mut link = hub.link.subscribe();
    let [_, pods] = hub.own_specs();
    loop {
        link.borrow_and_update();
        let mut pods = hub.cell(&pods).map(|cell| cell.subscribe());
        hub.renew_overlay().await;
        let (is_idle, next) = {
            let memory = lock(&hub.overlay.memory);
            (memory.is_empty(), memory.next_tick())
        };
        let changed = async {
            match &mut pods {
                Some(pods) if !is_idle => drop(pods.changed().await),
                _ => std::future::pending().await,
            }
        };
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(hub.clock.instant(next)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = draining.draining() => return,
            () = hub.overlay.attention.notified() => {}
            changed = link.changed() => if changed.is_err() { return },
            () = changed => {}
            () = due => {}
        }
    }
}

impl Hub {
    /// The kubelet of this node was refused this request while cut. If it patches the status of a pod, it says where
    /// that pod is now.
    pub fn hear_pod_status(&self, request: &ResourceRequest, content_type: &str, body: &[u8]) {
        let is_patch = request.verb == Verb::Patch && content_type == STRATEGIC_MERGE;
        let (Some(namespace), Some(name)) = (&request.namespace, &request.name) else { return };
        if !is_patch || &*request.gvr.resource != "pods" {
            return;
        }
        let [_, pods] = self.own_specs();
        let key = ObjectKey { namespace: namespace.clone(), name: name.clone() };
        let found = self.cell(&pods).map(|cell| cell.with(|inner| inner.collection.get(&key)));
        let Some(Lookup::Found(pod)) = found else { return };
        match lock(&self.overlay.memory).hear(pods.format, &pod, body) {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => {
                self.save_records(BlobClass::Overlay, changes);
                self.overlay.attention.notify_one();
            }
            Err(error) => tracing::warn!(%namespace, %name, %error, "a pod's status says nothing"),
        }
    }

    /// What follows from the link, the time, this node's pods and the kubelet's words.
    async fn renew_overlay(&self) {
        let (now, connected) = (self.clock.now(), self.is_connected());
        let [_, pods] = self.own_specs();
        let amendments = {
            let mut memory = lock(&self.overlay.memory);
            if !connected && let Some(cell) = self.cell(&pods) {
                let all = Selection { fields: pods.fields.clone(), ..Selection::default() };
                let held = cell.with(|inner| inner.collection.list(&all));
                let over = held.map(|held| memory.cut(pods.format, &held.objects)).unwrap_or_default();
                self.save_records(BlobClass::Overlay, over);
            }
            if connected && let Some(cell) = self.cell(&pods) {
                let changes = cell.with(|inner| {
                    let collection = &inner.collection;
                    let held = |key: &ObjectKey| match collection.get(key) {
                        Lookup::Found(pod) => Some(CloudPod::Present(pod)),
                        _ if collection.is_complete() => Some(CloudPod::Gone(collection.upstream_version())),
                        _ => None,
                    };
                    memory.compare(now, pods.format, held)
                });
                self.save_records(BlobClass::Overlay, changes);
            }
            let ended = memory.tick(now, connected);
            self.save_records(BlobClass::Overlay, ended);
            memory.amendments(self.services_of_unready(memory.is_empty()))
        };
        if *lock(&self.overlay.amendments).as_ref() != amendments {
            self.amend(Arc::new(amendments)).await;
        }
        let released = if connected { lock(&self.overlay.versions).release() } else { None };
        self.save_records(BlobClass::Overlay, released.into_iter().collect());
    }

    async fn amend(&self, amendments: Arc<Amendments>) {
        let pods = self.overlay.pods();
        tracing::info!(pods, "endpoints of this node's pods are as their kubelet has them");
        let of_kind = || self.cells().into_iter().filter(|cell| concerns(&cell.spec.gvr));
        let slices: usize = of_kind().map(|cell| cell.with(|inner| inner.collection.len())).sum();
        self.make_room(u64::try_from(slices).unwrap_or(ROOM), true).await;
        // First, so that a collection that is made meanwhile has them, too.
        lock(&self.overlay.amendments).clone_from(&amendments);
        let now = self.clock.now();
        for cell in of_kind() {
            if cell.with(|inner| inner.collection.amend(now, Arc::clone(&amendments))) {
                cell.change(|_| ());
            }
        }
    }

    /// What the cloud says next of this collection may have to be told under versions of the hub's own.
    pub async fn prepare_versions(&self, cell: &Cell) {
        if concerns(&cell.spec.gvr) && cell.with(|inner| inner.collection.may_need_versions()) {
            self.make_room(ROOM, false).await;
        }
    }

    async fn make_room(&self, count: u64, flush: bool) {
        let _turn = self.overlay.reserving.lock().await;
        let reserve = lock(&self.overlay.versions).reserve(count);
        if reserve.is_none() && !flush {
            return;
        }
        self.save_records(BlobClass::Overlay, reserve.into_iter().collect());
        if self.store.flush().durable_within(DURABLE_TIMEOUT).await.is_err() {
            tracing::warn!(
                "endpoints are amended though the disk does not take it; a kill may cost clients a list"
            );
        }
    }

    /// What a predecessor left is told before the first client comes.
    pub fn restore_overlay(&self) {
        let overlay = &self.overlay;
        let is_fresh = lock(&overlay.versions).last() == 0 && lock(&overlay.memory).is_empty();
        let now = self.clock.now();
        let cells = self.cells();
        if !is_fresh {
            let memory = lock(&overlay.memory);
            let amendments = memory.amendments(self.services_of_unready(memory.is_empty()));
            *lock(&overlay.amendments) = Arc::new(amendments);
        }
        for cell in cells {
            cell.with(|inner| overlay.join(&mut inner.collection, now));
        }
        if is_fresh {
            return;
        }
        let reserve = lock(&overlay.versions).reserve(ROOM);
        self.save_records(BlobClass::Overlay, reserve.into_iter().collect());
        if self.store.flush().wait_timeout(DURABLE_TIMEOUT).is_err() {
            tracing::warn!("the disk does not take what clients are about to be told");
        }
    }

    /// Services that publish the addresses of pods that are not ready, as far as Services are held here.
    fn services_of_unready(&self, is_idle: bool) -> BTreeSet<ObjectKey> {
        if is_idle {
            return BTreeSet::new();
        }
        let services = GroupVersionResource::new("", "v1", "services");
        let is_source = |cell: &Arc<Cell>| cell.spec.gvr == services && cell.spec.format.form == Form::Object;
        let mut found = BTreeSet::new();
        for cell in self.cells().into_iter().filter(is_source) {
            let format: Format = cell.spec.format;
            let all = Selection {
                namespace: cell.spec.namespace.clone(),
                name: None,
                labels: cell.spec.labels.clone(),
                fields: cell.spec.fields.clone(),
            };
            let Ok(listing) = cell.with(|inner| inner.collection.list(&all)) else { continue };
            let publishing = listing.objects.iter().filter(|service| publishes_unready(format, service));
            found.extend(publishing.map(|service| service.key.clone()));
        }
        found
    }
}
