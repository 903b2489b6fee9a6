//! Which conflicts an answer touches, and which of two segments it uses.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_archive::{Pin, ReadError};
use dunlin_engine::{CollectionSpec, EntityId, Preferred, Rows, Segment, decode_payload};
use dunlin_protocols::PeerId;
use dunlin_trust::{
    Standing,
    recovery::{Conflict, Conflicts, Preference},
};
use dunlin_wire::Cid;

use super::super::shared::Shared;

/// Where those stand who may attest to segments: this node and its own peers.
///
/// Among them, who is not quarantined counts as trusted: the operator vouches for them, and whom one node knows
/// better than another must not make them prefer different segments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standings(BTreeMap<PeerId, Standing>);

impl Standings {
    pub(crate) fn of(&self, peer: &PeerId) -> Standing {
        // Whoever is no own peer any more counts nothing.
        self.0.get(peer).copied().unwrap_or(Standing::Quarantined)
    }

    /// Returns which version of a conflict answers use.
    pub(crate) fn preference(&self, conflicts: &Conflicts, conflict: &Conflict) -> Preference {
        conflicts.preference(conflict, |peer| self.of(peer))
    }
}

/// A conflict that an answer touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Both segments, the lesser CID first.
    pub(crate) pair: (Cid, Cid),
    /// Their entity.
    pub(crate) entity: String,
    /// The one that answers are to use.
    pub(crate) preferred: Cid,
}

impl Touched {
    /// Returns the one that is not preferred.
    fn other(&self) -> Cid {
        let (first, second) = self.pair;
        if self.preferred == first { second } else { first }
    }
}

/// Whose past a question is about.
#[derive(Clone, Debug)]
pub(crate) enum Whose {
    /// These entities' alone.
    Of(Vec<EntityId>),
    /// That of all of a collection, this one's first where there is too much.
    All(Option<EntityId>),
}

impl Whose {
    fn includes(&self, entity: &str) -> bool {
        match self {
            Self::Of(these) => these.iter().any(|this| this.as_str() == entity),
            Self::All(_) => true,
        }
    }

    fn is_first(&self, entity: &str) -> bool {
        matches!(self, Self::All(Some(first)) if first.as_str() == entity)
    }
}

/// Segments that are looked up to take the place of others in one answer. Beyond, the answer says that it is
/// incomplete.
const WINNERS_MAX: usize = 1_024;

const ALL_TIME: (i64, i64) = (i64::MIN, i64::MAX);

impl Shared {
    /// Returns where those stand who may attest to segments; nobody while there is no conflict.
    pub(crate) async fn standings(&self) -> Standings {
        let mut standings = BTreeMap::new();
        if self.recovery.conflicts().is_empty() {
            return Standings(standings);
        }
        standings.insert(self.network.local_peer(), Standing::Trusted);
        for peer in &self.config.network.own_peers {
            // The network that has ended knows nobody.
            let Ok(view) = self.network.explain(*peer).await else { continue };
            let standing = match view.trust.standing {
                Standing::Probation => Standing::Trusted,
                standing => standing,
            };
            standings.insert(*peer, standing);
        }
        Standings(standings)
    }

