//! Segments land: they are entered in the catalog that peers compare, and what they contradict is noticed.

use std::{collections::BTreeMap, sync::Arc};

use dunlin_archive::{
    Arrival, Object, Overlapping, Pin, PutError,
    catalog::{Comparison, Entry, Step},
};
use dunlin_engine::Segment;
use dunlin_trust::recovery::{Conflicts, Series, Version};
use dunlin_wire::Cid;

use super::{super::shared::Shared, restored};

/// Segments that land in one commit.
const TOGETHER: usize = 256;

/// How far the own segments have landed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Landing {
    /// The engine's number of the last one; nothing while it is not known, as after the start.
    position: Option<u64>,
}

/// What landed.
#[derive(Debug, Default)]
pub(super) struct Landed {
    /// Segments that were not known before.
    pub(super) new: usize,
    /// Those among all of them, and those that they contradict, that are in a conflict since.
    contested: Vec<Cid>,
}

impl Shared {
    /// Has all own segments land that have not. What fails is reported, and tried again the next time.
    pub(super) async fn land_own(self: &Arc<Self>, mut landing: Landing) -> Landing {
        loop {
            let step = self.blocking(move |shared| landing.step(shared)).await;
            match step {
                Ok((after, is_more)) => {
                    landing = after;
                    if !is_more {
                        self.recovered("landing");
                        return landing;
                    }
                }
                Err(cause) => {
                    self.report("landing", format!("{cause:#}"));
                    return Landing::default();
                }
            }
        }
    }

    /// Takes segments of a collection in, with all that it follows: conflicts are kept, and this node attests to those
    /// of its own that are in one.
    pub(super) fn land(&self, collection: &str, arrivals: &[Arrival]) -> anyhow::Result<usize> {
        let landed = match self.take_in(collection, arrivals) {
            Err(PutError::Catalog { what }) => {
                tracing::warn!(what, "a catalog is damaged and is made again");
                self.make_catalog_again(collection)?;
                self.take_in(collection, arrivals)?
            }
            landed => landed?,
        };
        self.attest(collection, &landed.contested)?;
        Ok(landed.new)
    }

    fn take_in(&self, collection: &str, arrivals: &[Arrival]) -> Result<Landed, PutError> {
        let mut landed = Landed::default();
        let mut unseen = 0;
        let mut conflicts = self.recovery.conflicts();
        let stored = self.archive.take_in(collection, arrivals, |arrival, others, is_cut| {
            unseen += u64::from(is_cut);
            note(&mut conflicts, collection, (arrival, others), &mut landed.contested);
            std::iter::from_fn(|| conflicts.next_changed())
                .map(|changed| (changed.name, changed.record))
                .collect()
        });
        match stored {
            Ok(new) => {
                self.recovery.count(|counts| counts.unseen += unseen);
                Ok(Landed { new, ..landed })
            }
            Err(cause) => {
                // What is in memory alone would never be written down.
                if let Ok(kept) = restored(&self.archive) {
                    *conflicts = kept;
                }
                Err(cause)
            }
        }
    }

    /// Enters everything anew that belongs in a catalog that was damaged on disk.
    fn make_catalog_again(&self, collection: &str) -> anyhow::Result<()> {
        self.archive.drop_catalog(&Pin::recovered(collection))?;
        for pin in [Pin::own(collection), Pin::recovered(collection)] {
            let mut after = None;
            loop {
                let roots = self.archive.roots(&pin, after.as_ref(), TOGETHER)?;
                let Some(last) = roots.last() else { break };
                after = Some(*last);
                let arrivals = self.arrivals(&roots)?;
                self.take_in(collection, &arrivals)?;
            }
        }
        self.recovery.sides().forget(collection);
        Ok(())
    }

    /// Returns archived segments as they land. One that is damaged on disk lands when it is whole again.
    fn arrivals(&self, roots: &[Cid]) -> anyhow::Result<Vec<Arrival>> {
        let mut arrivals = Vec::with_capacity(roots.len());
        for cid in roots {
            let block = self.stored_block(cid)?;
            let segment = block.and_then(|block| Segment::decode(block.bytes()).ok());
            arrivals.extend(segment.map(|segment| arrival(*cid, &segment, None)));
        }
        Ok(arrivals)
    }

