//! Whose stream is reset when the readers of a link have stopped and their bytes fill it.
//!
//! Bytes that a reader has not taken keep their credit, so a stalled stream holds at most its own window. Enough of them
//! would use the window of the whole connection, and then everybody waited. Before that the stream that has not moved
//! for longest is reset.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::tunnel::CONNECTION_WINDOW;

/// How many bytes of a link may wait for their readers.
pub const LIMIT: u64 = 48 * 1024 * 1024;
/// A stream that moved within this time is nobody's fault.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Beyond this many bytes patience is over: the window is nearly used up.
const LAST_RESORT: u64 = CONNECTION_WINDOW as u64 - 4 * 1024 * 1024;

/// A stream of a link, numbered by whoever opened it.
pub type StreamId = u64;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    bytes: u64,
    /// When its reader last took a byte, or when it began to wait.
    moved: Duration,
}

/// The bytes of one link that wait for their readers. Times are monotonic since any origin.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    streams: BTreeMap<StreamId, Waiting>,
    total: u64,
}

impl Budget {
    /// `bytes` more wait for the reader of `stream`.
    pub fn came(&mut self, now: Duration, stream: StreamId, bytes: usize) {
        let waiting = self.streams.entry(stream).or_insert(Waiting { bytes: 0, moved: now });
        if waiting.bytes == 0 {
            waiting.moved = now;
        }
        waiting.bytes = waiting.bytes.saturating_add(bytes as u64);
        self.total = self.total.saturating_add(bytes as u64);
    }

    /// The reader of `stream` took `bytes`.
    pub fn taken(&mut self, now: Duration, stream: StreamId, bytes: usize) {
        let Some(waiting) = self.streams.get_mut(&stream) else { return };
        let bytes = waiting.bytes.min(bytes as u64);
        waiting.bytes -= bytes;
        waiting.moved = now;
        self.total -= bytes;
    }

    /// `stream` has ended; what it held is free.
    pub fn ended(&mut self, stream: StreamId) {
        if let Some(waiting) = self.streams.remove(&stream) {
            self.total -= waiting.bytes;
        }
    }

    /// The bytes that wait now.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The stream to reset now, if the budget is exceeded: the one that has waited for longest, but none that moved
    /// within [`PATIENCE`] while there is room for patience. It is counted as ended.
    pub fn whom_to_reset(&mut self, now: Duration) -> Option<StreamId> {
        if self.total <= LIMIT {
            return None;
        }
        let waiting = self.streams.iter().filter(|(_, waiting)| waiting.bytes > 0);
        let (stream, longest) = waiting.min_by_key(|(_, waiting)| waiting.moved).map(|(id, w)| (*id, *w))?;
        let due = now.saturating_sub(longest.moved) >= PATIENCE || self.total > LAST_RESORT;
        due.then(|| {
            self.ended(stream);
            stream
        })
    }

    /// When [`Self::whom_to_reset`] is worth asking again, if time alone can change its answer.
    #[must_use]
    pub fn next_look(&self) -> Option<Duration> {
        if self.total <= LIMIT {
            return None;
        }
        let waiting = self.streams.values().filter(|waiting| waiting.bytes > 0);
        waiting.map(|waiting| waiting.moved + PATIENCE).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: usize = 256 * 1024;

    #[test]
    fn the_one_that_waits_for_longest_goes_and_nobody_else() {
        let mut budget = Budget::default();
        let at = Duration::from_secs;
        for stream in 0..200 {
            budget.came(at(stream / 100), stream, WINDOW);
        }
        assert_eq!(budget.total(), 50 * 1024 * 1024);
        assert_eq!(budget.whom_to_reset(at(9)), None, "patience");
        budget.taken(at(9), 0, 1);
        assert_eq!(budget.next_look(), Some(at(10)));
        assert_eq!(budget.whom_to_reset(at(10)), Some(1), "the first has moved");
        let further = (0..10).filter_map(|_| budget.whom_to_reset(at(10))).count();
        assert_eq!(further, 7, "down to the budget and not further");
        assert!(budget.total() <= LIMIT);
        assert_eq!(budget.next_look(), None);
    }

    #[test]
    fn patience_ends_where_the_window_does() {
        let mut budget = Budget::default();
        for stream in 0..241 {
            budget.came(Duration::from_millis(stream), stream, WINDOW);
        }
        let now = Duration::from_millis(300);
        assert_eq!(budget.whom_to_reset(now), Some(0));
        assert_eq!(budget.whom_to_reset(now), None, "60 MiB again");
    }

    #[test]
    fn a_stream_that_was_idle_has_its_time_from_its_first_byte() {
        let mut budget = Budget::default();
        budget.came(Duration::ZERO, 1, 10);
        budget.taken(Duration::ZERO, 1, 10);
        let later = Duration::from_secs(1000);
        budget.came(later, 1, 49 * 1024 * 1024);
        assert_eq!(budget.whom_to_reset(later + PATIENCE / 2), None);
        assert_eq!(budget.whom_to_reset(later + PATIENCE), Some(1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Came(u64, usize),
        Taken(u64, usize),
        Ended(u64),
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..400_u64, 0..WINDOW).prop_map(|(s, n)| Step::Came(s, n)),
            (0..400_u64, 0..WINDOW).prop_map(|(s, n)| Step::Taken(s, n)),
            (0..400_u64).prop_map(Step::Ended),
            Just(Step::Look),
        ]
    }

    proptest! {
        #[test]
        fn the_total_is_the_sum_and_only_a_waiting_stream_is_reset(steps in proptest::collection::vec(step(), 0..1500)) {
            let (mut budget, mut model) = (Budget::default(), BTreeMap::<u64, u64>::new());
            for (tick, step) in (0_u64..).zip(steps) {
                let now = Duration::from_millis(50 * tick);
                match step {
                    Step::Came(stream, bytes) => {
                        budget.came(now, stream, bytes);
                        *model.entry(stream).or_default() += bytes as u64;
                    }
                    Step::Taken(stream, bytes) => {
                        budget.taken(now, stream, bytes);
                        model.entry(stream).and_modify(|held| *held = held.saturating_sub(bytes as u64));
                    }
                    Step::Ended(stream) => {
                        budget.ended(stream);
                        model.remove(&stream);
                    }
                    Step::Look => {
                        if let Some(stream) = budget.whom_to_reset(now) {
                            prop_assert!(model.remove(&stream).is_some_and(|held| held > 0));
                        }
                    }
                }
                prop_assert_eq!(budget.total(), model.values().sum::<u64>());
            }
        }
    }
}
