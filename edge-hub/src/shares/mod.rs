//! What clients share, each as a budget of `edge_hub_core::budget`: memory for bodies and answers, memory for objects,
//! names that are followed, and questions about rights that the hub asks for them.

mod asked;
mod buffers;
mod fetched;
mod followed;
mod in_flight;
pub mod list_room;
mod lists;
mod objects;

use std::sync::Mutex;

use edge_hub_core::{
    budget::{Budget, Limits},
    collection::CollectionSpec,
    identity::Principal,
};

use self::{asked::Asked, buffers::Buffers, in_flight::InFlight, lists::Lists};
pub use self::{
    buffers::Held,
    lists::{List, ListError},
};
use crate::config::LimitsFile;

const MIB: usize = 1024 * 1024;
/// Names that GETs made the hub follow: all of them, and for one user a part of so many.
const FOLLOWED_NAMES: usize = 512;
const FOLLOWERS: usize = 16;
/// Of memory for bodies and answers one user may have a quarter, and a quarter is this node's alone.
const BUFFER_PARTS: usize = 4;
/// Of memory for objects one user may have an eighth.
const OBJECT_PARTS: usize = 8;

/// The budgets of one hub.
pub struct Shares {
    /// Memory for bodies and answers that are whole for a moment.
    pub buffers: Buffers,
    /// Memory for objects, by who has them collected.
    objects: Mutex<Budget<CollectionSpec>>,
    object_limits: Limits,
    /// Names that are followed because somebody read them.
    followed: Mutex<Budget<CollectionSpec>>,
    /// Questions about rights.
    /// Questions that the hub asks for them.
    pub asked: Asked,
    /// Turns of large lists.
    lists: Lists,
    /// Requests that have not been answered to their end.
    pub in_flight: InFlight,
    /// Most bytes of one list.
    list_limit: usize,
    /// Whose collections count as this node's own.
    node_users: Box<[Box<str>]>,
    node: Principal,
}

impl Shares {
    /// Nothing is in use.
    #[must_use]
    pub fn new(limits: &LimitsFile, node: &Principal) -> Self {
        let buffers = limits.buffers_mib.saturating_mul(MIB);
        let buffers = Limits::one_part_of(BUFFER_PARTS, buffers).reserving(buffers / BUFFER_PARTS);
        let objects = Limits::one_part_of(OBJECT_PARTS, limits.objects_mib.saturating_mul(MIB));
        let followed = Limits::one_part_of(FOLLOWERS, FOLLOWED_NAMES);
        Self {
            buffers: Buffers::new(buffers, node),
            objects: Mutex::new(Budget::new(objects, node.clone())),
            object_limits: objects,
            followed: Mutex::new(Budget::new(followed, node.clone())),
            asked: Asked::new(node),
            lists: Lists::default(),
            in_flight: InFlight::default(),
            list_limit: limits.list_mib.saturating_mul(MIB),
            node_users: limits.node_users.iter().map(|user| user.as_str().into()).collect(),
            node: node.clone(),
        }
    }

    /// For whom a collection of this user's is kept: what routes this node's traffic is this node's.
    fn payer<'a>(&'a self, user: &'a Principal) -> &'a Principal {
        if self.node_users.contains(&user.user) { &self.node } else { user }
    }
}
