//! Islands: nodes that meet others only when and whom the operator wants, and are whole without them.

use std::time::{Duration, Instant};

/// When an island is in contact, and with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Island {
    /// Whether it meets the operator's own peers alone, and bootstrap nodes, which lead to them.
    pub only_own_peers: bool,
    /// How often it is in contact; `None`: whenever there is a connection.
    pub every: Option<Duration>,
    /// For how long it is then.
    pub length: Duration,
}

/// Whether the node is in contact now.
#[derive(Debug)]
pub(crate) struct Contact {
    island: Option<Island>,
    /// When the present turn began: contact first, then none.
    turn: Instant,
    is_open: bool,
}

impl Contact {
    /// Returns the schedule, which begins with a contact: a node that just started has the most to catch up on.
    pub(crate) fn new(island: Option<Island>, now: Instant) -> Self {
        Self { island, turn: now, is_open: true }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns whether none but own peers are met.
    pub(crate) fn is_private(&self) -> bool {
        self.island.is_some_and(|island| island.only_own_peers)
    }

    /// Lets time pass; returns whether the node is in contact, when that has changed.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<bool> {
        let island = self.island?;
        let every = island.every?;
        while now.saturating_duration_since(self.turn) >= every.max(Duration::from_secs(1)) {
            self.turn += every.max(Duration::from_secs(1));
        }
        let is_open = now.saturating_duration_since(self.turn) < island.length;
        let is_changed = is_open != self.is_open;
        self.is_open = is_open;
        is_changed.then_some(is_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_island_is_in_contact_for_its_time_and_no_longer() {
        let start = Instant::now();
        let island = Island { only_own_peers: true, every: Some(60 * MINUTE), length: 5 * MINUTE };
        let mut contact = Contact::new(Some(island), start);
        let (mut open, mut changes) = (0, Vec::new());
        for minute in 0..180 {
            changes.extend(contact.tick(start + minute * MINUTE).map(|is_open| (minute, is_open)));
            open += u32::from(contact.is_open());
        }
        assert_eq!(open, 15);
        assert_eq!(changes, [(5, false), (60, true), (65, false), (120, true), (125, false)]);
        // A laptop that slept for a day does not make up for what it missed.
        assert_eq!(contact.tick(start + 2_000 * MINUTE), None);
        assert_eq!(contact.tick(start + 2_040 * MINUTE), Some(true));
    }

    #[test]
    fn without_a_schedule_there_is_contact_whenever_there_is_a_connection() {
        let start = Instant::now();
        let island = Island { only_own_peers: true, every: None, length: MINUTE };
        for (island, is_private) in [(Some(island), true), (None, false)] {
            let mut contact = Contact::new(island, start);
            assert_eq!(contact.tick(start + 1_000 * MINUTE), None);
            assert!(contact.is_open());
            assert_eq!(contact.is_private(), is_private);
        }
    }
}
