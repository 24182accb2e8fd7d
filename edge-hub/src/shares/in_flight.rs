//! The requests of each user that have not been answered to their end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use edge_hub_core::identity::Principal;

use crate::sync::lock;

/// Users whose counters are kept although nobody may hold them.
const COUNTERS: usize = 1024;

/// The counters of all users.
#[derive(Default)]
pub struct InFlight(Mutex<BTreeMap<Principal, Counters>>);

impl InFlight {
    /// The counters of a user's requests. Those that nobody holds are dropped.
    pub fn of(&self, principal: &Principal) -> Counters {
        let mut counters = lock(&self.0);
        if counters.len() > COUNTERS {
            counters.retain(|_, count| count.is_held());
        }
        counters.entry(principal.clone()).or_default().clone()
    }
}

/// The requests of one user that have not been answered to their end.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Those that end by themselves.
    pub short: Arc<AtomicUsize>,
    /// Watches, logs and upgrades.
    pub streams: Arc<AtomicUsize>,
}

impl Counters {
    fn is_held(&self) -> bool {
        [&self.short, &self.streams]
            .into_iter()
            .any(|count| Arc::strong_count(count) > 1 || count.load(Ordering::Relaxed) > 0)
    }
}
