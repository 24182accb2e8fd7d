//! Which of several copies answers while the cloud is cut: the newest one, and only a copy that was followed until the cut
//! knows what does not exist.
//!
//! A collection that nobody reads is kept, and its watch is ended. What such a collection holds may be hours older than
//! what another one holds, or than an answer that was kept whole.

use std::time::Duration;

use crate::reflector::SILENT_WATCH;

/// A watch that stood hears a bookmark each minute, and what was heard last may not have reached the disk before a
/// restart: so much earlier than the cut it may have been heard.
pub const FOLLOWED_WITHIN: Duration = SILENT_WATCH.saturating_mul(2);

/// One collection that could answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its watch stood when the cloud was lost.
    pub followed: bool,
    /// It is the collection of exactly what is asked for: its versions are those that the client saw.
    pub exact: bool,
    /// The place of its format in the client's order of wishes, from 0.
    pub format: usize,
    /// When the API server was last heard of it, since 1970.
    pub heard_unix: Duration,
}

impl Standing {
    /// Whether a collection was followed until the cut. `ended` says that this process ended its watch before.
    #[must_use]
    pub fn was_followed(ended: bool, heard_unix: Duration, cut_since_unix: Duration) -> bool {
        !ended && cut_since_unix.saturating_sub(heard_unix) <= FOLLOWED_WITHIN
    }

    /// The lowest is to answer. Of those that were followed none is older than another, so the client's wishes decide;
    /// of the others the age does.
    #[must_use]
    pub fn rank(&self) -> impl Ord + use<> {
        let age = Duration::MAX.saturating_sub(self.heard_unix);
        let first = if self.followed { None } else { Some(age) };
        (first, self.format, !self.exact, age)
    }

    /// Whether an answer that was kept whole is newer than this collection.
    #[must_use]
    pub fn is_older_than(&self, fetched_unix: Duration) -> bool {
        !self.followed && self.heard_unix < fetched_unix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(followed: bool, exact: bool, format: usize, heard: u64) -> Standing {
        Standing { followed, exact, format, heard_unix: Duration::from_secs(heard) }
    }

    #[test]
    fn the_followed_come_first_then_the_youngest() {
        let mut all = [
            standing(false, true, 0, 500),
            standing(false, false, 1, 900),
            standing(true, false, 1, 990),
            standing(true, false, 0, 950),
            standing(true, true, 0, 940),
            standing(true, false, 0, 960),
        ];
        all.sort_by_key(Standing::rank);
        let order = all.map(|each| each.heard_unix.as_secs());
        assert_eq!(order, [940, 960, 950, 990, 900, 500]);
    }

    #[test]
    fn what_was_left_before_the_cut_is_not_followed_and_may_be_older_than_an_answer() {
        let second = Duration::from_secs;
        assert!(Standing::was_followed(false, second(900), second(1000)));
        assert!(!Standing::was_followed(true, second(999), second(1000)));
        assert!(!Standing::was_followed(false, second(100), second(1000)));
        assert!(
            Standing::was_followed(false, second(1001), second(1000)),
            "a word that came as the cut was seen"
        );
        assert!(standing(false, true, 0, 100).is_older_than(second(101)));
        assert!(!standing(true, true, 0, 100).is_older_than(second(101)), "its watch would have told");
    }
}
