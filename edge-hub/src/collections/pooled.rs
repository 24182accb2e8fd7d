//! Which collections are the pool's, and what they take the place of.

use std::{sync::Arc, time::Duration};

use edge_hub_core::collection::CollectionSpec;

use super::{Collections, remove_cell};
use crate::{collections::cell::Cell, sync::lock};

impl Collections {
    /// What the pool's coordinators have a copy of; none where this node has no pool.
    #[must_use]
    pub fn pool_specs(&self) -> &[CollectionSpec] {
        self.pool.as_ref().map_or(&[], |pool| pool.specs())
    }

    pub(super) fn is_pinned(&self, spec: &CollectionSpec) -> bool {
        self.site.own_specs().contains(spec) || self.pool_specs().contains(spec)
    }

    /// The collection of the pool that answers for `spec` alone, however narrow that is: a narrower one would pay for what
    /// is there. `None` where there is no such pool, or nobody feeds it and no client here may fetch all of it.
    #[must_use]
    pub fn pool_cell(&self, spec: &CollectionSpec) -> Option<Arc<Cell>> {
        let whole = self.pool.as_ref()?.covering(spec)?;
        self.cell(whole).filter(|cell| !cell.with(|inner| inner.given_up))
    }

    /// Drops collections without readers that the pool's has taken the place of, with their data.
    pub fn drop_narrower(&self, whole: &Cell) {
        let mut cells = lock(&self.cells);
        let narrower = |cell: &&Arc<Cell>| {
            cell.spec != whole.spec
                && whole.spec.covers(&cell.spec)
                && !cell.pinned
                && cell.is_idle(Duration::MAX, Duration::ZERO)
        };
        for cell in cells.values().filter(narrower).cloned().collect::<Vec<_>>() {
            remove_cell(&mut cells, &cell, &self.site.store);
        }
    }
}