    /// Has the segments land that this node archived and that are not in the catalog that peers compare. Both catalogs may grow
    /// meanwhile, the latter by what lands: no snapshot outlives a step.
    fn land_missing(&self, collection: &str) -> anyhow::Result<()> {
        let (own, known) = (Pin::own(collection), Pin::recovered(collection));
        let (first, second) = (self.archive.catalog(&known)?, self.archive.catalog(&own)?);
        if second.is_none() || first == second {
            return Ok(());
        }
        let mut comparison = Comparison::new(first.as_ref(), second.as_ref(), u64::MAX);
        loop {
            let snapshot = self.archive.snapshot()?;
            let get = |cid: &Cid| snapshot.get(cid);
            let (first, second) = (snapshot.catalog(&known)?, snapshot.catalog(&own)?);
            let renewed = comparison
                .renew_first(first.as_ref(), get)
                .and_then(|()| comparison.renew_second(second.as_ref(), get));
            if renewed.is_err()
                || !matches!(comparison.advance(get, get, (TOGETHER, 1)), Ok(Step::Done))
            {
                return self.make_catalog_again(collection);
            }
            drop(snapshot);
            let found = comparison.take_difference();
            if found.first_only.is_empty() && found.second_only.is_empty() {
                return Ok(());
            }
            let cids: Vec<_> = found.second_only.iter().map(Entry::cid).collect();
            for cids in cids.chunks(TOGETHER) {
                self.land(collection, &self.arrivals(cids)?)?;
            }
        }
    }
}

impl Landing {
    /// Has the next own segments land; says whether there may be more.
    fn step(self, shared: &Shared) -> anyhow::Result<(Self, bool)> {
        let archived = shared.archive.position()?.unwrap_or(0);
        // The archive begins again where the engine was restored from an older copy.
        let Some(position) = self.position.filter(|position| *position <= archived) else {
            for pin in shared.archive.pins(Pin::OWN)?.into_keys() {
                shared.land_missing(&pin.as_str()[Pin::OWN.len()..])?;
            }
            shared.attest_all()?;
            return Ok((Self { position: Some(archived) }, true));
        };
        let mut sealed = shared.engine.sealed_after(position, TOGETHER)?;
        sealed.retain(|stored| stored.number <= archived);
        let Some(last) = sealed.last().map(|stored| stored.number) else {
            return Ok((Self { position: Some(archived) }, false));
        };
        let mut of: BTreeMap<&str, Vec<Arrival>> = BTreeMap::new();
        for stored in &sealed {
            let arrival = arrival(stored.cid, &stored.segment, None);
            of.entry(stored.segment.collection().as_str()).or_default().push(arrival);
        }
        for (collection, arrivals) in of {
            shared.land(collection, &arrivals)?;
        }
        Ok((Self { position: Some(last) }, true))
    }
}

/// Returns a segment as it lands.
pub(super) fn arrival(cid: Cid, segment: &Segment, object: Option<Object>) -> Arrival {
    Arrival {
        entity: segment.entity().as_str().to_owned(),
        time: (segment.start().0, segment.end().0),
        cid,
        object,
    }
}

/// Notes what a segment contradicts that landed.
fn note(
    conflicts: &mut Conflicts,
    collection: &str,
    (arrival, others): (&Arrival, &[Overlapping]),
    contested: &mut Vec<Cid>,
) {
    let version = |cid, (start, end)| Version::new(cid, start, end);
    let landed = version(arrival.cid, arrival.time);
    let others = others.iter().map(|other| version(other.cid, other.time));
    let others: Vec<_> = others.filter(|other| landed.contradicts(other)).collect();
    if others.is_empty() {
        return;
    }
    let series = Series { collection: collection.to_owned(), entity: arrival.entity.clone() };
    conflicts.land(&series, &landed, &others);
    contested.push(landed.cid);
    contested.extend(others.iter().map(|other| other.cid));
}
