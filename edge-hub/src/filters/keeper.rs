//! Keeps the inputs of filters fresh while a client needs them: own Node, Services and OpenYurt's pools, read as this
//! node into collections of the hub's own, so that they outlive a restart and are shared with clients that may read
//! them. While nobody needs them no watch stands for them.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use edge_hub_core::{
    collection::{CollectionSpec, Object, Selection},
    filter::Inputs,
};
use http::StatusCode;
use proto_kube::{gvr::GroupVersionResource, media_type::Format};

use super::{
    encode,
    kinds::{PoolKinds, whole},
    pending,
    record::KINDS,
};
use crate::{
    collections::{
        cell::{Cell, Phase, Reader},
        label::Label,
    },
    hub::Hub,
    store::{BlobClass, BlobKey},
    sync::lock,
    upstream::Credential,
};

/// How often it is looked whether anybody still needs the inputs, and whether the node's credential still counts.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How often the cloud is asked which kinds it has, and how soon again when it did not say.
const ASK_EVERY: Duration = Duration::from_mins(5);
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How soon a source that the cloud refused is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Runs until the hub drains.
pub async fn run(hub: Arc<Hub>) {
    let draining = hub.site.shutdown.clone();
    let mut keeper = Keeper {
        inputs: pending(&hub.site.config),
        sources: BTreeMap::new(),
        ask_at: Duration::ZERO,
        look_at: Duration::ZERO,
        hub,
    };
    loop {
        tokio::select! {
            () = draining.draining() => return,
            () = keeper.turn() => {}
        }
    }
}

struct Keeper {
    hub: Arc<Hub>,
    inputs: Inputs,
    sources: BTreeMap<CollectionSpec, Source>,
    ask_at: Duration,
    look_at: Duration,
}

/// One collection that the inputs are made of.
#[derive(Default)]
struct Source {
    /// What the inputs hold of it, in key order; `None` before it was complete.
    held: Option<Vec<Arc<Object>>>,
    open: Option<Open>,
    try_at: Duration,
}

struct Open {
    reader: Reader,
    /// Revision and phase of the cell when it was looked at.
    seen: Option<(u64, Phase)>,
}

impl Keeper {
    /// One look at everything, and the wait for a reason to look again.
    async fn turn(&mut self) {
        let now = self.hub.site.clock.now().monotonic;
        if !self.hub.filters.is_needed(now, self.hub.site.config.file.idle_watch) {
            self.retire();
            return self.hub.filters.attention.notified().await;
        }
        self.open_sources(now);
        self.ask_kinds(now).await;
        self.open_sources(now);
        self.look_at = if now >= self.look_at { now + LOOK_EVERY } else { self.look_at };
        self.absorb();
        if self.is_all_known() {
            self.inputs.complete();
            self.publish();
        }
        let is_settled = self.is_settled();
        self.hub.filters.settled.send_replace(is_settled);
        self.pause().await;
    }

    /// Ends the reading; what is known is kept for whoever comes next.
    fn retire(&mut self) {
        self.hub.filters.settled.send_replace(false);
        for source in self.sources.values_mut() {
            source.open = None;
        }
        self.ask_at = Duration::ZERO;
    }

    async fn ask_kinds(&mut self, now: Duration) {
        if now < self.ask_at || !self.hub.site.is_connected() {
            return;
        }
        let answer = PoolKinds::ask(&self.hub.site).await;
        self.ask_at = now + if answer.is_some() { ASK_EVERY } else { ASK_AGAIN };
        let Some(kinds) = answer else { return };
        let mut held = lock(&self.hub.filters.kinds);
        if held.as_ref() != Some(&kinds) {
            let key = BlobKey { class: BlobClass::Filter, key: KINDS.as_bytes().into() };
            self.hub.site.store.put(key, encode(&kinds));
            *held = Some(kinds);
        }
    }

    /// What the inputs are made of, as far as that is known.
    fn wanted(&self) -> Vec<CollectionSpec> {
        let [node, _] = self.hub.site.own_specs();
        let services = whole(GroupVersionResource::new("", "v1", "services"), Format::PROTOBUF);
        let kinds = lock(&self.hub.filters.kinds).as_ref().map(PoolKinds::specs);
        [node, services].into_iter().chain(kinds.unwrap_or_default()).collect()
    }

    fn open_sources(&mut self, now: Duration) {
        let wanted = self.wanted();
        for spec in self.sources.keys().filter(|spec| !wanted.contains(spec)).cloned().collect::<Vec<_>>() {
            let gone = self.sources.remove(&spec).and_then(|source| source.held).unwrap_or_default();
            gone.iter().for_each(|object| self.inputs.remove(&spec.gvr, &object.key));
        }
        for spec in wanted {
            let source = self.sources.entry(spec.clone()).or_default();
            let listed = self.hub.collections.cell(&spec);
            let is_listed =
                |open: &Open| listed.as_ref().is_some_and(|cell| Arc::ptr_eq(cell, &open.reader.cell));
            if source.open.as_ref().is_some_and(|open| !is_listed(open)) {
                // The cloud refused it; somebody may mend that meanwhile.
                source.complain(&spec);
                source.open = None;
                source.try_at = now + TRY_AGAIN;
            }
            let is_new = source.open.is_none() && now >= source.try_at;
            if is_new {
                let cell = self.hub.collections.cell_or_new(&spec);
                source.open = cell.map(|cell| Open { reader: cell.enter(), seen: None });
                // Where there is no room for it now there may be some later.
                source.try_at = now + TRY_AGAIN;
            }
            if is_new || now >= self.look_at {
                source.sponsor(&self.hub, now);
            }
        }
    }

