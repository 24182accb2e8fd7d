//! What waits for the disk. Changes are merged per record, so that the queue never holds more than what is live,
//! however long the disk is away; callers only ever take a short lock.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use edge_hub_core::collection::{Change, CollectionSpec, Object, Tombstone, Watermark};
use tokio::sync::Notify;

use super::{
    record::{Slot, SlotKey},
    types::{BlobClass, BlobKey, Refill, StoreError, StoreHealth},
};

/// Longest time a change waits for others to share its fsync.
const GATHER: Duration = Duration::from_millis(10);
/// Longest time a watermark alone waits for a group of real changes to ride along with. The API server sends each watch
/// a bookmark a minute: written at once they would be an fsync a second on an idle node of 60 collections. After a kill
/// a watch resumes from an older version, at most by so much.
const WATERMARK_ALONE: Duration = Duration::from_secs(60);
const GATHER_RECORDS: usize = 64;
const GATHER_BYTES: usize = 128 << 10;

/// The next state of one record.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Live(Arc<Object>),
    Dead(Tombstone),
    /// Nothing; a tombstone newer than this resource version stays.
    Gone(u64),
}

/// The waiting changes of one collection.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingCollection {
    /// What is on disk goes; `records` is everything.
    pub(super) reset: bool,
    pub(super) records: BTreeMap<SlotKey, Pending>,
    pub(super) watermark: Option<Watermark>,
}

impl PendingCollection {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Put(object) => {
                self.records.insert((object.key.clone(), Slot::Live), Pending::Live(object));
            }
            Change::Delete(tombstone) => {
                let key = tombstone.object.key.clone();
                self.records.insert((key.clone(), Slot::Live), Pending::Gone(u64::MAX));
                self.records.insert((key, Slot::Tombstone), Pending::Dead(tombstone));
            }
            Change::Forget(key, version) => {
                let slot = (key, Slot::Tombstone);
                let newer = matches!(self.records.get(&slot),
                    Some(Pending::Dead(tombstone)) if tombstone.object.resource_version > version);
                if !newer {
                    self.records.insert(slot, Pending::Gone(version));
                }
            }
            Change::Watermark { resource_version, horizon, synced_unix, envelope } => {
                self.watermark = Some(Watermark { resource_version, horizon, synced_unix, envelope });
            }
            Change::Reset => *self = Self { reset: true, ..Self::default() },
        }
    }

    /// No record changes: what is on disk is still the state, under an older resource version.
    fn is_watermark_alone(&self) -> bool {
        !self.reset && self.records.is_empty()
    }

    /// A relist whose end has not come yet.
    fn is_held(&self) -> bool {
        self.reset && !self.records.is_empty() && self.watermark.is_none()
    }

    /// Puts `newer` on top of this.
    fn merge(&mut self, newer: Self) {
        if newer.reset {
            *self = newer;
            return;
        }
        for (slot, value) in newer.records {
            let keep = matches!((&value, self.records.get(&slot)),
                (Pending::Gone(version), Some(Pending::Dead(tombstone)))
                    if tombstone.object.resource_version > *version);
            if !keep {
                self.records.insert(slot, value);
            }
        }
        self.watermark = newer.watermark.or_else(|| self.watermark.take());
    }
}

/// Changes that become durable together.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) collections: BTreeMap<CollectionSpec, PendingCollection>,
    pub(super) blobs: BTreeMap<BlobKey, Option<Bytes>>,
    /// The number of the last call that is in it.
    pub(super) sequence: u64,
    /// When the oldest of it was handed in, watermarks alone apart.
    pub(super) since: Option<Instant>,
    /// When the oldest watermark alone was handed in.
    pub(super) marked: Option<Instant>,
}

impl Group {
    /// Bytes of objects and blobs.
    pub(super) fn bytes(&self) -> u64 {
        let records = self.collections.values().flat_map(|pending| pending.records.values());
        let objects = records.map(|pending| match pending {
            Pending::Live(object) => object.raw.len(),
            Pending::Dead(tombstone) => tombstone.object.raw.len(),
            Pending::Gone(_) => 0,
        });
        let blobs = self.blobs.values().flatten().map(Bytes::len);
        objects.chain(blobs).map(|bytes| bytes as u64).sum()
    }
}

