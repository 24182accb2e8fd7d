//! Numbers that look random and are the same for the same seed on every machine: whatever is drawn by them can be told
//! again by one number.

/// A series of well-mixed numbers (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The series of this seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Any number, all alike likely.
    #[allow(
        clippy::should_implement_trait,
        reason = "a series that never ends is no iterator to be collected"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `from..to`; `from` where that is empty.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % to.saturating_sub(from).max(1)
    }

    /// A place in something of `len`; 0 where there is none.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.next() % len.max(1) as u64).expect("a remainder is below its bound")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_tells_the_whole_series() {
        let mut random = Random::new(0);
        // The first numbers of SplitMix64 from zero, as its reference implementation gives them.
        assert_eq!([random.next(), random.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        assert_eq!((random.within(3, 3), random.index(0)), (3, 0));
        assert!((5..9).contains(&random.within(5, 9)) && random.index(4) < 4);
    }
}
