//! Conflicts: what peers that were apart say differently about the same time, kept twice and flagged.
//!
//! Two segments conflict when they are of one collection and entity, their times overlap, and they are not the same.
//! A node seals an entity's regimes one after another, so that such two are of different nodes, or of one that lost
//! its store. A segment says nothing about who made it: its makers sign an [`Attestation`]. That bears on
//! which version is preferred and not on what is flagged, or flags would depend on which statement came first. The version with
//! more standing behind it is preferred in answers ([`Conflicts::preference`]), unless a person decided otherwise
//! ([`Decision`]).
//!
//! Nothing here removes a segment, a flag or a decision: the types have no call for it. Which segments overlap is
//! for the caller to look up, whose index of them has no limit in memory; only conflicts are held here.

mod preference;
mod statements;

use std::collections::{BTreeMap, BTreeSet};

use dunlin_wire::{
    Cid, cbor,
    envelope::{self, OpenError, Signed},
};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use self::{
    preference::{Preference, REASONS_TRUSTED_MAX, Reason},
    statements::{ATTESTED_MAX, Attestation, Decision, STATEMENT_VERSION},
};
use crate::{peer_bytes, standing::Standing, time::UnixMillis};

/// Most conflicts that are held, about 100 MiB; those beyond are counted ([`Conflicts::unflagged`]).
pub const CONFLICTS_MAX: usize = 65_536;

/// Most makers of a version that are held. More of them change nothing: see [`REASONS_TRUSTED_MAX`].
pub const MAKERS_MAX: usize = 64;

/// Largest record: two versions with all of their makers, or a decision.
const RECORD_BYTES_MAX: usize = 16 * 1_024;

/// What a segment is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The collection.
    pub collection: String,
    /// The entity.
    pub entity: String,
}

/// A segment, as far as conflicts are concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its name.
    pub cid: Cid,
    /// Time of its first observation, in microseconds since the epoch.
    pub start: i64,
    /// Time of its last one.
    pub end: i64,
    makers: BTreeSet<Maker>,
}

/// A peer that attests to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
struct Maker(#[serde(with = "peer_bytes")] PeerId);

impl Version {
    /// Returns a segment of which nobody is known to have made it.
    #[must_use]
    pub fn new(cid: Cid, start: i64, end: i64) -> Self {
        Self { cid, start, end, makers: BTreeSet::new() }
    }

    /// Returns who attests to it, each once.
    pub fn makers(&self) -> impl Iterator<Item = &PeerId> {
        self.makers.iter().map(|maker| &maker.0)
    }

    /// Takes in that a peer made it; returns whether that is news. Quarantined and revoked peers are not heard. When
    /// there is no room, who stands lowest is left out, and then whose id is greatest: so the order does not matter.
    pub fn attest(&mut self, peer: PeerId, standing: impl Fn(&PeerId) -> Standing) -> bool {
        if standing(&peer) <= Standing::Quarantined || !self.makers.insert(Maker(peer)) {
            return false;
        }
        if self.makers.len() <= MAKERS_MAX {
            return true;
        }
        let worth = |maker: &&Maker| (standing(&maker.0), std::cmp::Reverse(maker.0));
        let least = self.makers.iter().min_by_key(worth).copied();
        least.is_none_or(|least| self.makers.remove(&least) && least.0 != peer)
    }

    /// Returns whether two segments of one series contradict each other. One that begins where the other ends does
    /// not: an entity may be observed twice in one instant.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        let overlaps =
            self.start < other.end && other.start < self.end || self.start == other.start;
        self.cid != other.cid && overlaps
    }
}

/// Two segments that contradict each other. Both are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflict {
    /// What they are about.
    pub series: Series,
    /// The one with the lesser CID.
    pub first: Version,
    /// The other.
    pub second: Version,
}

impl Conflict {
    /// Returns the names of both, the lesser first: the conflict's own name.
    #[must_use]
    pub fn pair(&self) -> (Cid, Cid) {
        (self.first.cid, self.second.cid)
    }
}

/// All conflicts that this node knows, and what people decided.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    conflicts: BTreeMap<(Cid, Cid), Conflict>,
    /// For each segment in a conflict, the others.
    others: BTreeMap<Cid, BTreeSet<Cid>>,
    decisions: BTreeMap<(Cid, Cid), Decided>,
    dirty: BTreeSet<Changed>,
    unflagged: u64,
}

