//! One pool-scoped kind as the shell holds it: the pure copy behind a lock, how its watch at the cloud fares, and whoever
//! is to be woken when something happens to it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use pool_coordinator_core::{Limits, Replica, Subscription};
use proto::coordinator::Frame;
use proto_kube::gvr::GroupVersionResource;
use tokio::sync::{Notify, watch};

/// What the lock of a feed guards.
pub struct Inner {
    /// The copy.
    pub replica: Replica,
    /// When the watch at the cloud was last known to stand; `None` while it stands.
    pub lost_at: Option<Duration>,
    /// Bytes of a first state that came in so far.
    pub filling: u64,
    /// What the cloud said when it refused this kind to the coordinator.
    pub refused: Option<String>,
}

/// One kind.
pub struct Feed {
    /// Its name.
    pub gvr: GroupVersionResource,
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    /// Somebody holds a state that the cloud may not have any more.
    pub doubt: Notify,
}

impl Feed {
    /// Nothing is known of it yet.
    #[must_use]
    pub fn new(gvr: GroupVersionResource) -> Self {
        let replica = Replica::new(Limits::default());
        let inner = Inner { replica, lost_at: Some(Duration::ZERO), filling: 0, refused: None };
        Self { gvr, inner: Mutex::new(inner), changed: watch::Sender::new(0), doubt: Notify::new() }
    }

    /// Runs `f` under the lock. Keep it short: every member waits meanwhile.
    pub fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `f` under the lock, then wakes all who wait.
    pub fn change<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        let answer = self.with(f);
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
        answer
    }

    /// Changes of this receiver announce changes of the feed.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How long ago the watch at the cloud was last known to stand.
    #[must_use]
    pub fn age(&self, now: Duration) -> Duration {
        self.with(|inner| age(inner, now))
    }

    /// The next frame for a member.
    pub fn poll(&self, subscription: &mut Subscription, now: Duration) -> Option<Frame> {
        let (frame, doubts) = self.with(|inner| {
            let frame = subscription.poll(now, &inner.replica, age(inner, now), inner.filling);
            (frame, subscription.doubts(&inner.replica))
        });
        if doubts {
            self.doubt.notify_one();
        }
        frame
    }
}

fn age(inner: &Inner, now: Duration) -> Duration {
    inner.lost_at.map_or(Duration::ZERO, |lost| now.saturating_sub(lost))
}
