//! One copy of an object: narrower collections of a kind follow a wider one that stands, instead of a watch of their own.

use std::sync::Arc;

use super::{Collections, remove_cell};
use crate::{
    collections::cell::{Cell, Inner, Phase},
    sync::lock,
};

/// Most collections that follow one; each looks through all that it holds at each change.
const FOLLOWERS: usize = 16;

impl Collections {
    /// A collection that stands and holds all of `cell`'s; none for what the hub itself cannot do without, and for a single
    /// name, whose own watch is the smaller.
    #[must_use]
    pub fn wider_than(&self, cell: &Cell) -> Option<Arc<Cell>> {
        if !may_follow(cell) {
            return None;
        }
        let cells = lock(&self.cells);
        let stands = |wider: &&Arc<Cell>| {
            wider.spec != cell.spec && wider.spec.covers(&cell.spec) && wider.with(is_whole)
        };
        let wider = cells.values().find(stands).cloned()?;
        let follows = |other: &&Arc<Cell>| {
            other.spec != cell.spec && wider.spec.covers(&other.spec) && other.with(|inner| inner.absorbed)
        };
        (cells.values().filter(follows).count() < FOLLOWERS).then_some(wider)
    }

    /// Tells narrower collections that `wider` stands.
    pub fn offer_to_narrower(&self, wider: &Cell) {
        let cells = lock(&self.cells);
        let narrower =
            |cell: &&Arc<Cell>| cell.spec != wider.spec && !cell.pinned && wider.spec.covers(&cell.spec);
        for cell in cells.values().filter(narrower) {
            cell.wider.notify_one();
        }
    }

    /// Drops a collection that follows another one and that nobody reads any more.
    pub fn drop_absorbed(&self, cell: &Arc<Cell>) {
        let mut cells = lock(&self.cells);
        if cells.get(&cell.spec).is_some_and(|listed| Arc::ptr_eq(listed, cell)) {
            remove_cell(&mut cells, cell, &self.site.store);
        }
    }
}

fn may_follow(cell: &Cell) -> bool {
    !cell.pinned && cell.spec.fields.single_name().is_none()
}

fn is_whole(inner: &mut Inner) -> bool {
    inner.phase == Phase::Live && inner.collection.is_complete() && !inner.absorbed && !inner.given_up
}
