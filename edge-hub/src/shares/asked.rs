//! How often the hub asks the API server, as this node, about one user's rights. A user who makes it ask often is
//! answered by the cloud instead, with its own credential: there its own limits hold.

use std::sync::Mutex;

use edge_hub_core::{clock::Now, identity::Principal, rate::Rates};

use crate::sync::lock;

/// Questions about one user at once after a pause, and each second from then on.
const BURST: u32 = 64;
const PER_SECOND: u32 = 4;

/// The questions of the last seconds, by user.
pub struct Asked {
    rates: Mutex<Rates<Principal>>,
    node: Principal,
}

impl Asked {
    pub(super) fn new(node: &Principal) -> Self {
        Self { rates: Mutex::new(Rates::new(PER_SECOND, BURST)), node: node.clone() }
    }
}

impl Asked {
    /// Whether one more question about this user may be asked now; it counts as asked. This node's own always may.
    pub fn may_ask(&self, now: Now, user: &Principal) -> bool {
        *user == self.node || lock(&self.rates).take(now.monotonic, user)
    }

    /// Whether one would be.
    pub fn could_ask(&self, now: Now, user: &Principal) -> bool {
        *user == self.node || lock(&self.rates).could_take(now.monotonic, user)
    }
}
