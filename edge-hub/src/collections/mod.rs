//! The collections of this node: which there are, which of them can answer for what, and how they come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use edge_hub_core::{
    collection::{Change, Collection, CollectionSpec, Limits},
    identity::Principal,
    projection,
};
use proto_kube::{gvr::GroupVersionResource, media_type::Format, object::ObjectKey};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

mod absorb;
pub mod cell;
pub mod label;
mod pooled;

use crate::{
    collections::{
        cell::{Cell, Spare},
        label::Label,
    },
    filters::inputs_key,
    overlay::Overlay,
    pool::Pool,
    shares::Shares,
    site::Site,
    store::{RecoveredCollection, Store},
    sync::lock,
};

/// Lists that cannot be kept (no resource versions, too large), and for how long that is believed.
const UNCACHEABLE_LISTS: usize = 1024;
const UNCACHEABLE_FOR: Duration = Duration::from_secs(30);

/// All collections, by what each collects.
pub struct Collections {
    pub(crate) site: Arc<Site>,
    pub(crate) shares: Arc<Shares>,
    pub(crate) overlay: Arc<Overlay>,
    /// The pool of this node, where the configuration names one.
    pool: Option<Arc<Pool>>,
    cells: Mutex<BTreeMap<CollectionSpec, Arc<Cell>>>,
    json_only: Mutex<BTreeSet<GroupVersionResource>>,
    /// Kinds whose protobuf this program cannot read.
    opaque: Mutex<BTreeSet<GroupVersionResource>>,
    /// Lists that could not be kept, and when that was seen.
    uncacheable: Mutex<BTreeMap<CollectionSpec, Duration>>,
    /// To whoever runs reflectors: cells that want one.
    begun: UnboundedSender<Arc<Cell>>,
}

impl Collections {
    /// None yet. What comes out of the receiver wants a reflector, each cell once.
    #[must_use]
    pub fn new(
        site: &Arc<Site>,
        shares: &Arc<Shares>,
        overlay: &Arc<Overlay>,
        pool: Option<&Arc<Pool>>,
    ) -> (Self, UnboundedReceiver<Arc<Cell>>) {
        let (begun, wants_reflector) = unbounded_channel();
        let collections = Self {
            site: Arc::clone(site),
            shares: Arc::clone(shares),
            overlay: Arc::clone(overlay),
            pool: pool.cloned(),
            cells: Mutex::default(),
            json_only: Mutex::default(),
            opaque: Mutex::default(),
            uncacheable: Mutex::default(),
            begun,
        };
        (collections, wants_reflector)
    }

    /// Begins to fetch a cell that nobody fetches yet.
    pub fn begin(&self, cell: &Arc<Cell>) {
        if cell.claim_reflector() {
            // While nobody runs reflectors the process is ending.
            let _ = self.begun.send(Arc::clone(cell));
        }
    }

