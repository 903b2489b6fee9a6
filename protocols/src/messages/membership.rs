//! Membership: a peer shows its license, and both find out which revocations one of them missed.

use dunlin_trust::{Endorsements, Extension, SyncAnswer, SyncRequest};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use super::{
    Message, MessageError, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, REVOCATION_BYTES_MAX,
    RefusalReason,
};

/// What a peer says or asks about who is a member.
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
}

impl Message for MembershipRequest {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        // The size bounds the lists, and their readers look at no more than they need.
        Ok(())
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
    /// No answer.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

impl Message for MembershipResponse {
    const BYTES_MAX: usize = RESPONSE_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        Ok(())
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
