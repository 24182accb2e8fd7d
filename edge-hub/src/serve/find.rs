//! Online: the collection that a LIST or WATCH is answered from, or none where only the cloud can answer.

use std::{sync::Arc, time::Duration};

use edge_hub_core::{
    access::AccessKey,
    collection::{CollectionSpec, Refusal},
};
use proto_kube::{
    list_options::ListOptions,
    media_type::{Encoding, Format},
    request_info::{ResourceRequest, Verb},
};

use super::{
    call::Call,
    read::{CATCH_UP, Found, Ready, spec},
};
use crate::cell::{Cell, Inner, Phase};

/// How long a first read waits for its collection before it is told to come again.
const FIRST_SYNC: Duration = Duration::from_secs(8);

impl Call {
    /// Online: a live collection, or a new one that is fetched as this very principal.
    pub(super) async fn find_online(
        &self,
        request: &ResourceRequest,
        options: &ListOptions,
        version: Option<u64>,
        mut shown: Format,
    ) -> Found {
        if options.continue_token.is_some() {
            return Found::Forward;
        }
        let mut widens = true;
        loop {
            let wanted = spec(request, options, self.hub.collections.held_for(&request.gvr, shown));
            if self.is_the_clouds(&wanted, request.verb) {
                return Found::Forward;
            }
            // What selectors only exclude from is fetched without them, where the cloud lets this client.
            let whole = self.whole(&wanted).filter(|_| widens);
            let fetched = whole.as_ref().unwrap_or(&wanted);
            let Some((cell, is_new)) = self.candidate(&wanted, fetched, request.verb) else {
                return Found::Forward;
            };
            let was_complete = cell.with(|inner| inner.collection.is_complete());
            if was_complete {
                if !self.prove(&wanted, &cell, request.verb).await {
                    return Found::Forward;
                }
                self.support(&cell, fetched);
                if !self.wait_live(&cell).await {
                    if whole.is_some() {
                        widens = false;
                        continue;
                    }
                    return Found::Forward;
                }
                match self.project(&cell, shown) {
                    Some(projection) => {
                        return Found::Ready(Ready { cell, projection, fetched_for_this: false });
                    }
                    None => continue,
                }
            }
            if is_new && request.verb == Verb::Watch {
                cell.with(|inner| inner.seed = self.hub.overlay.seed(&request.gvr, version));
            }
            cell.sponsor(&self.principal, self.credential.clone(), self.hub.site.clock.now().monotonic);
            match self.wait_complete(&cell).await {
                // Complete comes a moment before Live: what is complete is served.
                Phase::Syncing
                    if self.hub.site.is_connected() && !cell.with(|inner| inner.collection.is_complete()) =>
                {
                    return Found::Refused(Refusal::Incomplete.status());
                }
                Phase::JsonOnly if wanted.format.encoding != Encoding::Json => {
                    self.hub.collections.forget_refused(&cell);
                    shown.encoding = Encoding::Json;
                }
                Phase::Live | Phase::Retired | Phase::Syncing
                    if cell.with(|inner| inner.collection.is_complete()) =>
                {
                    if !self.prove(&wanted, &cell, request.verb).await {
                        return Found::Forward;
                    }
                    if let Some(projection) = self.project(&cell, shown) {
                        return Found::Ready(Ready { cell, projection, fetched_for_this: is_new });
                    }
                }
                _ => {
                    self.hub.collections.forget_refused(&cell);
                    if whole.is_none() {
                        return Found::Forward;
                    }
                    widens = false;
                }
            }
        }
    }

    /// The collection to answer `wanted` from: one that stands, else `fetched`, and whether that is new.
    fn candidate(
        &self,
        wanted: &CollectionSpec,
        fetched: &CollectionSpec,
        verb: Verb,
    ) -> Option<(Arc<Cell>, bool)> {
        let live = |inner: &mut Inner| inner.collection.is_complete() && inner.phase == Phase::Live;
        let stands = |cell: &Arc<Cell>| cell.spec == *fetched || cell.with(live);
        let usable = self
            .hub
            .collections
            .pool_cell(wanted)
            .or_else(|| self.hub.collections.covering(fetched).into_iter().find(stands));
        if let Some(cell) = usable {
            return Some((cell, false));
        }
        if !self.may_have_collected(wanted, verb) {
            return None;
        }
        self.hub.collections.cell_or_new(fetched).map(|cell| (cell, true))
    }

    /// The collection without selectors that answers for `wanted`, unless the cloud is known to refuse it to this client.
    pub(super) fn whole(&self, wanted: &CollectionSpec) -> Option<CollectionSpec> {
        let whole = wanted.without_exclusions()?;
        let refused = self.is_the_clouds(&whole, Verb::List);
        (!refused).then_some(whole)
    }

    /// Whether only the cloud can answer: it is known to refuse, or nothing of it can be kept. Without a right to watch
    /// nothing can be kept either, and to try again would cost a request each time.
    fn is_the_clouds(&self, wanted: &CollectionSpec, verb: Verb) -> bool {
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

    /// A collection whose watch was retired or lost is caught up first; what it held may be old. False when the
    /// server refuses the watch: then the client's own request has to tell.
    async fn wait_live(&self, cell: &Arc<Cell>) -> bool {
        let mut progress = cell.subscribe();
        let settled = async {
            loop {
                match cell.with(|inner| inner.phase.clone()) {
                    Phase::Live => return true,
                    Phase::Refused(..) => return false,
                    _ if !self.hub.site.is_connected() => return true,
                    _ => {}
                }
                if progress.changed().await.is_err() {
                    return true;
                }
            }
        };
        // A server that does not answer in time is no reason to refuse what may be served stale.
        tokio::time::timeout(CATCH_UP, settled).await.unwrap_or(true)
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

    /// Whether this principal may read this collection: by what the cloud said before, or by asking it now.
    async fn prove(&self, wanted: &CollectionSpec, cell: &Cell, verb: Verb) -> bool {
        // Who may have all of it may have a part of it by the same verb.
        if self.may(&AccessKey::of_collection(&cell.spec, verb)) == Some(true) {
            return true;
        }
        let exact = AccessKey::of_collection(wanted, verb);
        match self.may(&exact) {
            Some(allowed) => allowed,
            // Who may list need not be allowed to watch, so nothing is concluded from another verb.
            None if !self.hub.shares.asked.may_ask(self.hub.site.clock.now(), &self.principal) => false,
            None => self.hub.authorizer.ask_access(&self.principal, &exact).await.unwrap_or(false),
        }
    }

    /// Whether one more collection may be made for this principal: the hub could ask about its right, and it has not
    /// all the memory for objects that it may have.
    fn may_have_collected(&self, wanted: &CollectionSpec, verb: Verb) -> bool {
        let is_known = self.may(&AccessKey::of_collection(wanted, verb)) == Some(true);
        (is_known || self.hub.shares.asked.could_ask(self.hub.site.clock.now(), &self.principal))
            && self.hub.collections.has_room_for_objects(&self.principal)
    }
}
