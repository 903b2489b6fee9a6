//! How fast one address may do something. One customer of IPv6 usually has a whole /64, which counts as one address.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use libp2p::PeerId;

use crate::rate::{Bucket, Rate};

/// Addresses whose rate is remembered. When there are more, the one that has rested longest is forgotten; it has a full
/// bucket anyway.
const RATES_MAX: usize = 4096;

/// Addresses that count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    V4([u8; 4]),
    V6Net([u8; 8]),
    /// Whoever a relay brings: only the relay is known.
    Relay(PeerId),
}

impl From<IpAddr> for Group {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6Net([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// One rate, for each address by itself.
#[derive(Debug)]
pub(crate) struct AddressRates {
    rate: Rate,
    buckets: HashMap<Group, (Bucket, Instant)>,
}

impl AddressRates {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new() }
    }

    /// Takes one token of `group`, when there is one.
    pub(crate) fn take(&mut self, group: Group, now: Instant) -> bool {
        if self.buckets.len() >= RATES_MAX && !self.buckets.contains_key(&group) {
            let rested = self.buckets.iter().min_by_key(|(_, (_, used))| *used);
            rested.map(|(group, _)| *group).and_then(|group| self.buckets.remove(&group));
        }
        let full = || (Bucket::full(self.rate, now), now);
        let (bucket, used) = self.buckets.entry(group).or_insert_with(full);
        *used = now;
        bucket.take(self.rate, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RATE: Rate = Rate { burst: 2, every: Duration::from_secs(1) };

    fn group(text: &str) -> Group {
        Group::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn each_address_has_its_own_rate_and_a_network_of_ipv6_one() {
        let (mut rates, now) = (AddressRates::new(RATE), Instant::now());
        let mut take = |address| rates.take(group(address), now);
        assert_eq!(["192.0.2.1"; 3].map(&mut take), [true, true, false]);
        assert!(take("192.0.2.2"));
        assert!(!take("::ffff:192.0.2.1"), "the same in other words");
        assert_eq!(
            ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(&mut take),
            [true, true, false]
        );
        assert!(take("2001:db8:0:1::1"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut rates, now) = (AddressRates::new(RATE), Instant::now());
        for number in 0..RATES_MAX as u32 + 100 {
            assert!(rates.take(Group::V4(number.to_be_bytes()), now));
        }
        assert_eq!(rates.buckets.len(), RATES_MAX);
    }
}
