//! Room for what members may have at a time: a bound for all of them, and a share of it that no member exceeds. A place is
//! taken before anything is begun for it, so that requests that come together cannot pass the bound together.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::metrics::gauge::Gauge;
use proto::{coordinator::POOL_KINDS, member::Member};

/// One member has at most this part of the subscriptions, and of the relays.
const PART: usize = 8;
/// Subscriptions that one member may have at most: many times what its hub needs.
const SUBSCRIPTIONS_EACH: usize = 64;
/// A hub that comes back may have its former subscriptions still standing.
const SUBSCRIPTIONS_EACH_AT_LEAST: usize = 2 * POOL_KINDS.len();

/// Why there is no place; the texts name the key of the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// For nobody.
    #[error(
        "{key} ({total}) is reached; raise it in the coordinator's configuration if the pool has outgrown it"
    )]
    All {
        /// The key in the configuration.
        key: &'static str,
        /// Its value.
        total: usize,
    },
    /// For this member.
    #[error(
        "this member has its whole share of {key} ({share} of {total}); it must end some before it begins others"
    )]
    Share {
        /// The key in the configuration.
        key: &'static str,
        /// What one member may have.
        share: usize,
        /// The key's value.
        total: usize,
    },
}

#[derive(Default)]
struct Taken {
    all: usize,
    by: BTreeMap<Member, usize>,
}

/// How many places there are, and who has them.
pub struct Room {
    key: &'static str,
    total: usize,
    share: usize,
    gauge: Gauge,
    taken: Mutex<Taken>,
}

impl Room {
    fn new(key: &'static str, total: usize, share: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { key, total, share, gauge, taken: Mutex::default() })
    }

    /// For relayed connections; `gauge` shows how many there are.
    #[must_use]
    pub fn for_relays(total: usize, gauge: Gauge) -> Arc<Self> {
        Self::new("limits.relays", total, (total / PART).max(1), gauge)
    }

    /// For subscriptions; `gauge` shows how many there are.
    #[must_use]
    pub fn for_subscriptions(total: usize, gauge: Gauge) -> Arc<Self> {
        let share = (total / PART).clamp(SUBSCRIPTIONS_EACH_AT_LEAST, SUBSCRIPTIONS_EACH);
        Self::new("limits.subscriptions", total, share, gauge)
    }

    /// Takes a place for `member`.
    ///
    /// # Errors
    /// [`Full`].
    pub fn take(self: &Arc<Self>, member: &Member) -> Result<Place, Full> {
        let Self { key, total, share, .. } = **self;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.by.get(member).is_some_and(|count| *count >= share) {
            return Err(Full::Share { key, share, total });
        }
        if taken.all >= total {
            return Err(Full::All { key, total });
        }
        *taken.by.entry(member.clone()).or_default() += 1;
        taken.all += 1;
        self.gauge.inc();
        Ok(Place { room: Arc::clone(self), member: member.clone() })
    }
}

/// One place; dropping it gives it back, however its task ends.
pub struct Place {
    room: Arc<Room>,
    member: Member,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(count) = taken.by.get_mut(&self.member) {
            *count -= 1;
            if *count == 0 {
                taken.by.remove(&self.member);
            }
        }
        self.room.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: &str) -> Member {
        Member::new("a", node).expect("a name")
    }

    #[test]
    fn requests_that_come_together_do_not_pass_the_bound_and_no_member_has_more_than_its_share() {
        let gauge = Gauge::default();
        let room = Room::for_relays(16, gauge.clone());
        // None of them has begun anything when the next one asks.
        let mut places: Vec<_> = (0..8)
            .flat_map(|node| [node, node])
            .map(|node| room.take(&member(&format!("n{node}"))).expect("within bound and share"))
            .collect();
        assert_eq!(gauge.get(), 16);
        let words = |node: &str| room.take(&member(node)).map(drop).expect_err("full").to_string();
        assert!(words("n0").contains("share of limits.relays (2 of 16)"), "{}", words("n0"));
        assert!(words("n9").starts_with("limits.relays (16) is reached"), "{}", words("n9"));
        // A place that is given back is anybody's, within the share.
        places.pop();
        assert_eq!(gauge.get(), 15);
        assert!(words("n0").contains("share"));
        places.push(room.take(&member("n9")).expect("a free place"));
        drop(places);
        assert_eq!((gauge.get(), room.taken.lock().expect("whole").by.len()), (0, 0));
    }

    #[test]
    fn a_share_is_never_too_small_for_one_hub() {
        for (total, share) in [(1, 1), (7, 1), (1024, 128)] {
            assert_eq!(Room::for_relays(total, Gauge::default()).share, share);
        }
        for (total, share) in [(1, 8), (256, 32), (4096, 64)] {
            assert_eq!(Room::for_subscriptions(total, Gauge::default()).share, share);
        }
    }
}
