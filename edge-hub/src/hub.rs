//! What every part of the process shares: the collections, the memories, the way to the cloud and the verdict on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use edge_hub_core::{
    access::{ACCESS_BYTES, Access, AccessKey, AccessMemory, Reach},
    collection::{Collection, CollectionSpec, Limits},
    documents::DocumentCache,
    identity::Principal,
    lease::LeaseKeeper,
    link::{LinkState, PROBE_INTERVAL, PROBE_TIMEOUT},
    projection,
    record::RecordChange,
    spool::{EventSpool, SpoolLimits},
    token::TokenCache,
};
use proto_daemon::shutdown::Shutdown;
use proto_kube::{
    gvr::GroupVersionResource,
    media_type::Format,
    object::ObjectKey,
    request_info::Verb,
    selector::{FieldSelector, LabelSelector},
};
use tokio::sync::watch;

mod absorb;
mod pooled;
mod probe;
mod restore;

use crate::{
    authenticate::Authenticator,
    cell::{Cell, Spare},
    clock::Clock,
    config::Config,
    expiry::Certificates,
    filters::{Filters, inputs_key},
    metrics::Metrics,
    overlay::Overlay,
    pool::Pool,
    store::{BlobClass, BlobKey, Recovered, Store},
    upstream::{Credential, Upstream},
};

/// Names that may be read but not watched, and for how long that is believed.
const UNWATCHABLE_NAMES: usize = 1024;
const UNWATCHABLE_FOR: Duration = Duration::from_mins(10);
/// Lists that cannot be kept (no resource versions, too large), and for how long that is believed.
const UNCACHEABLE_LISTS: usize = 1024;
const UNCACHEABLE_FOR: Duration = Duration::from_secs(30);
/// Principals whose credential is kept for a replay.
const LENT_CREDENTIALS: usize = 256;
/// Token answers kept: all of them, and of one user.
const TOKENS: edge_hub_core::budget::Limits =
    edge_hub_core::budget::Limits { total: 4096, of_one_user: 512, reserve: 0 };

/// The shared state of the process.
pub struct Hub {
    /// Checked settings.
    pub config: Config,
    /// The clock.
    pub clock: Clock,
    /// The hub's own certificates.
    pub certificates: Certificates,
    /// The way to the cloud.
    pub upstream: Upstream,
    /// Is the cloud there?
    pub link: watch::Sender<LinkState>,
    /// A server was reached by a new connection: its state may be older than the one before.
    pub reconnected: tokio::sync::Notify,
    cells: Mutex<BTreeMap<CollectionSpec, Arc<Cell>>>,
    json_only: Mutex<BTreeSet<GroupVersionResource>>,
    /// Kinds whose protobuf this program cannot read.
    opaque: Mutex<BTreeSet<GroupVersionResource>>,
    /// Lists that could not be kept, and when that was seen.
    uncacheable: Mutex<BTreeMap<CollectionSpec, Duration>>,
    /// Names that a principal may GET but not watch (a kubelet its CSINode), and when the cloud said so.
    unwatchable: Mutex<BTreeMap<(Principal, CollectionSpec), Duration>>,
    /// The pool of this node, where the configuration names one.
    pub pool: Option<Arc<Pool>>,
    /// Who may do what, as the cloud said.
    pub access: Mutex<AccessMemory>,
    /// What this node may read for its pods.
    pub node_rights: crate::rights::NodeRights,
    /// Real tokens for pods, kept for the time of a cut.
    pub tokens: Mutex<TokenCache>,
    /// Whole answers.
    pub documents: Mutex<DocumentCache>,
    /// The node's own Lease.
    pub lease: Mutex<LeaseKeeper>,
    /// Events that wait for the cloud.
    pub spool: Mutex<EventSpool>,
    /// Credentials of those who left something to be sent later; in memory only.
    lent: Mutex<BTreeMap<Principal, Credential>>,
    /// Who is shown what.
    pub filters: Filters,
    /// What clients share.
    pub shares: crate::shares::Shares,
    /// Memory for lists on their way through filters.
    pub list_room: crate::serve::Room,
    /// Where this node's pods are while nobody can tell the cloud.
    pub overlay: Overlay,
    /// Who a client is.
    pub authenticator: Authenticator,
    /// What outlives the process.
    pub store: Store,
    /// Counters.
    pub metrics: Metrics,
    /// This node's own identity.
    pub node: Principal,
    /// Kinds of which each user may be shown something else.
    pub aggregated: crate::aggregated::Aggregated,
    /// Running, draining, stopped.
    pub shutdown: Shutdown,
}

