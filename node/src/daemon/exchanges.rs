//! With whom templates are exchanged now: one exchange a peer at a time, so that however often a peer
//! announces, it costs one.

use std::collections::{BTreeMap, btree_map::Entry};

use dunlin_protocols::PeerId;

/// The collection whose templates are wanted; of all that this node has when there is none.
pub(super) type Wish = Option<String>;

/// The exchanges that are under way, each with what to ask next.
#[derive(Debug, Default)]
pub(super) struct Exchanges(BTreeMap<PeerId, Option<Wish>>);

impl Exchanges {
    /// Returns whether an exchange is to begin now. While one with this peer is under way, the wish waits
    /// for its end.
    pub(super) fn begin(&mut self, peer: PeerId, wish: &Wish) -> bool {
        match self.0.entry(peer) {
            Entry::Vacant(free) => {
                free.insert(None);
                true
            }
            Entry::Occupied(mut under_way) => {
                let next = under_way.get_mut();
                // Two different collections are asked for as all of them.
                *next = Some(match next.take() {
                    Some(other) if other != *wish => None,
                    _ => wish.clone(),
                });
                false
            }
        }
    }

    /// Ends the exchange with a peer; returns what has been wished for since it began.
    pub(super) fn end(&mut self, peer: &PeerId) -> Option<Wish> {
        self.0.remove(peer).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_announces_all_the_time_costs_one_exchange_at_a_time() {
        let mut exchanges = Exchanges::default();
        let (loud, other) = (PeerId::random(), PeerId::random());
        let wish = |name: &str| Some(name.to_owned());
        assert!(exchanges.begin(loud, &wish("a")));
        assert!((0..100).all(|_| !exchanges.begin(loud, &wish("a"))));
        assert!(exchanges.begin(other, &None), "others need not wait for it");
        assert_eq!(exchanges.end(&loud), Some(wish("a")), "what came meanwhile is asked once");
        assert!(exchanges.begin(loud, &wish("a")));
        exchanges.begin(loud, &wish("a"));
        exchanges.begin(loud, &wish("b"));
        assert_eq!(exchanges.end(&loud), Some(None), "several collections are all of them");
        assert_eq!(exchanges.end(&other), None);
        assert!(exchanges.0.is_empty());
    }
}
