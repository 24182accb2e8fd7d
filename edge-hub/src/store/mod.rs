//! The disk of the hub: what a node needs to live through a restart while the cloud is cut.
//!
//! A store is one more subscriber of the collections, never on the path of an answer. Callers hand it
//! changes and blobs; it coalesces them per record (so its memory is bounded by what is live), and its own
//! thread commits them in groups: at most 10 ms apart, sooner at 64 records or 128 KiB.
//!
//! **How a commit survives a crash.** A group is sealed, appended to a redo journal (`frames`) and fsynced
//! once: that is the commit point, and only then are tickets answered. After it the group is applied to the
//! engine (`engine`), in batches small enough for sled, and from time to time a checkpoint makes the engine
//! durable and starts an empty journal. On open the journal is replayed over the engine, which is idempotent,
//! so a torn or half applied engine batch does not matter. This was chosen over one atomic engine batch per
//! group because a relist of megabytes cannot be one sled batch (sled deadlocks above about 200 KB unflushed),
//! because sled's batches tear when the tail of its log is lost, and because it costs one fsync, not two.
//!
//! **How damage is found.** Every record is sealed by AEAD together with its collection, key, uid and resource
//! version, and carries a random 128 bit mark; the sealed *generation record* of its collection holds count and
//! XOR of the marks. A record that was flipped fails to open; one that was rolled back, lost or resurrected
//! changes the sum. A collection whose sum does not hold is never reported complete. A generation that falls back
//! together with its records is found by the manifest, which names the present version of each; an older manifest
//! by the meta record, which names the manifest; and a fallen back meta record by the head of the journal, a file of
//! its own. So the engine is trusted for nothing but keeping bytes. Beyond this reach only a rollback of the whole
//! directory, and a kill together with damage to the very last journal frame, which looks like its torn end.
//!
//! Layout of the directory: `lock`, `key-check`, `reserve` (6 MiB to be able to open a full disk), `boot-snapshot`
//! (the node-critical set), `engine/{db/,journal}`, `quarantine-N/` (at most two former engines).

pub mod at_rest;
pub mod engine;
mod frames;
mod index;
mod key;
mod queue;
mod record;
mod recovery;
mod reserve;
mod scan;
mod seal;
mod sled_engine;
mod start;
mod types;
mod writer;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use bytes::Bytes;
use edge_hub_core::collection::{Change, CollectionSpec};

pub use key::{AtRestKey, KeyError};
pub use queue::FlushTicket;
use queue::Shared;
pub use sled_engine::open_sled;
pub use start::{Attempt, Unopened};
pub use types::{
    BlobClass, BlobKey, Recovered, RecoveredCollection, Refill, StoreError, StoreHealth, StoreOptions,
};

/// A handle on the store's thread. Dropping it closes the store without waiting for durability.
pub struct Store {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the directory, verifies every record, and starts the writer.
    ///
    /// Damage is no error: what is damaged is dropped, noted in [`Recovered::quarantined`] and visible as an
    /// incomplete collection; an engine that cannot be opened at all is moved aside and replaced by the boot
    /// snapshot. Blocks for the time of the scan.
    ///
    /// # Errors
    /// `Locked`, `WrongKey` (nothing was changed), or `Io`/`Engine` when even a fresh store cannot be made.
    pub fn open(options: StoreOptions) -> Result<(Self, Recovered), StoreError> {
        let (opened, recovered) = recovery::open(&options)?;
        let shared = Arc::new(Shared::default());
        let writer = writer::Writer::new(options, opened, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run())
            .map_err(StoreError::io("start the thread of", "store"))?;
        Ok((Self { shared, thread: Mutex::new(Some(thread)) }, recovered))
    }

    /// Takes changes of one collection, in order. Never blocks on the disk and never fails.
    ///
    /// The changes of one call become durable together. A `Reset` with objects after it is held back until a
    /// `Watermark` follows (in this call or a later one), so that a relist replaces the old state as a whole.
    pub fn apply(&self, spec: &CollectionSpec, changes: Vec<Change>) {
        self.shared.apply(spec, changes);
    }

    /// Keeps a blob. Never blocks on the disk and never fails.
    pub fn put(&self, key: BlobKey, value: Bytes) {
        self.shared.put(key, Some(value));
    }

    /// Drops a blob.
    pub fn remove(&self, key: BlobKey) {
        self.shared.put(key, None);
    }

    /// Asks for everything handed in so far to be made durable without the usual delay.
    pub fn flush(&self) -> FlushTicket {
        self.shared.flush()
    }

    /// The present condition; cheap.
    pub fn health(&self) -> StoreHealth {
        self.shared.health()
    }

    /// What has to be applied again after the store gave a file up or evicted something; `None` when nothing.
    pub fn needs_refill(&self) -> Option<Refill> {
        self.shared.needs_refill()
    }

    /// Says that the blobs `needs_refill` asked for have been put again.
    pub fn blobs_refilled(&self) {
        self.shared.blobs_refilled();
    }

    /// Makes everything durable, renews the boot snapshot and ends the thread.
    ///
    /// # Errors
    /// `NotDurable` when something could only be kept in memory and is now lost.
    pub fn close(&self) -> Result<(), StoreError> {
        let ticket = self.shared.close(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            return Err(StoreError::Engine("the writer panicked".into()));
        }
        ticket.wait()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(self.shared.close(false));
            // A panic of the writer has been reported through health; there is nobody left to tell here.
            drop(thread.join());
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
