//! Where peers of our network were: addresses that led to them or that they told, for when nobody else can say.
//!
//! It is what is left of a network when its bootstrap node is gone: the shell keeps it across restarts. It reads no
//! clock. Keys and addresses cost a stranger nothing, so whoever was known for the longest stays the longest, no
//! machine fills the book, and nobody is believed to be at a place that its own connection could not come from.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use dunlin_trust::UnixMillis;
use libp2p::{Multiaddr, PeerId, core::ConnectedPoint, multiaddr::Protocol};
use rand::RngExt;
use rand_chacha::ChaCha12Rng;

use crate::{
    config::{ADDRESS_BYTES_MAX, Reach},
    known_peers::{KNOWN_ADDRESSES_MAX, KNOWN_PEERS_MAX, KnownPeer, Source},
};

/// Peers that may be known at one IP address, unless it is loopback.
const PEERS_PER_HOST_MAX: usize = 32;

/// After so long out of sight a peer is forgotten.
const FORGET_AFTER_MS: u64 = 30 * DAY_MS;

/// After so long a peer is forgotten that no dial of ours has ever reached.
const FORGET_UNREACHED_AFTER_MS: u64 = 3 * DAY_MS;

const HOUR_MS: u64 = 60 * 60 * 1000;

const DAY_MS: u64 = 24 * HOUR_MS;

/// First pause before a peer is dialled again; it doubles with each failure up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_secs(5);

/// Longest pause before a peer is dialled again.
const BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);

/// A pause is longer or shorter than it says by up to this part of it. Those who lost the same peer at the same moment do
/// not all come back at the same moment.
const JITTER: f64 = 0.25;

/// The book.
#[derive(Debug)]
pub(crate) struct AddressBook {
    reach: Reach,
    rng: ChaCha12Rng,
    known: BTreeMap<PeerId, Entry>,
    is_changed: bool,
}

#[derive(Debug)]
struct Entry {
    known: KnownPeer,
    failures: u32,
    /// When it may be dialled again.
    next_dial: Instant,
}

/// What was learnt when a peer said what it is.
#[derive(Debug)]
pub(crate) struct Meeting {
    /// Where the connection comes from, or leads to.
    pub(crate) remote: Multiaddr,
    /// How this node knew that address, when it dialled it.
    pub(crate) dialed: Option<Source>,
    /// What the peer told.
    pub(crate) told: Vec<Multiaddr>,
    pub(crate) is_dht_server: bool,
}

impl AddressBook {
    /// Returns the book with what was kept; what can be no more is left out. The generator spreads its dials.
    pub(crate) fn new(
        reach: Reach,
        kept: Vec<KnownPeer>,
        unix_now: UnixMillis,
        now: Instant,
        rng: ChaCha12Rng,
    ) -> Self {
        let mut book = Self { reach, rng, known: BTreeMap::new(), is_changed: false };
        for mut known in kept {
            known.addresses.retain(|known| is_dialable(&known.address, reach));
            known.addresses.truncate(KNOWN_ADDRESSES_MAX);
            known.seen = known.seen.min(unix_now);
            known.met = known.met.min(known.seen);
            if !known.addresses.is_empty() {
                book.known.insert(known.peer, Entry { known, failures: 0, next_dial: now });
            }
        }
        book.forget_old(unix_now);
        book.shrink();
        book.is_changed = false;
        book
    }

