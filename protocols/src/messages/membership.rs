//! Membership: a peer shows its license, and both find out which revocations one of them missed.

use dunlin_trust::{
    Endorsements, Extension, PROOF_BYTES_MAX, PROOF_NAME_BYTES, PROOFS_HELD_MAX, SyncAnswer,
    SyncRequest,
};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use super::{
    Message, MessageError, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, REVOCATION_BYTES_MAX,
    RefusalReason, at_most,
};

/// Most proofs in one answer: each has two signatures to verify.
pub const PROOFS_PER_ANSWER_MAX: usize = 64;

/// What a peer says or asks about who is a member, and who is proven to have done wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MembershipRequest {
    /// It may be here: its license, as authorities signed it.
    License {
        /// Their envelopes.
        endorsements: Endorsements,
    },
    /// Whether the other knows the same revocations.
    Compare {
        /// The short name of all that it knows.
        digest: ByteArray<32>,
    },
    /// What it lacks.
    CatchUp {
        /// What it knows.
        known: SyncRequest,
    },
    /// Whether the other holds the same proofs.
    CompareProofs {
        /// The short name of all that it holds.
        digest: ByteArray<32>,
    },
    /// Which proofs it lacks.
    Proofs {
        /// The names of those that it holds, 16 bytes each.
        known: ByteBuf,
    },
}

impl Message for MembershipRequest {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Proofs { known } => {
                let names_max = PROOFS_HELD_MAX * PROOF_NAME_BYTES;
                at_most("names of proofs of bytes", known.len(), names_max)
            }
            // The size bounds the lists, and their readers look at no more than they need.
            _ => Ok(()),
        }
    }
}

/// An answer about membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MembershipResponse {
    /// To a license: it opens this network.
    Admitted {},
    /// To a comparison.
    Compared {
        /// Whether both know the same.
        same: bool,
    },
    /// To what was known: the rest, or as much of it as fits.
    Missing {
        /// The statements.
        answer: SyncAnswer,
    },
    /// To names of proofs: others, as many as one answer takes.
    Proofs {
        /// Their bytes, at most [`PROOFS_PER_ANSWER_MAX`] proofs.
        proofs: Vec<ByteBuf>,
        /// Whether there are more when these are taken in.
        is_partial: bool,
    },
    /// No answer.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

impl Message for MembershipResponse {
    const BYTES_MAX: usize = RESPONSE_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        let Self::Proofs { proofs, .. } = self else { return Ok(()) };
        at_most("a list of proofs", proofs.len(), PROOFS_PER_ANSWER_MAX)?;
        let each = |proof: &ByteBuf| at_most("a proof of bytes", proof.len(), PROOF_BYTES_MAX);
        proofs.iter().try_for_each(each)
    }
}

/// One revocation, as it is gossiped and as operators hand it over. It needs no envelope: it is signed inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revocation {
    /// Keys that authorities revoked.
    Extension(Extension),
    /// A key's own withdrawal: its envelope.
    Withdrawal(ByteBuf),
}

impl Message for Revocation {
    const BYTES_MAX: usize = REVOCATION_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        Ok(())
    }
}
