//! What a store gives back: at the start, or later, when its disk did not answer in time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use edge_hub_core::{collection::Collection, link::LinkState};

use super::{Hub, lock};
use crate::{
    cell::Cell,
    store::{BlobClass, BlobKey, Recovered, RecoveredCollection},
};

/// When the API server was last heard of, by what the store kept.
pub(super) fn last_contact(recovered: &Recovered) -> Duration {
    let marks = recovered.collections.iter().filter_map(|held| held.watermark.as_ref());
    marks.map(|mark| mark.synced_unix).max().unwrap_or(Duration::ZERO)
}

impl Hub {
    /// Takes in what a store held that could be opened only while the hub served already, from memory alone. What is in
    /// memory is newer, and has precedence.
    pub fn take_in(self: &Arc<Self>, mut recovered: Recovered) {
        for note in &recovered.quarantined {
            tracing::warn!(note, "damaged data was set aside");
        }
        let heard = last_contact(&recovered);
        self.link.send_if_modified(|link| match link {
            LinkState::Cut { since_unix } if *since_unix < heard => {
                *since_unix = heard;
                true
            }
            _ => false,
        });
        for held in std::mem::take(&mut recovered.collections) {
            self.restore_late(held);
        }
        // Of these a second state cannot be laid over the first.
        let has_own = |class| match class {
            BlobClass::Access => !lock(&self.access).is_empty(),
            BlobClass::Lease => lock(&self.lease).is_held(),
            BlobClass::Event => !lock(&self.spool).is_empty(),
            BlobClass::Overlay => self.overlay.pods() > 0,
            _ => false,
        };
        let skipped: Vec<BlobClass> = BlobClass::ALL.into_iter().filter(|class| has_own(*class)).collect();
        let own: Vec<(BlobKey, Bytes)> = BlobClass::ALL
            .into_iter()
            .filter(|class| !skipped.contains(class))
            .flat_map(|class| {
                let records = crate::store_care::blobs(self, class);
                records.into_iter().map(move |(key, value)| (BlobKey { class, key: key.into() }, value))
            })
            .collect();
        let given = recovered.blobs.iter().filter(|(key, _)| !skipped.contains(&key.class));
        for (key, value) in given {
            if !self.restore_blob(key, value, heard) {
                tracing::warn!(class = ?key.class, "a stored record of an unknown layout is passed over");
            }
        }
        for (key, value) in &own {
            // It was made by this process: it is understood, or is there already.
            let _ = self.restore_blob(key, value, heard);
        }
        self.restore_overlay();
    }

    pub(super) fn restore(self: &Arc<Self>, recovered: Recovered, last_contact: Duration) {
        for note in &recovered.quarantined {
            tracing::warn!(note, "damaged data was set aside");
        }
        for held in recovered.collections {
            self.restore_collection(held);
        }
        for (key, value) in recovered.blobs {
            if !self.restore_blob(&key, &value, last_contact) {
                tracing::warn!(class = ?key.class, "a stored record of an unknown layout is dropped");
                self.store.remove(key);
            }
        }
        self.restore_overlay();
    }

    /// Whether the record was understood.
    fn restore_blob(&self, key: &BlobKey, value: &Bytes, last_contact: Duration) -> bool {
        match key.class {
            BlobClass::Token => lock(&self.tokens).restore(value).is_ok(),
            BlobClass::Access => lock(&self.access).restore(value, last_contact).is_ok(),
            BlobClass::Single | BlobClass::Discovery => self.restore_document(key, value.clone()),
            BlobClass::Key => self.authenticator.restore(&key.key, value),
            BlobClass::Lease => lock(&self.lease).restore(value).is_ok(),
            BlobClass::Event => lock(&self.spool).restore(value).is_ok(),
            BlobClass::Filter => self.restore_filter(&key.key, value),
            BlobClass::Overlay => self.overlay.restore(&key.key, value),
        }
    }

    fn restore_collection(self: &Arc<Self>, held: RecoveredCollection) {
        let now = self.clock.now();
        let pinned = self.is_pinned(&held.spec);
        let spec = held.spec.clone();
        let collection = self.recovered(held);
        lock(&self.cells).insert(spec, Cell::new(collection, pinned, now.monotonic));
    }

    /// A collection as the store gave it back.
    fn recovered(&self, held: RecoveredCollection) -> Collection {
        let now = self.clock.now();
        let spec = held.spec;
        if !held.complete {
            tracing::warn!(collection = %crate::reflect::Label(&spec), "stored data is incomplete and will be fetched again");
        }
        let recovered = edge_hub_core::collection::Recovered {
            watermark: held.watermark,
            objects: held.objects,
            tombstones: held.tombstones,
            complete: held.complete,
        };
        Collection::restore(spec, self.ring_limits(), now, recovered)
    }

    /// A collection that the store gave back after the start, with its reflector. One that is there already takes it
    /// only if it has no state of its own.
    fn restore_late(self: &Arc<Self>, held: RecoveredCollection) {
        let spec = held.spec.clone();
        match self.cell(&spec) {
            Some(cell) => {
                if !cell.with(|inner| inner.collection.is_complete()) {
                    let collection = self.recovered(held);
                    cell.change(|inner| {
                        inner.seed = collection.resume_from();
                        inner.collection = collection;
                    });
                }
            }
            None => {
                self.restore_collection(held);
                if let Some(cell) = self.cell(&spec).filter(|cell| cell.claim_reflector()) {
                    tokio::spawn(crate::reflect::run(Arc::clone(self), cell));
                }
            }
        }
    }
}
