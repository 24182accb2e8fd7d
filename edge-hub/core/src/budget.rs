//! Budgets that clients share: a total, a share for each user, and one rule for who makes room.
//!
//! The rule: nobody has more than a share; where the total is used up, whoever holds most makes room first; and what this
//! node itself holds makes room for nobody else. Amounts are bytes or places, as the caller counts them. Two forms:
//! an [`Account`] of what is in use and cannot be taken back (a request, its body), which refuses, and a [`Budget`] of
//! things that are kept and can be dropped, which names those that have to go.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::Principal;

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For all users together.
    pub total: usize,
    /// For one user. It does not hold for this node itself.
    pub of_one_user: usize,
    /// What of the total only this node may use.
    pub reserve: usize,
}

impl Limits {
    /// A total of which one user may have one part of so many; nothing is reserved.
    #[must_use]
    pub fn one_part_of(parts: usize, total: usize) -> Self {
        Self { total, of_one_user: (total / parts.max(1)).max(1), reserve: 0 }
    }

    /// The same with a part of the total for this node alone.
    #[must_use]
    pub fn reserving(self, reserve: usize) -> Self {
        Self { reserve: reserve.min(self.total), ..self }
    }
}

/// Why nothing was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Short {
    /// The user has its share.
    #[error("this user has its share")]
    Share,
    /// All users together have everything.
    #[error("everything is in use")]
    Total,
}

/// What is in use, by user.
#[derive(Clone, Debug)]
pub struct Account {
    limits: Limits,
    node: Principal,
    used: usize,
    by_user: BTreeMap<Principal, usize>,
}

impl Account {
    /// Nothing is in use yet. For `node` neither share nor reserve count.
    #[must_use]
    pub fn new(limits: Limits, node: Principal) -> Self {
        Self { limits, node, used: 0, by_user: BTreeMap::new() }
    }

    /// Takes so much for a user, or nothing.
    ///
    /// # Errors
    /// [`Short`].
    pub fn take(&mut self, user: &Principal, amount: usize) -> Result<(), Short> {
        let (held, is_node) = (self.held_by(user), *user == self.node);
        if !is_node && amount > self.limits.of_one_user.saturating_sub(held) {
            return Err(Short::Share);
        }
        let open = self.limits.total.saturating_sub(if is_node { 0 } else { self.limits.reserve });
        // What the node took of its reserve leaves the others' part as it is.
        let of_node = self.by_user.get(&self.node).copied().unwrap_or(0).min(self.limits.reserve);
        let used = if is_node { self.used } else { self.used - of_node };
        if amount > open.saturating_sub(used) {
            return Err(Short::Total);
        }
        self.used += amount;
        *self.by_user.entry(user.clone()).or_default() += amount;
        Ok(())
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, user: &Principal, amount: usize) {
        let Some(held) = self.by_user.get_mut(user) else { return };
        let amount = amount.min(*held);
        *held -= amount;
        self.used -= amount;
        if *held == 0 {
            self.by_user.remove(user);
        }
    }

    /// What this user has in use.
    #[must_use]
    pub fn held_by(&self, user: &Principal) -> usize {
        self.by_user.get(user).copied().unwrap_or(0)
    }

    /// What all users have in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }
}

#[derive(Clone, Debug)]
struct Item {
    owner: Arc<Principal>,
    size: usize,
    place: Place,
}

/// What is not in use goes first, and of that what was used least recently.
type Place = (bool, u64);

#[derive(Clone, Debug)]
struct Holder<K> {
    size: usize,
    order: BTreeMap<Place, K>,
}

/// Things that are kept, by user.
#[derive(Clone, Debug)]
pub struct Budget<K> {
    limits: Limits,
    node: Principal,
    size: usize,
    items: BTreeMap<K, Item>,
    holders: BTreeMap<Arc<Principal>, Holder<K>>,
    turn: u64,
}

impl<K: Clone + Ord> Budget<K> {
    /// Nothing is kept yet. What `node` keeps has no share, and goes for nobody else.
    #[must_use]
    pub fn new(limits: Limits, node: Principal) -> Self {
        Self { limits, node, size: 0, items: BTreeMap::new(), holders: BTreeMap::new(), turn: 0 }
    }

