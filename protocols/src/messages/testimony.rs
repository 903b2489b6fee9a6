//! Testimony: what a peer says of another's conduct, and what proves it.

use dunlin_trust::PROOF_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Message, MessageError};

/// Largest testimony, in bytes: a proof, with its name.
pub const TESTIMONY_BYTES_MAX: usize = PROOF_BYTES_MAX + 64;

/// What is told about the conduct of a peer, as it is gossiped. It needs no envelope: it is signed inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Testimony {
    /// A claim: the envelope of a [`dunlin_trust::Report`].
    Report(ByteBuf),
    /// The bytes of a [`dunlin_trust::Proof`].
    Proof(ByteBuf),
}

impl Message for Testimony {
    const BYTES_MAX: usize = TESTIMONY_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        Ok(())
    }
}