    /// Takes in where a peer of our network is that is connected now.
    pub(crate) fn met(
        &mut self,
        unix_now: UnixMillis,
        now: Instant,
        peer: PeerId,
        meeting: Meeting,
    ) {
        let Meeting { remote, dialed, told, is_dht_server } = meeting;
        // What it was dialled by comes first: the peer tells the same address, and that is no news then.
        let dialed = dialed.filter(|_| is_dialable(&remote, self.reach));
        let dialed = dialed.map(|source| (remote.clone(), source, Some(unix_now)));
        let told = told.into_iter().filter(|address| may_be_kept(address, &remote, self.reach));
        let told = told.map(|address| (address, Source::Peer, None));
        let addresses: Vec<_> = dialed.into_iter().chain(told).collect();
        let fresh = || KnownPeer {
            peer,
            met: unix_now,
            seen: unix_now,
            is_dht_server,
            addresses: Vec::new(),
        };
        let entry = self.known.entry(peer).or_insert_with(|| Entry {
            known: fresh(),
            failures: 0,
            next_dial: now,
        });
        entry.failures = 0;
        entry.known.seen = entry.known.seen.max(unix_now);
        entry.known.is_dht_server = is_dht_server;
        for (address, source, reached) in addresses {
            entry.known.learn(without_peer(address), source, unix_now, reached);
        }
        self.is_changed = true;
        if self.known[&peer].known.addresses.is_empty() || self.is_host_crowded(&peer) {
            self.known.remove(&peer);
        }
        self.shrink();
    }

    /// A peer's last connection is gone.
    pub(crate) fn lost(&mut self, unix_now: UnixMillis, now: Instant, peer: &PeerId) {
        let pause = self.spread(BACKOFF_MIN);
        if let Some(entry) = self.known.get_mut(peer) {
            entry.known.seen = entry.known.seen.max(unix_now);
            entry.next_dial = now + pause;
            self.is_changed = true;
        }
    }

    /// This node is elsewhere now, and what failed before says nothing any more: everybody may be dialled at once.
    pub(crate) fn moved(&mut self, now: Instant) {
        for entry in self.known.values_mut() {
            entry.failures = 0;
            entry.next_dial = entry.next_dial.min(now);
        }
    }

    fn spread(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(1.0 - JITTER..=1.0 + JITTER))
    }

    /// These peers are connected.
    pub(crate) fn saw<'a>(&mut self, now: UnixMillis, peers: impl Iterator<Item = &'a PeerId>) {
        for peer in peers {
            let Some(entry) = self.known.get_mut(peer) else { continue };
            // What is a little older on disk does no harm.
            if now.millis_since(entry.known.seen) >= HOUR_MS {
                entry.known.seen = now;
                self.is_changed = true;
            }
        }
    }

    /// Somebody else answered where a peer was said to be.
    pub(crate) fn is_elsewhere(&mut self, peer: &PeerId, address: &Multiaddr) {
        let address = without_peer(address.clone());
        let Some(entry) = self.known.get_mut(peer) else { return };
        entry.known.addresses.retain(|known| known.address != address);
        if entry.known.addresses.is_empty() {
            self.known.remove(peer);
        }
        self.is_changed = true;
    }

    /// A peer is not to be met again.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.is_changed |= self.known.remove(peer).is_some();
    }

    /// Forgets who was not seen for long.
    pub(crate) fn forget_old(&mut self, now: UnixMillis) {
        let before = self.known.len();
        self.known.retain(|_, entry| {
            let patience =
                if entry.known.was_reached() { FORGET_AFTER_MS } else { FORGET_UNREACHED_AFTER_MS };
            now.millis_since(entry.known.seen) < patience
        });
        self.is_changed |= self.known.len() < before;
    }

    /// Returns peers to dial, those first who were known for the longest, each with its addresses, the one that led
    /// there last first. None of them comes again before its pause is over.
    pub(crate) fn due(
        &mut self,
        now: Instant,
        count: usize,
        is_wanted: impl Fn(&PeerId) -> bool,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let due = self.known.values().filter(|entry| entry.next_dial <= now);
        let mut due: Vec<_> =
            due.filter(|entry| is_wanted(&entry.known.peer)).map(|entry| &entry.known).collect();
        due.sort_by_key(|known| Reverse(known.worth()));
        let due: Vec<_> =
            due.into_iter().take(count).map(|known| (known.peer, known.by_success())).collect();
        for (peer, _) in &due {
            let failures = self.known.get(peer).map_or(0, |entry| entry.failures);
            let pause = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
            let next_dial = now + self.spread(pause);
            if let Some(entry) = self.known.get_mut(peer) {
                entry.failures = failures.saturating_add(1);
                entry.next_dial = next_dial;
            }
        }
        due
    }

    /// Returns how this node came to know an address of a peer, when it did before.
    pub(crate) fn source_of(&self, peer: &PeerId, address: &Multiaddr) -> Option<Source> {
        let address = without_peer(address.clone());
        let addresses = &self.known.get(peer)?.known.addresses;
        addresses.iter().find(|known| known.address == address).map(|known| known.source)
    }

    /// Returns who is known, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &KnownPeer> {
        self.known.values().map(|entry| &entry.known)
    }

    /// Returns all that is to be kept, when it has changed since this was asked last.
    pub(crate) fn changes(&mut self) -> Option<Vec<KnownPeer>> {
        std::mem::take(&mut self.is_changed).then(|| self.iter().cloned().collect())
    }

    /// Returns whether as many others are known at one of a peer's hosts as may be.
    fn is_host_crowded(&self, peer: &PeerId) -> bool {
        // A relay's host is that of everybody whom it carries, and says nothing about them.
        let hosts_of = |known: &KnownPeer| -> Vec<IpAddr> {
            let direct = known.addresses.iter().filter(|known| !is_relayed(&known.address));
            let hosts = direct.filter_map(|known| host_of(&known.address));
            hosts.filter(|host| !host.is_loopback()).collect()
        };
        let hosts = hosts_of(&self.known[peer].known);
        let others = self.iter().filter(|other| other.peer != *peer);
        let shared = others.filter(|other| hosts_of(other).iter().any(|host| hosts.contains(host)));
        shared.count() >= PEERS_PER_HOST_MAX
    }

    fn shrink(&mut self) {
        while self.known.len() > KNOWN_PEERS_MAX {
            let least = self.iter().min_by_key(|known| known.worth()).map(|known| known.peer);
            let Some(least) = least else { return };
            self.known.remove(&least);
        }
    }
}

