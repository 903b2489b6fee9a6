//! Who may be in the network, as JSON.

use serde::{Deserialize, Serialize};

/// The network of a node: open, or closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipStatus {
    /// Its name.
    pub network: String,
    /// The keys that license peers and revoke them; none in an open network.
    pub authorities: Vec<String>,
    /// How many of them must agree.
    pub threshold: u64,
    /// When this node's license ends, in milliseconds since the epoch; absent in an open network, and without a
    /// license that counts.
    pub license_until_ms: Option<u64>,
    /// Why this node has no license that counts.
    pub license_problem: Option<String>,
    /// How many keys are revoked.
    pub revoked_keys: u64,
    /// The short name of all revocations, hexadecimal: nodes with the same know the same.
    pub revocations_digest: String,
}

/// What became of a revocation that was published. It is on disk, and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationPublished {
    /// Keys that were not revoked before.
    pub revoked: u64,
    /// All revoked keys.
    pub keys: u64,
}