/// A lock whose holder never panics half-way through a change; a poisoned one is still whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What [`Hub::new`] is made from.
pub struct Parts {
    /// Checked settings.
    pub config: Config,
    /// Connections.
    pub upstream: Upstream,
    /// The pool of this node.
    pub pool: Option<Arc<Pool>>,
    /// Identity checks.
    pub authenticator: Authenticator,
    /// The store and what it gave back.
    pub store: Store,
    /// Counters.
    pub metrics: Metrics,
    /// Running, draining, stopped.
    pub shutdown: Shutdown,
    /// The clock.
    pub clock: Clock,
    /// The hub's own certificates.
    pub certificates: Certificates,
}

impl Hub {
    /// Restores what the store gave back. Nothing runs yet.
    #[must_use]
    pub fn new(parts: Parts, recovered: Recovered) -> Arc<Self> {
        let Parts { config, upstream, pool, authenticator, store, metrics, shutdown, clock, certificates } =
            parts;
        let last_contact = restore::last_contact(&recovered);
        let node = Principal::node(&config.file.node_name);
        let link = watch::Sender::new(LinkState::Cut { since_unix: last_contact });
        let hub = Arc::new(Self {
            clock,
            certificates,
            upstream,
            link,
            reconnected: tokio::sync::Notify::new(),
            cells: Mutex::default(),
            json_only: Mutex::default(),
            opaque: Mutex::default(),
            uncacheable: Mutex::default(),
            unwatchable: Mutex::default(),
            pool,
            access: Mutex::new(AccessMemory::new(ACCESS_BYTES, node.clone())),
            node_rights: crate::rights::NodeRights::default(),
            tokens: Mutex::new(TokenCache::new(TOKENS, node.clone())),
            documents: Mutex::new(crate::documents::cache(&node)),
            lease: Mutex::new(LeaseKeeper::new(&config.file.node_name)),
            spool: Mutex::new(EventSpool::new(SpoolLimits::default())),
            lent: Mutex::default(),
            aggregated: crate::aggregated::Aggregated::default(),
            filters: Filters::new(&config),
            shares: crate::shares::Shares::new(&config.file.limits, &node),
            list_room: crate::serve::Room::new(config.file.limits.list_mib),
            overlay: Overlay::new(&config.file.node_name),
            authenticator,
            store,
            metrics,
            node,
            shutdown,
            config,
        });
        hub.restore(recovered, last_contact);
        hub
    }

