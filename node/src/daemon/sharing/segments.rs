//! Noised segments: a window of time of a collection, the ledger, noise, signatures, the archive.
//!
//! Windows follow each other on a grid that nobody looks at data for, and each is released at most once: what
//! has been is what the ledger says. A crash after the ledger's entry loses that window's segments and nothing
//! else.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use anyhow::Context;
use dunlin_archive::{Object, Pin, PutError, catalog::Entry};
use dunlin_engine::{CollectionName, CollectionSpec, Units};
use dunlin_privacy::{
    AboutSegment, Bounds, DataError, EntityTag, Gather, Intent, NoisedSegment, Pseudonym,
    ReleaseConfig, ReleasedSegment, ReserveError, Span, Terms, Unit, Window, observations_needed,
    release_segments,
};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    envelope::{self, Signed},
};
use zeroize::Zeroizing;

use super::{
    channels, metric,
    release::{ENTITIES_PAGE, ReleaseRequest, SharingError},
};
use crate::{
    daemon::{clock, shared::Shared, shares::Windows},
    data_dir::DataDir,
};

/// What the ledger's entries of noised segments are for.
const PURPOSE: &str = "segments";

/// The key of pseudonyms, in the data folder, for its owner alone.
const KEY_FILE: &str = "pseudonyms.key";

/// How long after its end a window is released, beside what the collection allows observations to be late.
const SETTLE: Duration = Duration::from_secs(60);

/// Windows that are caught up with at most: each is an entry of the ledger, which is kept for ever.
pub(crate) const WINDOWS_BEHIND_MAX: u64 = 10_000;

/// Segments that are stored in one durable commit.
const STORED_TOGETHER: usize = 1_000;

/// How far the noised segments of a collection are.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The window that is released next; `None` before it was looked for.
    next: Option<Window>,
    /// What is released and found no room yet. It was paid for, and is never drawn again.
    unstored: Vec<(i64, Object)>,
}

/// What became of a step.
#[derive(Debug)]
pub(crate) enum Step {
    /// These were stored, and there may be more to do.
    Done(Vec<Cid>),
    /// Nothing is due before this has passed.
    Wait(Duration),
}

/// What noised segments of a collection promise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentTerms {
    pub(crate) terms: Terms,
    /// With about how many observations a window is released.
    pub(crate) observations_needed: u64,
}

/// Why a collection cannot be shared with noise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoisedError {
    /// The promise would be broken.
    #[error(
        "noised segments protect single observations, and nothing coarser can be promised for what they were \
         made of, but `privacy.unit` is {unit}; share another collection, or set it to observation"
    )]
    Unit {
        /// What the operator promises by templates.
        unit: Unit,
    },
    /// It would take too many windows to catch up.
    #[error(
        "since then there are {windows} windows, and at most {WINDOWS_BEHIND_MAX} are caught up with; begin \
         later, or take longer windows"
    )]
    Behind {
        /// How many there are.
        windows: u64,
    },
    /// There is no such window.
    #[error(
        "windows of {length_us} us from {since_us} us are none; a window has 10 minutes to 31 days"
    )]
    Window {
        /// When they begin.
        since_us: i64,
        /// Their length.
        length_us: u64,
    },
    /// The collection is not fit for it.
    #[error(transparent)]
    Sharing(#[from] SharingError),
}

impl Shared {
    /// Returns what noised segments of a collection promise, if they can be made.
    pub(crate) fn noised_terms(
        &self,
        name: &CollectionName,
        windows: Windows,
    ) -> Result<SegmentTerms, NoisedError> {
        let unit = self.config.privacy.unit;
        if unit != Unit::Observation {
            return Err(NoisedError::Unit { unit });
        }
        let Windows { since_us, length_us } = windows;
        if Window::at_or_after(since_us, length_us).is_none() {
            return Err(NoisedError::Window { since_us, length_us });
        }
        let behind = u64::try_from(now_us().saturating_sub(since_us)).unwrap_or(0) / length_us;
        if behind > WINDOWS_BEHIND_MAX {
            return Err(NoisedError::Behind { windows: behind });
        }
        let spec = self.engine.collection(name).map_err(SharingError::from)?;
        bounds(&spec)?;
        let terms = self.segment_terms()?;
        let noise_max = ReleaseConfig::default().centroid_noise_max;
        let observations_needed = observations_needed(&terms, spec.dim.get(), noise_max);
        Ok(SegmentTerms { terms, observations_needed })
    }

