//! What the connections, the streams and the test's hand on one model cloud share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use e2e_cloud::{Cloud, Fault};
use rustls::ServerConfig;
use tokio::sync::watch;

use super::link::Link;
use super::wire::Switch;

/// What the connections, streams and the control share.
pub(super) struct Shared {
    pub(super) core: Mutex<Cloud>,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) links: Mutex<Vec<Arc<Link>>>,
    /// Faults that wait for a running stream, by the order of its request.
    pub(super) streams: Mutex<BTreeMap<u64, Option<Fault>>>,
    /// Moves whenever a stream may have something to send.
    pub(super) changes: watch::Sender<u64>,
    /// Moves whenever the record of requests does.
    pub(super) activity: watch::Sender<u64>,
    pub(super) clock_offset_nanos: AtomicU64,
    pub(super) stop: watch::Sender<bool>,
    pub(super) wire_in: AtomicU64,
    pub(super) wire_out: AtomicU64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked while it held the lock has failed already; the rest may go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn core(&self) -> MutexGuard<'_, Cloud> {
        lock(&self.core)
    }

    /// The cloud's clock, since the Unix epoch.
    pub(super) fn now(&self) -> Duration {
        let real = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        real + Duration::from_nanos(self.clock_offset_nanos.load(Ordering::SeqCst))
    }

    /// Tell the streams that something changed.
    pub(super) fn notify_streams(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Tell those who wait for requests.
    pub(super) fn notify_activity(&self) {
        self.activity.send_modify(|n| *n += 1);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        let _ = stop.wait_for(|s| *s).await;
    }

    pub(super) fn open_stream(&self, order: u64, fault: Option<Fault>) {
        lock(&self.streams).insert(order, fault);
        self.notify_activity();
    }

    pub(super) fn close_stream(&self, order: u64) {
        lock(&self.streams).remove(&order);
        if let Some(record) = self.core().record_mut(order) {
            record.ended = true;
        }
        self.notify_activity();
    }

    /// The fault that waits for a stream; taken once.
    pub(super) fn take_stream_fault(&self, order: u64) -> Option<Fault> {
        lock(&self.streams).get_mut(&order).and_then(Option::take)
    }

    pub(super) fn count_sent(&self, order: u64, bytes: usize) {
        if let Some(record) = self.core().record_mut(order) {
            record.bytes_out += bytes as u64;
        }
    }

    pub(super) fn note_initial(&self, order: u64, bytes: usize) {
        if let Some(record) = self.core().record_mut(order) {
            record.initial_bytes += bytes as u64;
        }
    }

    pub(super) fn count_wire(&self, switch: &Switch) {
        self.wire_in.fetch_add(switch.bytes_in.load(Ordering::Relaxed), Ordering::Relaxed);
        self.wire_out.fetch_add(switch.bytes_out.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
