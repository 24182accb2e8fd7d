//! What clients left to be sent after a cut: their Events, and the credential of each for that.

pub mod replay;

use std::{collections::BTreeMap, sync::Mutex};

use edge_hub_core::{
    identity::Principal,
    spool::{EventSpool, SpoolLimits},
};

use crate::{sync::lock, upstream::Credential};

/// Principals whose credential is kept for a replay.
const LENT_CREDENTIALS: usize = 256;

/// Events that wait for the cloud.
pub struct Outbox {
    /// The Events.
    pub spool: Mutex<EventSpool>,
    /// Credentials of those who left some; in memory only.
    lent: Mutex<BTreeMap<Principal, Credential>>,
    node: Principal,
}

impl Outbox {
    /// Empty, on the node `node`.
    #[must_use]
    pub fn new(node: &Principal) -> Self {
        let spool = Mutex::new(EventSpool::new(SpoolLimits::default()));
        Self { spool, lent: Mutex::default(), node: node.clone() }
    }

    /// Keeps a credential for what its owner left to be sent after the cut.
    pub fn remember_credential(&self, principal: &Principal, credential: &Credential) {
        let mut lent = lock(&self.lent);
        if lent.len() < LENT_CREDENTIALS || lent.contains_key(principal) {
            lent.insert(principal.clone(), credential.clone());
        }
    }

    /// The credential for what `principal` left to be sent.
    #[must_use]
    pub fn credential_of(&self, principal: &Principal) -> Option<Credential> {
        if *principal == self.node {
            return Some(Credential::Node);
        }
        lock(&self.lent).get(principal).cloned()
    }

    /// A principal that left something to be sent shows its credential again: the former one may have ended, or went
    /// with the process that it was lent to.
    pub fn renew_credential(&self, principal: &Principal, credential: &Credential) {
        let waits = lock(&self.spool).holds_of(principal);
        if waits && self.credential_of(principal).as_ref() != Some(credential) {
            self.remember_credential(principal, credential);
        }
    }
}
