//! Step 3: the newcomer fetches segments that others made, by CID, and searches them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use dunlin_client::{
    AttemptOutcome, FetchRequest, FetchedSegment, KnnHit, KnnQuery, Scope, Segment, SegmentsQuery,
};
use dunlin_wire::{Cid, block};

use super::{
    COLLECTION, PEERS,
    stage::{Peer, Stage},
};
use crate::{
    report::{EdgeKind, Knn, Report},
    vts1::Series,
};

/// Segments to fetch.
const FETCHED: usize = 50;

/// CIDs in one request, so that progress shows.
const FETCH_BATCH: usize = 10;

/// Neighbours to ask for.
const NEIGHBOURS: u32 = 5;

/// Segments of one page, the API's limit.
const PAGE: u32 = 1000;

/// Two ways to add up the same squares differ by less than this, as a share of the distance.
const ROUNDING: f64 = 1e-5;

/// A segment that a peer made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// Who made it, from 0.
    pub(super) owner: usize,
    pub(super) segment: Segment,
}

/// Which segments the newcomer fetches.
#[derive(Debug)]
pub(super) struct Selection {
    /// To fetch from whoever has them.
    pub(super) honest: Vec<Made>,
    /// Another one, to be lied about.
    pub(super) contested: Made,
}

/// Chooses 50 segments, and one to be lied about, evenly over peers 1 to 5 and over their time.
pub(super) fn select(stage: &Stage<'_>) -> anyhow::Result<Selection> {
    let mut by_owner = Vec::new();
    for (owner, peer) in stage.peers[..PEERS - 1].iter().enumerate() {
        let segments = segments_of(peer)?;
        by_owner.push(segments.into_iter().map(|segment| Made { owner, segment }).collect());
    }
    let mut chosen = spread(by_owner, FETCHED + 1);
    let contested = chosen.pop().context("peers 1 to 5 made no segment")?;
    ensure!(!chosen.is_empty(), "peers 1 to 5 made one segment: too few for the demo");
    Ok(Selection { honest: chosen, contested })
}

/// Fetches the chosen segments at the newcomer and checks each: bytes against CID, content against its
/// maker's.
pub(super) fn fetch(
    stage: &Stage<'_>,
    selection: &Selection,
    report: &mut Report,
) -> anyhow::Result<()> {
    let step = stage.progress.step("fetch from peers by CID", selection.honest.len() as u64);
    let client = &stage.newcomer().client;
    report.fetched_asked = selection.honest.len() as u64;
    for batch in selection.honest.chunks(FETCH_BATCH) {
        stage.interrupt.check()?;
        let cids = batch.iter().map(|made| made.segment.cid.clone()).collect();
        let request = FetchRequest { cids, peers: Vec::new(), payload: false, dht: false };
        let answer = client.fetch(&request).with_context(|| stage.newcomer().says("fetch"))?;
        for fetched in &answer.segments {
            record_attempts(report, &stage.newcomer().name, fetched);
            let made = batch.iter().find(|made| made.segment.cid == fetched.cid);
            let verified = made.map(|made| is_verified(stage, made, fetched)).transpose()?;
            report.fetched_verified += u64::from(verified == Some(true));
        }
        step.inc(batch.len() as u64);
    }
    step.done(&format!(
        "{} of {} verified and decoded",
        report.fetched_verified, report.fetched_asked
    ));
    Ok(())
}

/// Asks the newcomer for the fetched regimes nearest to an observation of its own, and compares the
/// answer with all distances worked out here.
pub(super) fn ask_nearest(
    stage: &Stage<'_>,
    series: &Series,
    report: &mut Report,
) -> anyhow::Result<()> {
    let step = stage.progress.step("nearest regimes", 1);
    let vector = series.row(series.rows_train + series.labels().len() / 2).to_vec();
    let query = KnnQuery {
        collection: COLLECTION.to_owned(),
        vector: vector.clone(),
        k: NEIGHBOURS,
        entity: None,
        from_us: None,
        to_us: None,
        scope: Scope::Fetched,
    };
    let newcomer = stage.newcomer();
    let answer = newcomer.client.knn(&query).with_context(|| newcomer.says("nearest regimes"))?;
    let mut means = BTreeMap::new();
    for cid in report.fetched_cids.clone() {
        let segment = newcomer.client.segment(&cid).with_context(|| newcomer.says("segments"))?;
        means.insert(cid, segment.mean);
    }
    let agrees = is_nearest(&answer.hits, &means, &vector, NEIGHBOURS as usize);
    let nearest = answer.hits.first();
    report.knn = Some(Knn {
        searched: means.len() as u64,
        k: NEIGHBOURS.into(),
        found: answer.hits.len() as u64,
        agrees_with_brute_force: agrees,
        nearest_entity: nearest.map(|hit| hit.entity.clone()),
        nearest_distance: nearest.map(|hit| hit.distance),
    });
    let verdict = if agrees { "as brute force says" } else { "but brute force disagrees" };
    step.done(&format!("{} of {} fetched, {verdict}", answer.hits.len(), means.len()));
    Ok(())
}

/// Writes down who answered the newcomer, and how.
pub(super) fn record_attempts(report: &mut Report, to: &str, fetched: &FetchedSegment) {
    for attempt in &fetched.attempts {
        let kind = match attempt.outcome {
            AttemptOutcome::Verified => EdgeKind::Segments,
            AttemptOutcome::Corrupt => EdgeKind::Refused,
            AttemptOutcome::Missing | AttemptOutcome::Refused | AttemptOutcome::Failed => continue,
        };
        report.add_edge(&attempt.peer, to, kind, 1);
    }
    if fetched.segment.is_some() {
        report.fetched_cids.insert(fetched.cid.clone());
    }
}

