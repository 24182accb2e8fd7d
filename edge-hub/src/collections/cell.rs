//! One collection as the shell holds it: the pure collection behind a lock, who pays for its upstream watch, and who
//! is to be woken when it changes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use edge_hub_core::{
    collection::{Collection, CollectionSpec},
    identity::Principal,
};
use http::StatusCode;
use tokio::sync::{Notify, watch};

use crate::upstream::Credential;

/// How the upstream side of a collection fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first state is being fetched, or the watch is being opened again.
    Syncing,
    /// An upstream watch stands.
    Live,
    /// Nobody reads it; the watch was ended and the data kept.
    Retired,
    /// The server refused the request: its HTTP code and body.
    Refused(StatusCode, bytes::Bytes),
    /// The server has no protobuf of this kind; ask for JSON.
    JsonOnly,
}

/// Someone on whose behalf the upstream watch may run.
#[derive(Clone, Debug)]
struct Sponsor {
    credential: Credential,
    last_read: Duration,
}

/// What the lock of a cell guards.
pub struct Inner {
    /// The data.
    pub collection: Collection,
    /// The upstream side.
    pub phase: Phase,
    sponsors: BTreeMap<Principal, Sponsor>,
    wakers: BTreeMap<u64, Waker>,
    next_reader: u64,
    readers: usize,
    last_read: Duration,
    /// RV at which a first reader wants to watch on.
    pub seed: Option<u64>,
    /// How often the last sponsor was refused. Streams then end cleanly: their clients come again with what
    /// credential they have now, and the cloud judges that.
    pub refusals: u64,
    /// Of a pool's collection: the coordinator that feeds it.
    pub fed_by: Option<Box<str>>,
    /// A wider collection of the same kind stands and this one follows it, without a watch of its own.
    pub absorbed: bool,
    /// Of a pool's collection: nobody feeds it, and no client here may fetch all of it; others stand in its place.
    pub given_up: bool,
}

impl Inner {
    /// Whether a stream is open here.
    #[must_use]
    pub fn has_readers(&self) -> bool {
        self.readers > 0
    }
}

/// How well a collection can be spared; the last goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spare {
    /// Somebody paid for its watch in this process, or may come back to it soon.
    Needed,
    /// Since the process began nobody has paid for its watch, and nobody has read it for long.
    Abandoned,
    /// The same, and it is the collection of a single name, under which there is nothing.
    Nothing,
}

/// A collection with its readers and sponsors.
pub struct Cell {
    /// What is collected.
    pub spec: CollectionSpec,
    /// Never retired: the hub itself needs it (own Node, own Pods).
    pub pinned: bool,
    inner: Mutex<Inner>,
    /// Wakes the reflector: a new sponsor, a new reader.
    pub attention: Notify,
    /// Tells the reflector that a wider collection stands that it may follow.
    pub wider: Notify,
    /// Tells the reflector that what is held may be of another history than the server's.
    pub doubted: Notify,
    progress: watch::Sender<u64>,
    has_reflector: AtomicBool,
    stopped: watch::Sender<bool>,
}

impl Cell {
    /// A cell around `collection`; nobody reads it yet.
    #[must_use]
    pub fn new(collection: Collection, pinned: bool, now: Duration) -> Arc<Self> {
        let spec = collection.spec().clone();
        let inner = Inner {
            collection,
            phase: Phase::Syncing,
            sponsors: BTreeMap::new(),
            wakers: BTreeMap::new(),
            next_reader: 0,
            readers: 0,
            last_read: now,
            seed: None,
            refusals: 0,
            fed_by: None,
            absorbed: false,
            given_up: false,
        };
        Arc::new(Self {
            spec,
            pinned,
            inner: Mutex::new(inner),
            attention: Notify::new(),
            wider: Notify::new(),
            doubted: Notify::new(),
            progress: watch::Sender::new(0),
            has_reflector: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
        })
    }

    /// True once: whoever gets it runs the reflector.
    #[must_use]
    pub fn claim_reflector(&self) -> bool {
        !self.has_reflector.swap(true, Ordering::Relaxed)
    }

    /// Ends the reflector for good; the cell is no longer listed anywhere.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Resolves after [`Self::stop`].
    pub async fn stopped(&self) {
        // The sender lives as long as `self`, so waiting cannot fail before it is true.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Runs `f` under the lock. Keep it short: every reader of this collection waits meanwhile.
    pub fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `f` under the lock, then wakes all readers.
    pub fn change<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        let (answer, wakers) = self.with(|inner| (f(inner), std::mem::take(&mut inner.wakers)));
        for waker in wakers.into_values() {
            waker.wake();
        }
        self.progress.send_modify(|count| *count = count.wrapping_add(1));
        answer
    }

