//! How many requests and unfinished sessions one address may have, so that one client cannot take the engine from others.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// Requests a second and address, and how many may come at once.
pub const REQUESTS_PER_SECOND: u32 = 100;
/// Sessions of one address that are not live.
pub const HALF_OPEN_PER_ADDRESS: usize = 32;
/// Addresses whose rate is known; beyond it the one that was seen longest ago is forgotten.
const MAX_ADDRESSES: usize = 4096;

/// What counts as one address: of IPv6 the network of 64 bits, which one client has to itself.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(std::net::Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

/// The open connections by address. Whoever counts bounds how many there are in all.
#[derive(Debug, Default)]
pub struct Connections {
    open: BTreeMap<IpAddr, usize>,
}

impl Connections {
    /// Whether `address` may have one more beside those that it has, of at most `limit`; it counts if so, until
    /// [`Self::leave`].
    pub fn admit(&mut self, address: IpAddr, limit: usize) -> bool {
        let open = self.open.entry(network_of(address)).or_default();
        let admitted = *open < limit;
        *open += usize::from(admitted);
        admitted
    }

    /// A connection of `address` that was admitted is closed.
    pub fn leave(&mut self, address: IpAddr) {
        let address = network_of(address);
        let Some(open) = self.open.get_mut(&address) else { return };
        *open = open.saturating_sub(1);
        if *open == 0 {
            self.open.remove(&address);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Thousandths of requests that are left.
    left: u64,
    at: Duration,
}

/// The rates of requests by address.
#[derive(Debug, Default)]
pub struct RequestRates {
    buckets: BTreeMap<IpAddr, Bucket>,
}

impl RequestRates {
    /// Whether a request of this address may be served at `now`; it counts if so.
    pub fn admit(&mut self, address: IpAddr, now: Duration) -> bool {
        const ONE: u64 = 1000;
        let full = u64::from(REQUESTS_PER_SECOND) * ONE;
        let address = network_of(address);
        if !self.buckets.contains_key(&address) && self.buckets.len() >= MAX_ADDRESSES {
            self.forget(now);
        }
        let bucket = self.buckets.entry(address).or_insert(Bucket { left: full, at: now });
        let passed = u64::try_from(now.saturating_sub(bucket.at).as_millis()).unwrap_or(u64::MAX);
        bucket.left =
            bucket.left.saturating_add(passed.saturating_mul(u64::from(REQUESTS_PER_SECOND))).min(full);
        bucket.at = now;
        let admitted = bucket.left >= ONE;
        bucket.left -= if admitted { ONE } else { 0 };
        admitted
    }

    /// Forgets who has asked nothing for a second, which is as if never; else the oldest.
    fn forget(&mut self, now: Duration) {
        self.buckets.retain(|_, bucket| now.saturating_sub(bucket.at) < Duration::from_secs(1));
        while self.buckets.len() >= MAX_ADDRESSES {
            let oldest = self.buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(address, _)| *address);
            let Some(oldest) = oldest else { return };
            self.buckets.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_hundred_a_second_and_another_its_own() {
        let mut rates = RequestRates::default();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let admitted = |rates: &mut RequestRates, address, milliseconds| {
            let now = Duration::from_millis(milliseconds);
            (0..200).filter(|_| rates.admit(address, now)).count()
        };
        assert_eq!(admitted(&mut rates, one, 0), 100);
        assert_eq!(admitted(&mut rates, other, 0), 100);
        assert_eq!(admitted(&mut rates, one, 500), 50);
        assert_eq!(admitted(&mut rates, one, 100_000), 100);
    }

    #[test]
    fn one_address_has_so_many_connections_and_another_its_own() {
        let mut connections = Connections::default();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!((0..9).filter(|_| connections.admit(one, 3)).count(), 3);
        assert!(connections.admit(other, 3));
        connections.leave(one);
        assert!(connections.admit(one, 3) && !connections.admit(one, 3));
        for address in [one, one, one, other, other] {
            connections.leave(address);
        }
        assert!(connections.open.is_empty(), "who has none is not remembered");
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_oldest_first() {
        let mut rates = RequestRates::default();
        for number in 0..10_000_u32 {
            assert!(
                rates.admit(IpAddr::from(number.to_be_bytes()), Duration::from_micros(u64::from(number)))
            );
        }
        assert!(rates.buckets.len() <= MAX_ADDRESSES);
        assert!(rates.buckets.contains_key(&IpAddr::from(9_999_u32.to_be_bytes())));
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one() {
        let parse = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), parse("192.0.2.1"));
    }
}
