//! Looks after the store while the hub runs: ends a process whose disk hangs, fills a store that had to begin anew,
//! and lets collections forget what grew too old.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edge_hub_core::record::RecordChange;

use crate::{
    hub::{Hub, lock},
    store::{BlobClass, BlobKey, Refill},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A disk operation that takes longer is a deadlock or a dead disk; what is served from memory dies with the process,
/// but a fresh one serves the same from the snapshot, and systemd starts it.
const HUNG_AFTER: Duration = Duration::from_secs(30);
const EXPIRE_EVERY: u32 = 60;

/// Runs until the hub drains.
pub async fn run(hub: Arc<Hub>) {
    let mut turn: u32 = 0;
    loop {
        tokio::select! {
            () = hub.shutdown.draining() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        turn = turn.wrapping_add(1);
        let health = hub.store.health();
        if health.busy > HUNG_AFTER {
            tracing::error!(busy = ?health.busy, "the disk hangs; the process ends so that it can start afresh");
            std::process::abort();
        }
        if let Some(refill) = hub.store.needs_refill() {
            tracing::warn!(?refill, "the store begins anew and is filled from memory");
            fill(&hub, &refill);
        }
        if turn.is_multiple_of(EXPIRE_EVERY) {
            expire(&hub);
        }
    }
}

fn expire(hub: &Hub) {
    let now = hub.clock.now();
    for cell in hub.cells() {
        let changes = cell.with(|inner| inner.collection.expire(now));
        if !changes.is_empty() {
            hub.store.apply(&cell.spec, changes);
        }
    }
}

fn fill(hub: &Hub, refill: &Refill) {
    let now = hub.clock.now();
    for spec in &refill.collections {
        // What is no longer held must not come back with the next start.
        let changes = hub.cell(spec).map(|cell| cell.with(|inner| inner.collection.all_changes(now)));
        let changes = changes.filter(|changes| !changes.is_empty());
        hub.store.apply(spec, changes.unwrap_or_else(|| vec![edge_hub_core::collection::Change::Reset]));
    }
    for class in &refill.blobs {
        for (key, value) in blobs(hub, *class) {
            hub.store.put(BlobKey { class: *class, key: key.into() }, value);
        }
    }
    hub.store.blobs_refilled();
}

fn blobs(hub: &Hub, class: BlobClass) -> Vec<(Vec<u8>, Bytes)> {
    let records = match class {
        BlobClass::Token => lock(&hub.tokens).records(),
        BlobClass::Access => lock(&hub.access).records(),
        BlobClass::Lease => lock(&hub.lease).records(),
        BlobClass::Event => lock(&hub.spool).records(),
        BlobClass::Key => hub.authenticator.records(),
        BlobClass::Filter => return hub.filter_records(),
        BlobClass::Overlay => return hub.overlay.records(),
        BlobClass::Single | BlobClass::Discovery => return documents(hub, class),
    };
    let put = |change| match change {
        RecordChange::Put { key, value } => Some((key, Bytes::from(value))),
        RecordChange::Remove { .. } => None,
    };
    records.into_iter().filter_map(put).collect()
}

/// The documents of one class; their keys tell them apart.
fn documents(hub: &Hub, class: BlobClass) -> Vec<(Vec<u8>, Bytes)> {
    let documents = lock(&hub.documents);
    let of_class =
        documents.all().filter(|(key, _)| crate::serve::is_single_key(key) == (class == BlobClass::Single));
    of_class.map(|(key, document)| (key.as_bytes().to_vec(), document.encode())).collect()
}
