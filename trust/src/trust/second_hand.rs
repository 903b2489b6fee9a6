//! What others say and what they prove: how much of it counts.
//!
//! A report is a claim. It counts while its reporter is trusted by what this node saw itself, and all that
//! it can do is to withhold trust: a standing is never worse than `probation` because of it, whatever the
//! settings. What a reporter's own standing loses by reports about it has no part in that, or two peers
//! that accuse each other would have no standing at all.
//!
//! A proof needs no reporter. It counts as if this node had seen it happen, once.

use dunlin_wire::envelope::Signed;
use libp2p_identity::PeerId;

use super::Trust;
use crate::{
    explanation::Line,
    hearsay::Said,
    license::CLOCK_SLACK_MS,
    operation::Operation,
    proof::Proven,
    record::PROOFS_MAX,
    report::{REPORT_AGE_MAX_MS, Report, ReportError},
    standing::{Standing, StandingChange},
    time::UnixMillis,
};

impl Trust {
    /// Returns where `peer` stands at `now`.
    #[must_use]
    pub fn standing(&self, now: UnixMillis, peer: &PeerId) -> Standing {
        let standing = self.first_hand_standing(now, peer);
        let is_doubted = standing == Standing::Trusted
            && !self.hearsay.is_empty()
            && self.score(now, peer) < self.config.thresholds.keep_at;
        if is_doubted { Standing::Probation } else { standing }
    }

    /// Takes in what a peer reports about another, from an envelope that was opened.
    ///
    /// # Errors
    ///
    /// Says why it does not count. Nothing was changed.
    pub fn hear(&mut self, now: UnixMillis, report: &Signed<Report>) -> Result<(), ReportError> {
        let Signed { signer, value, .. } = report;
        if !value.is_known() {
            return Err(ReportError::Version);
        }
        if value.about() == signer {
            return Err(ReportError::OfItself { reporter: *signer });
        }
        self.may(now, signer, Operation::AcceptEvidence)?;
        let issued = value.issued();
        if issued.0 > now.0.saturating_add(CLOCK_SLACK_MS) {
            return Err(ReportError::Future { issued });
        }
        if now.millis_since(issued) > REPORT_AGE_MAX_MS {
            return Err(ReportError::Stale { issued });
        }
        let said = Said { issued, claim: value.claim() };
        let is_news = self.hearsay.insert(*signer, *value.about(), said);
        if is_news { Ok(()) } else { Err(ReportError::Known) }
    }

    /// Takes one proof of misconduct, as [`Self::observe`] takes what this node saw: at full weight, whoever
    /// brought it. Each proof counts once, and no more than eight against one peer.
    pub fn observe_proof(&mut self, now: UnixMillis, proven: &Proven) -> Option<StandingChange> {
        let peer = *proven.peer();
        let counted = self.records.get(&peer).map_or(&[][..], |record| &record.proofs);
        if counted.contains(proven.id()) || counted.len() >= PROOFS_MAX {
            return None;
        }
        let change = self.observe(now, peer, proven.evidence());
        // There is none when there was no room for it, or when the peer is revoked.
        if let Some(mut record) = self.records.remove(&peer) {
            // Most have one, and there may be very many records.
            record.proofs.reserve_exact(1);
            record.proofs.push(*proven.id());
            self.put_record(record);
        }
        change
    }

    /// Returns whether a proof was counted.
    #[must_use]
    pub fn has_counted(&self, proven: &Proven) -> bool {
        self.records.get(proven.peer()).is_some_and(|record| record.proofs.contains(proven.id()))
    }

    /// Returns how many reports are kept: at most [`crate::SUBJECTS_MAX`] times [`crate::REPORTERS_MAX`].
    #[must_use]
    pub fn reports(&self) -> usize {
        self.hearsay.len()
    }

    /// Returns what reports add to the slight sum of a peer.
    pub(super) fn hearsay_about(&self, now: UnixMillis, peer: &PeerId) -> f64 {
        if self.hearsay.is_empty() {
            return 0.0;
        }
        let numbers = (&self.config.weights, self.config.half_lives.hearsay);
        self.hearsay.amount(now, peer, numbers, |reporter| self.is_reporter(now, reporter))
    }

    /// Returns the line of an explanation about reports, when there are any that count.
    pub(super) fn hearsay_line(&self, now: UnixMillis, peer: &PeerId) -> Option<Line> {
        let counted = self.hearsay.counted(peer, |reporter| self.is_reporter(now, reporter));
        let said: Vec<_> =
            counted.map(|(reporter, said)| format!("{reporter} says {}", said.claim)).collect();
        let amount = self.hearsay_about(now, peer);
        (!said.is_empty()).then(|| Line { part: "hearsay", amount, evidence: said.join(", ") })
    }

    fn is_reporter(&self, now: UnixMillis, peer: &PeerId) -> bool {
        self.first_hand_standing(now, peer) == Standing::Trusted
    }
}
