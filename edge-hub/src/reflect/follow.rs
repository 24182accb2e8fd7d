//! A collection that follows a wider one of the same kind: its clients go on as they are, and nothing is asked of the cloud.

use std::{sync::Arc, time::Duration};

use edge_hub_core::reflector::Reflector;

use super::{Driver, IDLE_CHECK};
use crate::collections::{
    cell::{Cell, Phase},
    label::Label,
};

/// How long a wider collection may be without a watch, while the link stands, until this one goes on by its own.
const WITHOUT_WATCH: Duration = Duration::from_secs(20);
/// How long nobody may have read here until the collection is dropped: new readers go to the wider one.
const UNREAD: Duration = Duration::from_secs(5);
/// Changes of the wider collection are taken together, where many come.
const GATHER: Duration = Duration::from_millis(5);

impl Driver {
    /// Returns when this collection is to go on by itself, or is dropped.
    pub(super) async fn follow_wider(&mut self, wider: &Arc<Cell>) {
        tracing::debug!(collection = %Label(&self.cell.spec), wider = %Label(&wider.spec), "follows");
        self.cell.change(|inner| inner.absorbed = true);
        // Selectors that only exclude are answered from the wider one, which has to stay for that. One that is wider by far
        // is let go when nobody else reads it.
        let _stays =
            (self.cell.spec.without_exclusions().as_ref() == Some(&wider.spec)).then(|| wider.enter());
        let mut progress = wider.subscribe();
        let mut lost_since = None;
        loop {
            progress.borrow_and_update();
            if !self.take_from(wider, &mut lost_since) {
                break;
            }
            let now = self.hub.site.clock.now().monotonic;
            if self.cell.is_idle(now, UNREAD) {
                return self.hub.collections.drop_absorbed(&self.cell);
            }
            tokio::select! {
                changed = progress.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    tokio::time::sleep(GATHER).await;
                }
                () = wider.stopped() => break,
                () = tokio::time::sleep(IDLE_CHECK.min(UNREAD)) => {}
            }
        }
        self.end_following();
    }

    /// Goes on from what is held, if it followed another collection.
    pub(super) fn end_following(&mut self) {
        if !self.cell.with(|inner| inner.absorbed) {
            return;
        }
        self.cell.change(|inner| {
            inner.absorbed = false;
            inner.phase = Phase::Syncing;
        });
        let held = self.cell.with(|inner| inner.collection.resume_from()).unwrap_or(0);
        self.reflector = Reflector::new(self.hub.site.config.protocol(), held);
        tracing::debug!(collection = %Label(&self.cell.spec), "goes on by itself");
    }

    /// Takes what the wider collection has of this one. False if it is none to be followed any more.
    fn take_from(&mut self, wider: &Cell, lost_since: &mut Option<Duration>) -> bool {
        let now = self.hub.site.clock.now();
        let (phase, spent, version) = wider.with(|inner| {
            let spent = inner.given_up || inner.absorbed || !inner.collection.is_complete();
            (inner.phase.clone(), spent, inner.collection.upstream_version())
        });
        if spent || matches!(phase, Phase::Retired | Phase::Refused(..) | Phase::JsonOnly) {
            return false;
        }
        if phase == Phase::Live || !self.hub.site.is_connected() {
            *lost_since = None;
        } else {
            let since = *lost_since.get_or_insert(now.monotonic);
            if now.monotonic.saturating_sub(since) > WITHOUT_WATCH {
                return false;
            }
        }
        let held = self.cell.with(|inner| inner.collection.upstream_version());
        let part = (version > held || !self.cell.with(|inner| inner.collection.is_complete()))
            .then(|| wider.with(|inner| inner.collection.upstream_part(&self.cell.spec)))
            .flatten();
        let changes = self.cell.change(|inner| {
            // A state that is older than what is held comes again with the next change.
            let changes = part.map(|(version, envelope, objects)| {
                inner.collection.replace(now, version, envelope, objects).unwrap_or_default()
            });
            if phase == Phase::Live {
                inner.phase = Phase::Live;
                inner.collection.touch(now);
            } else if inner.phase == Phase::Live {
                inner.phase = Phase::Syncing;
            }
            changes.unwrap_or_default()
        });
        self.save(changes);
        true
    }
}
