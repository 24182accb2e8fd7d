//! Names that the hub follows because somebody read them: each costs a watch of the cloud's.

use edge_hub_core::{collection::CollectionSpec, identity::Principal};

use crate::{collections::Collections, sync::lock};

impl Collections {
    /// Takes a place for a name that this user just read; whoever has most of them gives up one that it has not read
    /// for the longest time.
    pub fn take_followed(&self, spec: &CollectionSpec, user: &Principal) {
        let gone = lock(&self.shares.followed).put(spec, user, 1);
        for spec in gone {
            if let Some(cell) =
                self.cell(&spec).filter(|cell| !cell.pinned && !cell.with(|inner| inner.has_readers()))
            {
                self.give_up(&cell);
            }
        }
    }

    /// There is nothing under this name: its place is free.
    pub fn leave_followed(&self, spec: &CollectionSpec) {
        lock(&self.shares.followed).remove(spec);
    }
}
