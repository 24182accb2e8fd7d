//! Memory for objects: each collection counts for the user on whose behalf it is fetched. Collections of whoever holds
//! most go first, with what of them is on disk, and the cloud answers for them; those of this node never go for others.

use std::sync::Arc;

use crate::{
    cell::Cell,
    hub::{Hub, lock},
};

/// What an object takes beside its bytes.
const EACH: usize = 256;

impl Hub {
    /// The collection has what it has: whatever is too much for its user, or in all, goes. To be called while the link
    /// stands, since in a cut nothing could take the place of what goes.
    pub fn weigh(self: &Arc<Self>, cell: &Arc<Cell>) {
        let Some((sponsor, _)) = cell.best_sponsor().filter(|_| !cell.pinned) else { return };
        let size = cell.with(|inner| {
            let footprint = inner.collection.footprint();
            footprint.object_bytes
                + footprint.ring_bytes
                + footprint.tombstone_bytes
                + inner.collection.len() * EACH
        });
        let gone = {
            let mut objects = lock(&self.shares.objects);
            let gone = objects.put(&cell.spec, self.shares.payer(&sponsor), size);
            let is_read = cell.with(|inner| inner.has_readers());
            objects.set_busy(&cell.spec, is_read);
            gone
        };
        for spec in gone {
            if let Some(cell) = self.cell(&spec) {
                tracing::info!(collection = %crate::reflect::Label(&spec), "its user has more than its share of objects: the cloud answers for it");
                self.note_uncacheable(&spec);
                self.give_up(&cell);
            }
        }
    }

    /// The collection is no more, for whatever reason.
    pub fn weigh_nothing(&self, cell: &Cell) {
        lock(&self.shares.objects).remove(&cell.spec);
        lock(&self.shares.followed).remove(&cell.spec);
    }
}
