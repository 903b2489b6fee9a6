//! How two peers find out what one of them missed: in one question and its answer.
//!
//! Peers that know the same have the same digest, and say no more. Otherwise one tells, for each of its logs,
//! the chain at a few counts that lie the closer together the newer they are, and the other continues from
//! the newest that it has, too. So the cost goes with the difference, not with the log.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use super::{Chain, Extension, Subject, log::Log};

/// Most logs that are told or kept. Each takes a quorum of authorities.
pub const LOGS_MAX: usize = 16;

/// Most points of a log that are told: enough for any count up to 2^32.
const POINTS_MAX: usize = 40;

/// Up to so many withdrawals are told one by one; more are told by buckets.
const SINGLE_MAX: usize = 256;

/// Buckets of withdrawals, by the first byte of the id.
const BUCKETS: usize = 256;

/// Bytes of a withdrawal's id: what could be made to collide with it would take 2^64 keys.
const ID_BYTES: usize = 8;

/// What a peer knows, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// For each log, points of it by falling count.
    logs: Vec<Vec<(u64, Chain)>>,
    /// Ids of withdrawals, one after another; or a hash of each bucket of them.
    #[serde(with = "serde_bytes")]
    withdrawals: Vec<u8>,
    /// Whether these are buckets.
    is_bucketed: bool,
}

/// What the other lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncAnswer {
    /// What follows in logs.
    pub extensions: Vec<Extension>,
    /// Envelopes of withdrawals.
    pub withdrawals: Vec<ByteBuf>,
    /// Whether there is more: ask again when this is taken in.
    pub is_partial: bool,
}

impl SyncRequest {
    pub(crate) fn new<'a>(
        logs: impl Iterator<Item = &'a Log>,
        withdrawn: impl ExactSizeIterator<Item = &'a Subject>,
    ) -> Self {
        let logs = logs.map(points).collect();
        let is_bucketed = withdrawn.len() > SINGLE_MAX;
        let ids = ids(withdrawn);
        let withdrawals = if is_bucketed { buckets(&ids).concat() } else { ids.concat() };
        Self { logs, withdrawals, is_bucketed }
    }

    /// Returns what a log of ours has beyond those of the asking peer; `None` when nothing.
    pub(crate) fn missing_of(&self, log: &Log) -> Option<Extension> {
        let known = self.logs.iter().take(LOGS_MAX).filter_map(|points| {
            points.iter().take(POINTS_MAX).find_map(|(count, chain)| {
                let count = usize::try_from(*count).ok()?;
                (log.chain_at(count)? == *chain).then_some(count)
            })
        });
        let count = known.max().unwrap_or(0);
        (count < log.len()).then(|| log.extension_after(count)).flatten()
    }

    /// Returns a test of whether the asking peer may lack a withdrawal of ours.
    pub(crate) fn lacks<'a>(
        &self,
        withdrawn: impl Iterator<Item = &'a Subject>,
    ) -> Box<dyn Fn(&Subject) -> bool> {
        let (theirs, _) = self.withdrawals.as_chunks::<ID_BYTES>();
        if self.is_bucketed {
            let theirs = theirs.to_vec();
            let ours = buckets(&ids(withdrawn));
            let differs = move |bucket: usize| theirs.get(bucket) != ours.get(bucket);
            return Box::new(move |subject| differs(usize::from(id(subject)[0])));
        }
        let mut theirs = theirs.to_vec();
        theirs.sort_unstable();
        Box::new(move |subject| theirs.binary_search(&id(subject)).is_err())
    }
}

/// Returns the chain at the newest counts of a log, at ever larger steps back, and where it begins.
fn points(log: &Log) -> Vec<(u64, Chain)> {
    let back = (0..32).map(|power| (1_usize << power) - 1);
    let counts = back.map_while(|back| log.len().checked_sub(back)).filter(|count| *count > 0);
    counts.filter_map(|count| Some((count as u64, log.chain_at(count)?))).collect()
}

/// Returns the short name of a withdrawal. It is that of the key, so that two withdrawals of one key are one.
fn id(subject: &Subject) -> [u8; ID_BYTES] {
    let hash = Sha256::digest(subject.0);
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&hash[..ID_BYTES]);
    id
}

fn ids<'a>(withdrawn: impl Iterator<Item = &'a Subject>) -> Vec<[u8; ID_BYTES]> {
    let mut ids: Vec<_> = withdrawn.map(id).collect();
    ids.sort_unstable();
    ids
}

/// Returns a hash of each bucket of sorted ids. A sum would be quicker to update, and could be made to agree.
fn buckets(ids: &[[u8; ID_BYTES]]) -> Vec<[u8; ID_BYTES]> {
    let mut rest = ids;
    let mut bucket = |first: usize| {
        let count = rest.iter().take_while(|id| usize::from(id[0]) == first).count();
        let (these, after) = rest.split_at(count);
        rest = after;
        let mut hash = [0; ID_BYTES];
        hash.copy_from_slice(&Sha256::digest(these.concat())[..ID_BYTES]);
        hash
    };
    (0..BUCKETS).map(&mut bucket).collect()
}