    /// Returns the conflicts that these segments are in.
    pub(crate) fn touched<'a>(
        &self,
        standings: &Standings,
        cids: impl IntoIterator<Item = &'a Cid>,
    ) -> Vec<Touched> {
        let conflicts = self.recovery.conflicts();
        let mut touched = BTreeMap::new();
        for cid in cids {
            for conflict in conflicts.of(cid) {
                touched.entry(conflict.pair()).or_insert_with(|| Touched {
                    pair: conflict.pair(),
                    entity: conflict.series.entity.clone(),
                    preferred: standings.preference(&conflicts, conflict).cid,
                });
            }
        }
        touched.into_values().collect()
    }

    /// Returns the conflicts of an entity, or of all, that have to do with a time.
    pub(crate) fn touched_in(
        &self,
        standings: &Standings,
        (collection, entity): (&str, Option<&str>),
        (from, to): (i64, i64),
    ) -> Vec<Touched> {
        let conflicts = self.recovery.conflicts();
        let is_in = |conflict: &&Conflict| {
            let overlaps = |version: &dunlin_trust::recovery::Version| {
                version.start <= to && version.end >= from
            };
            conflict.series.collection == collection
                && entity.is_none_or(|entity| conflict.series.entity == entity)
                && (overlaps(&conflict.first) || overlaps(&conflict.second))
        };
        let of = conflicts.iter().filter(is_in).map(|conflict| Touched {
            pair: conflict.pair(),
            entity: conflict.series.entity.clone(),
            preferred: standings.preference(&conflicts, conflict).cid,
        });
        of.collect()
    }

    /// Returns the segments of other nodes that answers use in the place of own ones: those that win against an own one,
    /// are here, and lose against none that is used.
    pub(crate) fn preferred<'a>(
        &'a self,
        standings: &Standings,
        spec: &CollectionSpec,
        whose: &Whose,
    ) -> Result<Preferred<'a>, ReadError> {
        let mut preferred = Preferred::new(|segment| self.observations_of(segment));
        let mut all = self.touched_in(standings, (spec.name.as_str(), None), ALL_TIME);
        all.retain(|touched| whose.includes(&touched.entity));
        if all.is_empty() {
            return Ok(preferred);
        }
        all.sort_by_key(|touched| !whose.is_first(&touched.entity));
        let own = Pin::own(spec.name.as_str());
        let losers = losers(&all);
        let mut winners: BTreeMap<Cid, Option<Segment>> = BTreeMap::new();
        for touched in &all {
            let (winner, loser) = (touched.preferred, touched.other());
            let is_used = losers.contains(&loser) && !losers.contains(&winner);
            if !is_used
                || !self.archive.is_pinned(&own, &loser)?
                || self.archive.is_pinned(&own, &winner)?
            {
                continue;
            }
            if !winners.contains_key(&winner) {
                if winners.len() == WINNERS_MAX {
                    preferred.cut();
                    break;
                }
                let segment = self.stored_segment(&winner)?;
                let segment = segment.filter(|segment| segment.dim() == spec.dim.get());
                winners.insert(winner, segment);
            }
            match winners.get(&winner) {
                Some(Some(segment)) => preferred.prefer(segment.clone(), loser),
                // The own one is used, and the answer says that something is missing.
                _ => preferred.cut(),
            }
        }
        Ok(preferred)
    }

    fn stored_segment(&self, cid: &Cid) -> Result<Option<Segment>, ReadError> {
        let block = self.stored_block(cid)?;
        Ok(block.and_then(|block| Segment::decode(block.bytes()).ok()))
    }

    /// Returns the observations of a segment, if its payload is here. What cannot be read or decoded counts as not here.
    fn observations_of(&self, segment: &Segment) -> Option<Rows> {
        let links = segment.payload().iter();
        let blocks: Vec<_> =
            links.map(|cid| self.stored_block(cid).ok().flatten()).collect::<Option<_>>()?;
        if blocks.is_empty() { None } else { decode_payload(segment, &blocks).ok() }
    }
}

/// Returns the segments that answers do not use: those that lose against one that they use. So a segment is used whose
/// rivals all lose against others, and no time is without any.
pub(crate) fn losers(conflicts: &[Touched]) -> BTreeSet<Cid> {
    let mut rivals: BTreeMap<Cid, Vec<Cid>> = BTreeMap::new();
    for touched in conflicts {
        rivals.entry(touched.other()).or_default().push(touched.preferred);
    }
    let mut losers = BTreeSet::new();
    // Each round decides about all whose rivals are decided about; what is left loses in a circle, and is used.
    loop {
        let is_used = |cid: &Cid| !rivals.contains_key(cid) && !losers.contains(cid);
        let lost: Vec<Cid> = rivals
            .iter()
            .filter(|(_, wins)| wins.iter().any(is_used))
            .map(|(cid, _)| *cid)
            .collect();
        let won: Vec<Cid> = rivals
            .iter()
            .filter(|(_, wins)| wins.iter().all(|rival| losers.contains(rival)))
            .map(|(cid, _)| *cid)
            .collect();
        if lost.is_empty() && won.is_empty() {
            return losers;
        }
        for cid in won.iter().chain(&lost) {
            rivals.remove(cid);
        }
        losers.extend(lost);
    }
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::{Codec, cid_of};

    use super::*;

    fn conflict(preferred: u8, other: u8) -> Touched {
        let cid = |name: u8| cid_of(Codec::DagCbor, &[name]);
        let (a, b) = (cid(preferred), cid(other));
        Touched { pair: (a.min(b), a.max(b)), entity: "a".to_owned(), preferred: a }
    }

    fn unused(conflicts: &[(u8, u8)]) -> Vec<u8> {
        let all: Vec<_> = conflicts.iter().map(|(wins, loses)| conflict(*wins, *loses)).collect();
        let losers = losers(&all);
        (0..10).filter(|name| losers.contains(&cid_of(Codec::DagCbor, &[*name]))).collect()
    }

    #[test]
    fn who_loses_against_one_that_is_not_used_is_used() {
        let nothing: [u8; 0] = [];
        assert_eq!(unused(&[]), nothing);
        assert_eq!(unused(&[(1, 2)]), [2]);
        assert_eq!(unused(&[(1, 2), (2, 3)]), [2], "3 lost against 2, which is not used");
        assert_eq!(unused(&[(1, 2), (2, 3), (1, 3)]), [2, 3]);
        // One long segment against three short ones.
        assert_eq!(unused(&[(9, 1), (2, 9), (9, 3)]), [9]);
        assert_eq!(unused(&[(1, 2), (2, 3), (3, 1)]), nothing, "nobody is right");
    }
}