/// How much of the world sees an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Machine,
    Site,
    World,
}

impl Scope {
    fn of(address: &Multiaddr) -> Self {
        match host_of(address) {
            Some(ip) if ip.is_loopback() => Self::Machine,
            Some(IpAddr::V4(ip)) if ip.is_private() || ip.is_link_local() => Self::Site,
            Some(IpAddr::V6(ip)) if ip.is_unique_local() || ip.is_unicast_link_local() => {
                Self::Site
            }
            _ => Self::World,
        }
    }
}

/// Returns whether an address may be kept that a peer tells who is connected from `remote`. Who comes from elsewhere
/// knows nothing of this machine's or this site's addresses, and would have us dial what happens to be there.
pub(crate) fn may_be_kept(told: &Multiaddr, remote: &Multiaddr, reach: Reach) -> bool {
    is_dialable(told, reach) && Scope::of(told) >= Scope::of(remote)
}

/// Returns whether an address that somebody told may be kept and dialled.
pub(crate) fn is_dialable(address: &Multiaddr, reach: Reach) -> bool {
    if address.len() > ADDRESS_BYTES_MAX {
        return false;
    }
    let is_in_reach = reach == Reach::Local || Scope::of(address) == Scope::World;
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            is_in_reach && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()
        }
        Some(Protocol::Ip6(ip)) => is_in_reach && !ip.is_unspecified() && !ip.is_multicast(),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => true,
        _ => false,
    }
}

/// Returns whether an address is where this machine is in a network: one that comes and goes with that.
pub(crate) fn is_placed(address: &Multiaddr) -> bool {
    !is_relayed(address) && host_of(address).is_some_and(|host| !host.is_loopback())
}

