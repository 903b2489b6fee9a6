//! Who speaks for a closed network: a few keys, of which some number must agree.
//!
//! An authority signs a statement like anybody signs anything, in an envelope of its own. A statement counts
//! once enough authorities have signed the same bytes: their envelopes together are its [`Endorsements`], and
//! travel with it. No authority can do alone what the threshold reserves to several, and none is needed to be
//! online: signatures are made from files.

use std::collections::BTreeSet;

use dunlin_wire::envelope::{self, OpenError, Payload};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Most authorities of one network: every signature is checked by every peer.
pub const AUTHORITIES_MAX: usize = 16;

/// Longest name of a network, in bytes.
pub const NETWORK_BYTES_MAX: usize = 64;

/// The keys that speak for a network, and how many of them must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    network: String,
    keys: BTreeSet<PeerId>,
    threshold: usize,
}

impl Authorities {
    /// Returns the authorities of `network`, `threshold` of which must agree.
    ///
    /// # Errors
    ///
    /// Fails when there are no keys or more than [`AUTHORITIES_MAX`], the threshold is not between 1 and
    /// their number, or the name is empty or longer than [`NETWORK_BYTES_MAX`].
    pub fn new(
        network: &str,
        keys: impl IntoIterator<Item = PeerId>,
        threshold: usize,
    ) -> Result<Self, AuthoritiesError> {
        let keys: BTreeSet<_> = keys.into_iter().collect();
        if network.is_empty() || network.len() > NETWORK_BYTES_MAX {
            return Err(AuthoritiesError::Network { bytes: network.len() });
        }
        if keys.is_empty() || keys.len() > AUTHORITIES_MAX {
            return Err(AuthoritiesError::Count { count: keys.len() });
        }
        if !(1..=keys.len()).contains(&threshold) {
            return Err(AuthoritiesError::Threshold { threshold, count: keys.len() });
        }
        Ok(Self { network: network.to_owned(), keys, threshold })
    }

    /// Returns the name of the network.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Returns the authorities, in the order of their ids.
    pub fn keys(&self) -> impl Iterator<Item = &PeerId> {
        self.keys.iter()
    }

    /// Returns how many must agree.
    #[must_use]
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Checks that enough of those who signed are authorities that count.
    pub(crate) fn agree(
        &self,
        signers: &[PeerId],
        counts: impl Fn(&PeerId) -> bool,
    ) -> Result<(), EndorsementError> {
        let counted = |signer: &&PeerId| self.keys.contains(signer) && counts(signer);
        let signed = signers.iter().filter(counted).count();
        if signed < self.threshold {
            return Err(EndorsementError::TooFew { signed, threshold: self.threshold });
        }
        Ok(())
    }
}

/// Why a set of authorities makes no sense. It comes from a configuration; nothing else can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthoritiesError {
    /// The name of the network is empty or too long.
    #[error("a network's name has 1 to {NETWORK_BYTES_MAX} bytes, not {bytes}")]
    Network {
        /// How many it has.
        bytes: usize,
    },
    /// There are no authorities, or too many.
    #[error("a network has 1 to {AUTHORITIES_MAX} authorities, not {count}")]
    Count {
        /// How many were named.
        count: usize,
    },
    /// More must agree than there are, or none.
    #[error("a threshold of {threshold} does not fit {count} authorities")]
    Threshold {
        /// What was asked for.
        threshold: usize,
        /// How many authorities there are.
        count: usize,
    },
}

/// Envelopes of several signers around one and the same statement, by rising peer ids of the signers: so the
/// same signatures have one encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Endorsements(Vec<ByteBuf>);

impl Endorsements {
    /// Puts envelopes together, each as [`envelope::sign`] made it.
    ///
    /// # Errors
    ///
    /// Fails when one of them does not open, two are by the same signer, or they say different things.
    pub fn collect<T: Payload + PartialEq>(
        envelopes: Vec<Vec<u8>>,
    ) -> Result<Self, EndorsementError> {
        let mut signed = Vec::with_capacity(envelopes.len());
        for bytes in envelopes {
            signed.push((envelope::open::<T>(&bytes)?.signer, ByteBuf::from(bytes)));
        }
        signed.sort();
        let endorsements = Self(signed.into_iter().map(|(_, bytes)| bytes).collect());
        endorsements.open::<T>()?;
        Ok(endorsements)
    }

    /// Returns no endorsements, which carry nothing.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Returns the envelopes.
    pub fn envelopes(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|bytes| bytes.as_slice())
    }

    /// Returns what is said, and by whom. Whether they may say it is for the caller to know.
    ///
    /// # Errors
    ///
    /// Fails when there is no envelope or are more than [`AUTHORITIES_MAX`], one does not open, they are not in
    /// order, or they say different things.
    pub fn open<T: Payload + PartialEq>(&self) -> Result<(T, Vec<PeerId>), EndorsementError> {
        if self.0.is_empty() || self.0.len() > AUTHORITIES_MAX {
            return Err(EndorsementError::Count { count: self.0.len() });
        }
        let mut said: Option<T> = None;
        let mut signers = Vec::with_capacity(self.0.len());
        for bytes in &self.0 {
            let signed = envelope::open::<T>(bytes)?;
            if signers.last().is_some_and(|last| *last >= signed.signer) {
                return Err(EndorsementError::Order);
            }
            if said.as_ref().is_some_and(|said| *said != signed.value) {
                return Err(EndorsementError::Different);
            }
            signers.push(signed.signer);
            said = Some(signed.value);
        }
        said.map(|said| (said, signers)).ok_or(EndorsementError::Count { count: 0 })
    }
}

/// Why endorsements do not carry a statement. Nothing in them may be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndorsementError {
    /// There are none, or more than there can be authorities.
    #[error("1 to {AUTHORITIES_MAX} signatures are expected, not {count}")]
    Count {
        /// How many there are.
        count: usize,
    },
    /// One of the envelopes does not open.
    #[error(transparent)]
    Envelope(#[from] OpenError),
    /// Two are by the same signer, or they are not in order.
    #[error("the signers are not in order, or one of them stands twice")]
    Order,
    /// The signers do not say the same.
    #[error("the signers say different things")]
    Different,
    /// Too few authorities signed, of those that count.
    #[error("{signed} authorities signed, but {threshold} must")]
    TooFew {
        /// How many did.
        signed: usize,
        /// How many must.
        threshold: usize,
    },
}