/// Returns whether the bytes that the newcomer now holds hash to the CID, came over the network, and say
/// what the segment's maker says.
fn is_verified(stage: &Stage<'_>, made: &Made, fetched: &FetchedSegment) -> anyhow::Result<bool> {
    let Some(segment) = &fetched.segment else { return Ok(false) };
    let cid = Cid::try_from(made.segment.cid.as_str()).context("a peer's CID is none")?;
    let bytes = stage.newcomer().client.block(&made.segment.cid)?;
    let served = fetched.attempts.iter().any(|a| a.outcome == AttemptOutcome::Verified);
    // Whether a segment is archived is a fact about the node that was asked.
    let same = Segment { archived: made.segment.archived, ..segment.clone() } == made.segment;
    Ok(served && !fetched.local && same && block::verify(&cid, &bytes).is_ok())
}

/// Returns all segments that a peer made.
fn segments_of(peer: &Peer) -> anyhow::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut after = None;
    loop {
        let query = SegmentsQuery {
            collection: COLLECTION.to_owned(),
            after,
            limit: Some(PAGE),
            ..SegmentsQuery::default()
        };
        let page = peer.client.segments(&query).with_context(|| peer.says("segments"))?;
        segments.extend(page.segments);
        after = page.next;
        if after.is_none() {
            return Ok(segments);
        }
    }
}

/// Takes up to `count` items: as many from each group as from any other where it has them, and evenly
/// over each group's length. The same groups give the same choice.
fn spread<T>(groups: Vec<Vec<T>>, count: usize) -> Vec<T> {
    let mut quotas = vec![0; groups.len()];
    let mut left = count;
    while left > 0 {
        let open = (0..groups.len()).filter(|g| quotas[*g] < groups[*g].len());
        // The group with the smallest quota that can still give; the first one of equals.
        let Some(group) = open.min_by_key(|g| quotas[*g]) else { break };
        quotas[group] += 1;
        left -= 1;
    }
    let evenly = |(group, quota): (Vec<T>, usize)| {
        let length = group.len();
        let wanted: Vec<_> = (0..quota).map(|i| i * length / quota).collect();
        let indexed = group.into_iter().enumerate();
        indexed.filter_map(move |(i, item)| wanted.binary_search(&i).is_ok().then_some(item))
    };
    groups.into_iter().zip(quotas).flat_map(evenly).collect()
}

/// Returns whether `hits` are `k` of the nearest means, or all if there are fewer, nearest first.
///
/// Equally near means may come in any order, so distances are compared, not names: the order's, and the
/// distance that each hit claims.
fn is_nearest(
    hits: &[KnnHit],
    means: &BTreeMap<String, Vec<f32>>,
    vector: &[f32],
    k: usize,
) -> bool {
    let distance = |mean: &[f32]| -> f64 {
        let squares = mean.iter().zip(vector).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let mut expected: Vec<_> = means.values().map(|mean| distance(mean)).collect();
    expected.sort_by(f64::total_cmp);
    expected.truncate(k);
    let same = |a: f64, b: f64| (a - b).abs() <= ROUNDING * b.max(1.0);
    let is_right = |(hit, expected): (&KnnHit, &f64)| {
        let mean = hit.cid.as_deref().and_then(|cid| means.get(cid));
        same(hit.distance, *expected) && mean.is_some_and(|mean| same(distance(mean), *expected))
    };
    let distinct: BTreeSet<_> = hits.iter().map(|hit| hit.cid.as_deref()).collect();
    distinct.len() == expected.len()
        && hits.len() == expected.len()
        && hits.iter().zip(&expected).all(is_right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_even_over_groups_and_over_time() {
        let groups = vec![(0..100).collect::<Vec<_>>(), vec![1000, 1001], (500..600).collect()];
        let chosen = spread(groups.clone(), 12);
        assert_eq!(chosen, [0, 20, 40, 60, 80, 1000, 1001, 500, 520, 540, 560, 580]);
        assert_eq!(spread(groups.clone(), 12), chosen);
        assert_eq!(spread(groups, 500).len(), 202);
        assert!(spread(Vec::<Vec<u8>>::new(), 3).is_empty());
    }

    #[test]
    fn the_brute_force_check_takes_the_nearest_only() {
        let means: BTreeMap<_, _> = [("a", 0.1), ("b", 0.2), ("c", 0.2), ("d", 0.9)]
            .map(|(cid, x)| (cid.to_owned(), vec![x, 0.0]))
            .into();
        let hit = |cid: &&str| KnnHit {
            cid: Some((*cid).to_owned()),
            entity: String::new(),
            start_us: 0,
            end_us: 0,
            distance: means.get(*cid).map_or(0.0, |mean| mean[0].into()),
        };
        let hits = |cids: &[&str]| cids.iter().map(hit).collect::<Vec<_>>();
        let check = |cids: &[&str]| is_nearest(&hits(cids), &means, &[0.0, 0.0], 3);
        assert!(check(&["a", "b", "c"]));
        assert!(check(&["a", "c", "b"]), "equals may swap");
        assert!(!check(&["b", "a", "c"]), "order counts");
        assert!(!check(&["a", "b", "d"]), "a farther one is no neighbour");
        assert!(!check(&["a", "b", "b"]), "nobody is a neighbour twice");
        assert!(!check(&["a", "b"]), "none may be missing");
        assert!(!check(&["a", "b", "x"]), "nor unknown");
        let mut wrong = hits(&["a", "b", "c"]);
        wrong[0].distance = 0.15;
        assert!(!is_nearest(&wrong, &means, &[0.0, 0.0], 3), "a claimed distance has to be true");
    }
}
