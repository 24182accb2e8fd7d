//! Which link leads to a pool now: the newest that was proven, and since when there is none.

use std::time::Duration;

/// A link, numbered in the order in which they came up.
pub type LinkId = u64;

/// The links of one pool. Times are monotonic since any origin.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Links that take new streams, oldest first.
    links: Vec<LinkId>,
    down_since: Duration,
    downtime: Duration,
}

impl Registry {
    /// A pool without a link, from `now` on.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { links: Vec::new(), down_since: now, downtime: Duration::ZERO }
    }

    /// `link` is up. From here on it is the one that new streams take.
    pub fn up(&mut self, now: Duration, link: LinkId) {
        if self.links.is_empty() {
            self.downtime += now.saturating_sub(self.down_since);
        }
        self.links.retain(|known| *known != link);
        self.links.push(link);
    }

    /// `link` takes no new streams: it has ended, or drains.
    pub fn down(&mut self, now: Duration, link: LinkId) {
        let before = self.links.len();
        self.links.retain(|known| *known != link);
        if before > 0 && self.links.is_empty() {
            self.down_since = now;
        }
    }

    /// The link that a new stream takes.
    #[must_use]
    pub fn newest(&self) -> Option<LinkId> {
        self.links.last().copied()
    }

    /// How many links take new streams.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether no link takes new streams.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// For how long there has been no link; zero while there is one.
    #[must_use]
    pub fn down_for(&self, now: Duration) -> Duration {
        if self.links.is_empty() { now.saturating_sub(self.down_since) } else { Duration::ZERO }
    }

    /// For how long there was no link in all, from the beginning to `now`.
    #[must_use]
    pub fn downtime(&self, now: Duration) -> Duration {
        self.downtime + self.down_for(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_link_wins_and_the_one_before_it_takes_over_again() {
        let at = Duration::from_secs;
        let mut registry = Registry::new(at(10));
        assert_eq!((registry.newest(), registry.down_for(at(52))), (None, at(42)));
        registry.up(at(60), 1);
        registry.up(at(61), 2);
        assert_eq!((registry.newest(), registry.len()), (Some(2), 2));
        registry.down(at(62), 2);
        assert_eq!(registry.newest(), Some(1));
        registry.down(at(70), 1);
        registry.down(at(71), 1);
        assert_eq!((registry.down_for(at(75)), registry.downtime(at(75))), (at(5), at(55)));
    }

    proptest! {
        #[test]
        fn there_is_a_route_exactly_while_a_link_is_up(steps in proptest::collection::vec((any::<bool>(), 0..5_u64), 0..60)) {
            let mut registry = Registry::new(Duration::ZERO);
            let mut model: Vec<u64> = Vec::new();
            for (second, (up, link)) in (1_u64..).zip(steps) {
                let now = Duration::from_secs(second);
                model.retain(|known| *known != link);
                if up {
                    model.push(link);
                    registry.up(now, link);
                } else {
                    registry.down(now, link);
                }
                prop_assert_eq!(registry.newest(), model.last().copied());
                prop_assert_eq!(registry.is_empty(), registry.newest().is_none());
                prop_assert!(registry.downtime(now) <= now);
            }
        }
    }
}
