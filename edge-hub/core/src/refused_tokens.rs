//! Bearer tokens that the API server has just refused: the same guess, made again and again, is one question to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::authentication::TokenHash;
use crate::clock::Now;

/// How long a refusal is believed. A token that becomes good, as a bootstrap token whose Secret is created after it was
/// used first, is asked about again after that.
pub const REFUSED_VALIDITY: Duration = Duration::from_secs(5);

/// The refusals of a moment, at most `limit`; the oldest makes room.
#[derive(Debug)]
pub struct RefusedTokens {
    /// On the monotonic clock.
    refused: BTreeMap<TokenHash, Duration>,
    in_order: VecDeque<(Duration, TokenHash)>,
    limit: usize,
}

impl RefusedTokens {
    /// An empty memory of at most `limit` (at least 1) refusals.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { refused: BTreeMap::new(), in_order: VecDeque::new(), limit: limit.max(1) }
    }

    /// The API server refused this token just now.
    pub fn refuse(&mut self, now: Now, hash: TokenHash) {
        self.refused.insert(hash, now.monotonic);
        self.in_order.push_back((now.monotonic, hash));
        let is_over = |since: Duration| now.monotonic.saturating_sub(since) > REFUSED_VALIDITY;
        while let Some(&(since, oldest)) = self.in_order.front() {
            if self.in_order.len() <= self.limit && !is_over(since) {
                return;
            }
            self.in_order.pop_front();
            // One that was refused again meanwhile stands further back, too.
            if self.refused.get(&oldest) == Some(&since) {
                self.refused.remove(&oldest);
            }
        }
    }

    /// Whether the API server refused this token a moment ago.
    #[must_use]
    pub fn is_refused(&self, now: Now, hash: TokenHash) -> bool {
        let since = self.refused.get(&hash);
        since.is_some_and(|since| now.monotonic.saturating_sub(*since) <= REFUSED_VALIDITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), unix: Duration::ZERO }
    }

    #[test]
    fn a_refusal_is_believed_for_seconds_and_the_oldest_makes_room() {
        let mut refused = RefusedTokens::new(2);
        let [one, two, three] = [1, 2, 3].map(|byte| TokenHash([byte; 32]));
        refused.refuse(at(0), one);
        assert!(refused.is_refused(at(5), one) && !refused.is_refused(at(6), one));
        refused.refuse(at(4), two);
        refused.refuse(at(4), three);
        assert!(!refused.is_refused(at(4), one), "two are remembered");
        assert!(refused.is_refused(at(9), two) && refused.is_refused(at(9), three));
    }

    #[test]
    fn a_token_that_is_refused_again_stays_refused_and_takes_one_place() {
        let mut refused = RefusedTokens::new(2);
        let [one, two] = [1, 2].map(|byte| TokenHash([byte; 32]));
        refused.refuse(at(0), one);
        refused.refuse(at(4), one);
        refused.refuse(at(7), two);
        assert!(refused.is_refused(at(8), one));
        refused.refuse(at(30), two);
        assert_eq!((refused.refused.len(), refused.in_order.len()), (1, 1));
    }
}
