//! What the nodes say: what they sealed, what they know, and what they make of conflicts.

use std::collections::BTreeMap;

use dunlin_client::{Client, SegmentsQuery};

use super::COLLECTION;

/// Segments by CID, with the size of their summaries.
pub(super) type Sealed = BTreeMap<String, u64>;

/// Segments on one page.
const PAGE: u32 = 1_000;

/// Returns all segments that these nodes sealed.
pub(super) fn sealed_by(clients: &[&Client]) -> anyhow::Result<Sealed> {
    let mut sealed = BTreeMap::new();
    for client in clients {
        let mut after = None;
        loop {
            let query = SegmentsQuery {
                collection: COLLECTION.to_owned(),
                after,
                limit: Some(PAGE),
                ..Default::default()
            };
            let page = client.segments(&query)?;
            let segments = page.segments.into_iter();
            sealed.extend(segments.map(|segment| (segment.cid, segment.block_bytes)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(sealed)
}

/// Returns how many segments these nodes know, when all know the same.
pub(super) fn same_root(clients: &[&Client]) -> anyhow::Result<Option<u64>> {
    let mut same = None;
    for client in clients {
        let status = client.archive()?;
        let known = status.recovery.known.into_iter().find(|known| known.collection == COLLECTION);
        let Some(known) = known.filter(|_| status.due == 0) else { return Ok(None) };
        match &same {
            None => same = Some(known),
            Some(other) if *other != known => return Ok(None),
            Some(_) => {}
        }
    }
    Ok(same.map(|known| known.segments))
}

/// Returns whether all nodes know so many segments, and the same.
pub(super) fn known_everywhere(clients: &[&Client], sealed: u64) -> anyhow::Result<bool> {
    Ok(same_root(clients)? == Some(sealed))
}

/// Returns how many conflicts there are, and in how many the nodes prefer different segments, when all know the same
/// conflicts and who sealed what.
pub(super) fn verdicts(clients: &[&Client]) -> anyhow::Result<Option<(u64, u64)>> {
    let mut seen: BTreeMap<String, Vec<(String, Vec<String>)>> = BTreeMap::new();
    for client in clients {
        let mut after: Option<String> = None;
        loop {
            let page = client.review(after.as_deref())?;
            after = page.conflicts.last().map(|last| last.id.clone()).filter(|_| page.more);
            for conflict in page.conflicts {
                let makers = [conflict.first.makers, conflict.second.makers].concat();
                seen.entry(conflict.id).or_default().push((conflict.preferred, makers));
            }
            if after.is_none() {
                break;
            }
        }
    }
    let is_same = |said: &Vec<(String, Vec<String>)>| {
        said.len() == clients.len()
            && said.iter().all(|(_, makers)| makers.len() == 2 && *makers == said[0].1)
    };
    if !seen.values().all(is_same) {
        return Ok(None);
    }
    let is_undecided = |said: &&Vec<(String, Vec<String>)>| {
        said.iter().any(|(preferred, _)| *preferred != said[0].0)
    };
    let undecided = seen.values().filter(is_undecided).count();
    Ok(Some((seen.len() as u64, undecided as u64)))
}