    /// Returns the end of the last window of a collection that was released, in microseconds.
    pub(crate) fn noised_until(&self, name: &CollectionName) -> Option<i64> {
        let ledger = self.sharing.ledger();
        let of_it = ledger.entries().iter().filter(|entry| {
            entry.purpose == PURPOSE && entry.collection.as_deref() == Some(name.as_str())
        });
        of_it.map(|entry| entry.span.last_us).max()
    }

    /// Releases the next window of a collection, if it is over, or stores what found no room before.
    pub(crate) fn noise_step(
        &self,
        name: &CollectionName,
        windows: Windows,
        progress: &mut Progress,
    ) -> anyhow::Result<Step> {
        if !progress.unstored.is_empty() {
            return self.store(name, progress).map(Step::Done);
        }
        let next = progress.next.or_else(|| self.first_window(name, windows));
        // At the end of time.
        let Some(window) = next else { return Ok(Step::Wait(Duration::MAX)) };
        progress.next = Some(window);
        let spec = self.engine.collection(name)?;
        let settle_us = SETTLE.as_micros().saturating_add(spec.lateness_us.into());
        let due_us = i128::from(window.last_us()) + 1 + i128::try_from(settle_us)?;
        if let Ok(wait_us @ 1..) = u64::try_from(due_us - i128::from(now_us())) {
            return Ok(Step::Wait(Duration::from_micros(wait_us)));
        }
        match self.release_window(&spec, window) {
            Ok(segments) => progress.unstored = self.objects(&spec, segments)?,
            // For other windows there may be budget left, and for this one there is none any more.
            Err(SharingError::Reserve(
                refusal @ (ReserveError::Exhausted { .. }
                | ReserveError::FinerBefore { .. }
                | ReserveError::Unchanged { .. }),
            )) => {
                let start_us = window.start_us();
                tracing::warn!(collection = %name, start_us, %refusal, "a window is left out");
            }
            Err(cause) => return Err(cause).context("no noised segments"),
        }
        progress.next = Window::at_or_after(window.last_us().saturating_add(1), windows.length_us);
        self.store(name, progress).map(Step::Done)
    }

    /// Returns the first window that is not released yet.
    fn first_window(&self, name: &CollectionName, windows: Windows) -> Option<Window> {
        let Windows { since_us, length_us } = windows;
        let behind = i64::try_from(length_us.saturating_mul(WINDOWS_BEHIND_MAX)).ok()?;
        let released = self.noised_until(name).map_or(i64::MIN, |last| last.saturating_add(1));
        let from = since_us.max(released).max(now_us().saturating_sub(behind));
        Window::at_or_after(from, length_us)
    }

    fn segment_terms(&self) -> Result<Terms, SharingError> {
        let unit = Some(Unit::Observation);
        self.terms(&ReleaseRequest { unit, ..ReleaseRequest::default() })
    }

