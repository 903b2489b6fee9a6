//! Makes sealed copies of what is archived of collections that are shared so, releases noised segments of those
//! that are shared so, and drops what is not shared any more.
//!
//! What is there is compared with what the operator wants, a batch at a time, so that a crash, a restart or a
//! change of mind anywhere on the way costs nothing but looking again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use dunlin_archive::{
    Object, Pin, PutError, SealedCopy,
    catalog::Entry,
    sealing::{Sealed, SealingKey},
};
use dunlin_engine::{CollectionName, Segment};
use dunlin_wire::{Cid, block::Block};

use super::{clock, shared::Shared, shares::Share, sharing::segments};
use crate::key_ring::KeyRing;

/// Segments that are looked for, or copies that are dropped, in one step.
const STEP: usize = 256;

/// Bytes of copies in one durable commit, up to one segment more. They are in memory until then.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How far the copies of each collection are. It is kept in memory alone: a restart looks again.
#[derive(Debug, Default)]
pub(super) struct Sealer {
    collections: BTreeMap<CollectionName, Progress>,
    has_looked: bool,
}

#[derive(Debug)]
struct Progress {
    /// What the operator wanted when this was begun.
    share: Share,
    /// Whether nothing is left in forms that the operator does not want any more.
    is_clear: bool,
    /// The last segment that was looked at, in order of CIDs.
    after: Option<Cid>,
    is_done: bool,
    noised: segments::Progress,
}

/// Segments that were archived a moment ago, by collection.
pub(super) type Fresh = BTreeMap<CollectionName, Vec<Cid>>;

/// What a step did.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Blocks that strangers may have now.
    pub(super) stored: Vec<Cid>,
    /// Whether there is more to do.
    pub(super) is_more: bool,
    /// When there will be, if nothing happens before.
    pub(super) next: Option<Duration>,
}

impl Sealer {
    /// Takes one step in every collection. `fresh` are segments that the way through a collection may have
    /// passed already.
    ///
    /// # Errors
    ///
    /// Fails when a store or the key ring does. What was done stays; the next step begins anew.
    pub(super) fn step(&mut self, shared: &Shared, fresh: &Fresh) -> anyhow::Result<Step> {
        let done = self.try_step(shared, fresh);
        if done.is_err() {
            self.look_again();
        }
        done
    }

    /// Begins anew, but for what was released and is not stored yet.
    fn look_again(&mut self) {
        self.has_looked = false;
        for progress in self.collections.values_mut() {
            let noised = std::mem::take(&mut progress.noised);
            *progress = Progress { noised, ..Progress::new(progress.share) };
        }
    }

    fn try_step(&mut self, shared: &Shared, fresh: &Fresh) -> anyhow::Result<Step> {
        let mut wanted = shared.shares.all();
        if !self.has_looked {
            // What is there of a collection of which the file of shares knows nothing any more.
            for prefix in [Pin::SEALED, Pin::NOISED] {
                for pin in shared.archive.pins(prefix)?.into_keys() {
                    if let Some(name) = pin.collection() {
                        wanted.entry(CollectionName::new(name)?).or_default();
                    }
                }
            }
            self.has_looked = true;
        }
        for (name, share) in wanted {
            let is_same = self.collections.get(&name).is_some_and(|known| known.share == share);
            if !is_same {
                self.collections.insert(name, Progress::new(share));
            }
        }
        let mut step = Step::default();
        for (name, progress) in &mut self.collections {
            progress.clear(shared, name)?;
            match progress.share {
                Share::Private => progress.is_done = true,
                Share::Sealed => {
                    let fresh = fresh.get(name).map_or(&[][..], Vec::as_slice);
                    step.stored.extend(progress.seal(shared, name, fresh)?);
                }
                Share::Noised(windows) => {
                    let done = shared.noise_step(name, windows, &mut progress.noised)?;
                    let wait = match done {
                        segments::Step::Done(stored) => {
                            step.stored.extend(stored);
                            Duration::ZERO
                        }
                        segments::Step::Wait(wait) => wait,
                    };
                    step.next = Some(step.next.map_or(wait, |next| next.min(wait)));
                    progress.is_done = true;
                }
            }
            step.is_more |= !(progress.is_done && progress.is_clear);
        }
        Ok(step)
    }
}

impl Progress {
    fn new(share: Share) -> Self {
        let noised = segments::Progress::default();
        Self { share, is_clear: false, after: None, is_done: false, noised }
    }

    /// Drops a part of what is there in other forms than the wanted one.
    fn clear(&mut self, shared: &Shared, name: &CollectionName) -> anyhow::Result<()> {
        if self.is_clear {
            return Ok(());
        }
        let mut is_more = false;
        if self.share != Share::Sealed {
            is_more |= drop_copies(shared, name)?;
        }
        if !matches!(self.share, Share::Noised(_)) {
            is_more |= drop_noised(shared, name)?;
        }
        self.is_clear = !is_more;
        Ok(())
    }

