//! What kind of traffic a stream carries: a typed key must not wait behind a copied file.

use std::time::Duration;

/// The class of a stream, in the order of its urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// What keeps nodes alive: Leases, status, tokens.
    Control,
    /// A person or a short answer waits.
    Interactive,
    /// Much data; time does not matter.
    Bulk,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Control, Self::Interactive, Self::Bulk];

    /// The word on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }

    /// The class of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == word)
    }
}

/// How long a stream is looked at before it is judged again.
const SPAN: Duration = Duration::from_secs(10);
/// A stream that moves this many bytes within a span is bulk.
const BULK_BYTES: u64 = 1024 * 1024;
/// A bulk stream that moves fewer bytes than this in a whole span is interactive again.
const QUIET_BYTES: u64 = 64 * 1024;

/// Judges one stream by what it moves. Times are monotonic since any origin.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    class: Class,
    since: Duration,
    moved: u64,
}

impl Meter {
    /// A stream that begins at `now` and may be told apart by what it moves.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { class: Class::Interactive, since: now, moved: 0 }
    }

    /// The stream has moved `bytes`; its class from here on.
    pub fn moved(&mut self, now: Duration, bytes: usize) -> Class {
        if now.saturating_sub(self.since) >= SPAN {
            // One span with little in it is enough, and so is a pause that no span saw.
            if self.moved < QUIET_BYTES || now.saturating_sub(self.since) >= 2 * SPAN {
                self.class = Class::Interactive;
            }
            (self.since, self.moved) = (now, 0);
        }
        self.moved = self.moved.saturating_add(bytes as u64);
        if self.moved >= BULK_BYTES {
            self.class = Class::Bulk;
        }
        self.class
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_megabyte_within_ten_seconds_is_bulk_until_it_is_quiet_for_as_long() {
        let second = Duration::from_secs(1);
        let mut meter = Meter::new(Duration::ZERO);
        assert_eq!(meter.moved(second, 1024 * 1024 - 1), Class::Interactive);
        assert_eq!(meter.moved(2 * second, 1), Class::Bulk);
        assert_eq!(meter.moved(12 * second, 100), Class::Bulk, "its last span was full");
        assert_eq!(meter.moved(23 * second, 100), Class::Interactive);
    }

    #[test]
    fn a_slow_trickle_is_never_bulk_and_a_pause_ends_it() {
        let mut meter = Meter::new(Duration::ZERO);
        for tenth in 0..1000 {
            let now = Duration::from_millis(100) * tenth;
            assert_eq!(meter.moved(now, 8 * 1024), Class::Interactive, "{now:?}");
        }
        let mut meter = Meter::new(Duration::ZERO);
        meter.moved(Duration::ZERO, 2 * 1024 * 1024);
        assert_eq!(meter.moved(Duration::from_secs(60), 1), Class::Interactive);
    }

    #[test]
    fn words_are_those_of_the_wire() {
        assert_eq!(Class::ALL.map(Class::as_str), ["control", "interactive", "bulk"]);
        assert!(Class::ALL.into_iter().all(|class| Class::parse(class.as_str()) == Some(class)));
        assert_eq!(Class::parse("urgent"), None);
    }
}
