//! What is under way on a delayed link: an ordered set that gives out each item when its time has come. It is told what
//! the time is and does nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one packet is under way: `mean`, and up to `jitter` more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    mean: Duration,
    jitter: Duration,
}

impl Delay {
    /// The longest delay. A packet is kept by the kernel meanwhile.
    pub const LONGEST: Duration = Duration::from_secs(60);

    /// A delay of `mean`, and up to `jitter` more or less, evenly spread; packets then overtake one another.
    ///
    /// Errors: in words, for one that is zero or too long, or whose jitter is more than its mean.
    pub fn new(mean: Duration, jitter: Duration) -> Result<Delay, String> {
        if mean.is_zero() || mean > Delay::LONGEST {
            return Err(format!("a delay is more than 0 and at most {:?}, and not {mean:?}", Delay::LONGEST));
        }
        if jitter > mean {
            return Err(format!("a jitter of {jitter:?} is more than the delay of {mean:?}"));
        }
        Ok(Delay { mean, jitter })
    }

    /// Reads a time such as `150ms`, `2s` or `1500us`.
    pub fn parse_time(text: &str) -> Result<Duration, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number = text[..digits].parse::<u32>().ok().filter(|_| digits <= 9);
        match (number, &text[digits..]) {
            (Some(number), "us") => Ok(Duration::from_micros(number.into())),
            (Some(number), "ms") => Ok(Duration::from_millis(number.into())),
            (Some(number), "s") => Ok(Duration::from_secs(number.into())),
            _ => Err(format!("{text}: no time; write it like 150ms or 2s")),
        }
    }

    /// Half the time that it adds to a round trip, on average.
    pub fn mean(&self) -> Duration {
        self.mean
    }

    /// The most by which it differs from its mean.
    pub fn jitter(&self) -> Duration {
        self.jitter
    }

    /// One packet's delay; `chance` is any number, all alike likely.
    pub(crate) fn draw(&self, chance: u64) -> Duration {
        let span = u64::try_from(self.jitter.as_micros() * 2).expect("a jitter is at most a minute");
        self.mean - self.jitter + Duration::from_micros(chance % (span + 1))
    }
}

impl std::fmt::Display for Delay {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.mean)?;
        if self.jitter.is_zero() { Ok(()) } else { write!(formatter, " ± {:?}", self.jitter) }
    }
}

/// Items under way, by when they are due; those due at the same instant in the order in which they came.
#[derive(Debug)]
pub(crate) struct Held<T> {
    items: BTreeMap<(Instant, u64), T>,
    count: u64,
}

impl<T> Held<T> {
    pub(crate) fn new() -> Self {
        Held { items: BTreeMap::new(), count: 0 }
    }

    /// Takes an item that is due at `due`.
    pub(crate) fn hold(&mut self, due: Instant, item: T) {
        self.items.insert((due, self.count), item);
        self.count += 1;
    }

    /// When the next item is due; `None` if none is held.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.items.keys().next().map(|(due, _)| *due)
    }

    /// Gives out what is due at `now`, the earliest due first.
    pub(crate) fn due(&mut self, now: Instant) -> impl Iterator<Item = T> + use<T> {
        let later = self.items.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.items, later).into_values()
    }

    /// Gives out everything, in the order in which it came.
    pub(crate) fn flush(&mut self) -> impl Iterator<Item = T> + use<T> {
        let items = std::mem::take(&mut self.items).into_iter();
        items.map(|((_, number), item)| (number, item)).collect::<BTreeMap<_, _>>().into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_early(delays in prop::collection::vec(0_u64..50, 0..60), step in 1_u64..20) {
            let start = Instant::now();
            let at = |millis: u64| start + Duration::from_millis(millis);
            let mut held = Held::new();
            let mut given = Vec::new();
            for (item, delay) in delays.iter().enumerate() {
                let came = item as u64;
                held.hold(at(came + delay), item);
                if came.is_multiple_of(step) {
                    given.extend(held.due(at(came)).map(|item| (item, came)));
                }
            }
            for late in (delays.len() as u64..200).step_by(usize::try_from(step).expect("small")) {
                given.extend(held.due(at(late)).map(|item| (item, late)));
            }
            given.extend(held.due(at(200)).map(|item| (item, 200)));
            prop_assert_eq!(held.next_due(), None);
            for (item, now) in &given {
                let due = *item as u64 + delays[*item];
                prop_assert!(*now >= due, "{} came at {} and was due at {}", item, now, due);
                prop_assert!(*now < due + 2 * step, "{} was due at {} and waited to {}", item, due, now);
            }
            let mut items: Vec<usize> = given.into_iter().map(|(item, _)| item).collect();
            items.sort_unstable();
            prop_assert_eq!(items, (0..delays.len()).collect::<Vec<_>>());
        }

        #[test]
        fn one_delay_for_all_keeps_their_order(count in 0_usize..50) {
            let start = Instant::now();
            let mut held = Held::new();
            (0..count).for_each(|item| held.hold(start, item));
            prop_assert_eq!(held.due(start).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn a_flush_gives_out_all_in_the_order_in_which_it_came(delays in prop::collection::vec(0_u64..9, 0..60)) {
            let start = Instant::now();
            let mut held = Held::new();
            for (item, delay) in delays.iter().enumerate() {
                held.hold(start + Duration::from_millis(*delay), item);
            }
            prop_assert_eq!(held.flush().collect::<Vec<_>>(), (0..delays.len()).collect::<Vec<_>>());
            prop_assert_eq!(held.next_due(), None);
        }

        #[test]
        fn a_drawn_delay_is_within_its_jitter(mean in 1_u64..1000, share in 0_u64..=100, chance in any::<u64>()) {
            let mean = Duration::from_millis(mean);
            let jitter = mean * u32::try_from(share).expect("small") / 100;
            let drawn = Delay::new(mean, jitter).expect("in bounds").draw(chance);
            prop_assert!(mean - jitter <= drawn && drawn <= mean + jitter, "{:?}", drawn);
        }
    }

    #[test]
    fn the_earliest_due_is_first_out() {
        let start = Instant::now();
        let mut held = Held::new();
        held.hold(start + Duration::from_millis(2), "late");
        held.hold(start + Duration::from_millis(1), "early");
        assert_eq!(held.next_due(), Some(start + Duration::from_millis(1)));
        assert_eq!(held.due(start).count(), 0);
        assert_eq!(held.due(start + Duration::from_millis(2)).collect::<Vec<_>>(), ["early", "late"]);
    }

    #[test]
    fn a_delay_has_bounds() {
        let millis = Duration::from_millis;
        assert!(Delay::new(millis(150), millis(150)).is_ok());
        assert!(Delay::new(millis(0), millis(0)).is_err());
        assert!(Delay::new(millis(60_001), millis(0)).is_err());
        assert!(Delay::new(millis(150), millis(151)).is_err());
    }

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!(Delay::parse_time("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(Delay::parse_time("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(Delay::parse_time("60000000us"), Ok(Duration::from_secs(60)));
        for wrong in ["", "150", "ms", "-1ms", "1 ms", "1.5s", "10000000000ms", "2m"] {
            assert!(Delay::parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
