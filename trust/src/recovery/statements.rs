//! What is signed about segments: who made them, and which of two a person prefers.

use dunlin_wire::{Cid, envelope::Payload};
use serde::{Deserialize, Serialize};

use crate::time::UnixMillis;

/// The version of [`Attestation`] and [`Decision`].
pub const STATEMENT_VERSION: u8 = 1;

/// Most segments of one attestation.
pub const ATTESTED_MAX: usize = 64;

/// A peer's statement that it sealed segments, from observations of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    version: u8,
    segments: Vec<Cid>,
}

impl Attestation {
    /// Returns an attestation that nobody has signed yet, to the first [`ATTESTED_MAX`] of these.
    #[must_use]
    pub fn new(mut segments: Vec<Cid>) -> Self {
        segments.truncate(ATTESTED_MAX);
        Self { version: STATEMENT_VERSION, segments }
    }

    /// Returns the segments; none in a version that this build does not know.
    #[must_use]
    pub fn segments(&self) -> &[Cid] {
        let is_known = self.version == STATEMENT_VERSION && self.segments.len() <= ATTESTED_MAX;
        if is_known { &self.segments } else { &[] }
    }
}

impl Payload for Attestation {
    const TYPE: &'static str = "dunlin/attestation/1";
    /// CIDs of 36 bytes, each with its tag, and the keys.
    const BYTES_MAX: usize = 64 + 48 * ATTESTED_MAX;
}

/// A person's statement which of two segments answers are to use. It removes neither.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    version: u8,
    preferred: Cid,
    other: Cid,
    issued: UnixMillis,
}

impl Decision {
    /// Returns a decision that nobody has signed yet.
    #[must_use]
    pub fn new(preferred: Cid, other: Cid, issued: UnixMillis) -> Self {
        Self { version: STATEMENT_VERSION, preferred, other, issued }
    }

    /// Returns the segment that is to be used.
    #[must_use]
    pub fn preferred(&self) -> &Cid {
        &self.preferred
    }

    /// Returns when it was signed, by the clock of whoever did: the latest one counts.
    #[must_use]
    pub fn issued(&self) -> UnixMillis {
        self.issued
    }

    /// Returns the names of both segments, the lesser first.
    #[must_use]
    pub fn pair(&self) -> (Cid, Cid) {
        (self.preferred.min(self.other), self.preferred.max(self.other))
    }

    pub(super) fn is_sound(&self) -> bool {
        self.version == STATEMENT_VERSION && self.preferred != self.other
    }
}

impl Payload for Decision {
    const TYPE: &'static str = "dunlin/decision/1";
    const BYTES_MAX: usize = 192;
}
