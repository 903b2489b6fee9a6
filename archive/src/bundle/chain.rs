//! The chain: which bundle of a sender may come next.

use dunlin_wire::Cid;

use super::Manifest;

/// A place in the chain of one sender's bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The number of the bundle.
    pub sequence: u64,
    /// The CID of its signed manifest, by which bundles are known.
    pub bundle: Cid,
}

/// Whether bundles may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gaps {
    /// No: each bundle follows the last one.
    Refused,
    /// The operator says that what is missing is not needed, or lost.
    Accepted,
}

/// Checks that a bundle comes next, when `last` was the last one of its sender that was taken in.
///
/// # Errors
///
/// Says what is in the way.
pub fn follows(
    last: Option<Link>,
    bundle: &Cid,
    manifest: &Manifest,
    gaps: Gaps,
) -> Result<(), ChainError> {
    let sequence = manifest.sequence;
    let next = last.map_or(1, |last| last.sequence.saturating_add(1));
    match last {
        Some(last) if sequence == last.sequence && *bundle != last.bundle => {
            Err(ChainError::Forked { sequence })
        }
        Some(last) if sequence <= last.sequence => {
            Err(ChainError::Replayed { sequence, last: last.sequence })
        }
        _ if gaps == Gaps::Accepted => Ok(()),
        _ if sequence > next => Err(ChainError::Missing { first: next, last: sequence - 1 }),
        Some(last) if manifest.previous != Some(last.bundle) => {
            Err(ChainError::Forked { sequence: last.sequence })
        }
        _ => Ok(()),
    }
}

/// Why a bundle is not the next one. Nothing of it was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// It, or a later one, was taken in before.
    #[error("bundle {sequence} was imported already; the last one was bundle {last}")]
    Replayed {
        /// Its number.
        sequence: u64,
        /// The number of the last one.
        last: u64,
    },
    /// Others come before it.
    #[error(
        "{} must be imported first; if lost, the sender writes {} again with `dunlin bundle export --again {first}`, \
         or go on without with --accept-gap", missing(first, last), if first == last { "it" } else { "each" }
    )]
    Missing {
        /// The number of the first one that is missing.
        first: u64,
        /// The number of the last one.
        last: u64,
    },
    /// The sender made two bundles of this number: its data folder was copied, or restored from an older
    /// copy.
    #[error(
        "there are two different bundles {sequence} of this sender; was its data folder copied or restored? \
         a later bundle is taken with --accept-gap"
    )]
    Forked {
        /// The number.
        sequence: u64,
    },
}

fn missing(first: &u64, last: &u64) -> String {
    if first == last { format!("bundle {first}") } else { format!("bundles {first} to {last}") }
}
