//! The steps towards a collection that a LIST or WATCH can be answered from: it is fetched, its client's right is asked
//! about, it catches up.

use std::{sync::Arc, time::Duration};

use edge_hub_core::{access::AccessKey, collection::CollectionSpec, plan::Collected};
use proto_kube::request_info::Verb;

use super::{
    cached::CATCH_UP,
    call::Call,
    facts::{Gathered, Source, Trail},
};
use crate::collections::cell::{Cell, Phase};

/// How long a first read waits for its collection before it is told to come again.
const FIRST_SYNC: Duration = Duration::from_secs(8);

impl Call {
    /// Fetches the collection that is meant as this very principal, and waits for its first state. A watch of `version`
    /// goes on from there.
    pub(super) async fn collect(
        &self,
        gathered: &Gathered,
        verb: Verb,
        version: Option<u64>,
        trail: &mut Trail,
    ) -> Collected {
        let Some(meant) = &gathered.meant else { return Collected::NoRoom };
        let is_new = gathered.sources.is_empty() || self.hub.collections.cell(meant).is_none();
        let Some(cell) = self.hub.collections.cell_or_new(meant) else { return Collected::NoRoom };
        if is_new {
            if verb == Verb::Watch {
                cell.with(|inner| inner.seed = self.hub.overlay.seed(&meant.gvr, version));
            }
            trail.fetched = Some(Arc::clone(&cell));
        }
        cell.sponsor(&self.principal, self.credential.clone(), self.hub.site.clock.now().monotonic);
        let phase = self.wait_complete(&cell).await;
        // Complete comes a moment before Live: what is complete is served.
        let collected = match phase {
            Phase::Syncing | Phase::Live | Phase::Retired
                if cell.with(|inner| inner.collection.is_complete()) =>
            {
                Collected::Complete
            }
            Phase::Syncing if self.hub.site.is_connected() => Collected::Incomplete,
            Phase::JsonOnly => Collected::JsonOnly,
            _ => Collected::Refused,
        };
        if matches!(collected, Collected::JsonOnly | Collected::Refused) {
            self.hub.collections.forget_refused(&cell);
        }
        collected
    }

    /// Somebody asked while nothing could be fetched: it will be as soon as the cloud is back.
    pub(super) fn fetch_later(&self, verb: Verb, gathered: &Gathered) {
        if let Some(meant) = &gathered.meant
            && self.may(&AccessKey::of_collection(meant, verb)) == Some(true)
            && self.hub.collections.may_wait_for_more(&self.principal)
            && let Some(cell) = self.hub.collections.cell_or_new(meant)
        {
            cell.sponsor(&self.principal, self.credential.clone(), self.hub.site.clock.now().monotonic);
        }
    }

    /// Asks the cloud whether this user may do what is asked, where the hub may ask on its behalf.
    pub(super) async fn prove(&self, wanted: &CollectionSpec, verb: Verb) {
        // Who may list need not be allowed to watch, so nothing is concluded from another verb.
        if self.hub.shares.asked.may_ask(self.hub.site.clock.now(), &self.principal) {
            let exact = AccessKey::of_collection(wanted, verb);
            // What the cloud says is remembered, and is among the facts of the next step.
            let _ = self.hub.authorizer.ask_access(&self.principal, &exact).await;
        }
    }

    /// Who may list or watch a whole collection may see each object of it.
    pub(super) fn may_read_all_of(&self, cell: &Cell) -> bool {
        [Verb::List, Verb::Watch]
            .iter()
            .any(|verb| self.may(&AccessKey::of_collection(&cell.spec, *verb)) == Some(true))
    }

    /// The collection without selectors that answers for `wanted`, unless the cloud is known to refuse it to this client.
    pub(super) fn whole(&self, wanted: &CollectionSpec) -> Option<CollectionSpec> {
        let whole = wanted.without_exclusions()?;
        let refused = self.is_the_clouds(&whole, Verb::List);
        (!refused).then_some(whole)
    }

    /// Whether only the cloud can answer: it is known to refuse, or nothing of it can be kept. Without a right to watch
    /// nothing can be kept either, and to try again would cost a request each time.
    pub(super) fn is_the_clouds(&self, wanted: &CollectionSpec, verb: Verb) -> bool {
        let is_denied = |verb| self.may(&AccessKey::of_collection(wanted, verb)) == Some(false);
        is_denied(verb) || is_denied(Verb::Watch) || self.hub.collections.is_uncacheable(wanted)
    }

    /// Counts as a reader; pays for the upstream watch only where it may read all of it.
    pub(super) fn support(&self, cell: &Arc<Cell>, wanted: &CollectionSpec) {
        let now = self.hub.site.clock.now().monotonic;
        if cell.spec == *wanted || self.may_read_all_of(cell) {
            cell.sponsor(&self.principal, self.credential.clone(), now);
        } else {
            cell.touch(now);
            self.offer(cell);
        }
    }

    /// Gives a collection whose watch was retired or lost a moment to catch up: what it held may be old.
    pub(super) async fn catch_up(&self, source: &Source, meant: &CollectionSpec) {
        let cell = &source.cell;
        self.support(cell, meant);
        let mut progress = cell.subscribe();
        let settled = async {
            loop {
                match cell.with(|inner| inner.phase.clone()) {
                    Phase::Live | Phase::Refused(..) => return,
                    _ if !self.hub.site.is_connected() => return,
                    _ => {}
                }
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        // A server that does not answer in time is no reason to refuse what may be served stale.
        let _ = tokio::time::timeout(CATCH_UP, settled).await;
    }

    /// Waits until the collection is complete or the server refused it. Returns the phase.
    async fn wait_complete(&self, cell: &Arc<Cell>) -> Phase {
        let mut progress = cell.subscribe();
        let settled = async {
            loop {
                let (phase, complete) =
                    cell.with(|inner| (inner.phase.clone(), inner.collection.is_complete()));
                if complete || matches!(phase, Phase::Refused(..) | Phase::JsonOnly) {
                    return phase;
                }
                if progress.changed().await.is_err() {
                    return phase;
                }
            }
        };
        match tokio::time::timeout(FIRST_SYNC, settled).await {
            Ok(phase) => phase,
            Err(_) => Phase::Syncing,
        }
    }

    /// Whether one more collection may be made for this principal: the hub could ask about its right, and it has not
    /// all the memory for objects that it may have.
    pub(super) fn may_have_collected(&self, wanted: &CollectionSpec, verb: Verb) -> bool {
        let is_known = self.may(&AccessKey::of_collection(wanted, verb)) == Some(true);
        (is_known || self.hub.shares.asked.could_ask(self.hub.site.clock.now(), &self.principal))
            && self.hub.collections.has_room_for_objects(&self.principal)
    }
}