    /// Seals the next segments without a copy, and those that were archived just now.
    fn seal(
        &mut self,
        shared: &Shared,
        name: &CollectionName,
        fresh: &[Cid],
    ) -> anyhow::Result<Vec<Cid>> {
        let own = Pin::own(name.as_str());
        let mut roots = Vec::new();
        if !self.is_done {
            roots = shared.archive.without_copy(&own, self.after.as_ref(), STEP)?;
            self.is_done = roots.len() < STEP;
            self.after = roots.last().copied().or(self.after);
        }
        roots.extend(fresh.iter().filter(|cid| !roots.contains(cid)).copied().collect::<Vec<_>>());
        if roots.is_empty() {
            return Ok(Vec::new());
        }
        let key = KeyRing::sealing_or_new(&shared.dir, name, clock::now().0)?;
        seal_all(shared, name, &key, &roots)
    }
}

/// Drops some sealed copies; says whether there may be more.
fn drop_copies(shared: &Shared, name: &CollectionName) -> anyhow::Result<bool> {
    let (own, copies) = (Pin::own(name.as_str()), Pin::sealed(name.as_str()));
    let dropped = shared.archive.drop_copies(&own, &copies, STEP)?;
    if !dropped.is_empty() {
        tracing::info!(collection = %name, copies = dropped.len(), "sealed copies are unpinned");
    }
    Ok(dropped.len() == STEP)
}

/// Drops some noised segments; says whether there may be more.
fn drop_noised(shared: &Shared, name: &CollectionName) -> anyhow::Result<bool> {
    let pin = Pin::noised(name.as_str());
    if shared.archive.roots(&pin, None, 1)?.is_empty() {
        return Ok(false);
    }
    // First, so that no catalog names what is gone.
    shared.archive.drop_catalog(&pin)?;
    tracing::info!(collection = %name, "noised segments are unpinned");
    Ok(shared.archive.unpin_part(&pin, STEP)?)
}

/// Makes copies of segments; returns their blocks.
fn seal_all(
    shared: &Shared,
    name: &CollectionName,
    key: &SealingKey,
    roots: &[Cid],
) -> anyhow::Result<Vec<Cid>> {
    let mut stored = Vec::new();
    let (mut copies, mut bytes) = (Vec::new(), 0);
    for root in roots {
        // One that is damaged on disk gets its copy when it is whole again, after a restart.
        let Some(object) = sealed(shared, name, key, root)? else { continue };
        bytes += object.links.iter().chain([&object.root]).map(|b| b.bytes().len()).sum::<usize>();
        stored.extend(object.cids());
        copies.push(SealedCopy { of: *root, object });
        if bytes >= BATCH_BYTES_MAX {
            put(shared, name, &copies)?;
            (copies, bytes) = (Vec::new(), 0);
        }
    }
    put(shared, name, &copies)?;
    Ok(stored)
}

/// Returns the sealed copy of an archived segment, if all of it is here.
fn sealed(
    shared: &Shared,
    name: &CollectionName,
    key: &SealingKey,
    root: &Cid,
) -> anyhow::Result<Option<Object>> {
    let Some(root) = shared.stored_block(root)? else { return Ok(None) };
    let segment = Segment::decode(root.bytes())
        .with_context(|| format!("{} is archived and no segment", root.cid()))?;
    let payload = segment.payload().iter().map(|cid| shared.stored_block(cid));
    let payload: Option<Vec<Block>> = payload.collect::<Result<_, _>>()?;
    let Some(payload) = payload else { return Ok(None) };
    let Sealed { root, links } = key.seal(&root, &payload)?;
    Ok(Some(Object { pin: Pin::sealed(name.as_str()), root, links }))
}

fn put(shared: &Shared, name: &CollectionName, copies: &[SealedCopy]) -> anyhow::Result<()> {
    if copies.is_empty() {
        return Ok(());
    }
    let own = Pin::own(name.as_str());
    match shared.archive.put_copies(&own, copies) {
        Err(PutError::Catalog { what }) => {
            tracing::warn!(what, "the catalog of sealed copies is damaged and is made again");
            catalog_again(shared, &Pin::sealed(name.as_str()))?;
            Ok(shared.archive.put_copies(&own, copies)?)
        }
        done => Ok(done?),
    }
}

fn catalog_again(shared: &Shared, copies: &Pin) -> anyhow::Result<()> {
    shared.archive.drop_catalog(copies)?;
    let mut after = None;
    loop {
        let roots = shared.archive.roots(copies, after.as_ref(), STEP)?;
        let Some(last) = roots.last() else { return Ok(()) };
        after = Some(*last);
        let entries: Vec<_> = roots.iter().filter_map(Entry::of_sealed).collect();
        shared.archive.enter(copies, &entries)?;
    }
}
