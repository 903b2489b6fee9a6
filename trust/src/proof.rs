//! Proofs: misconduct that anybody can verify, because the offender signed it.
//!
//! There are three. A peer signs what it answered with, and a CID that it was asked for has another digest
//! ([`Served`]). It signs that it checked the envelopes that it hands on, and nobody signed one of them ([`Passed`]). Or it signs
//! two statements for one place ([`Exclusive`]). A proof says nothing that depends on who looks at it, on a clock,
//! or on who brought it; so it counts as if the node had seen it happen.

use dunlin_wire::{
    cbor,
    envelope::{self, OpenError, Payload},
    limits::ENVELOPE_OVERHEAD_BYTES_MAX,
};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use sha2::{Digest as _, Sha256};

use crate::{
    evidence::Evidence,
    passed::{ForgedStatement, Passed},
    served::{Served, WrongObject},
};

/// The version of [`Served`], and so of [`Passed`].
pub const PROOF_VERSION: u8 = 1;

/// Largest envelope within a proof, in bytes: no announcement, report or answer has more.
pub const STATEMENT_BYTES_MAX: usize = 4 * 1_024;

/// Largest encoded proof, in bytes.
pub const PROOF_BYTES_MAX: usize = 2 * (STATEMENT_BYTES_MAX + 2 * ENVELOPE_OVERHEAD_BYTES_MAX);

/// The name of a proof: 16 bytes of its sha2-256.
pub(crate) type ProofId = ByteArray<16>;

/// A kind of statement of which a key makes at most one for each place.
///
/// A node writes down a place before it signs for it: one that forgot, and signs anew, convicts itself.
pub trait Exclusive: Payload + PartialEq {
    /// Returns the place: a name, and a number within it.
    fn place(&self) -> (&str, u64);
}

/// A kind of statement that proofs of equivocation may be about.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    payload_type: &'static str,
    contradiction: fn(&[u8], &[u8]) -> Result<PeerId, ProofError>,
}

impl Kind {
    /// Returns the kind of these statements.
    #[must_use]
    pub const fn of<T: Exclusive>() -> Self {
        Self { payload_type: T::TYPE, contradiction: contradiction::<T> }
    }
}

/// Misconduct with the signatures of whoever is guilty of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Proof {
    /// An envelope of [`Served`], and an object of that answer whose bytes are not what its CID names.
    WrongCid {
        /// The envelope.
        served: ByteBuf,
        /// The object.
        wrong: Box<WrongObject>,
    },
    /// An envelope of [`Passed`], and one of those that it is about, which nobody signed.
    BadSignature {
        /// The one that nobody signed.
        forged: Box<ForgedStatement>,
        /// The envelope.
        passed: ByteBuf,
    },
    /// Two envelopes of one signer that cannot both be true, the lesser bytes first.
    Equivocation {
        /// The type of their payloads.
        payload_type: String,
        /// One.
        first: ByteBuf,
        /// The other.
        second: ByteBuf,
    },
}

/// A proof that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    peer: PeerId,
    evidence: Evidence,
    id: ProofId,
}

impl Proven {
    /// Returns who is guilty.
    #[must_use]
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// Returns of what.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        self.evidence
    }

    pub(crate) fn id(&self) -> &ProofId {
        &self.id
    }
}

impl Proof {
    /// Returns the proof that two envelopes of a kind contradict each other, whichever comes first.
    #[must_use]
    pub fn of_equivocation<T: Exclusive>(one: &[u8], other: &[u8]) -> Self {
        let (first, second) = (one.min(other), one.max(other));
        Self::Equivocation {
            payload_type: T::TYPE.to_owned(),
            first: ByteBuf::from(first),
            second: ByteBuf::from(second),
        }
    }

    /// Returns the proof in these bytes, not verified yet.
    ///
    /// # Errors
    ///
    /// Fails on anything but the canonical encoding of a proof.
    pub fn decode(bytes: &[u8]) -> Result<Self, cbor::DecodeError> {
        cbor::decode(bytes, PROOF_BYTES_MAX)
    }

    /// Returns its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self).expect("strings and bytes have an encoding")
    }

    /// Verifies the proof. Answers count within the network that they were given in. `kinds` are those of which this node knows
    /// what contradicts what.
    ///
    /// # Errors
    ///
    /// Says why it proves nothing. But for [`ProofError::Kind`] nobody should have passed it on.
    pub fn verify(&self, network: &str, kinds: &[Kind]) -> Result<Proven, ProofError> {
        let (peer, evidence) = match self {
            Self::WrongCid { served, wrong } => {
                let served = envelope::open::<Served>(served)?;
                if !served.value.convicts(network, wrong) {
                    return Err(ProofError::Harmless);
                }
                (served.signer, Evidence::WrongCid)
            }
            Self::BadSignature { forged, passed } => {
                let passed = envelope::open::<Passed>(passed)?;
                if !passed.value.convicts(network, forged) {
                    return Err(ProofError::Harmless);
                }
                (passed.signer, Evidence::BadSignature)
            }
            Self::Equivocation { payload_type, first, second } => {
                let kind = kinds.iter().find(|kind| kind.payload_type == payload_type);
                let kind = kind.ok_or(ProofError::Kind)?;
                ((kind.contradiction)(first, second)?, Evidence::Equivocation)
            }
        };
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(self.encode())[..16]);
        Ok(Proven { peer, evidence, id: ByteArray::new(id) })
    }
}

/// Returns who signed two statements that cannot both be true.
fn contradiction<T: Exclusive>(first: &[u8], second: &[u8]) -> Result<PeerId, ProofError> {
    if first.len().max(second.len()) > STATEMENT_BYTES_MAX {
        return Err(ProofError::TooLarge);
    }
    let (one, other) = (envelope::open::<T>(first)?, envelope::open::<T>(second)?);
    // Else one pair would have two names, and count twice.
    let is_ordered = first < second;
    let is_contradiction = one.signer == other.signer
        && one.value.place() == other.value.place()
        && one.value != other.value;
    if is_ordered && is_contradiction { Ok(one.signer) } else { Err(ProofError::Harmless) }
}

/// Why a proof proves nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// An envelope in it does not open.
    #[error(transparent)]
    Envelope(#[from] OpenError),
    /// What was signed is no misconduct, or the two statements are not in order.
    #[error("what was signed is no misconduct")]
    Harmless,
    /// A statement in it is longer than any that is signed.
    #[error("a statement of more than {STATEMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// It is about statements of a kind that this node does not know.
    #[error("it is about statements of an unknown kind")]
    Kind,
}
