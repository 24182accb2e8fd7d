//! What a collection waits for: the link, and somebody on whose behalf it may be watched.

use std::time::Duration;

use super::Driver;
use crate::{clock::random, collections::cell::Phase};

/// Reflectors spread their first requests after a heal over this long; pinned collections do not wait, nor does one that
/// a new client waits for.
const HEAL_SPREAD: Duration = Duration::from_secs(2);

impl Driver {
    /// Returns whether there was anything to wait for.
    pub(super) async fn wait_for_link(&mut self) -> bool {
        let mut link = self.hub.site.link.subscribe();
        if link.borrow_and_update().is_connected() {
            return false;
        }
        // While cut a collection keeps its phase: what it holds is served with its age.
        while !link.borrow_and_update().is_connected() {
            if link.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        self.reflector.nudge();
        if !self.cell.pinned {
            let spread = u64::try_from(HEAL_SPREAD.as_millis()).unwrap_or(0).max(1);
            let turn = tokio::time::sleep(Duration::from_millis(random() % spread));
            // Who comes anew, as a kubelet that boots, waits for this collection now; who was here all along does not.
            tokio::select! {
                () = turn => {}
                () = self.cell.attention.notified() => {}
            }
        }
        true
    }

    /// The link stands, and nobody pays: after a restart the credentials of those who did are gone. Whoever reads here
    /// by a narrower right must not wait for ever on what will never move; it comes again, and gets a collection that
    /// it may pay for itself.
    pub(super) async fn await_sponsor(&self) {
        self.cell.change(|inner| {
            inner.refusals += 1;
            inner.given_up = inner.has_readers() || inner.collection.is_complete();
            // What nobody follows must not be taken for what is there now.
            if inner.phase == Phase::Live {
                inner.phase = Phase::Syncing;
            }
        });
        let mut link = self.hub.site.link.subscribe();
        let cut = link.wait_for(|link| !link.is_connected());
        tokio::select! {
            () = self.cell.attention.notified() => {}
            // After the next heal those who came while cut are told the same.
            _ = cut => {}
        }
    }
}
