//! Which of two versions answers use: the one with more standing behind it.
//!
//! Each maker counts once. A trusted one counts 2, and eight of them are all that counts. Peers on probation count 1,
//! all together: keys cost nothing, and a thousand of them must weigh less than one peer that served for weeks.
//! Quarantined and revoked peers count nothing. Where both have the same, the lesser CID is preferred, which is
//! arbitrary and the same everywhere.

use dunlin_wire::Cid;
use libp2p_identity::PeerId;

use super::Version;
use crate::standing::Standing;

/// Trusted makers that count; more of them add nothing.
pub const REASONS_TRUSTED_MAX: u32 = 8;

/// The version that answers use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    /// Its name.
    pub cid: Cid,
    /// Why it is preferred.
    pub reason: Reason,
}

/// Why a version is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A person decided so.
    Decided {
        /// Who signed it.
        by: PeerId,
    },
    /// More standing is behind it.
    Standing {
        /// Its points.
        points: u32,
        /// Those of the other one.
        against: u32,
    },
    /// As much is behind either; it has the lesser CID.
    Tie {
        /// The points of each.
        points: u32,
    },
}

pub(super) fn by_standing(
    first: &Version,
    second: &Version,
    standing: impl Fn(&PeerId) -> Standing,
) -> Preference {
    let (a, b) = (points(first, &standing), points(second, &standing));
    if a == b {
        let cid = first.cid.min(second.cid);
        return Preference { cid, reason: Reason::Tie { points: a } };
    }
    let cid = if a > b { first.cid } else { second.cid };
    Preference { cid, reason: Reason::Standing { points: a.max(b), against: a.min(b) } }
}

fn points(version: &Version, standing: impl Fn(&PeerId) -> Standing) -> u32 {
    let (mut trusted, mut probation) = (0, 0);
    for maker in version.makers() {
        match standing(maker) {
            Standing::Trusted => trusted += 1,
            Standing::Probation => probation = 1,
            Standing::Quarantined | Standing::Revoked => {}
        }
    }
    2 * REASONS_TRUSTED_MAX.min(trusted) + probation
}