/// Returns whether a connection goes with an address of this machine that is gone. Of those that this node dialled only
/// the family of addresses is known.
pub(crate) fn is_stranded(point: &ConnectedPoint, left: &Multiaddr) -> bool {
    let left = host_of(left);
    match point {
        ConnectedPoint::Listener { local_addr, .. } if !is_relayed(local_addr) => {
            host_of(local_addr) == left
        }
        // What a relay carries ends with the connection to the relay.
        ConnectedPoint::Listener { .. } => false,
        ConnectedPoint::Dialer { address, .. } => match (host_of(address), left) {
            (Some(there), Some(left)) => !there.is_loopback() && there.is_ipv4() == left.is_ipv4(),
            (None, _) => true,
            (_, None) => false,
        },
    }
}

/// Returns whether a relay carries what is dialled there.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Returns who relays what is dialled at an address.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let parts: Vec<_> = address.iter().collect();
    let relayed = parts.windows(2).find(|parts| parts[1] == Protocol::P2pCircuit)?;
    if let Protocol::P2p(relay) = relayed[0] { Some(relay) } else { None }
}

/// Returns where a connection comes from, or leads to: of a relayed one, the way through the relay.
pub(crate) fn place_of(point: &ConnectedPoint) -> &Multiaddr {
    match point {
        ConnectedPoint::Listener { local_addr, .. } if is_relayed(local_addr) => local_addr,
        ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
        ConnectedPoint::Dialer { address, .. } => address,
    }
}

fn host_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.to_canonical()),
        _ => None,
    }
}

/// Returns an address without the peer id at its end, which is known from elsewhere.
pub(crate) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
}

