//! Which client connections are kept when there are too many: the connections of one user are at most a share of all, and
//! when all places are taken, whoever holds most of them loses the one that was used least recently.
//!
//! A connection whose client has shown no credential yet is counted apart. This node's own connections are never closed
//! for those of others.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::Principal;

/// How many connections may stand at a time; each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// All of them.
    pub total: usize,
    /// Those of one user. It does not hold for this node itself.
    pub of_one_user: usize,
    /// Those whose client has shown no credential yet.
    pub unknown: usize,
}

impl ConnectionLimits {
    /// The shares of `total` connections: an eighth for one user, a quarter (512 at most) for clients that are not known.
    #[must_use]
    pub fn of(total: usize) -> Self {
        let share = |parts: usize| (total / parts).max(1);
        Self { total: total.max(1), of_one_user: share(8), unknown: share(4).min(512) }
    }
}

#[derive(Debug)]
struct Known {
    user: Arc<Principal>,
    /// Requests whose answer has not ended.
    running: usize,
    /// Rises with each use of any connection.
    used: u64,
}

/// The connections that stand, by numbers that the caller gives.
#[derive(Debug)]
pub struct Connections {
    limits: ConnectionLimits,
    /// Whose connections are never closed for others.
    node: Principal,
    /// Rising numbers: the oldest first.
    unknown: BTreeMap<u64, ()>,
    known: BTreeMap<u64, Known>,
    by_user: BTreeMap<Arc<Principal>, usize>,
    uses: u64,
}