/// What the writer should do next.
#[derive(Debug)]
pub(super) enum Work {
    /// Make this durable.
    Commit(Group),
    /// The given time has come.
    Timer,
    /// Everything is durable, or was tried: end in good order.
    Close,
    /// End at once.
    Abandon,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Closing {
    #[default]
    No,
    Drain,
    Abandon,
    Closed,
}

#[derive(Debug, Default)]
struct State {
    pending: Group,
    /// Calls, and bytes, since the last group was taken.
    records: usize,
    bytes: usize,
    enqueued: u64,
    durable: u64,
    in_flight: Option<Instant>,
    busy: Option<Instant>,
    kick: bool,
    closing: Closing,
    failures: u64,
    health: StoreHealth,
    refill: Refill,
}

impl State {
    /// What is known of a flush; `None` while it is under way.
    fn outcome(&self, sequence: u64, failures: u64) -> Option<Result<(), StoreError>> {
        let because = |else_: &str| {
            let why = self.health.last_error.clone().unwrap_or_else(|| else_.to_owned());
            Some(Err(StoreError::NotDurable(why)))
        };
        match () {
            () if self.durable >= sequence => Some(Ok(())),
            () if self.failures > failures => because("an attempt failed"),
            () if self.closing == Closing::Closed => Some(Err(StoreError::Closed)),
            () if self.health.memory_only => because("the store is not open"),
            () => None,
        }
    }
}

fn late() -> StoreError {
    StoreError::NotDurable("the disk did not answer in time".into())
}

/// The meeting place of callers and writer.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
    /// The same as `done`, for tasks.
    done_for_tasks: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn apply(&self, spec: &CollectionSpec, changes: Vec<Change>) {
        let mut state = self.lock();
        if state.closing != Closing::No || changes.is_empty() {
            return;
        }
        let mut bytes = 0;
        let mut records = 0;
        let mut is_watermark = false;
        if !state.pending.collections.contains_key(spec) {
            state.pending.collections.insert(spec.clone(), PendingCollection::default());
        }
        if let Some(pending) = state.pending.collections.get_mut(spec) {
            for change in changes {
                records += 1;
                if let Change::Put(object) = &change {
                    bytes += object.raw.len();
                }
                pending.apply(change);
            }
            is_watermark = pending.is_watermark_alone();
        }
        if is_watermark {
            return self.enqueued_watermark(&mut state);
        }
        self.enqueued(&mut state, records, bytes);
    }

    pub(super) fn put(&self, key: BlobKey, value: Option<Bytes>) {
        let mut state = self.lock();
        if state.closing != Closing::No {
            return;
        }
        let bytes = value.as_ref().map_or(0, Bytes::len);
        state.pending.blobs.insert(key, value);
        self.enqueued(&mut state, 1, bytes);
    }

    fn enqueued(&self, state: &mut State, records: usize, bytes: usize) {
        state.enqueued += 1;
        state.records += records;
        state.bytes += bytes;
        let first = state.pending.since.is_none();
        if first {
            state.pending.since = Some(Instant::now());
        }
        if first || state.records >= GATHER_RECORDS || state.bytes >= GATHER_BYTES {
            self.work.notify_one();
        }
    }

    /// A watermark alone wakes the writer when it is the first, so that its time is counted.
    fn enqueued_watermark(&self, state: &mut State) {
        state.enqueued += 1;
        if state.pending.marked.is_none() {
            state.pending.marked = Some(Instant::now());
            self.work.notify_one();
        }
    }

    pub(super) fn flush(self: &Arc<Self>) -> FlushTicket {
        let mut state = self.lock();
        state.kick = true;
        self.work.notify_one();
        FlushTicket { shared: Arc::clone(self), sequence: state.enqueued, failures: state.failures }
    }

    pub(super) fn close(self: &Arc<Self>, drain: bool) -> FlushTicket {
        let ticket = self.flush();
        let mut state = self.lock();
        if state.closing != Closing::Closed {
            state.closing = if drain { Closing::Drain } else { Closing::Abandon };
        }
        self.work.notify_one();
        ticket
    }

