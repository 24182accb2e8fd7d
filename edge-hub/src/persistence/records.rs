//! What the hub's memories would have the store hold.

use bytes::Bytes;
use edge_hub_core::record::RecordChange;

use crate::{hub::Hub, store::BlobClass, sync::lock};

/// What memory holds of a class, as records.
#[must_use]
pub fn of(hub: &Hub, class: BlobClass) -> Vec<(Vec<u8>, Bytes)> {
    let records = match class {
        BlobClass::Token => lock(&hub.tokens).records(),
        BlobClass::Access => lock(&hub.authorizer.access).records(),
        BlobClass::Lease => lock(&hub.lease).records(),
        BlobClass::Event => lock(&hub.outbox.spool).records(),
        BlobClass::Key => hub.authenticator.records(),
        BlobClass::Filter => return hub.filters.records(),
        BlobClass::Overlay => return hub.overlay.records(),
        BlobClass::Single | BlobClass::Discovery => return hub.documents.records(class),
    };
    let put = |change| match change {
        RecordChange::Put { key, value } => Some((key, Bytes::from(value))),
        RecordChange::Remove { .. } => None,
    };
    records.into_iter().filter_map(put).collect()
}