    /// Changes of this receiver announce changes of the cell.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Notes that `principal` reads here and may pay for the upstream watch. Wakes a reflector that sleeps.
    pub fn sponsor(&self, principal: &Principal, credential: Credential, now: Duration) {
        let wake = self.with(|inner| {
            inner.last_read = now;
            let known = inner.sponsors.get(principal).is_some_and(|held| held.credential == credential);
            inner.sponsors.insert(principal.clone(), Sponsor { credential, last_read: now });
            !known || matches!(inner.phase, Phase::Retired | Phase::Refused(..))
        });
        if wake {
            self.attention.notify_one();
        }
    }

    /// Notes a read of one who does not pay for the upstream watch. Wakes a reflector that retired: what is read is kept
    /// up to date by whoever paid before, or its readers are told that nobody does.
    pub fn touch(&self, now: Duration) {
        let is_retired = self.with(|inner| {
            inner.last_read = now;
            inner.phase == Phase::Retired
        });
        if is_retired {
            self.attention.notify_one();
        }
    }

    /// The sponsor whose credential is to be used: the node's own if it reads here, else the latest reader's.
    #[must_use]
    pub fn best_sponsor(&self) -> Option<(Principal, Credential)> {
        self.with(|inner| {
            inner
                .sponsors
                .iter()
                .max_by_key(|(_, sponsor)| (sponsor.credential == Credential::Node, sponsor.last_read))
                .map(|(principal, sponsor)| (principal.clone(), sponsor.credential.clone()))
        })
    }

    /// Whether anybody but `principal` would have its upstream watch go on.
    #[must_use]
    pub fn is_paid_by_another(&self, principal: &Principal) -> bool {
        self.with(|inner| inner.sponsors.keys().any(|sponsor| sponsor != principal))
    }

    /// The users for whom the upstream watch may run.
    #[must_use]
    pub fn sponsors(&self) -> Vec<Principal> {
        self.with(|inner| inner.sponsors.keys().cloned().collect())
    }

    /// The server refused this sponsor's credential; another one is tried next. A newer credential stays.
    pub fn dismiss_sponsor(&self, principal: &Principal, credential: &Credential) -> bool {
        self.with(|inner| {
            if inner.sponsors.get(principal).is_some_and(|held| held.credential == *credential) {
                inner.sponsors.remove(principal);
            }
            !inner.sponsors.is_empty()
        })
    }

    /// Whether nobody has read here for `idle`.
    #[must_use]
    pub fn is_idle(&self, now: Duration, idle: Duration) -> bool {
        !self.pinned && self.with(|inner| inner.readers == 0 && now.saturating_sub(inner.last_read) >= idle)
    }

    /// Whether somebody would miss it.
    #[must_use]
    pub fn spare(&self, now: Duration, idle: Duration) -> Spare {
        let is_single = self.spec.fields.single_name().is_some();
        self.with(|inner| {
            let is_read = inner.readers > 0 || !inner.sponsors.is_empty();
            match (is_read, inner.collection.is_complete() && inner.collection.is_empty()) {
                (false, true) if is_single => Spare::Nothing,
                (false, _) if now.saturating_sub(inner.last_read) >= idle => Spare::Abandoned,
                _ => Spare::Needed,
            }
        })
    }

    /// Time of the last read, on the monotonic clock.
    #[must_use]
    pub fn last_read(&self) -> Duration {
        self.with(|inner| inner.last_read)
    }

    /// Registers a stream that stays open.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Reader {
        let (id, is_retired) = self.with(|inner| {
            inner.readers += 1;
            inner.next_reader += 1;
            (inner.next_reader, inner.phase == Phase::Retired)
        });
        if is_retired {
            self.attention.notify_one();
        }
        Reader { cell: Arc::clone(self), id }
    }
}

/// An open stream on a cell; leaving is automatic.
pub struct Reader {
    /// The cell that is read.
    pub cell: Arc<Cell>,
    id: u64,
}

impl Reader {
    /// Asks to be woken at the next change. To be called under the same lock as the look that found nothing.
    pub fn park(&self, inner: &mut Inner, waker: &Waker) {
        inner.wakers.insert(self.id, waker.clone());
    }

    /// When the stream ends, for the idle clock.
    pub fn touch(&self, now: Duration) {
        self.cell.with(|inner| inner.last_read = now);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.cell.with(|inner| {
            inner.readers = inner.readers.saturating_sub(1);
            inner.wakers.remove(&self.id);
        });
    }
}
