//! Reports: what one peer says that another did. A claim, which nobody can check.
//!
//! Only bad conduct is reported. Praise would be worth forging: keys cost nothing, and a thousand of them could
//! praise each other.

use std::fmt;

use dunlin_wire::envelope::Payload;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::{Refusal, peer_bytes, time::UnixMillis};

/// The version of [`Report`]'s encoding.
pub const REPORT_VERSION: u8 = 1;

/// Older reports are not heard, in milliseconds: 7 days, which leaves less than a hundredth of one by default.
pub const REPORT_AGE_MAX_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// What is said to have happened. All count the same; people read which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// It sent bytes that do not hash to their CID.
    WrongCid,
    /// It sent a signed object whose signature does not verify.
    BadSignature,
    /// It gave a proof of a block that it does not hold.
    WrongProof,
    /// It broke a protocol.
    ProtocolViolation,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongCid => "wrong CID",
            Self::BadSignature => "bad signature",
            Self::WrongProof => "wrong proof",
            Self::ProtocolViolation => "protocol violation",
        })
    }
}

/// A peer's word about another.
///
/// ```
/// use dunlin_trust::{Claim, Config, Report, ReportError, Trust, UnixMillis};
/// use dunlin_wire::envelope;
/// use libp2p_identity::Keypair;
///
/// let (reporter, accused) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
/// let now = UnixMillis(1_763_700_000_000);
/// let report = Report::new(accused.public().to_peer_id(), Claim::WrongCid, now);
/// let signed = envelope::sign(&reporter, report)?;
/// // A stranger's word is not heard.
/// let mut trust = Trust::new(Config::default(), Vec::new());
/// assert!(matches!(trust.hear(now, &signed), Err(ReportError::Refused(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    version: u8,
    #[serde(with = "peer_bytes")]
    about: PeerId,
    claim: Claim,
    issued: UnixMillis,
}

impl Report {
    /// Returns a report that nobody has signed yet.
    #[must_use]
    pub fn new(about: PeerId, claim: Claim, issued: UnixMillis) -> Self {
        Self { version: REPORT_VERSION, about, claim, issued }
    }

    /// Returns whom it is about.
    #[must_use]
    pub fn about(&self) -> &PeerId {
        &self.about
    }

    /// Returns what is claimed.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// Returns when it was signed, by the clock of the reporter. It fades from then on.
    #[must_use]
    pub fn issued(&self) -> UnixMillis {
        self.issued
    }

    pub(crate) fn is_known(&self) -> bool {
        self.version == REPORT_VERSION
    }
}

impl Payload for Report {
    const TYPE: &'static str = "dunlin/evidence-report/1";
    /// A peer id, a word, a time, and their keys.
    const BYTES_MAX: usize = 192;
}

/// Why a report was not heard. Nothing was changed, and only [`ReportError::Version`] and [`ReportError::OfItself`]
/// speak against whoever brought it: the others depend on what this node knows, which the bringer cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A version that this build does not know.
    #[error("a report of an unknown version")]
    Version,
    /// The reporter is not trusted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is about the reporter.
    #[error("{reporter} reports itself")]
    OfItself {
        /// Who.
        reporter: PeerId,
    },
    /// It is from a future that no wrong clock explains.
    #[error("it was issued at {issued}, which has not come yet")]
    Future {
        /// When it says that it was signed.
        issued: UnixMillis,
    },
    /// It is too old to count.
    #[error("it was issued at {issued}, too long ago")]
    Stale {
        /// When it says that it was signed.
        issued: UnixMillis,
    },
    /// One as new of the same reporter about the same peer was heard.
    #[error("no news")]
    Known,
}
