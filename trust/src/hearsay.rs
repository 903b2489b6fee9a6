//! What trusted peers say about others: bounded, fading, each reporter once for each peer.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;

use crate::config::Weights;
use crate::report::Claim;
use crate::score::kept;
use crate::time::UnixMillis;

/// Most peers about whom reports are kept, about 1 MiB with all of their reporters. When full, the one whose newest
/// report is oldest goes.
pub const SUBJECTS_MAX: usize = 1_024;

/// Most reporters that are kept about one peer; more add nothing under the ceiling. The oldest report goes, and a report older than it finds no
/// room.
pub const REPORTERS_MAX: usize = 8;

/// Most peers about whom one reporter is kept, so that one voice cannot push the others out. Its oldest report goes.
pub const REPORTS_OF_ONE_MAX: usize = 64;

/// What was reported, by whom, about whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hearsay {
    about: BTreeMap<PeerId, BTreeMap<PeerId, Said>>,
}

/// A report without its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) issued: UnixMillis,
    pub(crate) claim: Claim,
}

impl Hearsay {
    /// Takes a report in; returns whether it is newer than what this reporter said before about the peer, and
    /// than one that it takes the place of.
    pub(crate) fn insert(&mut self, reporter: PeerId, about: PeerId, said: Said) -> bool {
        let known = self.about.get(&about).and_then(|voices| voices.get(&reporter));
        if known.is_some_and(|known| known.issued >= said.issued) {
            return false;
        }
        if known.is_none() && !self.make_room(&reporter, &about, said.issued) {
            return false;
        }
        self.about.entry(about).or_default().insert(reporter, said);
        true
    }

    /// Returns the sum over reporters for whom `counts` is true, faded and below its ceiling.
    pub(crate) fn amount(
        &self,
        now: UnixMillis,
        about: &PeerId,
        (weights, half_life): (&Weights, Duration),
        counts: impl Fn(&PeerId) -> bool,
    ) -> f64 {
        let left = |said: &Said| kept(now.millis_since(said.issued), half_life);
        let sum: f64 =
            self.counted(about, counts).map(|(_, said)| weights.hearsay * left(&said)).sum();
        sum.min(weights.hearsay_max)
    }

    /// Returns the reports about a peer that count.
    pub(crate) fn counted(
        &self,
        about: &PeerId,
        counts: impl Fn(&PeerId) -> bool,
    ) -> impl Iterator<Item = (PeerId, Said)> {
        let voices = self.about.get(about).into_iter().flatten();
        voices
            .filter(move |(reporter, _)| counts(reporter))
            .map(|(reporter, said)| (*reporter, *said))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.about.is_empty()
    }

    /// Returns how many reports there are.
    pub(crate) fn len(&self) -> usize {
        self.about.values().map(BTreeMap::len).sum()
    }