/// A decision that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decided {
    decision: Decision,
    by: PeerId,
    bytes: Vec<u8>,
}

/// What is to be persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Conflict((Cid, Cid)),
    Decision((Cid, Cid)),
}

/// A record to persist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedRecord {
    /// What it is about, always the same for a conflict, and for the decision about one.
    pub name: Vec<u8>,
    /// The record, for [`Conflicts::restore`].
    pub record: Vec<u8>,
}

/// A record on disk. Maps of one key tell them apart.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Conflict(Box<Conflict>),
    Decision(ByteBuf),
}

impl Conflicts {
    /// Takes in a record that [`Self::next_dirty`] handed out.
    ///
    /// # Errors
    ///
    /// Fails when it is damaged. The others stay valid.
    pub fn restore(&mut self, record: &[u8]) -> Result<(), ConflictError> {
        match cbor::decode(record, RECORD_BYTES_MAX)? {
            Record::Conflict(conflict) => self.hold(*conflict),
            Record::Decision(bytes) => {
                self.take(envelope::open::<Decision>(&bytes)?);
            }
        }
        self.dirty.clear();
        Ok(())
    }

    /// Takes in a segment that is stored, with the stored ones of its series that overlap it; returns how many
    /// conflicts that made. Others that do not overlap change nothing.
    pub fn land(&mut self, series: &Series, landed: &Version, others: &[Version]) -> usize {
        let before = self.conflicts.len();
        for other in others.iter().filter(|other| landed.contradicts(other)) {
            let (first, second) =
                if landed.cid < other.cid { (landed, other) } else { (other, landed) };
            let pair = (first.cid, second.cid);
            if self.conflicts.contains_key(&pair) {
                continue;
            }
            if self.conflicts.len() >= CONFLICTS_MAX {
                self.unflagged = self.unflagged.saturating_add(1);
                continue;
            }
            let (series, first, second) = (series.clone(), first.clone(), second.clone());
            self.hold(Conflict { series, first, second });
        }
        self.conflicts.len() - before
    }

    /// Takes in that a peer attests to segments; returns how many conflicts that bears on. Attestations to
    /// other segments are for the caller to keep, for the day they land or are contradicted.
    pub fn attest(
        &mut self,
        attestation: &Signed<Attestation>,
        standing: impl Fn(&PeerId) -> Standing,
    ) -> usize {
        let mut changed = 0;
        for cid in attestation.value.segments() {
            for other in self.others.get(cid).into_iter().flatten() {
                let pair = (*cid.min(other), *cid.max(other));
                let Some(conflict) = self.conflicts.get_mut(&pair) else { continue };
                let version =
                    if pair.0 == *cid { &mut conflict.first } else { &mut conflict.second };
                if version.attest(attestation.signer, &standing) {
                    self.dirty.insert(Changed::Conflict(pair));
                    changed += 1;
                }
            }
        }
        changed
    }

    /// Takes in a person's decision, which may come before its conflict does; returns whether it counts from now
    /// on. Of two, the one issued later counts; of two at once, the one with the greater envelope.
    ///
    /// # Errors
    ///
    /// Fails when the signer is not one for whom `may_decide`, it makes no sense, or there is no room.
    pub fn decide(
        &mut self,
        decision: Signed<Decision>,
        may_decide: impl Fn(&PeerId) -> bool,
    ) -> Result<bool, ConflictError> {
        if !may_decide(&decision.signer) {
            return Err(ConflictError::NotAllowed { signer: decision.signer });
        }
        if !decision.value.is_sound() {
            return Err(ConflictError::Senseless);
        }
        let pair = decision.value.pair();
        if self.decisions.len() >= CONFLICTS_MAX && !self.decisions.contains_key(&pair) {
            return Err(ConflictError::Full);
        }
        Ok(self.take(decision))
    }

    /// Hands out the record of something that changed: the shell persists it. Drain to `None`.
    pub fn next_dirty(&mut self) -> Option<Vec<u8>> {
        self.next_changed().map(|changed| changed.record)
    }