impl Connections {
    /// None stands yet.
    #[must_use]
    pub fn new(limits: ConnectionLimits, node: Principal) -> Self {
        Self {
            limits,
            node,
            unknown: BTreeMap::new(),
            known: BTreeMap::new(),
            by_user: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Connections that stand.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unknown.len() + self.known.len()
    }

    /// Whether none stands.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A new connection, under a higher number than any before. Returns the one to be closed for it.
    pub fn accept(&mut self, id: u64) -> Option<u64> {
        self.unknown.insert(id, ());
        let victim = if self.unknown.len() > self.limits.unknown {
            self.unknown.first_key_value().map(|(oldest, ())| *oldest)
        } else if self.len() > self.limits.total {
            self.least_used_of_the_largest_holder()
                .or_else(|| self.unknown.first_key_value().map(|(oldest, ())| *oldest))
        } else {
            None
        };
        victim.inspect(|victim| self.remove(*victim))
    }

    /// The client showed a credential that holds, and asks something. Returns the connection to be closed for it, where
    /// this user has more than its share: one of its own.
    pub fn begin(&mut self, id: u64, user: &Principal) -> Option<u64> {
        self.uses += 1;
        let used = self.uses;
        if let Some(known) = self.known.get_mut(&id) {
            known.running += 1;
            known.used = used;
            return None;
        }
        // One that was closed meanwhile is counted no more.
        self.unknown.remove(&id)?;
        let user = match self.by_user.get_key_value(user) {
            Some((user, _)) => Arc::clone(user),
            None => Arc::new(user.clone()),
        };
        let held = self.by_user.entry(Arc::clone(&user)).or_default();
        *held += 1;
        let too_many = *held > self.limits.of_one_user && *user != self.node;
        self.known.insert(id, Known { user: Arc::clone(&user), running: 1, used });
        let victim = if too_many { self.least_used_of(&user) } else { None };
        victim.inspect(|victim| self.remove(*victim))
    }

    /// The answer to a request of this connection has ended.
    pub fn end(&mut self, id: u64) {
        self.uses += 1;
        if let Some(known) = self.known.get_mut(&id) {
            known.running = known.running.saturating_sub(1);
            known.used = self.uses;
        }
    }

    /// The connection stands no longer.
    pub fn remove(&mut self, id: u64) {
        self.unknown.remove(&id);
        let Some(known) = self.known.remove(&id) else { return };
        if let Some(held) = self.by_user.get_mut(&known.user) {
            *held -= 1;
            if *held == 0 {
                self.by_user.remove(&known.user);
            }
        }
    }

    fn least_used_of_the_largest_holder(&self) -> Option<u64> {
        let others = self.by_user.iter().filter(|(user, _)| ***user != self.node);
        let (largest, _) = others.max_by_key(|(_, held)| **held)?;
        self.least_used_of(largest)
    }

    /// One without a running request, if there is one: its client loses nothing but the connection.
    fn least_used_of(&self, user: &Principal) -> Option<u64> {
        let own = self.known.iter().filter(|(_, known)| *known.user == *user);
        own.min_by_key(|(_, known)| (known.running > 0, known.used)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(name: &str) -> Principal {
        Principal::new(name, ["system:authenticated"])
    }

    fn connections(total: usize) -> Connections {
        Connections::new(ConnectionLimits::of(total), Principal::node("a"))
    }

    #[test]
    fn a_user_beyond_its_share_loses_its_own_idle_one_and_no_stream() {
        let mut held = connections(64);
        for id in 0..8 {
            assert_eq!(held.accept(id), None);
            assert_eq!(held.begin(id, &user("pod")), None);
        }
        // All but the first two have had their answer; of these the one used least recently is 2.
        (2..8).for_each(|id| held.end(id));
        held.accept(8);
        assert_eq!(held.begin(8, &user("pod")), Some(2));
        held.accept(9);
        assert_eq!(held.begin(9, &user("other")), None);
        assert_eq!(held.len(), 9);
    }

    #[test]
    fn this_node_has_no_share_and_never_makes_room() {
        let mut held = connections(16);
        let node = Principal::node("a");
        for id in 0..15 {
            held.accept(id);
            assert_eq!(held.begin(id, &node), None);
            held.end(id);
        }
        held.accept(15);
        held.begin(15, &user("pod"));
        assert_eq!(held.accept(16), Some(15), "the only one that is not the node's");
        assert_eq!(held.accept(17), Some(16), "a client that is not known makes room before the node does");
    }

    #[test]
    fn clients_that_are_not_known_push_out_each_other() {
        let mut held = connections(64);
        held.accept(0);
        held.begin(0, &user("pod"));
        for id in 1..=16 {
            assert_eq!(held.accept(id), None);
        }
        assert_eq!(held.accept(17), Some(1));
    }

    proptest! {
        #[test]
        fn the_limits_hold_and_only_the_node_exceeds_its_share(
            steps in proptest::collection::vec((0_u8..4, 0_u64..40, 0_usize..4), 0..300),
        ) {
            let names = [Principal::node("a"), user("b"), user("c"), user("d")];
            let mut held = connections(24);
            let limits = ConnectionLimits::of(24);
            let mut next = 0;
            for (kind, pick, name) in steps {
                match kind {
                    0 | 1 => {
                        let id = next;
                        next += 1;
                        let closed = held.accept(id);
                        prop_assert!(closed != Some(id) || held.len() == limits.total);
                    }
                    2 => {
                        let id = next.saturating_sub(pick + 1);
                        let before = held.by_user.get(&names[0]).copied().unwrap_or(0);
                        held.begin(id, &names[name]);
                        let after = held.by_user.get(&names[0]).copied().unwrap_or(0);
                        prop_assert!(after >= before, "the node loses none");
                    }
                    _ => {
                        held.end(pick);
                        if pick % 3 == 0 {
                            held.remove(pick);
                        }
                    }
                }
                prop_assert!(held.unknown.len() <= limits.unknown);
                prop_assert!(held.len() <= limits.total);
                for (user, count) in &held.by_user {
                    prop_assert!(**user == names[0] || *count <= limits.of_one_user);
                    prop_assert_eq!(held.known.values().filter(|known| known.user == *user).count(), *count);
                }
            }
        }
    }
}