    /// Keeps something for a user, or keeps it in another size for whom it is kept already: nobody may take over what
    /// another has, and drop it then. This node may, since it drops nothing. Returns what has to go for it: the thing
    /// itself, where it is larger than its user may have at all.
    pub fn put(&mut self, key: &K, user: &Principal, size: usize) -> Vec<K> {
        let former = self.take_out(key);
        let owner = match &former {
            Some(former) if *user != self.node => Arc::clone(&former.owner),
            _ => self
                .holders
                .get_key_value(user)
                .map_or_else(|| Arc::new(user.clone()), |(owner, _)| Arc::clone(owner)),
        };
        self.turn += 1;
        let is_busy = former.is_some_and(|item| item.place.0);
        self.put_in(key.clone(), Item { owner: Arc::clone(&owner), size, place: (is_busy, self.turn) });
        let mut gone = Vec::new();
        while *owner != self.node && self.held_by(&owner) > self.limits.of_one_user {
            let Some(victim) = self.least_used_of(&owner, key) else { break };
            self.take_out(&victim);
            gone.push(victim);
        }
        while self.size > self.limits.total {
            let Some(victim) = self.victim(&owner, key) else { break };
            self.take_out(&victim);
            gone.push(victim);
        }
        gone
    }

    /// It was used.
    pub fn touch(&mut self, key: &K) {
        let is_busy = self.items.get(key).is_some_and(|item| item.place.0);
        self.set_busy(key, is_busy);
    }

    /// It is in use from now on, or no longer, and goes after, or before, what is not.
    pub fn set_busy(&mut self, key: &K, is_busy: bool) {
        if let Some(mut item) = self.take_out(key) {
            self.turn += 1;
            item.place = (is_busy, self.turn);
            self.put_in(key.clone(), item);
        }
    }

    /// It is kept no longer. Returns whether it was.
    pub fn remove(&mut self, key: &K) -> bool {
        self.take_out(key).is_some()
    }