    /// Takes over what changed since the last look.
    fn absorb(&mut self) {
        for (spec, source) in &mut self.sources {
            let Some(open) = &mut source.open else { continue };
            let selection = Selection { fields: spec.fields.clone(), ..Selection::default() };
            let (seen, listing) = open.reader.cell.with(|inner| {
                let seen = (inner.collection.revision(), inner.phase.clone());
                let is_known = open.seen.as_ref().is_some_and(|(revision, _)| *revision == seen.0);
                let listing = (!is_known).then(|| inner.collection.list(&selection).ok()).flatten();
                (seen, listing)
            });
            open.seen = Some(seen);
            let Some(listing) = listing else { continue };
            let before = source.held.take().unwrap_or_default();
            take_over(&mut self.inputs, spec, before, &listing.objects);
            source.held = Some(listing.objects);
        }
    }

    /// Where a source is new, a pool's newer version for example, nobody is told of the moment without it.
    fn is_all_known(&self) -> bool {
        lock(&self.hub.filters.kinds).is_some() && self.sources.values().all(|source| source.held.is_some())
    }

    fn publish(&self) {
        if *self.hub.filters.inputs() == self.inputs {
            return;
        }
        tracing::debug!(
            complete = self.inputs.is_complete(),
            pool = self.inputs.pool(),
            "inputs of filters changed"
        );
        self.hub.filters.inputs.send_replace(Arc::new(self.inputs.clone()));
        for cell in self.hub.collections.cells() {
            // The others are told when the first client comes that is shown something else.
            if cell.with(|inner| inner.collection.has_filter_inputs()) {
                self.hub.filters.give_inputs(&cell);
            }
        }
    }

    /// Whether nothing fresher is to be had by waiting.
    fn is_settled(&self) -> bool {
        let is_settled = |source: &Source| match source.open.as_ref().and_then(|open| open.seen.as_ref()) {
            Some((_, phase)) => !matches!(phase, Phase::Syncing | Phase::Retired),
            None => true,
        };
        !self.hub.site.is_connected() || self.sources.values().all(is_settled)
    }

    /// Waits until a source or the link changes, somebody new comes, or it is time to look.
    async fn pause(&self) {
        let tries = self.sources.values().filter(|source| source.open.is_none()).map(|source| source.try_at);
        let ask = self.hub.site.is_connected().then_some(self.ask_at);
        let until = tries.chain(ask).fold(self.look_at, Duration::min);
        let mut link = self.hub.site.link.subscribe();
        tokio::select! {
            () = poll_fn(|context| self.poll_sources(context)) => {}
            _ = link.changed() => {}
            () = pin!(self.hub.filters.attention.notified()) => {}
            () = tokio::time::sleep_until(self.hub.site.clock.instant(until)) => {}
        }
    }

    fn poll_sources(&self, context: &Context<'_>) -> Poll<()> {
        for open in self.sources.values().filter_map(|source| source.open.as_ref()) {
            let has_changed = open.reader.cell.with(|inner| {
                let is_as_seen = open.seen.as_ref().is_some_and(|(revision, phase)| {
                    *revision == inner.collection.revision() && *phase == inner.phase
                });
                if is_as_seen {
                    open.reader.park(inner, context.waker());
                }
                !is_as_seen
            });
            if has_changed {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// From the objects of before to those of now, both in key order.
fn take_over(inputs: &mut Inputs, spec: &CollectionSpec, before: Vec<Arc<Object>>, now: &[Arc<Object>]) {
    let mut before = before.into_iter().peekable();
    for object in now {
        while let Some(gone) = before.next_if(|held| held.key < object.key) {
            inputs.remove(&spec.gvr, &gone.key);
        }
        let held = before.next_if(|held| held.key == object.key);
        if held.is_some_and(|held| Arc::ptr_eq(&held, object)) {
            continue;
        }
        if let Err(error) = inputs.put(&spec.gvr, spec.format, object) {
            tracing::warn!(collection = %Label(spec), name = %object.key.name, %error, "cannot be used for filters");
        }
    }
    before.for_each(|gone| inputs.remove(&spec.gvr, &gone.key));
}

impl Source {
    fn sponsor(&self, hub: &Hub, now: Duration) {
        if let Some(open) = &self.open {
            open.reader.cell.sponsor(&hub.site.node, Credential::Node, now);
        }
    }

    fn complain(&self, spec: &CollectionSpec) {
        let Some(cell): Option<&Arc<Cell>> = self.open.as_ref().map(|open| &open.reader.cell) else { return };
        if let Phase::Refused(status, _) = cell.with(|inner| inner.phase.clone()) {
            let hint = match status {
                StatusCode::FORBIDDEN => "apply deploy/rbac.yaml",
                _ => "it is tried again",
            };
            tracing::warn!(collection = %Label(spec), %status, hint, "clients of filters that read this are told to wait");
        }
    }
}