    fn ring_limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.ring.bytes = self.config.file.limits.ring_kib * 1024;
        limits
    }

    /// Starts the reflectors of what is held, of the hub's own collections, and the prober.
    pub fn start(self: &Arc<Self>) {
        for spec in self.pool_specs() {
            self.cell_or_new(spec);
        }
        for spec in self.own_specs() {
            if let Some(cell) = self.cell_or_new(&spec) {
                cell.sponsor(&self.node, Credential::Node, self.clock.now().monotonic);
            }
        }
        let cells: Vec<_> = lock(&self.cells).values().cloned().collect();
        for cell in cells {
            // Those of `cell_or_new` run already; a second reflector would double every event.
            if !cell.claim_reflector() {
                continue;
            }
            tokio::spawn(crate::reflect::run(Arc::clone(self), cell));
        }
        tokio::spawn(Arc::clone(self).probe());
        tokio::spawn(Arc::clone(self).keep_issuer_keys());
        tokio::spawn(crate::replay::run(Arc::clone(self)));
        tokio::spawn(crate::rights::run(Arc::clone(self)));
        tokio::spawn(crate::rollback::run(Arc::clone(self)));
        tokio::spawn(crate::filters::run(Arc::clone(self)));
        tokio::spawn(crate::overlay::run(Arc::clone(self)));
        tokio::spawn(crate::expiry::run(Arc::clone(self)));
    }

    /// Own Node and own Pods: what the hub needs itself to know which tokens belong here.
    #[must_use]
    pub fn own_specs(&self) -> [CollectionSpec; 2] {
        let name = &self.config.file.node_name;
        let own = |resource: &str, path: &str| CollectionSpec {
            gvr: GroupVersionResource::new("", "v1", resource),
            namespace: None,
            labels: LabelSelector::default(),
            fields: FieldSelector::parse(&format!("{path}={name}")).expect("a node name needs no escaping"),
            format: Format::PROTOBUF,
        };
        [own("nodes", "metadata.name"), own("pods", "spec.nodeName")]
    }

    /// The verdict on the link.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.borrow().is_connected()
    }

    /// A request failed in a way that a dead link explains. Waits until that verdict is passed, at most for the time
    /// that it takes. Returns whether the link is cut.
    pub async fn await_verdict(&self) -> bool {
        let mut link = self.link.subscribe();
        let cut = link.wait_for(|link| !link.is_connected());
        // Nobody answers within the bound, a probe and a new connection: the link stands, and only that connection died.
        tokio::time::timeout(PROBE_INTERVAL + 2 * PROBE_TIMEOUT, cut).await.is_ok()
    }

    /// The collection of exactly this spec, made and started if there is room for it.
    pub fn cell_or_new(self: &Arc<Self>, spec: &CollectionSpec) -> Option<Arc<Cell>> {
        if let Some(cell) = self.pool_cell(spec) {
            return Some(cell);
        }
        let now = self.clock.now();
        let mut cells = lock(&self.cells);
        if let Some(cell) = cells.get(spec) {
            return Some(Arc::clone(cell));
        }
        // While cut nothing could take the place of what would have to go.
        if cells.len() >= self.config.file.limits.collections
            && !(self.is_connected() && self.make_place(&mut cells))
        {
            return None;
        }
        let pinned = self.is_pinned(spec);
        let mut collection = Collection::new(spec.clone(), self.ring_limits());
        self.overlay.join(&mut collection, now);
        let cell = Cell::new(collection, pinned, now.monotonic);
        cells.insert(spec.clone(), Arc::clone(&cell));
        drop(cells);
        if cell.claim_reflector() {
            tokio::spawn(crate::reflect::run(Arc::clone(self), Arc::clone(&cell)));
        }
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
            remove_cell(&mut cells, cell, &self.store);
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
            remove_cell(&mut cells, cell, &self.store);
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
        uncacheable.insert(spec.clone(), self.clock.now().monotonic);
    }

    /// Whether this list could not be kept a short while ago; then the cloud answers for it.
    pub fn is_uncacheable(&self, spec: &CollectionSpec) -> bool {
        let now = self.clock.now().monotonic;
        lock(&self.uncacheable).get(spec).is_some_and(|since| now.saturating_sub(*since) < UNCACHEABLE_FOR)
    }

    /// The server itself answered 2xx to this principal for this collection: the best proof of a right.
    pub fn note_own_success(&self, principal: &Principal, spec: &CollectionSpec, verb: Verb) {
        self.record_access(principal, &collection_access(spec, verb), true);
    }

    /// The server refused this principal this verb, which says nothing of the other.
    pub fn note_refused(&self, principal: &Principal, spec: &CollectionSpec, verb: Verb) {
        self.record_access(principal, &collection_access(spec, verb), false);
        if spec.fields.single_name().is_some() {
            let mut unwatchable = lock(&self.unwatchable);
            if unwatchable.len() >= UNWATCHABLE_NAMES {
                unwatchable.pop_first();
            }
            unwatchable.insert((principal.clone(), spec.clone()), self.clock.now().monotonic);
        }
    }

    /// Whether the cloud refused a watch of this name a short while ago; then a GET does not try again.
    pub fn is_unwatchable(&self, principal: &Principal, spec: &CollectionSpec) -> bool {
        let now = self.clock.now().monotonic;
        let mut unwatchable = lock(&self.unwatchable);
        unwatchable.retain(|_, since| now.saturating_sub(*since) < UNWATCHABLE_FOR);
        unwatchable.contains_key(&(principal.clone(), spec.clone()))
    }

    /// Remembers a decision of the cloud, here and over restarts.
    pub fn record_access(&self, principal: &Principal, key: &AccessKey, allowed: bool) {
        let changes = lock(&self.access).learn(self.clock.now(), principal, key, allowed);
        self.save_records(BlobClass::Access, changes);
    }

    /// What the cloud is known to say of this access; `None` when it must be asked.
    pub fn known_access(&self, principal: &Principal, key: &AccessKey) -> Option<bool> {
        let reach = if self.is_connected() { Reach::Online } else { Reach::Cut };
        match lock(&self.access).check(self.clock.now(), reach, principal, key) {
            Access::Allowed => Some(true),
            Access::Denied => Some(false),
            // What the node's own pods are there for needs no word of the cloud's.
            Access::Unknown => {
                let is_own =
                    *principal == self.node && self.node_rights.allow(&self.config.file.node_name, key);
                is_own.then_some(true)
            }
        }
    }

    /// How long ago the cloud said what [`Hub::known_access`] finds.
    pub fn access_age(&self, principal: &Principal, key: &AccessKey) -> Option<Duration> {
        lock(&self.access).age(self.clock.now(), principal, key)
    }

    /// Writes what a memory wants kept.
    pub fn save_records(&self, class: BlobClass, changes: Vec<RecordChange>) {
        for change in changes {
            match change {
                RecordChange::Put { key, value } => {
                    self.store.put(BlobKey { class, key: key.into() }, value.into())
                }
                RecordChange::Remove { key } => self.store.remove(BlobKey { class, key: key.into() }),
            }
        }
    }

    /// Whether this node's own Node object is held.
    #[must_use]
    pub fn holds_own_node(&self) -> bool {
        let [node, _] = self.own_specs();
        self.cell(&node).is_some_and(|cell| cell.with(|inner| !inner.collection.is_empty()))
    }

    /// Keeps a credential for what its owner left to be sent after the cut.
    pub fn remember_credential(&self, principal: &Principal, credential: &Credential) {
        let mut lent = lock(&self.lent);
        if lent.len() < LENT_CREDENTIALS || lent.contains_key(principal) {
            lent.insert(principal.clone(), credential.clone());
        }
    }

    /// The credential for what `principal` left to be sent.
    #[must_use]
    pub fn credential_of(&self, principal: &Principal) -> Option<Credential> {
        if *principal == self.node {
            return Some(Credential::Node);
        }
        lock(&self.lent).get(principal).cloned()
    }

    /// A principal that left something to be sent shows its credential again: the former one may have ended, or went
    /// with the process that it was lent to.
    pub fn renew_credential(&self, principal: &Principal, credential: &Credential) {
        let waits = lock(&self.spool).holds_of(principal);
        if waits && self.credential_of(principal).as_ref() != Some(credential) {
            self.remember_credential(principal, credential);
        }
    }
}

/// The access that a collection's list or watch needs.
#[must_use]
pub fn collection_access(spec: &CollectionSpec, verb: Verb) -> AccessKey {
    // A request for a single name is authorized for that name.
    let name = spec.fields.single_name().unwrap_or_default();
    AccessKey::Resource {
        verb: verb.as_str().into(),
        group: spec.gvr.group.clone(),
        version: spec.gvr.version.clone(),
        resource: spec.gvr.resource.clone(),
        subresource: Box::default(),
        namespace: spec.namespace.clone().unwrap_or_default(),
        name: name.into(),
        labels: spec.labels.to_string().into(),
        fields: spec.fields.to_string().into(),
    }
}

impl Hub {
    /// Makes room for one more collection.
    fn make_place(&self, cells: &mut BTreeMap<CollectionSpec, Arc<Cell>>) -> bool {
        let (now, idle) = (self.clock.now().monotonic, self.config.file.idle_watch);
        let victim = evict_longest_unread(cells, &self.store, |cell| cell.spare(now, idle));
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
    store.apply(&gone.spec, vec![edge_hub_core::collection::Change::Reset]);
    if gone.with(|inner| inner.collection.has_filter_inputs()) {
        store.remove(inputs_key(gone));
    }
}
