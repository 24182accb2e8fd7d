//! Memory for objects: each collection counts for the user on whose behalf it is fetched. Collections of whoever holds
//! most go first, with what of them is on disk, and the cloud answers for them; those of this node never go for others.

use std::sync::Arc;

use edge_hub_core::identity::Principal;

use crate::{
    collections::{Collections, cell::Cell, label::Label},
    sync::lock,
};

/// Collections of one user of which nothing is held yet while cut.
const WAITING: usize = 64;
/// What an object takes beside its bytes.
const EACH: usize = 256;

impl Collections {
    /// The collection has what it has: whatever is too much for its user, or in all, goes. To be called while the link
    /// stands, since in a cut nothing could take the place of what goes.
    pub fn weigh(&self, cell: &Arc<Cell>) {
        if cell.pinned {
            return;
        }
        let sponsors = cell.sponsors();
        let owner = lock(&self.shares.objects).owner(&cell.spec).cloned();
        let is_nodes = sponsors.iter().any(|sponsor| *self.shares.payer(sponsor) == self.site.node);
        let payer = match (owner, cell.best_sponsor()) {
            _ if is_nodes => self.site.node.clone(),
            (Some(owner), _) if sponsors.contains(&owner) => owner,
            // Whoever no longer has it collected pays for it no longer.
            (_, Some((sponsor, _))) => sponsor,
            (_, None) => return,
        };
        let size = cell.with(|inner| {
            let footprint = inner.collection.footprint();
            footprint.object_bytes
                + footprint.ring_bytes
                + footprint.tombstone_bytes
                + inner.collection.len() * EACH
        });
        let gone = {
            let mut objects = lock(&self.shares.objects);
            if objects.owner(&cell.spec).is_some_and(|owner| *owner != payer) {
                objects.remove(&cell.spec);
            }
            let gone = objects.put(&cell.spec, &payer, size);
            let is_read = cell.with(|inner| inner.has_readers());
            objects.set_busy(&cell.spec, is_read);
            gone
        };
        for spec in gone {
            if let Some(cell) = self.cell(&spec) {
                tracing::info!(collection = %Label(&spec), "its user has more than its share of objects: the cloud answers for it");
                self.note_uncacheable(&spec);
                self.give_up(&cell);
            }
        }
    }

    /// Whether this user may have more collected. What it has not read for long makes room.
    pub fn has_room_for_objects(&self, user: &Principal) -> bool {
        let payer = self.shares.payer(user);
        if *payer == self.site.node {
            return true;
        }
        let is_full = || lock(&self.shares.objects).held_by(payer) >= self.shares.object_limits.of_one_user;
        if is_full() {
            let (now, idle) = (self.site.clock.now().monotonic, self.site.config.file.idle_watch);
            let mut unread = self.cells();
            unread.retain(|cell| {
                cell.is_idle(now, idle) && lock(&self.shares.objects).owner(&cell.spec) == Some(payer)
            });
            unread.sort_by_key(|cell| cell.last_read());
            for cell in unread {
                self.give_up(&cell);
                if !is_full() {
                    break;
                }
            }
        }
        !is_full()
    }

    /// Whether this user may have one more collection made while cut, which is fetched as soon as the cloud is back.
    pub fn may_wait_for_more(&self, user: &Principal) -> bool {
        let is_waiting = |cell: &&Arc<Cell>| {
            let is_theirs = cell.best_sponsor().is_some_and(|(sponsor, _)| sponsor == *user);
            is_theirs && cell.with(|inner| !inner.collection.is_complete())
        };
        *user == self.site.node || self.cells().iter().filter(is_waiting).count() < WAITING
    }

    /// The collection is no more, for whatever reason.
    pub fn weigh_nothing(&self, cell: &Cell) {
        lock(&self.shares.objects).remove(&cell.spec);
        lock(&self.shares.followed).remove(&cell.spec);
    }
}