/// Returns an address that ends in the peer's id.
pub(crate) fn with_peer(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    match address.iter().last() {
        Some(Protocol::P2p(_)) => address.clone(),
        _ => address.clone().with(Protocol::P2p(peer)),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn private_addresses_are_for_local_networks() {
        let dialable = |text: &str, reach| is_dialable(&text.parse().unwrap(), reach);
        for private in
            ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/fd00::1/tcp/1"]
        {
            assert!(dialable(private, Reach::Local), "{private}");
            assert!(!dialable(private, Reach::Public), "{private}");
        }
        for reach in [Reach::Local, Reach::Public] {
            assert!(dialable("/ip4/192.0.2.1/udp/1/quic-v1", reach));
            assert!(dialable("/dns4/boot.example.org/tcp/1", reach));
            for never in
                ["/ip4/0.0.0.0/tcp/1", "/ip4/224.0.0.251/udp/5353", "/ip6/::/tcp/1", "/memory/1"]
            {
                assert!(!dialable(never, reach), "{never}");
            }
        }
    }

    const NOW: UnixMillis = UnixMillis(1_763_700_000_000);

    fn peer(number: u16) -> PeerId {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend(number.to_be_bytes().repeat(16));
        PeerId::from_bytes(&bytes).unwrap()
    }

    /// An address at a host of its own.
    fn address(number: u16) -> Multiaddr {
        let [high, low] = number.to_be_bytes();
        format!("/ip4/198.51.{high}.{low}/tcp/4601").parse().unwrap()
    }

    fn kept_book(kept: Vec<KnownPeer>, unix_now: UnixMillis, now: Instant) -> AddressBook {
        AddressBook::new(Reach::Local, kept, unix_now, now, ChaCha12Rng::seed_from_u64(1))
    }

    fn book() -> (AddressBook, Instant) {
        let now = Instant::now();
        (kept_book(Vec::new(), NOW, now), now)
    }

    /// A peer that this node dialled at its address.
    fn dialed(number: u16) -> Meeting {
        let remote = address(number);
        Meeting { remote, dialed: Some(Source::Dht), told: Vec::new(), is_dht_server: true }
    }

    /// A peer that came from a place and told where it is.
    fn came(remote: &str, told: &[&str]) -> Meeting {
        let told = told.iter().map(|address| address.parse().unwrap()).collect();
        Meeting { remote: remote.parse().unwrap(), dialed: None, told, is_dht_server: true }
    }

    fn days(count: u64) -> UnixMillis {
        UnixMillis(NOW.0 + count * DAY_MS)
    }

    #[test]
    fn a_stranger_does_not_send_us_to_our_own_machine_or_site() {
        let told = [
            "/ip4/127.0.0.1/tcp/22",
            "/ip6/::1/tcp/22",
            "/ip4/192.168.1.1/tcp/80",
            "/ip4/0.0.0.0/tcp/1",
        ];
        let (mut book, now) = book();
        book.met(NOW, now, peer(1), came("/ip4/203.0.113.9/tcp/5000", &told));
        assert_eq!(book.iter().count(), 0, "there is nothing to keep");
        let fine = "/ip4/203.0.113.9/tcp/4601";
        book.met(NOW, now, peer(1), came("/ip4/203.0.113.9/tcp/5000", &[told[0], fine, told[2]]));
        let kept: Vec<_> = book.iter().flat_map(KnownPeer::by_success).collect();
        assert_eq!(kept, [fine.parse().unwrap()]);
        // Who is on this machine, or in this site, knows more.
        book.met(NOW, now, peer(2), came("/ip4/127.0.0.1/tcp/5000", &told));
        book.met(NOW, now, peer(3), came("/ip4/192.168.1.7/tcp/5000", &told));
        let count = |number| book.known[&peer(number)].known.addresses.len();
        assert_eq!((count(2), count(3)), (3, 1));
    }

    #[test]
    fn a_flood_of_new_keys_pushes_out_only_itself() {
        let (mut book, now) = book();
        for number in 0..100 {
            book.met(NOW, now, peer(number), dialed(number));
            book.lost(days(1), now, &peer(number));
        }
        for number in 1_000..5_000 {
            book.met(days(1), now, peer(number), dialed(number));
        }
        assert_eq!(book.iter().count(), KNOWN_PEERS_MAX);
        assert!((0..100).all(|number| book.known.contains_key(&peer(number))));
    }

    #[test]
    fn one_machine_does_not_fill_the_book() {
        let (mut book, now) = book();
        for number in 0..500 {
            let told = format!("/ip4/203.0.113.9/tcp/{}", 1_000 + number);
            book.met(NOW, now, peer(number), came("/ip4/203.0.113.9/tcp/5", &[&told]));
        }
        assert_eq!(book.iter().count(), PEERS_PER_HOST_MAX);
    }

    #[test]
    fn who_is_gone_for_long_is_forgotten_and_who_was_never_reached_sooner() {
        let (mut book, now) = book();
        book.met(NOW, now, peer(1), dialed(1));
        book.met(NOW, now, peer(2), came("/ip4/203.0.113.9/tcp/5", &["/ip4/203.0.113.9/tcp/4601"]));
        let left = |book: &AddressBook| book.iter().map(|known| known.peer).collect::<Vec<_>>();
        book.forget_old(days(2));
        assert_eq!(left(&book).len(), 2);
        book.forget_old(days(3));
        assert_eq!(left(&book), [peer(1)]);
        book.saw(days(25), [peer(1)].iter());
        book.forget_old(days(54));
        assert_eq!(left(&book), [peer(1)]);
        book.forget_old(days(55));
        assert_eq!(left(&book), []);
    }

    #[test]
    fn dials_get_rarer_until_the_peer_is_met() {
        let (mut book, start) = book();
        book.met(NOW, start, peer(1), dialed(1));
        book.met(days(9), start, peer(1), dialed(1));
        book.met(NOW, start, peer(2), dialed(2));
        book.lost(NOW, start, &peer(1));
        book.lost(NOW, start, &peer(2));
        assert_eq!(book.due(start, 9, |_| true), [], "not at once");
        let (mut now, mut dials) = (start, Vec::new());
        while now < start + Duration::from_secs(24 * 3_600) {
            now += Duration::from_secs(1);
            let due = book.due(now, 1, |_| true);
            dials.extend(due.into_iter().map(|(peer, _)| (peer, now - start)));
        }
        let first = dials.iter().find(|(dialled, _)| *dialled == peer(1)).unwrap().1;
        let [least, most] = [1.0 - JITTER, 1.0 + JITTER].map(|part| BACKOFF_MIN.mul_f64(part));
        assert!((least..=most + Duration::from_secs(2)).contains(&first), "{first:?}");
        assert!((60..90).contains(&dials.len()), "{} dials in a day", dials.len());
        book.met(days(10), now, peer(1), dialed(1));
        book.lost(days(10), now, &peer(1));
        let soon = now + BACKOFF_MIN.mul_f64(1.0 + JITTER);
        assert_eq!(book.due(soon, 9, |other| *other == peer(1)), [(peer(1), vec![address(1)])]);
    }

    #[test]
    fn who_lost_the_same_peer_at_the_same_moment_comes_back_at_another() {
        let now = Instant::now();
        let mut books: Vec<_> = (0..50)
            .map(|seed| {
                let rng = ChaCha12Rng::seed_from_u64(seed);
                let mut book = AddressBook::new(Reach::Local, Vec::new(), NOW, now, rng);
                book.met(NOW, now, peer(1), dialed(1));
                book.lost(NOW, now, &peer(1));
                book
            })
            .collect();
        // 50 nodes; in no tenth of a second do more than a quarter of them dial.
        let mut at_once = 0;
        let mut all = 0;
        for tenths in 0..100 {
            let now = now + Duration::from_millis(100 * tenths);
            let dials = books.iter_mut().map(|book| book.due(now, 1, |_| true).len());
            let dials: usize = dials.sum();
            if all < 50 {
                at_once = at_once.max(dials);
                all += dials;
            }
        }
        assert!(all >= 50 && at_once <= 12, "{at_once} of {all}");
        // The same seed is the same course.
        let next = |seed| {
            let rng = ChaCha12Rng::seed_from_u64(seed);
            AddressBook::new(Reach::Local, Vec::new(), NOW, now, rng).spread(BACKOFF_MAX)
        };
        assert_eq!(next(7), next(7));
        assert_ne!(next(7), next(8));
    }

    #[test]
    fn a_node_that_moves_dials_everybody_at_once() {
        let (mut book, now) = book();
        for number in 1..=3 {
            book.met(NOW, now, peer(number), dialed(number));
            book.lost(NOW, now, &peer(number));
        }
        assert_eq!(book.due(now, 9, |_| true).len(), 0);
        book.moved(now);
        assert_eq!(book.due(now, 9, |_| true).len(), 3);
        assert_eq!(book.due(now, 9, |_| true).len(), 0, "once");
    }

    #[test]
    fn an_address_where_somebody_else_answers_is_dropped() {
        let (mut book, now) = book();
        book.met(NOW, now, peer(1), dialed(1));
        book.met(NOW, now, peer(1), dialed(2));
        book.is_elsewhere(&peer(1), &address(1).with(Protocol::P2p(peer(9))));
        assert_eq!(book.known[&peer(1)].known.by_success(), [address(2)]);
        book.is_elsewhere(&peer(1), &address(2));
        assert_eq!(book.iter().count(), 0);
    }

    #[test]
    fn what_is_kept_is_small_and_comes_back_as_it_was() {
        let (mut book, now) = book();
        for number in 0..KNOWN_PEERS_MAX as u16 {
            let told = (0..20).map(|at| address(number / 8 * 8 + at)).collect();
            book.met(NOW, now, peer(number), Meeting { told, ..dialed(number) });
        }
        let kept = book.changes().unwrap();
        assert_eq!(book.changes(), None);
        assert!(kept.iter().all(|known| known.addresses.len() == KNOWN_ADDRESSES_MAX));
        let bytes = crate::encode_known_peers(&kept);
        assert!(bytes.len() < 512 << 10, "{} bytes", bytes.len());
        let read = crate::decode_known_peers(&bytes).unwrap();
        let mut again = kept_book(read, NOW, now);
        assert_eq!(again.changes(), None, "there is nothing new in it");
        assert!(again.iter().eq(kept.iter()));
        // What may not be kept any more is left out.
        assert_eq!(kept_book(kept, days(40), now).iter().count(), 0);
    }
}