    /// As [`Self::next_dirty`], with the name of what changed: a newer record takes the place of one with that name.
    pub fn next_changed(&mut self) -> Option<ChangedRecord> {
        let (kind, (first, second), record) = match self.dirty.pop_first()? {
            Changed::Conflict(pair) => {
                (0, pair, Record::Conflict(Box::new(self.conflicts.get(&pair)?.clone())))
            }
            Changed::Decision(pair) => {
                (1, pair, Record::Decision(self.decisions.get(&pair)?.bytes.clone().into()))
            }
        };
        let record = cbor::encode(&record).expect("strings, numbers and bytes have an encoding");
        Some(ChangedRecord {
            name: [&[kind][..], &first.to_bytes(), &second.to_bytes()].concat(),
            record,
        })
    }

    /// Returns which version of a conflict answers use, and why. It depends on nothing but the makers, their
    /// standing and the decision: nodes that agree on those agree on this.
    #[must_use]
    pub fn preference(
        &self,
        conflict: &Conflict,
        standing: impl Fn(&PeerId) -> Standing,
    ) -> Preference {
        match self.decisions.get(&conflict.pair()) {
            Some(Decided { decision, by, .. }) => {
                Preference { cid: *decision.preferred(), reason: Reason::Decided { by: *by } }
            }
            None => preference::by_standing(&conflict.first, &conflict.second, standing),
        }
    }

    /// Returns the conflicts that a segment is in: an answer that uses it says so.
    pub fn of<'a>(&'a self, cid: &'a Cid) -> impl Iterator<Item = &'a Conflict> {
        let others = self.others.get(cid).into_iter().flatten();
        others.filter_map(|other| self.conflicts.get(&(*cid.min(other), *cid.max(other))))
    }

    /// Returns the conflict of two segments, the lesser one first.
    #[must_use]
    pub fn get(&self, pair: &(Cid, Cid)) -> Option<&Conflict> {
        self.conflicts.get(pair)
    }

    /// Returns when the decision about two segments was issued that counts, if there is one.
    #[must_use]
    pub fn decided(&self, pair: &(Cid, Cid)) -> Option<UnixMillis> {
        self.decisions.get(pair).map(|decided| decided.decision.issued())
    }

    /// Returns all conflicts, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values()
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conflicts.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conflicts.is_empty()
    }

    /// Returns how many conflicts found no room since the start. Above 0, answers cannot say which they touch.
    #[must_use]
    pub fn unflagged(&self) -> u64 {
        self.unflagged
    }

    /// Returns the envelopes of the decisions that count, to tell others.
    pub fn decisions(&self) -> impl Iterator<Item = &[u8]> {
        self.decisions.values().map(|decided| decided.bytes.as_slice())
    }

    fn hold(&mut self, conflict: Conflict) {
        let (first, second) = conflict.pair();
        self.others.entry(first).or_default().insert(second);
        self.others.entry(second).or_default().insert(first);
        self.dirty.insert(Changed::Conflict((first, second)));
        self.conflicts.insert((first, second), conflict);
    }

    fn take(&mut self, signed: Signed<Decision>) -> bool {
        let Signed { signer: by, value: decision, bytes } = signed;
        let pair = decision.pair();
        let order = |decision: &Decision, bytes: &[u8]| (decision.issued(), bytes.to_vec());
        let known = self.decisions.get(&pair).map(|known| order(&known.decision, &known.bytes));
        if known.is_some_and(|known| known >= order(&decision, &bytes)) {
            return false;
        }
        self.decisions.insert(pair, Decided { decision, by, bytes });
        self.dirty.insert(Changed::Decision(pair));
        true
    }
}

/// Why a record or a decision was not taken in. Nothing was changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConflictError {
    /// The bytes are no record.
    #[error(transparent)]
    Decode(#[from] cbor::DecodeError),
    /// The decision in a record does not open.
    #[error(transparent)]
    Envelope(#[from] OpenError),
    /// Its signer decides nothing here.
    #[error("{signer} decides nothing here")]
    NotAllowed {
        /// Who signed it.
        signer: PeerId,
    },
    /// It is of an unknown version, or prefers what it does not decide about.
    #[error("a decision of an unknown version, or for a segment that it is not about")]
    Senseless,
    /// There is no room for more decisions.
    #[error("{CONFLICTS_MAX} decisions are held, and no more")]
    Full,
}
