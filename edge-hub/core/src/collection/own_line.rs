//! What a collection remembers of what its clients were told where that is not upstream's word.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_kube::object::ObjectKey;

use super::object::Object;
use crate::overlay::{Amendments, OwnVersions};

/// Own versions of which a collection knows that it told them; a client with an older one lists again.
const TOLD: usize = 4096;

/// Where clients are told something else than upstream says. Empty in nearly every collection at nearly every time.
#[derive(Debug, Default)]
pub(super) struct Overlaid {
    /// `None` where nothing is ever amended.
    pub(super) versions: Option<Arc<Mutex<OwnVersions>>>,
    pub(super) amendments: Arc<Amendments>,
    /// Upstream's objects of the keys that are told otherwise, by content or by version.
    pub(super) truths: BTreeMap<ObjectKey, Arc<Object>>,
    /// Own versions that this collection told.
    pub(super) told: BTreeSet<u64>,
    /// Version at which this collection began to tell; what was amended before it does not know.
    pub(super) since: u64,
    /// Upstream's versions that were never told here, above the first up to the second, and that a relist jumped over:
    /// who saw them elsewhere may hold objects that came and went unseen here.
    pub(super) skipped: VecDeque<(u64, u64)>,
    /// Upstream's version before it was set back to an older state; zero if it never was.
    pub(super) set_back_from: u64,
}

impl Overlaid {
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, OwnVersions>> {
        // No holder leaves a change half-done.
        self.versions.as_ref().map(|versions| versions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest of the hub's own versions. Up to it clients of other collections may hold amended objects, so what
    /// comes late from upstream is told under a later one.
    pub(super) fn last(&self) -> u64 {
        self.lock().map_or(0, |versions| versions.last())
    }

    /// Clients are told this version.
    pub(super) fn note(&self, version: u64) {
        if let Some(mut versions) = self.lock() {
            versions.note(version);
        }
    }

    /// A version that nobody was told, above `above`; the very next one where nothing is shared.
    pub(super) fn take(&mut self, above: u64) -> u64 {
        let version = self.lock().map_or(above + 1, |mut versions| {
            versions.note(above);
            versions.take()
        });
        self.told.insert(version);
        if self.told.len() > TOLD {
            self.told.pop_first();
        }
        version
    }
}