    fn ring_limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.ring.bytes = self.site.config.file.limits.ring_kib * 1024;
        limits
    }

    /// The collection of exactly this spec, made and started if there is room for it.
    pub fn cell_or_new(&self, spec: &CollectionSpec) -> Option<Arc<Cell>> {
        if let Some(cell) = self.pool_cell(spec) {
            return Some(cell);
        }
        let now = self.site.clock.now();
        let mut cells = lock(&self.cells);
        if let Some(cell) = cells.get(spec) {
            return Some(Arc::clone(cell));
        }
        // While cut nothing could take the place of what would have to go.
        if cells.len() >= self.site.config.file.limits.collections
            && !(self.site.is_connected() && self.make_place(&mut cells))
        {
            return None;
        }
        let pinned = self.is_pinned(spec);
        let mut collection = Collection::new(spec.clone(), self.ring_limits());
        self.overlay.join(&mut collection, now);
        let cell = Cell::new(collection, pinned, now.monotonic);
        cells.insert(spec.clone(), Arc::clone(&cell));
        drop(cells);
        self.begin(&cell);
        Some(cell)
    }

    /// The collection of exactly this spec.
    #[must_use]
    pub fn cell(&self, spec: &CollectionSpec) -> Option<Arc<Cell>> {
        lock(&self.cells).get(spec).cloned()
    }

    /// Collections that can answer for `spec`: the pool's first, then it itself, then wider ones.
    #[must_use]
    pub fn covering(&self, spec: &CollectionSpec) -> Vec<Arc<Cell>> {
        let of_pool = self.pool_cell(spec);
        let cells = lock(&self.cells);
        // What follows a wider one comes after it.
        let exact = cells.get(spec).cloned();
        let (follower, exact) = match exact {
            Some(cell) if cell.with(|inner| inner.absorbed) => (Some(cell), None),
            exact => (None, exact),
        };
        let wider = cells
            .values()
            .filter(|cell| cell.spec.gvr == spec.gvr && cell.spec != *spec && cell.spec.covers(spec))
            .cloned();
        let is_other = |cell: &Arc<Cell>| of_pool.as_ref().is_none_or(|pool| !Arc::ptr_eq(pool, cell));
        let others = exact.into_iter().chain(wider).chain(follower).filter(is_other);
        of_pool.clone().into_iter().chain(others).collect()
    }

    /// Collections that may hold the object `key` of the kind and format of `spec`.
    #[must_use]
    pub fn covering_object(&self, spec: &CollectionSpec, key: &ObjectKey) -> Vec<Arc<Cell>> {
        let cells = lock(&self.cells);
        let near = |cell: &&Arc<Cell>| {
            let held = &cell.spec;
            let named = held.fields.single_name().is_none_or(|name| *name == *key.name);
            held.gvr == spec.gvr
                && held.format == spec.format
                && named
                && held.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
        };
        cells.values().filter(near).cloned().collect()
    }

    /// All collections, for /status and /metrics.
    #[must_use]
    pub fn cells(&self) -> Vec<Arc<Cell>> {
        lock(&self.cells).values().cloned().collect()
    }

    /// Ends a collection with its data; who reads it comes again.
    pub fn give_up(&self, cell: &Arc<Cell>) {
        cell.change(|inner| inner.refusals += 1);
        let mut cells = lock(&self.cells);
        if cells.get(&cell.spec).is_some_and(|listed| Arc::ptr_eq(listed, cell)) {
            remove_cell(&mut cells, cell, &self.site.store);
        }
        self.weigh_nothing(cell);
    }

    /// Drops a collection that the server refused, so that the next read asks again.
    pub fn forget_refused(&self, cell: &Arc<Cell>) {
        if cell.pinned || cell.with(|inner| inner.collection.is_complete()) {
            return;
        }
        cell.stop();
        let mut cells = lock(&self.cells);
        // A later reader may have begun anew under the same name.
        if cells.get(&cell.spec).is_some_and(|listed| Arc::ptr_eq(listed, cell)) {
            cells.remove(&cell.spec);
        }
        self.weigh_nothing(cell);
    }

    /// Ends a collection whatever it holds, and forgets its data: its readers come again and are judged anew.
    pub fn remove(&self, cell: &Arc<Cell>) {
        cell.change(|inner| inner.refusals += 1);
        let mut cells = lock(&self.cells);
        if cells.get(&cell.spec).is_some_and(|listed| Arc::ptr_eq(listed, cell)) {
            remove_cell(&mut cells, cell, &self.site.store);
        }
    }

    /// The server has no protobuf of this kind (a custom resource).
    pub fn note_json_only(&self, gvr: &GroupVersionResource) {
        lock(&self.json_only).insert(gvr.clone());
    }

    /// Whether this kind has no protobuf.
    #[must_use]
    pub fn is_json_only(&self, gvr: &GroupVersionResource) -> bool {
        lock(&self.json_only).contains(gvr)
    }

    /// The server has a kind that is newer than this program: its JSON has to be fetched.
    pub fn note_opaque(&self, gvr: &GroupVersionResource) {
        lock(&self.opaque).insert(gvr.clone());
    }

    /// The format of the collection that serves clients of `shown`.
    #[must_use]
    pub fn held_for(&self, gvr: &GroupVersionResource, shown: Format) -> Format {
        let is_opaque = shown == Format::JSON && lock(&self.opaque).contains(gvr);
        if is_opaque || self.is_json_only(gvr) { shown } else { projection::held_for(gvr, shown) }
    }

    /// This list came and could not be kept: those of the metrics API have no resource versions, for one.
    pub fn note_uncacheable(&self, spec: &CollectionSpec) {
        let mut uncacheable = lock(&self.uncacheable);
        if uncacheable.len() >= UNCACHEABLE_LISTS {
            uncacheable.pop_first();
        }
        uncacheable.insert(spec.clone(), self.site.clock.now().monotonic);
    }

    /// Whether this list could not be kept a short while ago; then the cloud answers for it.
    pub fn is_uncacheable(&self, spec: &CollectionSpec) -> bool {
        let now = self.site.clock.now().monotonic;
        lock(&self.uncacheable).get(spec).is_some_and(|since| now.saturating_sub(*since) < UNCACHEABLE_FOR)
    }

    /// Whether this node's own Node object is held.
    #[must_use]
    pub fn holds_own_node(&self) -> bool {
        let [node, _] = self.site.own_specs();
        self.cell(&node).is_some_and(|cell| cell.with(|inner| !inner.collection.is_empty()))
    }

    /// Lists a collection that the store gave back. Nobody fetches it yet.
    pub fn restore(&self, held: RecoveredCollection) -> Arc<Cell> {
        let now = self.site.clock.now();
        let pinned = self.is_pinned(&held.spec);
        let spec = held.spec.clone();
        let cell = Cell::new(self.recovered(held), pinned, now.monotonic);
        lock(&self.cells).insert(spec, Arc::clone(&cell));
        cell
    }

    /// A collection as the store gave it back.
    #[must_use]
    pub fn recovered(&self, held: RecoveredCollection) -> Collection {
        let now = self.site.clock.now();
        let spec = held.spec;
        if !held.complete {
            tracing::warn!(collection = %Label(&spec), "stored data is incomplete and will be fetched again");
        }
        let recovered = edge_hub_core::collection::Recovered {
            watermark: held.watermark,
            objects: held.objects,
            tombstones: held.tombstones,
            complete: held.complete,
        };
        Collection::restore(spec, self.ring_limits(), now, recovered)
    }
}

