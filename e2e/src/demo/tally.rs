//! What the clients of one node have seen: counts, caches, and whatever must not happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::cloud::model::Key;

/// Requests that got what they asked for, and those that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Requests {
    pub(super) served: u64,
    pub(super) failed: u64,
}

/// What is counted; see [`Tally`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) online: Requests,
    pub(super) offline: Requests,
    /// How often which request failed with what, for people who look closer.
    pub(super) failures: BTreeMap<String, u64>,
    /// Objects that came as watch events after the first state.
    pub(super) events: u64,
    /// How often a client started from nothing.
    pub(super) client_lists: u64,
    /// Writes of the status that were answered with success.
    pub(super) confirmed: u64,
    /// Resource version of each delivered event, and when it came.
    pub(super) deliveries: Vec<(u64, Instant)>,
    /// Uid of each object that a client was told is gone, and who was told.
    pub(super) gone: Vec<(String, String)>,
    pub(super) violations: BTreeSet<String>,
    /// Each informer's copy.
    pub(super) caches: BTreeMap<String, Cache>,
}

/// An informer's copy of a collection; `None` until it is complete.
pub(super) type Cache = Option<BTreeMap<Key, Value>>;

/// One node's tally.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: Mutex<Counts>,
    cut: AtomicBool,
}

impl Tally {
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole between any two statements.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    /// Count a request that began while `cut`; `status` is `None` if no answer came in time. "There is none" is an
    /// answer, too. What is served counts for the moment of its answer: one that came after the heal was not served
    /// while cut off.
    pub(super) fn count(&self, cut: bool, request: &str, status: Option<u16>) {
        let served = status.is_some_and(|status| status < 300 || status == 404);
        let mut counts = self.counts();
        let offline = if served { self.is_cut() } else { cut };
        let side = if offline { &mut counts.offline } else { &mut counts.online };
        *(if served { &mut side.served } else { &mut side.failed }) += 1;
        if !served {
            let when = if cut { "cut off" } else { "online" };
            let what = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            *counts.failures.entry(format!("{when}: {request}: {what}")).or_default() += 1;
        }
    }

    pub(super) fn violation(&self, text: String) {
        self.counts().violations.insert(text);
    }
}
