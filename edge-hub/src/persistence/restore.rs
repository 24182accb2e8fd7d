//! What a store gives back: at the start, or later, when its disk did not answer in time.

use std::time::Duration;

use bytes::Bytes;
use edge_hub_core::link::LinkState;

use crate::{
    hub::Hub,
    persistence::records,
    store::{BlobClass, BlobKey, Recovered, RecoveredCollection},
    sync::lock,
};

/// When the API server was last heard of, by what the store kept.
#[must_use]
pub fn last_contact(recovered: &Recovered) -> Duration {
    let marks = recovered.collections.iter().filter_map(|held| held.watermark.as_ref());
    marks.map(|mark| mark.synced_unix).max().unwrap_or(Duration::ZERO)
}

/// Takes in what a store held that could be opened only while the hub served already, from memory alone. What is in
/// memory is newer, and has precedence.
pub fn take_in(hub: &Hub, mut recovered: Recovered) {
    for note in &recovered.quarantined {
        tracing::warn!(note, "damaged data was set aside");
    }
    let heard = last_contact(&recovered);
    hub.site.link.send_if_modified(|link| match link {
        LinkState::Cut { since_unix } if *since_unix < heard => {
            *since_unix = heard;
            true
        }
        _ => false,
    });
    for held in std::mem::take(&mut recovered.collections) {
        restore_late(hub, held);
    }
    // Of these a second state cannot be laid over the first.
    let has_own = |class| match class {
        BlobClass::Access => !lock(&hub.authorizer.access).is_empty(),
        BlobClass::Lease => lock(&hub.lease).is_held(),
        BlobClass::Event => !lock(&hub.outbox.spool).is_empty(),
        BlobClass::Overlay => hub.overlay.pods() > 0,
        _ => false,
    };
    let skipped: Vec<BlobClass> = BlobClass::ALL.into_iter().filter(|class| has_own(*class)).collect();
    let own: Vec<(BlobKey, Bytes)> = BlobClass::ALL
        .into_iter()
        .filter(|class| !skipped.contains(class))
        .flat_map(|class| {
            let records = records::of(hub, class);
            records.into_iter().map(move |(key, value)| (BlobKey { class, key: key.into() }, value))
        })
        .collect();
    let given = recovered.blobs.iter().filter(|(key, _)| !skipped.contains(&key.class));
    for (key, value) in given {
        if !restore_blob(hub, key, value, heard) {
            tracing::warn!(class = ?key.class, "a stored record of an unknown layout is passed over");
        }
    }
    for (key, value) in &own {
        // It was made by this process: it is understood, or is there already.
        let _ = restore_blob(hub, key, value, heard);
    }
    hub.collections.restore_overlay();
}

/// Takes in what the store gave back at the start, before anything runs.
pub fn restore(hub: &Hub, recovered: Recovered, last_contact: Duration) {
    for note in &recovered.quarantined {
        tracing::warn!(note, "damaged data was set aside");
    }
    for held in recovered.collections {
        hub.collections.restore(held);
    }
    for (key, value) in recovered.blobs {
        if !restore_blob(hub, &key, &value, last_contact) {
            tracing::warn!(class = ?key.class, "a stored record of an unknown layout is dropped");
            hub.site.store.remove(key);
        }
    }
    hub.collections.restore_overlay();
}

/// Whether the record was understood.
fn restore_blob(hub: &Hub, key: &BlobKey, value: &Bytes, last_contact: Duration) -> bool {
    match key.class {
        BlobClass::Token => lock(&hub.tokens).restore(value).is_ok(),
        BlobClass::Access => lock(&hub.authorizer.access).restore(value, last_contact).is_ok(),
        BlobClass::Single | BlobClass::Discovery => hub.documents.restore(key, value.clone()),
        BlobClass::Key => hub.authenticator.restore(&key.key, value),
        BlobClass::Lease => lock(&hub.lease).restore(value).is_ok(),
        BlobClass::Event => lock(&hub.outbox.spool).restore(value).is_ok(),
        BlobClass::Filter => hub.filters.restore(&key.key, value),
        BlobClass::Overlay => hub.overlay.restore(&key.key, value),
    }
}

/// A collection that the store gave back after the start, with its reflector. One that is there already takes it
/// only if it has no state of its own.
fn restore_late(hub: &Hub, held: RecoveredCollection) {
    let spec = held.spec.clone();
    match hub.collections.cell(&spec) {
        Some(cell) => {
            if !cell.with(|inner| inner.collection.is_complete()) {
                let collection = hub.collections.recovered(held);
                cell.change(|inner| {
                    inner.seed = collection.resume_from();
                    inner.collection = collection;
                });
            }
        }
        None => {
            let cell = hub.collections.restore(held);
            hub.collections.begin(&cell);
        }
    }
}