    /// Whether it is kept.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.items.contains_key(key)
    }

    /// For whom it is kept.
    #[must_use]
    pub fn owner(&self, key: &K) -> Option<&Principal> {
        self.items.get(key).map(|item| &*item.owner)
    }

    /// The size of this thing.
    #[must_use]
    pub fn size_of(&self, key: &K) -> Option<usize> {
        self.items.get(key).map(|item| item.size)
    }

    /// The size of what is kept for this user.
    #[must_use]
    pub fn held_by(&self, user: &Principal) -> usize {
        self.holders.get(user).map_or(0, |holder| holder.size)
    }

    /// The size of everything.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of things.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What goes next for something new of this user: of the largest holder, or of this node where nobody else holds
    /// anything and the something is its own.
    fn victim(&self, user: &Principal, new: &K) -> Option<K> {
        let others = self.holders.iter().filter(|(holder, _)| ***holder != self.node);
        let largest = others.max_by_key(|(holder, held)| (held.size, ***holder == *user));
        match largest {
            Some((holder, _)) => self.least_used_of(holder, new),
            None => self.least_used_of(user, new),
        }
    }

    /// The new thing itself goes only where there is nothing else.
    fn least_used_of(&self, user: &Principal, new: &K) -> Option<K> {
        let order = &self.holders.get(user)?.order;
        order.values().find(|key| *key != new).or_else(|| order.values().next()).cloned()
    }

    fn put_in(&mut self, key: K, item: Item) {
        let empty = || Holder { size: 0, order: BTreeMap::new() };
        let holder = self.holders.entry(Arc::clone(&item.owner)).or_insert_with(empty);
        holder.size += item.size;
        holder.order.insert(item.place, key.clone());
        self.size += item.size;
        self.items.insert(key, item);
    }

    fn take_out(&mut self, key: &K) -> Option<Item> {
        let item = self.items.remove(key)?;
        self.size -= item.size;
        if let Some(holder) = self.holders.get_mut(&item.owner) {
            holder.size -= item.size;
            holder.order.remove(&item.place);
            if holder.order.is_empty() {
                self.holders.remove(&item.owner);
            }
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(name: &str) -> Principal {
        Principal::new(name, ["system:authenticated"])
    }

    fn node() -> Principal {
        Principal::node("a")
    }

    #[test]
    fn nobody_has_more_than_a_share_and_the_nodes_reserve_is_its_own() {
        let mut account = Account::new(Limits::one_part_of(2, 100).reserving(20), node());
        assert_eq!(account.take(&user("a"), 51), Err(Short::Share));
        assert_eq!(account.take(&user("a"), 50), Ok(()));
        assert_eq!(account.take(&user("b"), 31), Err(Short::Total));
        assert_eq!(account.take(&user("b"), 30), Ok(()));
        assert_eq!(account.take(&node(), 21), Err(Short::Total));
        assert_eq!(account.take(&node(), 20), Ok(()));
        account.give_back(&user("a"), 50);
        assert_eq!(account.take(&user("c"), 50), Ok(()), "the node took of its reserve only");
        account.give_back(&user("c"), 1000);
        assert_eq!((account.used(), account.held_by(&user("c"))), (50, 0));
    }

    #[test]
    fn a_user_beyond_its_share_loses_what_it_used_least_and_never_what_is_in_use_first() {
        let mut budget = Budget::new(Limits::one_part_of(2, 8), node());
        for key in 0..4 {
            assert!(budget.put(&key, &user("a"), 1).is_empty());
        }
        budget.set_busy(&0, true);
        budget.touch(&1);
        assert_eq!(budget.put(&4, &user("a"), 1), [2]);
        assert_eq!(budget.put(&5, &user("a"), 5), [3, 1, 4, 0, 5], "larger than the share: it goes, too");
        assert!(budget.is_empty());
    }

    #[test]
    fn whoever_holds_most_makes_room_and_the_node_for_nobody() {
        let mut budget = Budget::new(Limits { total: 10, of_one_user: 8, reserve: 0 }, node());
        budget.put(&0, &node(), 3);
        budget.put(&1, &user("a"), 2);
        budget.put(&2, &user("b"), 2);
        budget.put(&3, &user("b"), 3);
        assert_eq!(budget.put(&4, &user("c"), 1), [2]);
        assert_eq!(budget.put(&5, &node(), 6), [3, 1]);
        assert_eq!(budget.put(&6, &user("c"), 2), [4, 6]);
        assert_eq!(budget.put(&7, &node(), 4), [0], "its own, where it is alone");
        assert_eq!(budget.size(), 10);
    }

    #[test]
    fn nobody_takes_over_what_another_has_but_the_node() {
        let mut budget = Budget::new(Limits::one_part_of(4, 8), node());
        budget.put(&0, &user("a"), 1);
        budget.put(&0, &user("b"), 1);
        assert_eq!(budget.owner(&0), Some(&user("a")));
        budget.put(&0, &node(), 1);
        budget.put(&0, &user("a"), 3);
        assert_eq!(budget.owner(&0), Some(&node()));
        assert_eq!(budget.held_by(&user("a")), 0);
    }

    proptest! {
        #[test]
        fn the_rule_holds_after_every_step(
            steps in proptest::collection::vec((0_u8..6, 0_u16..24, 0_usize..4, 0_usize..9), 0..200),
        ) {
            let users = [node(), user("b"), user("c"), user("d")];
            let limits = Limits { total: 32, of_one_user: 12, reserve: 0 };
            let mut budget = Budget::new(limits, node());
            for (kind, key, who, size) in steps {
                let before = budget.clone();
                match kind {
                    0..3 => {
                        let gone = budget.put(&key, &users[who], size);
                        let former = users.iter().position(|user| before.owner(&key) == Some(user));
                        let owner = former.filter(|_| who != 0).unwrap_or(who);
                        let mut others = before.clone();
                        others.remove(&key);
                        let largest = users[1..].iter().map(|user| others.held_by(user)).max();
                        for victim in gone.iter().filter(|victim| **victim != key) {
                            let of = before.owner(victim).expect("it was kept");
                            prop_assert!(*of != users[0] || owner == 0, "the node makes room for itself alone");
                            let is_largest = Some(others.held_by(of)) == largest;
                            // Later victims are of whoever is the largest by then.
                            prop_assert!(gone.len() > 1 || is_largest || *of == users[owner]);
                        }
                        prop_assert_eq!(budget.contains(&key), !gone.contains(&key));
                    }
                    3 => budget.touch(&key),
                    4 => budget.set_busy(&key, who > 1),
                    _ => prop_assert_eq!(budget.remove(&key), before.contains(&key)),
                }
                prop_assert!(budget.size() <= limits.total);
                let sums: usize = users.iter().map(|user| budget.held_by(user)).sum();
                prop_assert_eq!(sums, budget.size());
                prop_assert_eq!(budget.items.values().map(|item| item.size).sum::<usize>(), budget.size());
                let ordered: usize = budget.holders.values().map(|holder| holder.order.len()).sum();
                prop_assert_eq!(ordered, budget.len());
                for user in &users[1..] {
                    prop_assert!(budget.held_by(user) <= limits.of_one_user);
                }
            }
        }

        #[test]
        fn an_account_is_never_overdrawn_and_others_leave_the_reserve(
            steps in proptest::collection::vec((any::<bool>(), 0_usize..4, 0_usize..20), 0..200),
        ) {
            let users = [node(), user("b"), user("c"), user("d")];
            let limits = Limits { total: 50, of_one_user: 20, reserve: 10 };
            let mut account = Account::new(limits, node());
            for (takes, who, amount) in steps {
                if takes {
                    let before = account.used();
                    let taken = account.take(&users[who], amount).is_ok();
                    prop_assert_eq!(account.used(), before + if taken { amount } else { 0 });
                } else {
                    account.give_back(&users[who], amount);
                }
                let others: usize = users[1..].iter().map(|user| account.held_by(user)).sum();
                prop_assert!(account.used() <= limits.total && others <= limits.total - limits.reserve);
                prop_assert_eq!(others + account.held_by(&users[0]), account.used());
                prop_assert!(users[1..].iter().all(|user| account.held_by(user) <= limits.of_one_user));
            }
        }
    }
}