    pub(super) fn wait(
        &self,
        sequence: u64,
        failures: u64,
        deadline: Option<Instant>,
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = state.outcome(sequence, failures) {
                return outcome;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.done.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Err(late()),
                Some(left) => self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// As `wait`, without a thread.
    pub(super) async fn wait_as_task(
        &self,
        sequence: u64,
        failures: u64,
        limit: Duration,
    ) -> Result<(), StoreError> {
        let waiting = async {
            loop {
                // Listening begins before the look, so that nothing is missed between them.
                let mut done = std::pin::pin!(self.done_for_tasks.notified());
                done.as_mut().enable();
                if let Some(outcome) = self.lock().outcome(sequence, failures) {
                    return outcome;
                }
                done.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.unwrap_or_else(|_elapsed| Err(late()))
    }

    fn tell_done(&self) {
        self.done.notify_all();
        self.done_for_tasks.notify_waiters();
    }

    pub(super) fn health(&self) -> StoreHealth {
        let state = self.lock();
        let oldest = state.pending.since.into_iter().chain(state.in_flight).min();
        StoreHealth {
            lag: oldest.map(|since| since.elapsed()).unwrap_or_default(),
            busy: state.busy.map(|since| since.elapsed()).unwrap_or_default(),
            needs_refill: state.refill != Refill::default(),
            ..state.health.clone()
        }
    }

    pub(super) fn needs_refill(&self) -> Option<Refill> {
        let state = self.lock();
        (state.refill != Refill::default()).then(|| state.refill.clone())
    }

    pub(super) fn blobs_refilled(&self) {
        self.lock().refill.blobs.clear();
    }

    /// Writer: what comes next. `retry` holds commits back after a failure, `timer` ends the wait.
    pub(super) fn next(&self, retry: Option<Instant>, timer: Option<Instant>) -> Work {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let waits = |pending: &PendingCollection| !pending.is_held() && !pending.is_watermark_alone();
            let changed = state.pending.collections.values().any(waits) || !state.pending.blobs.is_empty();
            let marked = state.pending.marked.filter(|_| !changed);
            let ready = changed || marked.is_some();
            let closing = state.closing != Closing::No;
            if state.closing == Closing::Abandon {
                return Work::Abandon;
            }
            if !ready {
                if state.kick {
                    state.kick = false;
                    state.durable = state.enqueued;
                    self.tell_done();
                }
                if closing {
                    return Work::Close;
                }
            }
            let full = state.records >= GATHER_RECORDS || state.bytes >= GATHER_BYTES;
            let commit_at = ready.then(|| {
                let due = match marked {
                    Some(marked) => marked + WATERMARK_ALONE,
                    None => state.pending.since.unwrap_or(now) + GATHER,
                };
                let at = if full || state.kick || closing { now } else { due };
                if state.kick || closing { now } else { retry.map_or(at, |retry| at.max(retry)) }
            });
            if commit_at.is_some_and(|at| at <= now) {
                return Work::Commit(take(&mut state, now));
            }
            if timer.is_some_and(|at| at <= now) {
                return Work::Timer;
            }
            state = match commit_at.into_iter().chain(timer).min() {
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Writer: a group is durable.
    pub(super) fn committed(&self, sequence: u64) {
        let mut state = self.lock();
        state.durable = state.durable.max(sequence);
        state.in_flight = None;
        state.health.commits += 1;
        self.tell_done();
    }

    /// Writer: a group could not be made durable and waits again, below what came after it.
    pub(super) fn give_back(&self, group: Group, why: String) {
        let mut state = self.lock();
        let newer = std::mem::take(&mut state.pending);
        state.pending.since = group.since.or(newer.since);
        state.pending.marked = group.marked.or(newer.marked);
        state.pending.collections = group.collections;
        state.pending.blobs = group.blobs;
        for (spec, pending) in newer.collections {
            state.pending.collections.entry(spec).or_default().merge(pending);
        }
        state.pending.blobs.extend(newer.blobs);
        state.in_flight = None;
        state.failures += 1;
        state.health.last_error = Some(why);
        self.tell_done();
    }

    /// Before there is a writer: whether it is asked to end within `limit`.
    pub(super) fn is_closed_within(&self, limit: Duration) -> bool {
        let state = self.lock();
        let is_open = |state: &mut State| state.closing == Closing::No;
        let (state, _) =
            self.work.wait_timeout_while(state, limit, is_open).unwrap_or_else(PoisonError::into_inner);
        state.closing != Closing::No
    }

    /// Writer: whether it has been asked to end.
    pub(super) fn is_closing(&self) -> bool {
        self.lock().closing != Closing::No
    }

    /// Writer: notes on the condition.
    pub(super) fn note(&self, update: impl FnOnce(&mut StoreHealth)) {
        update(&mut self.lock().health);
    }

    /// Writer: whether it is inside a disk operation.
    pub(super) fn busy(&self, busy: bool) {
        self.lock().busy = busy.then(Instant::now);
    }

    /// Writer: these were lost and are wanted again.
    pub(super) fn want(&self, collections: impl IntoIterator<Item = CollectionSpec>, blobs: &[BlobClass]) {
        let mut state = self.lock();
        for spec in collections {
            if !state.refill.collections.contains(&spec) {
                state.refill.collections.push(spec);
            }
        }
        for class in blobs {
            if !state.refill.blobs.contains(class) {
                state.refill.blobs.push(*class);
            }
        }
    }

    /// Writer: a collection is whole again. Returns whether nothing is wanted any more.
    pub(super) fn refilled(&self, spec: Option<&CollectionSpec>) -> bool {
        let mut state = self.lock();
        state.refill.collections.retain(|wanted| Some(wanted) != spec);
        state.refill == Refill::default()
    }

    /// Writer: it has ended.
    pub(super) fn closed(&self) {
        self.lock().closing = Closing::Closed;
        self.tell_done();
    }
}

/// A promise that what was handed in before is durable.
#[derive(Debug)]
#[must_use = "a flush is only known to have happened once its ticket was waited for"]
pub struct FlushTicket {
    shared: Arc<Shared>,
    sequence: u64,
    failures: u64,
}

impl FlushTicket {
    /// Blocks until it is kept. Changes held back by a relist without a watermark are not waited for.
    ///
    /// # Errors
    /// `NotDurable` when an attempt failed (it is repeated in the background), `Closed`.
    pub fn wait(self) -> Result<(), StoreError> {
        self.shared.wait(self.sequence, self.failures, None)
    }

    /// As `wait_timeout`, for a task: it holds no thread while the disk takes its time.
    ///
    /// # Errors
    /// As `wait`.
    pub async fn durable_within(self, limit: Duration) -> Result<(), StoreError> {
        self.shared.wait_as_task(self.sequence, self.failures, limit).await
    }

    /// As `wait`, but gives up after `timeout` with `NotDurable`.
    ///
    /// # Errors
    /// As `wait`.
    pub fn wait_timeout(self, timeout: Duration) -> Result<(), StoreError> {
        self.shared.wait(self.sequence, self.failures, Some(Instant::now() + timeout))
    }
}

fn take(state: &mut State, now: Instant) -> Group {
    let pending = std::mem::take(&mut state.pending);
    let (held, ready) = pending.collections.into_iter().partition(|(_, collection)| collection.is_held());
    state.pending.collections = held;
    state.kick = false;
    state.records = 0;
    state.bytes = 0;
    state.in_flight = pending.since.or(Some(now));
    Group {
        collections: ready,
        blobs: pending.blobs,
        sequence: state.enqueued,
        since: pending.since,
        marked: pending.marked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_hub_core::collection::Envelope;
    use proto_kube::{
        gvr::GroupVersionResource,
        media_type::Format,
        object::{ObjectKey, TypeMeta},
    };

    fn spec() -> CollectionSpec {
        CollectionSpec {
            gvr: GroupVersionResource::new("", "v1", "pods"),
            namespace: None,
            labels: Default::default(),
            fields: Default::default(),
            format: Format::JSON,
        }
    }

    fn object(name: &str, resource_version: u64) -> Arc<Object> {
        let key = ObjectKey { namespace: "".into(), name: name.into() };
        Arc::new(Object { key, uid: "".into(), resource_version, raw: Bytes::new() })
    }

    fn taken(shared: &Shared) -> Group {
        match shared.next(None, None) {
            Work::Commit(group) => group,
            other => panic!("{other:?}"),
        }
    }

    fn versions(group: &Group) -> Vec<(String, u64)> {
        let records = group.collections.values().flat_map(|pending| &pending.records);
        records
            .map(|((key, slot), value)| {
                let version = match value {
                    Pending::Live(object) => object.resource_version,
                    Pending::Dead(tombstone) => tombstone.object.resource_version,
                    Pending::Gone(_) => 0,
                };
                (format!("{}{}", key.name, if *slot == Slot::Live { "" } else { " (dead)" }), version)
            })
            .collect()
    }

    #[test]
    fn the_queue_holds_one_entry_per_record_however_long_nothing_is_written() {
        let shared = Arc::new(Shared::default());
        for version in 1..10_000 {
            shared
                .apply(&spec(), vec![Change::Put(object(if version % 2 == 0 { "a" } else { "b" }, version))]);
        }
        drop(shared.flush());
        let group = taken(&shared);
        assert_eq!(versions(&group), [("a".into(), 9998), ("b".into(), 9999)]);
        assert_eq!(group.sequence, 9999);
    }

    #[test]
    fn a_group_that_failed_goes_back_below_what_came_after_it() {
        let shared = Arc::new(Shared::default());
        let dead = |version| Tombstone { object: object("c", version), deleted_unix: Duration::ZERO };
        shared.apply(&spec(), vec![Change::Put(object("a", 1)), Change::Put(object("b", 1))]);
        shared.apply(&spec(), vec![Change::Delete(dead(5))]);
        let ticket = shared.flush();
        let group = taken(&shared);
        shared
            .apply(&spec(), vec![Change::Put(object("a", 2)), Change::Forget(object("c", 0).key.clone(), 4)]);
        shared.give_back(group, "no".into());
        assert!(matches!(ticket.wait(), Err(StoreError::NotDurable(why)) if why == "no"));
        drop(shared.flush());
        let group = taken(&shared);
        let expected = [("a", 2), ("b", 1), ("c", 0), ("c (dead)", 5)];
        assert_eq!(versions(&group), expected.map(|(name, version)| (name.to_owned(), version)));
        // And a relist that came meanwhile leaves nothing of it.
        shared.apply(&spec(), vec![Change::Reset]);
        shared.give_back(group, "no".into());
        let ticket = shared.flush();
        let group = taken(&shared);
        assert!(versions(&group).is_empty());
        assert!(group.collections.values().all(|pending| pending.reset));
        shared.committed(group.sequence);
        ticket.wait().unwrap();
        assert!(shared.health().lag.is_zero());
    }

    #[tokio::test]
    async fn a_task_waits_for_the_disk_without_a_thread() {
        let shared = Arc::new(Shared::default());
        shared.apply(&spec(), vec![Change::Put(object("a", 1))]);
        let (ticket, second, late) = (shared.flush(), shared.flush(), shared.flush());
        assert!(matches!(
            late.durable_within(Duration::from_millis(1)).await,
            Err(StoreError::NotDurable(_))
        ));
        let group = taken(&shared);
        let limit = Duration::from_secs(60);
        let (first, second, ()) =
            tokio::join!(ticket.durable_within(limit), second.durable_within(limit), async {
                shared.committed(group.sequence);
            });
        first.unwrap();
        second.unwrap();
        shared.note(|health| health.memory_only = true);
        shared.apply(&spec(), vec![Change::Put(object("a", 2))]);
        let unopened = shared.flush().durable_within(limit).await;
        assert!(matches!(unopened, Err(StoreError::NotDurable(why)) if why == "the store is not open"));
    }

    #[test]
    fn an_idle_node_writes_one_group_a_minute_whatever_it_watches() {
        let shared = Arc::new(Shared::default());
        let specs: Vec<_> = (0..60)
            .map(|number| CollectionSpec { namespace: Some(format!("ns-{number}").into()), ..spec() })
            .collect();
        let bookmark = |resource_version| Change::Watermark {
            resource_version,
            horizon: 0,
            synced_unix: Duration::from_secs(resource_version),
            envelope: Envelope {
                type_meta: TypeMeta::new("v1", "Pod"),
                list_kind: "PodList".into(),
                columns: None,
            },
        };
        let mut groups = 0;
        for minute in 1..=10 {
            for spec in &specs {
                shared.apply(spec, vec![bookmark(minute)]);
                assert!(matches!(shared.next(None, Some(Instant::now())), Work::Timer));
            }
            assert!(shared.health().lag.is_zero(), "nothing is lost with a kill but time");
            let a_minute_ago = Instant::now().checked_sub(WATERMARK_ALONE).unwrap();
            shared.lock().pending.marked = Some(a_minute_ago);
            let group = taken(&shared);
            assert_eq!(group.collections.len(), 60);
            shared.committed(group.sequence);
            groups += 1;
            assert!(matches!(shared.next(None, Some(Instant::now())), Work::Timer));
        }
        assert_eq!((groups, shared.health().commits), (10, 10));
        // A change of any record takes along what waits, as does whoever waits for the disk.
        specs[..7].iter().for_each(|spec| shared.apply(spec, vec![bookmark(11)]));
        shared.apply(&specs[8], vec![Change::Put(object("a", 12)), bookmark(12)]);
        assert_eq!(taken(&shared).collections.len(), 8);
        shared.apply(&specs[0], vec![bookmark(13)]);
        drop(shared.flush());
        assert_eq!(taken(&shared).collections.len(), 1);
    }

    #[test]
    fn a_relist_waits_for_its_watermark_and_a_flush_does_not_wait_for_it() {
        let shared = Arc::new(Shared::default());
        shared.apply(&spec(), vec![Change::Reset, Change::Put(object("a", 1))]);
        let ticket = shared.flush();
        let soon = Some(Instant::now());
        assert!(matches!(shared.next(None, soon), Work::Timer));
        ticket.wait().unwrap();
    }
}
