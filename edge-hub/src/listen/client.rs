//! The connections that stand: whose each is, which make room for others, and how long a client may stay unknown.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use edge_hub_core::{
    connections::{ConnectionLimits, Connections},
    identity::Principal,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::AbortHandle,
};

use crate::{identity::peer::Peer, sync::lock};

/// Connections of clients that are not known, which may send a wide head.
const WIDE_UNKNOWN: usize = 32;
/// How long a client may stay unknown after its handshake.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// The connections that stand, with the tasks that serve them.
pub struct Open {
    table: Mutex<(Connections, BTreeMap<u64, AbortHandle>)>,
    next: AtomicU64,
    /// Places for clients that are not known and may send wide heads.
    wide: Arc<Semaphore>,
}

impl Open {
    /// None yet, and at most so many, of which some are kept for this node itself.
    #[must_use]
    pub fn new(connections: usize, node: &Principal) -> Self {
        let table = Connections::new(ConnectionLimits::of(connections), node.clone());
        Self {
            table: Mutex::new((table, BTreeMap::new())),
            next: AtomicU64::new(0),
            wide: Arc::new(Semaphore::new(WIDE_UNKNOWN)),
        }
    }

    /// A number for a connection that has just been accepted.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Changes the table, and closes what has to make room.
    fn change(&self, change: impl FnOnce(&mut Connections) -> Option<u64>) {
        let closed = {
            let mut table = lock(&self.table);
            change(&mut table.0).and_then(|victim| table.1.remove(&victim))
        };
        if let Some(task) = closed {
            task.abort();
        }
    }

    /// A connection that `task` serves.
    pub fn add(&self, id: u64, task: AbortHandle) {
        lock(&self.table).1.insert(id, task.clone());
        self.change(|table| table.accept(id));
        if task.is_finished() {
            self.remove(id);
        }
    }

    fn remove(&self, id: u64) {
        let mut table = lock(&self.table);
        table.0.remove(id);
        table.1.remove(&id);
    }
}

/// A request of a known client on a connection, until its answer has ended.
pub struct Running {
    id: u64,
    open: Arc<Open>,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.open.table).0.end(self.id);
    }
}

/// One client's connection: its certificate, and whether it has said who it is.
pub struct Client {
    /// What the handshake told.
    pub peer: Peer,
    id: u64,
    open: Arc<Open>,
    known: watch::Sender<bool>,
    /// Held until the client is known.
    wide: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Client {
    /// The connection `id`, of which nothing is known but that it was accepted.
    #[must_use]
    pub fn new(id: u64, open: Arc<Open>) -> Self {
        Self { peer: Peer::Anonymous, id, open, known: watch::Sender::new(false), wide: Mutex::default() }
    }

    /// Whether the head of a request may be wide: this node has shown who it is before its first request, and of others
    /// some may before they have.
    #[must_use]
    pub fn may_send_wide_heads(&self) -> bool {
        if matches!(self.peer, Peer::Node(_)) {
            return true;
        }
        let place = Arc::clone(&self.open.wide).try_acquire_owned().ok();
        let has_place = place.is_some();
        *lock(&self.wide) = place;
        has_place
    }

    /// The client showed a credential that holds, with a request, which runs until what is returned is dropped.
    #[must_use]
    pub fn begin(&self, user: &Principal) -> Running {
        if !*self.known.borrow() {
            self.known.send_replace(true);
            lock(&self.wide).take();
        }
        self.open.change(|table| table.begin(self.id, user));
        Running { id: self.id, open: Arc::clone(&self.open) }
    }

    /// Resolves when the client has been unknown for too long.
    pub async fn stays_unknown(&self) {
        let known = async { self.known.subscribe().wait_for(|known| *known).await.is_ok() };
        if tokio::time::timeout(UNKNOWN_TIMEOUT, known).await.is_ok() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.open.remove(self.id);
    }
}
