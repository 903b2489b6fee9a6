//! Whom the operator lets look at this node: tickets, and the consoles that entered with one.
//!
//! A ticket is made for one peer id, which the page's browser draws for itself, and is used up by the first try.
//! What entered is known by its key from then on, which Noise proves, and forgotten when it has been silent for long.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libp2p::PeerId;

use crate::messages::Ticket;

/// Tickets that wait to be used. The oldest one gives way: only the operator asks for them, and nobody needs many.
const TICKETS_MAX: usize = 16;

/// How long a ticket can be used: a page connects at once.
pub(crate) const TICKET_LIFE: Duration = Duration::from_secs(60);

/// Consoles that are let in. The one that was silent for longest gives way.
const CONSOLES_MAX: usize = 8;

/// A console that has asked nothing for this long has to show another ticket. A page asks every second or two, and
/// one whose laptop slept for a moment shall not have to ask its reader.
const SILENCE_MAX: Duration = Duration::from_secs(10 * 60);

/// The tickets, and who entered.
#[derive(Debug, Default)]
pub(crate) struct Consoles {
    tickets: BTreeMap<PeerId, (Ticket, Instant)>,
    /// When each was heard last.
    entered: BTreeMap<PeerId, Instant>,
}

impl Consoles {
    /// Expects a console with this ticket, in place of any ticket before.
    pub(crate) fn expect(&mut self, peer: PeerId, ticket: Ticket, now: Instant) {
        self.forget_old(now);
        make_room(&mut self.tickets, &peer, TICKETS_MAX, |(_, made)| *made);
        self.tickets.insert(peer, (ticket, now));
    }

    /// Lets a console in whose ticket this is. Right or wrong, the ticket is used up.
    pub(crate) fn enter(&mut self, peer: PeerId, shown: &Ticket, now: Instant) -> bool {
        self.forget_old(now);
        let is_right = self.tickets.remove(&peer).is_some_and(|(ticket, _)| ticket.is(shown));
        if is_right {
            make_room(&mut self.entered, &peer, CONSOLES_MAX, |heard| *heard);
            self.entered.insert(peer, now);
        }
        is_right
    }

    /// Returns whether a peer entered, and notes that it was heard.
    pub(crate) fn hear(&mut self, peer: &PeerId, now: Instant) -> bool {
        self.forget_old(now);
        self.entered.get_mut(peer).map(|heard| *heard = now).is_some()
    }

    /// Returns whether a peer is a console, or may become one.
    pub(crate) fn knows(&self, peer: &PeerId, now: Instant) -> bool {
        let is_young = |since: &Instant, life| now.saturating_duration_since(*since) < life;
        self.tickets.get(peer).is_some_and(|(_, made)| is_young(made, TICKET_LIFE))
            || self.entered.get(peer).is_some_and(|heard| is_young(heard, SILENCE_MAX))
    }

    fn forget_old(&mut self, now: Instant) {
        self.tickets.retain(|_, (_, made)| now.saturating_duration_since(*made) < TICKET_LIFE);
        self.entered.retain(|_, heard| now.saturating_duration_since(*heard) < SILENCE_MAX);
    }
}

/// Takes the oldest entry out of a full map, unless `peer` has one that it replaces.
fn make_room<V>(
    map: &mut BTreeMap<PeerId, V>,
    peer: &PeerId,
    max: usize,
    since: impl Fn(&V) -> Instant,
) {
    if map.len() >= max && !map.contains_key(peer) {
        let oldest = map.iter().min_by_key(|(_, value)| since(value)).map(|(peer, _)| *peer);
        oldest.and_then(|oldest| map.remove(&oldest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(byte: u8) -> Ticket {
        Ticket::new([byte; 32])
    }

    #[test]
    fn a_ticket_lets_its_peer_in_once() {
        let (mut consoles, now) = (Consoles::default(), Instant::now());
        let (page, other) = (PeerId::random(), PeerId::random());
        consoles.expect(page, ticket(1), now);
        assert!(!consoles.enter(other, &ticket(1), now), "it was made for another");
        assert!(!consoles.hear(&page, now), "it has not shown it yet");
        assert!(consoles.enter(page, &ticket(1), now) && consoles.hear(&page, now));
        assert!(!consoles.enter(page, &ticket(1), now), "it is used up");
        assert!(consoles.hear(&page, now), "but who entered stays");
    }

    #[test]
    fn a_wrong_ticket_uses_the_right_one_up() {
        let (mut consoles, now) = (Consoles::default(), Instant::now());
        let page = PeerId::random();
        consoles.expect(page, ticket(1), now);
        assert!(!consoles.enter(page, &ticket(2), now));
        assert!(!consoles.enter(page, &ticket(1), now));
    }

    #[test]
    fn tickets_and_silent_consoles_end() {
        let (mut consoles, start) = (Consoles::default(), Instant::now());
        let [late, silent, talking] = [(); 3].map(|()| PeerId::random());
        for page in [late, silent, talking] {
            consoles.expect(page, ticket(1), start);
        }
        let later = start + TICKET_LIFE;
        assert!(consoles.enter(silent, &ticket(1), start));
        assert!(consoles.enter(talking, &ticket(1), start));
        assert!(!consoles.knows(&late, later) && !consoles.enter(late, &ticket(1), later));
        let half = start + SILENCE_MAX / 2;
        assert!(consoles.hear(&talking, half));
        let end = start + SILENCE_MAX;
        assert!(consoles.knows(&talking, end) && consoles.hear(&talking, end));
        assert!(!consoles.knows(&silent, end) && !consoles.hear(&silent, end));
    }

    #[test]
    fn there_are_never_more_than_a_few_and_the_oldest_go() {
        let (mut consoles, start) = (Consoles::default(), Instant::now());
        let pages: Vec<_> = (0..100).map(|_| PeerId::random()).collect();
        for (millis, page) in (0..).zip(&pages) {
            consoles.expect(*page, ticket(1), start + Duration::from_millis(millis));
        }
        assert_eq!(consoles.tickets.len(), TICKETS_MAX);
        let now = start + Duration::from_millis(100);
        let entered: Vec<_> =
            pages.iter().filter(|page| consoles.enter(**page, &ticket(1), now)).collect();
        assert_eq!(entered, pages[100 - TICKETS_MAX..].iter().collect::<Vec<_>>());
        assert_eq!(consoles.entered.len(), CONSOLES_MAX);
    }
}
