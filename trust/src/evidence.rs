//! What a peer did that bears on its standing, as this node saw it happen or saw it proven.

use serde::{Deserialize, Serialize};

/// One thing a peer did. Every variant is an observation of this node's own or was proven to it
/// ([`crate::Proof`]), never hearsay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Evidence {
    /// Sent blocks we had asked for, and each hashed to its CID.
    Served {
        /// How many.
        blocks: u32,
    },
    /// Stayed connected without misbehaving.
    Session {
        /// For how long since the last such evidence.
        seconds: u32,
    },
    /// Sent bytes that do not hash to the CID they were sent for.
    WrongCid,
    /// Sent a signed object whose signature does not verify.
    BadSignature,
    /// Broke a protocol: oversize, malformed, unasked for, or far beyond a rate limit.
    ProtocolViolation,
    /// Did not answer in time.
    Timeout,
    /// Answered that it does not have what it had announced.
    NotServed,
    /// Confirmed that it holds an object for us, and says or shows that it does not.
    ReplicaLost,
    /// Gave a proof of a block that it does not hold.
    WrongProof,
    /// Signed two statements that cannot both be true.
    Equivocation,
    /// Shared templates that the others' and one's own past contradict: a sign, no proof.
    DoubtfulTemplates,
}

/// How often each kind of evidence was seen over the life of a record. Never decays; it explains a
/// score and takes no part in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Verified blocks received.
    pub blocks_served: u64,
    /// Seconds connected.
    pub session_seconds: u64,
    /// Blocks that did not match their CID.
    pub wrong_cids: u64,
    /// Signatures that did not verify.
    pub bad_signatures: u64,
    /// Protocol violations.
    pub violations: u64,
    /// Requests it let time out.
    pub timeouts: u64,
    /// Announced things it did not have.
    pub not_served: u64,
    /// Objects it had confirmed to hold, and did not. Absent while 0, as in records of older versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replicas_lost: u64,
    /// Proofs it gave of what it does not hold. Absent while 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wrong_proofs: u64,
    /// Pairs of signed statements that cannot both be true. Absent while 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub equivocations: u64,
    /// Template sets that others contradicted. Absent while 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub doubtful_templates: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Tally {
    /// Counts one piece of evidence.
    pub(crate) fn count(&mut self, evidence: Evidence) {
        let (field, by) = match evidence {
            Evidence::Served { blocks } => (&mut self.blocks_served, u64::from(blocks)),
            Evidence::Session { seconds } => (&mut self.session_seconds, u64::from(seconds)),
            Evidence::WrongCid => (&mut self.wrong_cids, 1),
            Evidence::BadSignature => (&mut self.bad_signatures, 1),
            Evidence::ProtocolViolation => (&mut self.violations, 1),
            Evidence::Timeout => (&mut self.timeouts, 1),
            Evidence::NotServed => (&mut self.not_served, 1),
            Evidence::ReplicaLost => (&mut self.replicas_lost, 1),
            Evidence::WrongProof => (&mut self.wrong_proofs, 1),
            Evidence::Equivocation => (&mut self.equivocations, 1),
            Evidence::DoubtfulTemplates => (&mut self.doubtful_templates, 1),
        };
        *field = field.saturating_add(by);
    }
}