impl Collections {
    /// Makes room for one more collection.
    fn make_place(&self, cells: &mut BTreeMap<CollectionSpec, Arc<Cell>>) -> bool {
        let (now, idle) = (self.site.clock.now().monotonic, self.site.config.file.idle_watch);
        let victim = evict_longest_unread(cells, &self.site.store, |cell| cell.spare(now, idle));
        victim.inspect(|victim| self.weigh_nothing(victim)).is_some()
    }
}

/// Makes room: first at the cost of what nobody needs, then of whom most collections are kept for, so that nobody pushes
/// out others. Of these, the one without a reader that was not read for the longest time goes, with its data.
fn evict_longest_unread(
    cells: &mut BTreeMap<CollectionSpec, Arc<Cell>>,
    store: &Store,
    spare: impl Fn(&Cell) -> Spare,
) -> Option<Arc<Cell>> {
    let payer = |cell: &Cell| cell.best_sponsor().map(|(principal, _)| principal);
    let mut shares: BTreeMap<Principal, usize> = BTreeMap::new();
    for principal in cells.values().filter_map(|cell| payer(cell)) {
        *shares.entry(principal).or_default() += 1;
    }
    let share = |cell: &Cell| payer(cell).and_then(|principal| shares.get(&principal)).copied();
    let victim = cells
        .values()
        .filter(|cell| cell.is_idle(Duration::MAX, Duration::ZERO))
        .max_by_key(|cell| (spare(cell), share(cell), std::cmp::Reverse(cell.last_read())))
        .cloned();
    victim.inspect(|victim| remove_cell(cells, victim, store))
}

/// Ends a collection and forgets its data.
fn remove_cell(cells: &mut BTreeMap<CollectionSpec, Arc<Cell>>, gone: &Arc<Cell>, store: &Store) {
    cells.remove(&gone.spec);
    gone.stop();
    store.apply(&gone.spec, vec![Change::Reset]);
    if gone.with(|inner| inner.collection.has_filter_inputs()) {
        store.remove(inputs_key(gone));
    }
}
