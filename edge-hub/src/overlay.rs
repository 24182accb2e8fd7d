//! The endpoint overlay in the shell: reads the kubelet's refused patches, keeps what follows on disk, and tells the
//! collections of EndpointSlices. Nothing is told before the disk has what a later process must know of it.

mod state;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use edge_hub_core::{
    collection::{Lookup, Selection},
    overlay::{Amendments, CloudPod, concerns, publishes_unready},
};
use proto_kube::{
    gvr::GroupVersionResource,
    media_type::{Form, Format},
    object::ObjectKey,
    request_info::{ResourceRequest, Verb},
};

pub use self::state::Overlay;
use crate::{
    collections::{Collections, cell::Cell},
    store::BlobClass,
    sync::lock,
};

/// How long the disk may take; after that what is true is told all the same.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Versions that one answer of the cloud may need. More are given out, too, and written at once.
const ROOM: u64 = 1024;
/// The patch that kubelets send.
const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";

/// Runs until the hub drains.
pub async fn run(collections: Arc<Collections>) {
    let draining = collections.site.shutdown.clone();
    let mut link = collections.site.link.subscribe();
    let [_, pods] = collections.site.own_specs();
    loop {
        link.borrow_and_update();
        let mut pods = collections.cell(&pods).map(|cell| cell.subscribe());
        collections.renew_overlay().await;
        let (is_idle, next) = {
            let memory = lock(&collections.overlay.memory);
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
                Some(next) => tokio::time::sleep_until(collections.site.clock.instant(next)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = draining.draining() => return,
            () = collections.overlay.attention.notified() => {}
            changed = link.changed() => if changed.is_err() { return },
            () = changed => {}
            () = due => {}
        }
    }
}

impl Collections {
    /// The kubelet of this node was refused this request while cut. If it patches the status of a pod, it says where
    /// that pod is now.
    pub fn hear_pod_status(&self, request: &ResourceRequest, content_type: &str, body: &[u8]) {
        let is_patch = request.verb == Verb::Patch && content_type == STRATEGIC_MERGE;
        let (Some(namespace), Some(name)) = (&request.namespace, &request.name) else { return };
        if !is_patch || &*request.gvr.resource != "pods" {
            return;
        }
        let [_, pods] = self.site.own_specs();
        let key = ObjectKey { namespace: namespace.clone(), name: name.clone() };
        let found = self.cell(&pods).map(|cell| cell.with(|inner| inner.collection.get(&key)));
        let Some(Lookup::Found(pod)) = found else { return };
        match lock(&self.overlay.memory).hear(pods.format, &pod, body) {
            Ok(changes) if changes.is_empty() => {}
            Ok(changes) => {
                self.site.save_records(BlobClass::Overlay, changes);
                self.overlay.attention.notify_one();
            }
            Err(error) => tracing::warn!(%namespace, %name, %error, "a pod's status says nothing"),
        }
    }

    /// What follows from the link, the time, this node's pods and the kubelet's words.
    async fn renew_overlay(&self) {
        let (now, connected) = (self.site.clock.now(), self.site.is_connected());
        let [_, pods] = self.site.own_specs();
        let amendments = {
            let mut memory = lock(&self.overlay.memory);
            if !connected && let Some(cell) = self.cell(&pods) {
                let all = Selection { fields: pods.fields.clone(), ..Selection::default() };
                let held = cell.with(|inner| inner.collection.list(&all));
                let over = held.map(|held| memory.cut(pods.format, &held.objects)).unwrap_or_default();
                self.site.save_records(BlobClass::Overlay, over);
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
                self.site.save_records(BlobClass::Overlay, changes);
            }
            let ended = memory.tick(now, connected);
            self.site.save_records(BlobClass::Overlay, ended);
            memory.amendments(self.services_of_unready(memory.is_empty()))
        };
        if *lock(&self.overlay.amendments).as_ref() != amendments {
            self.amend(Arc::new(amendments)).await;
        }
        let released = if connected { lock(&self.overlay.versions).release() } else { None };
        self.site.save_records(BlobClass::Overlay, released.into_iter().collect());
    }

    async fn amend(&self, amendments: Arc<Amendments>) {
        let pods = self.overlay.pods();
        tracing::info!(pods, "endpoints of this node's pods are as their kubelet has them");
        let of_kind = || self.cells().into_iter().filter(|cell| concerns(&cell.spec.gvr));
        let slices: usize = of_kind().map(|cell| cell.with(|inner| inner.collection.len())).sum();
        self.make_room(u64::try_from(slices).unwrap_or(ROOM), true).await;
        // First, so that a collection that is made meanwhile has them, too.
        lock(&self.overlay.amendments).clone_from(&amendments);
        let now = self.site.clock.now();
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
        self.site.save_records(BlobClass::Overlay, reserve.into_iter().collect());
        if self.site.store.flush().durable_within(DURABLE_TIMEOUT).await.is_err() {
            tracing::warn!(
                "endpoints are amended though the disk does not take it; a kill may cost clients a list"
            );
        }
    }

    /// What a predecessor left is told before the first client comes.
    pub fn restore_overlay(&self) {
        let overlay = &self.overlay;
        let is_fresh = lock(&overlay.versions).last() == 0 && lock(&overlay.memory).is_empty();
        let now = self.site.clock.now();
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
        self.site.save_records(BlobClass::Overlay, reserve.into_iter().collect());
        if self.site.store.flush().wait_timeout(DURABLE_TIMEOUT).is_err() {
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
