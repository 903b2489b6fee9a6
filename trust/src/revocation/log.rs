//! One log of revoked keys, with the chain over it and the head that vouches for it.

use libp2p_identity::PeerId;

use super::{Chain, Extension, LOG_KEYS_MAX, Subject};
use crate::authorities::Endorsements;

/// Keys between two points of the chain that are remembered: the others are hashed again.
const STRIDE: usize = 64;

/// A head whose signatures were verified.
#[derive(Clone, Debug)]
pub(crate) struct SignedHead {
    pub(crate) head: Endorsements,
    pub(crate) signers: Vec<PeerId>,
}

/// A log whose head was verified.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    subjects: Vec<Subject>,
    /// The chain at every multiple of [`STRIDE`] keys, from none.
    points: Vec<Chain>,
    chain: Chain,
    head: Endorsements,
    signers: Vec<PeerId>,
}

impl Log {
    /// Returns a log of a network with its first keys.
    pub(crate) fn begin(network: &str, subjects: &[Subject], head: SignedHead) -> Self {
        let chain = Chain::start(network);
        let SignedHead { head, signers } = head;
        let mut log = Self { subjects: Vec::new(), points: vec![chain], chain, head, signers };
        log.extend(subjects);
        log
    }

    /// Returns the log that has the first `count` keys of this one and then others.
    pub(crate) fn fork(&self, count: usize, subjects: &[Subject], head: SignedHead) -> Self {
        let mut log = self.clone();
        if count < log.subjects.len() {
            log.chain = self.chain_at(count).unwrap_or(self.chain);
            log.subjects.truncate(count);
            log.points.truncate(count / STRIDE + 1);
        }
        log.extend(subjects);
        SignedHead { head: log.head, signers: log.signers } = head;
        log
    }

    fn extend(&mut self, subjects: &[Subject]) {
        for subject in subjects {
            self.chain = self.chain.then(subject);
            self.subjects.push(*subject);
            if self.subjects.len().is_multiple_of(STRIDE) {
                self.points.push(self.chain);
            }
        }
    }

    /// Returns who signed its head.
    pub(crate) fn signers(&self) -> &[PeerId] {
        &self.signers
    }

    pub(crate) fn chain(&self) -> Chain {
        self.chain
    }

    pub(crate) fn len(&self) -> usize {
        self.subjects.len()
    }

    pub(crate) fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    pub(crate) fn room(&self) -> usize {
        LOG_KEYS_MAX.saturating_sub(self.subjects.len())
    }

    /// Returns the chain at `count` keys, unless there are fewer.
    pub(crate) fn chain_at(&self, count: usize) -> Option<Chain> {
        let point = self.points.get(count / STRIDE)?;
        let since = self.subjects.get(count / STRIDE * STRIDE..count)?;
        Some(since.iter().fold(*point, Chain::then))
    }

    /// Returns the keys in order.
    pub(crate) fn keys(&self) -> Vec<Subject> {
        let mut keys = self.subjects.clone();
        keys.sort_unstable();
        keys
    }

    /// Returns whether all of it is among sorted keys, so that a log of those takes its place.
    pub(crate) fn is_part_of(&self, keys: &[Subject]) -> bool {
        self.subjects.len() <= keys.len()
            && self.subjects.iter().all(|subject| keys.binary_search(subject).is_ok())
    }

    /// Returns what follows after the first `count` keys.
    pub(crate) fn extension_after(&self, count: usize) -> Option<Extension> {
        let keys = self.subjects.get(count..)?.iter().flat_map(|subject| subject.0).collect();
        Some(Extension { after: self.chain_at(count)?, keys, head: self.head.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> SignedHead {
        SignedHead { head: Endorsements::none(), signers: Vec::new() }
    }

    #[test]
    fn the_chain_at_any_count_is_that_of_a_log_of_so_many_keys() {
        let subjects: Vec<_> = (0..200_u8).map(|key| Subject([key; 32])).collect();
        let whole = Log::begin("plant", &subjects, signed());
        for count in [0, 1, 63, 64, 65, 128, 199, 200] {
            let part = Log::begin("plant", &subjects[..count], signed());
            assert_eq!(whole.chain_at(count), Some(part.chain()), "{count}");
            let fork = whole.fork(count, &subjects[count..], signed());
            assert_eq!((fork.len(), fork.chain()), (200, whole.chain()), "{count}");
            assert_eq!(fork.chain_at(130), whole.chain_at(130), "{count}");
        }
        assert_eq!(whole.chain_at(201), None);
        let elsewhere = Log::begin("yard", &subjects, signed());
        assert_ne!(elsewhere.chain(), whole.chain());
    }
}
