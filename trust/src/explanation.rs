//! Why a peer stands where it stands, line by line, for the operator.

use std::fmt;

use libp2p_identity::PeerId;

use crate::evidence::Tally;
use crate::score::Sums;
use crate::standing::Standing;
use crate::time::UnixMillis;

/// A peer's score taken apart. Its `Display` prints one line per part.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Whose.
    pub peer: PeerId,
    /// Whether it is one of the operator's own.
    pub is_own: bool,
    /// Whether the operator quarantined it, whatever its score.
    pub is_held: bool,
    /// What the evidence is weighed against, on each side.
    pub prior: f64,
    /// Where it stands now.
    pub standing: Standing,
    /// Its score now, between 0 and 1.
    pub score: f64,
    /// When evidence about it last arrived; `None` for a stranger.
    pub updated: Option<UnixMillis>,
    /// What the score is made of, in the order of the formula.
    pub lines: Vec<Line>,
}

/// One part of a score.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The sum of the formula: `earned`, `grave` or `slight`; or `hearsay`, which is added to the last.
    pub part: &'static str,
    /// What is left of it now.
    pub amount: f64,
    /// The evidence it came from, counted over the life of the record.
    pub evidence: String,
}

/// The three lines of one record.
pub(crate) fn lines(sums: &Sums, tally: &Tally) -> Vec<Line> {
    vec![
        Line {
            part: "earned",
            amount: sums.earned,
            evidence: format!(
                "{} verified blocks, {} s connected",
                tally.blocks_served, tally.session_seconds
            ),
        },
        Line {
            part: "grave",
            amount: sums.grave,
            evidence: format!(
                "{} wrong CIDs, {} bad signatures, {} wrong proofs, {} equivocations, {} protocol violations",
                tally.wrong_cids,
                tally.bad_signatures,
                tally.wrong_proofs,
                tally.equivocations,
                tally.violations
            ),
        },
        Line {
            part: "slight",
            amount: sums.slight,
            evidence: format!(
                "{} timeouts, {} announced but not served, {} replicas lost, {} doubtful templates",
                tally.timeouts, tally.not_served, tally.replicas_lost, tally.doubtful_templates
            ),
        },
    ]
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = if self.is_own { ", own peer" } else { "" };
        write!(f, "{}: {} ({:.3}){own}", self.peer, self.standing, self.score)?;
        if self.is_held {
            write!(f, "\n  held in quarantine by the operator, whatever the score")?;
        }
        for line in &self.lines {
            write!(f, "\n  {:<7}{:>7.3}  {}", line.part, line.amount, line.evidence)?;
        }
        Ok(())
    }
}