    /// Drops what can count no more: of these reporters, about these peers.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(&PeerId) -> bool) {
        self.about.retain(|about, voices| {
            voices.retain(|reporter, _| !is_gone(reporter));
            !voices.is_empty() && !is_gone(about)
        });
    }

    /// Returns whether there is room for one report more, which may take the place of an older one.
    fn make_room(&mut self, reporter: &PeerId, about: &PeerId, issued: UnixMillis) -> bool {
        let of_one = |(peer, voices): (&PeerId, &BTreeMap<PeerId, Said>)| {
            voices.get(reporter).map(|said| (said.issued, *reporter, *peer))
        };
        let of_one: Vec<_> = self.about.iter().filter_map(of_one).collect();
        let voices = self.about.get(about);
        let about_one =
            || voices.into_iter().flatten().map(|(from, said)| (said.issued, *from, *about));
        let newest = |(peer, voices): (&PeerId, &BTreeMap<PeerId, Said>)| {
            voices.iter().map(|(from, said)| (said.issued, *from, *peer)).max()
        };
        let displaced = if of_one.len() >= REPORTS_OF_ONE_MAX {
            of_one.into_iter().min()
        } else if voices.is_some_and(|voices| voices.len() >= REPORTERS_MAX) {
            about_one().min()
        } else if voices.is_none() && self.about.len() >= SUBJECTS_MAX {
            let faintest = self.about.iter().filter_map(newest).min();
            return match faintest {
                Some((oldest, _, peer)) if oldest <= issued => self.about.remove(&peer).is_some(),
                _ => false,
            };
        } else {
            return true;
        };
        match displaced {
            Some((oldest, from, peer)) if oldest <= issued => {
                self.remove(&from, &peer);
                // A reporter at its own limit may speak of a peer, or of a number of them, that is at its.
                self.make_room(reporter, about, issued)
            }
            _ => false,
        }
    }

    fn remove(&mut self, reporter: &PeerId, about: &PeerId) {
        if let Some(voices) = self.about.get_mut(about) {
            voices.remove(reporter);
            if voices.is_empty() {
                self.about.remove(about);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(seed: u64) -> PeerId {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend(seed.to_be_bytes().repeat(4));
        PeerId::from_bytes(&bytes).unwrap()
    }

    fn at(time: u64) -> Said {
        Said { issued: UnixMillis(time), claim: Claim::WrongCid }
    }

    fn amount(hearsay: &Hearsay, now: u64, about: u64) -> f64 {
        let numbers = (&Weights::default(), Duration::from_millis(1_000));
        hearsay.amount(UnixMillis(now), &peer(about), numbers, |_| true)
    }

    #[test]
    fn a_reporter_counts_once_and_its_newest_word_stands() {
        let mut hearsay = Hearsay::default();
        assert!(hearsay.insert(peer(1), peer(9), at(1_000)));
        assert!(!hearsay.insert(peer(1), peer(9), at(1_000)), "said before");
        assert!(!hearsay.insert(peer(1), peer(9), at(500)), "an older word");
        assert_eq!(amount(&hearsay, 2_000, 9), 0.5);
        assert!(hearsay.insert(peer(1), peer(9), at(2_000)));
        assert_eq!((amount(&hearsay, 2_000, 9), hearsay.len()), (1.0, 1));
    }

    #[test]
    fn many_voices_stay_below_the_ceiling() {
        let mut hearsay = Hearsay::default();
        for reporter in 0..100 {
            hearsay.insert(peer(reporter), peer(1_000), at(reporter));
        }
        assert_eq!(hearsay.len(), REPORTERS_MAX);
        assert_eq!(amount(&hearsay, 100, 1_000), Weights::default().hearsay_max);
        assert!(!hearsay.insert(peer(500), peer(1_000), at(1)), "older than all that are kept");
    }

    #[test]
    fn one_voice_pushes_out_only_itself() {
        let mut hearsay = Hearsay::default();
        hearsay.insert(peer(1), peer(9), at(1));
        for about in 100..100 + 5 * REPORTS_OF_ONE_MAX as u64 {
            hearsay.insert(peer(2), peer(about), at(about));
        }
        assert_eq!(hearsay.len(), 1 + REPORTS_OF_ONE_MAX);
        assert_eq!(amount(&hearsay, 1, 9), 1.0);
    }

    #[test]
    fn the_number_of_subjects_is_bounded() {
        let mut hearsay = Hearsay::default();
        for about in 0..3 * SUBJECTS_MAX as u64 {
            hearsay.insert(peer(1_000_000 + about / 32), peer(about), at(about));
        }
        assert_eq!(hearsay.len(), SUBJECTS_MAX);
        assert!(
            amount(&hearsay, 0, 0) == 0.0 && amount(&hearsay, 0, 3 * SUBJECTS_MAX as u64 - 1) > 0.0
        );
    }

    #[test]
    fn what_is_gone_says_nothing_and_nothing_is_said_of_it() {
        let mut hearsay = Hearsay::default();
        hearsay.insert(peer(1), peer(2), at(1));
        hearsay.insert(peer(2), peer(3), at(1));
        hearsay.insert(peer(1), peer(3), at(1));
        hearsay.forget(|gone| *gone == peer(2));
        assert_eq!((amount(&hearsay, 1, 2), amount(&hearsay, 1, 3)), (0.0, 1.0));
    }
}
