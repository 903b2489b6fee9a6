//! Who may begin a QUIC connection, judged by their first packet.
//!
//! A first packet costs who sends it nothing, and its address may be forged. To accept one takes a signature and some
//! 35 KiB, and those stay for three seconds after the connection was refused, as the protocol has it. So whoever is not
//! known to be where they say they are gets in only as long as few do. Beyond that they are asked to come again
//! with a token that was sent to their address (a Retry, RFC 9000, section 8.1.2), which costs no memory here; and who has
//! shown one is let in at the rate that an address may have. In a flood of forged packets, newcomers lose one round trip.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    address_limits,
    address_rates::{AddressRates, Group},
    rate::{Bucket, Rate},
};

/// How fast connections begin in all: a crowd of newcomers at once, and then more than ever come in life. What is refused
/// of them stays for three seconds: 15 MiB.
const ACCEPTING: Rate = Rate { burst: 128, every: Duration::from_millis(10) };

/// How fast those begin whose address may be forged.
const UNPROVEN: Rate = Rate { burst: 32, every: Duration::from_millis(50) };

/// The same, of one address: whoever forges it takes away nothing from who has it but a round trip.
const UNPROVEN_OF_ADDRESS: Rate = Rate { burst: 2, every: Duration::from_secs(5) };

/// How fast first packets are answered that are not accepted. Each answer costs some 20 µs; beyond, nothing is said.
const ANSWERING: Rate = Rate { burst: 256, every: Duration::from_millis(1) };

/// What is done with a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// Ask for a proof of the address.
    Ask,
    Refuse,
    Ignore,
}

/// First packets that were not accepted, for whoever counts.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway {
    asked: AtomicU64,
    refused: AtomicU64,
    ignored: AtomicU64,
}

impl TurnedAway {
    /// Returns how many senders were asked to prove their address.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    /// Returns how many connections were refused before they began.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Returns how many first packets came too fast for any answer.
    pub(crate) fn ignored(&self) -> u64 {
        self.ignored.load(Relaxed)
    }

    fn count(&self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Accept => return,
            Verdict::Ask => &self.asked,
            Verdict::Refuse => &self.refused,
            Verdict::Ignore => &self.ignored,
        };
        counter.fetch_add(1, Relaxed);
    }
}

/// The rates of one node, whatever it listens on.
pub(super) struct Admission {
    /// Whether several nodes share this machine, and its address.
    one_machine: bool,
    accepting: Bucket,
    unproven: Bucket,
    answering: Bucket,
    unproven_of: AddressRates,
    proven_of: AddressRates,
    turned_away: Arc<TurnedAway>,
}

impl Admission {
    pub(super) fn new(one_machine: bool, turned_away: Arc<TurnedAway>, now: Instant) -> Self {
        Self {
            one_machine,
            accepting: Bucket::full(ACCEPTING, now),
            unproven: Bucket::full(UNPROVEN, now),
            answering: Bucket::full(ANSWERING, now),
            unproven_of: AddressRates::new(UNPROVEN_OF_ADDRESS),
            proven_of: AddressRates::new(address_limits::OPENING),
            turned_away,
        }
    }

    /// Judges a first packet. With `is_proven`, its sender has shown to receive what is sent to that address.
    pub(super) fn judge(&mut self, from: IpAddr, is_proven: bool, now: Instant) -> Verdict {
        let verdict = self.verdict(from, is_proven, now);
        self.turned_away.count(verdict);
        verdict
    }

    fn verdict(&mut self, from: IpAddr, is_proven: bool, now: Instant) -> Verdict {
        if self.may_begin(from, is_proven, now) && self.accepting.take(ACCEPTING, now) {
            Verdict::Accept
        } else if !self.answering.take(ANSWERING, now) {
            Verdict::Ignore
        } else if is_proven {
            Verdict::Refuse
        } else {
            Verdict::Ask
        }
    }

    fn may_begin(&mut self, from: IpAddr, is_proven: bool, now: Instant) -> bool {
        let group = Group::from(from);
        if is_proven {
            return (self.one_machine && from.is_loopback()) || self.proven_of.take(group, now);
        }
        self.unproven_of.take(group, now) && self.unproven.take(UNPROVEN, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn admission(one_machine: bool, now: Instant) -> Admission {
        Admission::new(one_machine, Arc::default(), now)
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(0xc000_0200 + number).into()
    }

    fn count(verdicts: &[Verdict], wanted: Verdict) -> usize {
        verdicts.iter().filter(|verdict| **verdict == wanted).count()
    }

    #[test]
    fn a_flood_of_forged_addresses_gets_no_more_than_questions_and_who_answers_them_gets_in() {
        let now = Instant::now();
        let mut admission = admission(false, now);
        let flood: Vec<_> =
            (0..10_000).map(|number| admission.judge(address(number), false, now)).collect();
        assert_eq!(count(&flood, Verdict::Accept), UNPROVEN.burst as usize);
        assert_eq!(count(&flood, Verdict::Ask), ANSWERING.burst as usize);
        assert_eq!(count(&flood, Verdict::Refuse), 0);
        let turned_away = &admission.turned_away;
        assert_eq!(turned_away.asked() + turned_away.ignored() + u64::from(UNPROVEN.burst), 10_000);

        assert_eq!(admission.judge(address(20_000), true, now), Verdict::Accept);
    }

    #[test]
    fn who_forges_an_address_does_not_use_up_what_its_owner_may() {
        let start = Instant::now();
        let mut admission = admission(false, start);
        let mut accepted = 0;
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            let verdict = admission.judge(address(1), false, now);
            accepted += u32::from(verdict == Verdict::Accept);
        }
        assert!((2..=4).contains(&accepted), "{accepted}");
        let now = start + Duration::from_secs(10);
        let own: Vec<_> = (0..16).map(|_| admission.judge(address(1), true, now)).collect();
        assert_eq!(count(&own, Verdict::Accept), 16);
    }

    #[test]
    fn one_address_opens_no_faster_than_it_may_and_takes_nothing_from_others() {
        let now = Instant::now();
        let mut admission = admission(false, now);
        let one: Vec<_> = (0..200).map(|_| admission.judge(address(1), true, now)).collect();
        assert_eq!(count(&one, Verdict::Accept), address_limits::OPENING.burst as usize);
        assert_eq!(count(&one, Verdict::Refuse), 200 - address_limits::OPENING.burst as usize);
        assert_eq!(admission.judge(address(2), true, now), Verdict::Accept);
    }

    #[test]
    fn many_addresses_together_are_let_in_no_faster_than_all_may() {
        let start = Instant::now();
        let mut admission = admission(false, start);
        let mut accepted = 0;
        for ms in 0..1_000 {
            let now = start + Duration::from_millis(ms);
            for number in 0..4 {
                let from = address(ms as u32 * 4 + number);
                accepted += u32::from(admission.judge(from, true, now) == Verdict::Accept);
            }
        }
        assert!((ACCEPTING.burst + 99..=ACCEPTING.burst + 100).contains(&accepted), "{accepted}");
    }

    #[test]
    fn nodes_on_one_machine_share_its_address_but_not_its_rate() {
        let now = Instant::now();
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let of = |one_machine| {
            let mut admission = admission(one_machine, now);
            let all: Vec<_> = (0..100).map(|_| admission.judge(loopback, true, now)).collect();
            count(&all, Verdict::Accept)
        };
        assert_eq!((of(true), of(false)), (100, 16));
    }
}