    /// Pays for a window, and draws its noise.
    fn release_window(
        &self,
        spec: &CollectionSpec,
        window: Window,
    ) -> Result<Vec<NoisedSegment>, SharingError> {
        let name = &spec.name;
        let bounds = bounds(spec)?;
        let span = Span { first_us: window.start_us(), last_us: window.last_us() };
        let mut gather = Gather::by_entity(bounds.clone(), span);
        let key = pseudonym_key(&self.dir).map_err(SharingError::Store)?;
        let mut pseudonyms = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.engine.entities(name, after.as_ref(), ENTITIES_PAGE)?;
            // All of them, whether they were there then or not: who was is noised too.
            for view in &page {
                let (entity, tag) = (view.entity.as_str(), EntityTag::of(view.entity.as_str()));
                pseudonyms.insert(tag, Pseudonym::of(&key, name.as_str(), entity));
                gather.begin(tag)?;
                self.gather_entity(name, &view.entity, span, &mut gather)?;
            }
            match page.last() {
                Some(last) if page.len() == ENTITIES_PAGE => after = Some(last.entity.clone()),
                _ => break,
            }
        }
        if pseudonyms.is_empty() {
            return Ok(Vec::new());
        }
        let (data, terms) = (gather.finish(), self.segment_terms()?);
        let intent = Intent {
            collection: name.as_str(),
            data: &data,
            terms,
            now_unix_ms: clock::now().0,
            purpose: PURPOSE,
        };
        let noise_max = ReleaseConfig::default().centroid_noise_max;
        let mut ledger = self.sharing.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let receipt = ledger.reserve(&intent)?;
        let released = release_segments(&mut ledger, receipt, &data, noise_max)?;
        drop(ledger);
        let segment = |released: &ReleasedSegment| {
            let about = AboutSegment {
                collection: name.as_str(),
                metric: metric(spec.metric),
                channels: channels(spec),
                bounds: &bounds,
                terms,
                entity: pseudonyms[&released.entity],
                window,
            };
            Ok(NoisedSegment::new(released, &about)?)
        };
        released.iter().map(segment).collect()
    }

    fn objects(
        &self,
        spec: &CollectionSpec,
        segments: Vec<NoisedSegment>,
    ) -> anyhow::Result<Vec<(i64, Object)>> {
        let object = |segment: NoisedSegment| {
            let start = segment.window().start_us();
            let signed = envelope::sign(&self.sharing.identity, segment)?;
            let block = Block::new(Codec::DagCbor, signed.bytes);
            Ok((start, Object::leaf(Pin::noised(spec.name.as_str()), block)))
        };
        segments.into_iter().map(object).collect()
    }

    /// Stores a part of what is released, and enters it in the catalog; what finds no room waits.
    fn store(&self, name: &CollectionName, progress: &mut Progress) -> anyhow::Result<Vec<Cid>> {
        let count = progress.unstored.len().min(STORED_TOGETHER);
        let part = &progress.unstored[..count];
        if part.is_empty() {
            return Ok(Vec::new());
        }
        match self.archive.put_cataloged(part, None) {
            Err(PutError::Catalog { what }) => {
                tracing::warn!(what, "the catalog of noised segments is damaged and is made again");
                self.noised_catalog_again(&Pin::noised(name.as_str()))?;
                self.archive.put_cataloged(part, None)?;
            }
            done => done.inspect_err(|_| self.crowded.notify_one())?,
        }
        let stored = part.iter().flat_map(|(_, object)| object.cids()).collect();
        progress.unstored.drain(..count);
        Ok(stored)
    }

    fn noised_catalog_again(&self, pin: &Pin) -> anyhow::Result<()> {
        self.archive.drop_catalog(pin)?;
        let mut after = None;
        loop {
            let roots = self.archive.roots(pin, after.as_ref(), STORED_TOGETHER)?;
            let Some(last) = roots.last() else { return Ok(()) };
            after = Some(*last);
            let mut entries = Vec::with_capacity(roots.len());
            for cid in &roots {
                let block = self.stored_block(cid)?;
                let segment = block.and_then(|block| noised_in(&block));
                entries
                    .extend(segment.and_then(|it| Entry::new(it.value.window().start_us(), cid)));
            }
            self.archive.enter(pin, &entries)?;
        }
    }
}

/// Returns the noised segment that a block holds, if its signature is right.
pub(crate) fn noised_in(block: &Block) -> Option<Signed<NoisedSegment>> {
    envelope::open(block.bytes()).ok()
}

fn now_us() -> i64 {
    i64::try_from(clock::now().0.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

/// Returns the declared ranges of a collection.
pub(super) fn bounds(spec: &CollectionSpec) -> Result<Bounds, SharingError> {
    let Units::Range { lower, upper } = &spec.units else { return Err(SharingError::NoRange) };
    Ok(Bounds::new(lower.clone(), upper.clone()).map_err(DataError::from)?)
}

/// Returns the key of this node's pseudonyms, making it when there is none. With another key, entities have
/// other pseudonyms.
fn pseudonym_key(dir: &DataDir) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    if let Some((path, bytes)) = dir.secret_if_any(KEY_FILE)? {
        let bytes = Zeroizing::new(bytes);
        let key = <[u8; 32]>::try_from(bytes.as_slice());
        return key.map(Zeroizing::new).with_context(|| {
            format!("{} is damaged; remove it, and entities get new pseudonyms", path.display())
        });
    }
    let key = Zeroizing::new(rand::random::<[u8; 32]>());
    dir.replace(KEY_FILE, key.as_slice(), 0o600)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn the_key_of_pseudonyms_stays_and_is_read_by_its_owner_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let key = pseudonym_key(&dir).unwrap();
        assert_eq!(pseudonym_key(&dir).unwrap(), key);
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(pseudonym_key(&dir).is_err(), "others may read it");
        dir.replace(KEY_FILE, b"short", 0o600).unwrap();
        assert!(pseudonym_key(&dir).is_err(), "damaged");
    }
}
