//! What it takes two nodes to find how their catalogs differ: time, rounds, and bytes, against the summaries that they lack.
//!
//!     cargo run --release -p dunlin-archive --example reconcile -- [SEGMENTS] [DIFFERENT] [SUMMARY_BYTES]
//!
//! Each side has half of the segments that differ, and runs the comparison that a node runs, with its limits. The
//! segments that differ are either the newest ones, as after a split, or spread over all of the time.

use std::{
    collections::HashMap,
    convert::Infallible,
    time::{Duration, Instant},
};

use dunlin_archive::catalog::{Comparison, Entry, Root, Step, insert};
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
};

/// Blocks that are asked for at once, and differences that are fetched together: as a node does it.
const ASK: usize = 64;
const TOGETHER: usize = 256;

/// Blocks that one comparison reads at most.
const BLOCKS_MAX: u64 = 65_536;

/// Bytes of one CID in a question.
const CID_BYTES: usize = 41;

/// Entities whose segments follow each other, a minute each.
const ENTITIES: u64 = 500;

/// One side: a tree and its blocks.
struct Side {
    blocks: HashMap<Cid, Vec<u8>>,
    root: Root,
}

/// What one side's comparison took.
struct Cost {
    lacking: usize,
    rounds: usize,
    blocks: usize,
    bytes: usize,
    time: Duration,
}

fn entry(number: u64) -> Entry {
    let cid = cid_of(Codec::DagCbor, &number.to_be_bytes());
    let minutes = i64::try_from(number / ENTITIES).unwrap_or(i64::MAX);
    Entry::new(minutes.saturating_mul(60_000_000), &cid).expect("our own kind of CID")
}

impl Side {
    fn of(entries: &[Entry]) -> Result<Self, Box<dyn std::error::Error>> {
        let none = |_: &Cid| Ok::<_, Infallible>(None);
        let update = insert(none, None, entries)?.ok_or("a catalog of nothing")?;
        let blocks = update.added.into_iter().map(|block| (*block.cid(), block.into_bytes()));
        Ok(Self { blocks: blocks.collect(), root: update.root })
    }

    fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.blocks.get(cid).cloned())
    }

    /// Finds what this side lacks of the other.
    fn compare(&self, other: &Self) -> Result<Cost, Box<dyn std::error::Error>> {
        let begun = Instant::now();
        let mut comparison = Comparison::new(Some(&self.root), Some(&other.root), BLOCKS_MAX);
        let mut arrived: HashMap<Cid, Vec<u8>> = HashMap::new();
        let mut cost = Cost { lacking: 0, rounds: 0, blocks: 0, bytes: 0, time: Duration::ZERO };
        loop {
            let theirs = |cid: &Cid| match arrived.get(cid) {
                Some(bytes) => Ok(Some(bytes.clone())),
                None => self.get(cid),
            };
            let step = comparison.advance(|cid| self.get(cid), theirs, (TOGETHER, ASK))?;
            let found = comparison.take_difference();
            cost.lacking += found.second_only.len();
            match step {
                Step::Ask(cids) => {
                    cost.rounds += 1;
                    cost.blocks += cids.len();
                    cost.bytes += cids.len() * CID_BYTES;
                    for cid in cids {
                        let bytes = other.get(&cid)?.ok_or("the other side has its own tree")?;
                        cost.bytes += bytes.len() + CID_BYTES;
                        arrived.insert(cid, bytes);
                    }
                }
                Step::Done if found.first_only.is_empty() && found.second_only.is_empty() => break,
                Step::Done => {}
            }
        }
        assert!(!comparison.is_cut(), "a comparison within its limit");
        cost.time = begun.elapsed();
        Ok(cost)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |at: usize, default: u64| {
        std::env::args().nth(at).map_or(Ok(default), |text| text.parse::<u64>())
    };
    let (segments, different) = (argument(1, 1_000_000)?, argument(2, 10_000)?);
    let summary_bytes = usize::try_from(argument(3, 442)?)?;
    let common = segments.checked_sub(different).ok_or("more differ than there are")?;
    for (name, is_newest) in [("the newest", true), ("spread over all of the time", false)] {
        let step = (segments / different.max(1)).max(1);
        let differs = move |number: u64| {
            if is_newest { number >= common } else { number.is_multiple_of(step) }
        };
        let side = |side: u64| {
            let place = |number: u64| if is_newest { number } else { number / step };
            let has = move |number: &u64| !differs(*number) || place(*number) % 2 == side;
            (0..segments).filter(has).map(entry).collect::<Vec<_>>()
        };
        let building = Instant::now();
        let one = Side::of(&side(0))?;
        let built = building.elapsed();
        let other = Side::of(&side(1))?;
        println!(
            "{} and {} segments, {name} differ; a tree of {} blocks is built in {built:.2?}",
            one.root.count,
            other.root.count,
            one.blocks.len()
        );
        for (here, there) in [(&one, &other), (&other, &one)] {
            let Cost { lacking, rounds, blocks, bytes, time } = here.compare(there)?;
            let summaries = lacking * (summary_bytes + CID_BYTES * 2);
            println!(
                "  lacks {lacking}: {rounds} rounds, {blocks} blocks, {bytes} bytes, {time:.2?}; with the \
                 summaries {:.2} times their {} bytes",
                (bytes + summaries) as f64 / (lacking * summary_bytes).max(1) as f64,
                lacking * summary_bytes
            );
        }
    }
    Ok(())
}
