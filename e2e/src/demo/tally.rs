//! What the clients of one node have seen: counts, copies, and whatever must not happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::protobuf::Held;
use crate::cloud::model::{Gvr, Key};

/// Requests that got what they asked for, and those that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Requests {
    pub(super) served: u64,
    pub(super) failed: u64,
}

/// An object that came as a watch event after the first state.
#[derive(Debug)]
pub(super) struct Shown {
    /// Who was shown it.
    pub(super) id: String,
    pub(super) gvr: Gvr,
    pub(super) key: Key,
    pub(super) held: Held,
    /// It came as deleted.
    pub(super) deleted: bool,
    pub(super) came: Instant,
}

/// A whole collection, as a client was given it.
#[derive(Debug)]
pub(super) struct Listed {
    /// Who was given it.
    pub(super) id: String,
    pub(super) revision: u64,
    pub(super) state: Collection,
}

/// This node's own Node, as a GET while cut off showed it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) revision: u64,
    pub(super) came: Instant,
}

/// What is counted; see [`Tally`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) online: Requests,
    pub(super) offline: Requests,
    /// How often which request failed with what, for people who look closer.
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) shown: Vec<Shown>,
    pub(super) lists: Vec<Listed>,
    pub(super) offline_reads: Vec<Read>,
    /// Revision and message of each status report that was answered with success.
    pub(super) reports: Vec<(u64, String)>,
    /// The last `renewTime` of the node's Lease that was answered with success.
    pub(super) renewed: Option<String>,
    /// Names of the Events that were answered with success.
    pub(super) posted: Vec<String>,
    /// How many of them while cut off.
    pub(super) posted_offline: u64,
    pub(super) violations: BTreeSet<String>,
    /// Each informer's copy of its collection; `None` until it is complete.
    pub(super) copies: BTreeMap<String, Option<Collection>>,
}

/// A collection as a client holds it.
pub(super) type Collection = BTreeMap<Key, Held>;

/// When a request began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun(u64);

/// One node's tally.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: Mutex<Counts>,
    /// How often the link went down or came back: odd while it is cut.
    turns: AtomicU64,
}

fn is_cut(turns: u64) -> bool {
    turns % 2 == 1
}

impl Tally {
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole between any two statements.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link has just gone down, or is about to come back.
    pub(super) fn turn(&self) {
        self.turns.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn is_cut(&self) -> bool {
        is_cut(self.turns.load(Ordering::SeqCst))
    }

    /// A request begins now.
    pub(super) fn begin(&self) -> Begun {
        Begun(self.turns.load(Ordering::SeqCst))
    }

    /// Count a request; `status` is `None` if no answer came. "There is none" is an answer, too. Served while cut off is
    /// what began and was answered within the cut; failed online is what no cut has touched. True if served while cut.
    pub(super) fn count(&self, begun: Begun, request: &str, status: Option<u16>) -> bool {
        let served = status.is_some_and(|status| status < 300 || status == 404);
        let mut counts = self.counts();
        let undisturbed = self.turns.load(Ordering::SeqCst) == begun.0;
        let offline = if served { undisturbed && is_cut(begun.0) } else { !undisturbed || is_cut(begun.0) };
        let side = if offline { &mut counts.offline } else { &mut counts.online };
        *(if served { &mut side.served } else { &mut side.failed }) += 1;
        if !served {
            let when = if offline { "cut off" } else { "online" };
            let what = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            *counts.failures.entry(format!("{when}: {request}: {what}")).or_default() += 1;
        }
        served && offline
    }

    pub(super) fn violation(&self, text: String) {
        self.counts().violations.insert(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_as_served_while_cut_only_if_the_cut_surrounds_it() {
        let tally = Tally::default();
        let before = tally.begin();
        tally.count(before, "a", Some(200));
        tally.turn();
        tally.count(before, "a", Some(200));
        tally.count(before, "a", None);
        let within = tally.begin();
        assert!(tally.count(within, "a", Some(200)));
        tally.count(within, "a", Some(503));
        tally.turn();
        tally.count(within, "a", Some(200));
        tally.count(within, "a", None);
        tally.count(tally.begin(), "a", Some(500));
        let counts = tally.counts();
        assert_eq!(counts.online, Requests { served: 3, failed: 1 });
        assert_eq!(counts.offline, Requests { served: 1, failed: 3 });
    }
}
