//! Bundles: what this node writes for others without a network, and what it takes in from them.
//!
//! A bundle holds plain private segments and leaves by the operator's own act. It is taken in whole or not
//! at all, from peers that the operator names, and every import asks the gate first.

use std::{
    io::{Read, Write},
    sync::{MutexGuard, TryLockError, atomic::AtomicU64},
};

use dunlin_archive::{
    LandError, Landing, Pin, PutError, ReadError,
    bundle::{
        self, BundleError, ChainError, Counts, Entry, Export, ExportError, Exported, Form, Full,
        Gaps, Kind, Policy, Reader, Span, StageError, Staged, WriteError, follows,
    },
};
use dunlin_engine::Segment;
use dunlin_privacy::TemplateSet;
use dunlin_protocols::{NetworkError, PeerId};
use dunlin_trust::Operation;
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    envelope::{self, Signed},
};

use super::{
    clock,
    shared::Shared,
    sharing::{Held, misfit},
};
use crate::data_dir::DataDirError;

/// Segments whose CIDs are read at once.
const PAGE: usize = 4096;

/// What goes into a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundleWish {
    pub(crate) since: Since,
    /// Of these collections alone; of all, when there are none.
    pub(crate) collections: Vec<String>,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// What no bundle of this node carried yet.
    Last,
    /// What ends at this time or later, in microseconds since the epoch, whether it was carried or not.
    Time(i64),
}

/// A bundle that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) exported: Exported,
    /// Whether there is more for the next one.
    pub(crate) more: bool,
    /// Segments that are sealed and not archived yet: they go with the next one.
    pub(crate) due: u64,
}

/// A bundle that was taken in.
#[derive(Debug)]
pub(crate) struct Landed {
    pub(crate) signed: Signed<bundle::Manifest>,
    pub(crate) bundle: Cid,
    pub(crate) staged: Staged,
    /// Template sets that were kept; the gate judges them next.
    pub(crate) templates: u64,
}

/// From whom a bundle is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImportWish {
    /// These peers; the operator's own ones, when there are none.
    pub(crate) from: Vec<PeerId>,
    pub(crate) gaps: Gaps,
}

/// What became of bundles since the start.
#[derive(Debug, Default)]
pub(crate) struct BundleCounters {
    /// Made here.
    pub(crate) made: AtomicU64,
    /// Of these, how often one was not written to its end.
    pub(crate) cut: AtomicU64,
    /// Of peers, taken in.
    pub(crate) imported: AtomicU64,
    /// Of peers, refused or cut off.
    pub(crate) refused: AtomicU64,
}

impl Shared {
    /// Makes the next bundle: goes over all that belongs into it, and gives it a number. It is written by
    /// [`Self::write_bundle`].
    pub(crate) fn make_bundle(&self, wish: &BundleWish) -> Result<Made, MakeError> {
        let _turn = self.bundle_turn().ok_or(MakeError::Busy)?;
        let mut export = Export::begin(&self.archive)?;
        let more = match self.collect(wish, &mut export) {
            // What is left over was not carried, so the next bundle takes it.
            Err(MakeError::Export(ExportError::Full(_)))
                if wish.since == Since::Last && export.counts().segments > 0 =>
            {
                true
            }
            collected => collected.map(|()| false)?,
        };
        if export.counts() == Counts::default() {
            return Err(MakeError::Nothing { last: export.sequence() - 1 });
        }
        let policy = Policy {
            form: Form::Private,
            since_us: match wish.since {
                Since::Last => None,
                Since::Time(time) => Some(time),
            },
            collections: wish.collections.clone(),
        };
        let position = self.archive.position()?.unwrap_or(0);
        let due = self.engine.last_segment()?.saturating_sub(position);
        let exported = export.finish(&self.dir.identity()?, clock::now().0, policy)?;
        tracing::info!(sequence = exported.sent.link.sequence, "made a bundle");
        Ok(Made { exported, more, due })
    }

    /// Takes the one turn there is to make or take in a bundle.
    fn bundle_turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.bundles.try_lock() {
            Ok(turn) => Some(turn),
            // It guards no data, so one who panicked has broken nothing.
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn collect(&self, wish: &BundleWish, export: &mut Export<'_>) -> Result<(), MakeError> {
        // Templates are few, and would be left out of a bundle that is full of segments.
        for held in self.sharing.bundled(&wish.collections) {
            let signer = held.signed.signer;
            if !self.sharing.is_own(&held) && self.may(signer, Operation::AdoptTemplates).is_err() {
                continue;
            }
            let block = Block::new(Codec::DagCbor, held.signed.bytes.clone());
            if wish.since != Since::Last || !self.archive.was_sent(block.cid())? {
                export.template(&block)?;
            }
        }
        let mut unknown: Vec<&String> = wish.collections.iter().collect();
        for pin in self.archive.pins(Pin::OWN)?.into_keys() {
            let name = &pin.as_str()[Pin::OWN.len()..];
            unknown.retain(|wished| *wished != name);
            if !wish.collections.is_empty() && !wish.collections.iter().any(|wished| wished == name)
            {
                continue;
            }
            let mut after = None;
            loop {
                let roots = self.archive.roots(&pin, after.as_ref(), PAGE)?;
                let Some(last) = roots.last() else { break };
                after = Some(*last);
                for cid in &roots {
                    self.collect_segment(wish.since, name, cid, export)?;
                }
            }
        }
        match unknown.first() {
            Some(name) => Err(MakeError::UnknownCollection { name: (*name).clone() }),
            None => Ok(()),
        }
    }

    /// Takes a segment into a bundle, after every block of it was read and found whole.
    fn collect_segment(
        &self,
        since: Since,
        collection: &str,
        cid: &Cid,
        export: &mut Export<'_>,
    ) -> Result<(), MakeError> {
        if since == Since::Last && self.archive.was_sent(cid)? {
            return Ok(());
        }
        let missing = |cid: &Cid| MakeError::Missing { cid: Box::new(*cid) };
        let block = self.stored_block(cid)?.ok_or_else(|| missing(cid))?;
        let segment = Segment::decode(block.bytes()).map_err(|_| missing(cid))?;
        let span = Span { from_us: segment.start().0, to_us: segment.end().0 };
        if matches!(since, Since::Time(time) if span.to_us < time) {
            return Ok(());
        }
        let mut payload = Vec::with_capacity(segment.payload().len());
        for link in segment.payload() {
            let block = self.stored_block(link)?.ok_or_else(|| missing(link))?;
            payload.push((*link, block.bytes().len()));
        }
        Ok(export.segment(collection, &block, &payload, span)?)
    }

    /// Writes an own bundle, the same bytes every time.
    pub(crate) fn write_bundle(
        &self,
        exported: &Exported,
        mut out: impl Write,
    ) -> Result<(), WriteError<ReadError>> {
        bundle::write(&mut out, &exported.sent.root, |cid| {
            Ok(self.stored_block(cid)?.map(Block::into_bytes))
        })
    }

    /// Takes a bundle in. Nothing of it is visible until all of it is; what arrived of one that was cut
    /// off spares the next run as much.
    pub(crate) fn import_bundle(
        &self,
        input: impl Read,
        wish: &ImportWish,
    ) -> Result<Landed, ImportError> {
        let _turn = self.bundle_turn().ok_or(ImportError::Busy)?;
        let mut reader = Reader::open(input)?;
        let (signed, link) = (reader.signed().clone(), reader.link());
        self.may_import(&signed.signer, &wish.from)?;
        let last = self.archive.last_received(&signed.signer)?;
        follows(last, &link.bundle, &signed.value, wish.gaps)
            .map_err(|cause| ImportError::Chain { signer: signed.signer, cause })?;
        self.has_room_for_bundle(&link.bundle, signed.value.counts)?;
        let mut sets = Vec::new();
        let staged = bundle::stage(&self.archive, &mut reader, |entry| inspect(entry, &mut sets));
        if matches!(staged, Err(StageError::Put(PutError::Full { .. }))) {
            // It will not fit the next time either, and own segments need the room.
            self.archive.drop_staged(None)?;
        }
        let staged = staged?;
        let sets = self.choose_templates(sets)?;
        let objects: Vec<_> = sets.iter().map(Held::to_object).collect();
        // It may have been revoked while this was read.
        self.may_import(&signed.signer, &wish.from)?;
        self.archive.land(&Landing {
            signer: &signed.signer,
            bundle: link.bundle,
            manifest: &signed.value,
            gaps: wish.gaps,
            templates: &objects,
        })?;
        let templates = sets.len() as u64;
        for held in sets {
            self.sharing.hold(held);
        }
        self.arrived.notify_one();
        tracing::info!(peer = %signed.signer, sequence = link.sequence, "imported a bundle");
        Ok(Landed { signed, bundle: link.bundle, staged, templates })
    }

    /// Says whether bundles of a peer are taken in: it must be one that the operator names, or one of the
    /// own peers when none is named, and the gate must let it pass. This is the one place that decides.
    fn may_import(&self, signer: &PeerId, from: &[PeerId]) -> Result<(), ImportError> {
        let named = if from.is_empty() { &self.config.network.own_peers } else { from };
        if !named.contains(signer) {
            return Err(ImportError::NotNamed { signer: *signer });
        }
        Ok(self.may(*signer, Operation::ImportBundle)?)
    }

    /// Asks the gate from a thread that may wait.
    fn may(&self, peer: PeerId, operation: Operation) -> Result<(), NetworkError> {
        tokio::runtime::Handle::current().block_on(self.network.may(peer, operation))
    }

    /// Checks that a bundle fits, and clears away what is staged of others: they were given up.
    fn has_room_for_bundle(&self, bundle: &Cid, counts: Counts) -> Result<(), ImportError> {
        self.archive.drop_staged(Some(bundle))?;
        let is_begun = self.archive.staged()?.iter().any(|(staged, _)| staged == bundle);
        let bytes = self.archive.stats()?.bytes;
        let bytes_max = self.config.archive.bytes_max;
        if !is_begun && bytes.saturating_add(counts.bytes) > bytes_max {
            return Err(PutError::Full { bytes, more: counts.bytes, bytes_max }.into());
        }
        Ok(())
    }

    /// Returns those template sets of a bundle that are of use here, as those of peers are: signers that
    /// are heard, collections of this node, and nothing that is older than what is here.
    fn choose_templates(
        &self,
        mut sets: Vec<Signed<TemplateSet>>,
    ) -> Result<Vec<Held>, ImportError> {
        if !self.config.templates.adopt {
            return Ok(Vec::new());
        }
        let specs = self.engine.collections().map_err(ImportError::Engine)?;
        let mut chosen = Vec::new();
        // The newest of a signer comes last, and stays.
        sets.sort_by_key(|signed| signed.value.issued_unix_ms());
        for signed in sets {
            let is_useful = specs.iter().any(|spec| misfit(&signed.value, spec).is_none());
            if !is_useful || !self.sharing.is_news(&signed) {
                continue;
            }
            match self.may(signed.signer, Operation::AdoptTemplates) {
                Ok(()) => {}
                Err(NetworkError::Gate(refusal)) => {
                    tracing::debug!(%refusal, "templates of a bundle passed over");
                    continue;
                }
                Err(cause) => return Err(cause.into()),
            }
            chosen.push(Held::new(signed));
        }
        self.make_room_for_all(&mut chosen)?;
        Ok(chosen)
    }
}

/// Checks that a block of a bundle is what its index says, and collects template sets.
fn inspect(entry: &Entry, sets: &mut Vec<Signed<TemplateSet>>) -> Result<(), &'static str> {
    match &entry.kind {
        Kind::Part | Kind::Payload => Ok(()),
        Kind::Segment { collection } => {
            let segment = Segment::decode(entry.block.bytes()).map_err(|_| "no segment")?;
            if segment.collection().as_str() == collection {
                Ok(())
            } else {
                Err("of another collection")
            }
        }
        Kind::Template => {
            let signed = envelope::open::<TemplateSet>(entry.block.bytes());
            sets.push(signed.map_err(|_| "no signed template set")?);
            Ok(())
        }
    }
}

/// Why no bundle was made. No number is taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MakeError {
    /// Another one is being made or taken in.
    #[error("another bundle is being made or imported; try again when it is done")]
    Busy,
    /// There is nothing to carry.
    #[error("{}", nothing(*last))]
    Nothing {
        /// The number of the last bundle.
        last: u64,
    },
    /// Nothing of a collection is archived.
    #[error("no segment of collection {name} is archived here")]
    UnknownCollection {
        /// Its name.
        name: String,
    },
    /// A block is gone, or damaged on disk.
    #[error(
        "the archived block {cid} is damaged on disk; fetch its segment from a peer that has it"
    )]
    Missing {
        /// Its CID.
        cid: Box<Cid>,
    },
    /// It cannot be made.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The archive cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The engine cannot be read.
    #[error(transparent)]
    Engine(#[from] dunlin_engine::ReadError),
    /// The node's key cannot be read.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

fn nothing(last: u64) -> String {
    match last {
        0 => "nothing is archived here yet, and there are no templates".to_owned(),
        last => format!("there is nothing that bundle {last} and those before it did not carry"),
    }
}

impl MakeError {
    /// Returns whether more would belong into the bundle than a bundle holds.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Export(ExportError::Full(Full)))
    }
}

/// Why a bundle was not taken in. Nothing of it is visible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ImportError {
    /// Another one is being made or taken in.
    #[error("another bundle is being made or imported; try again when it is done")]
    Busy,
    /// The file is no whole bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A block of it is not what the index says.
    #[error(transparent)]
    Stage(StageError),
    /// Its signer is nobody from whom bundles are taken.
    #[error(
        "the bundle is signed by {signer}, from whom none are taken; if you trust that peer, \
         name it with --from, or as one of `own_peers`"
    )]
    NotNamed {
        /// Who signed it.
        signer: PeerId,
    },
    /// Its signer is quarantined or revoked.
    #[error(transparent)]
    Gate(#[from] NetworkError),
    /// It is not the next one of its signer.
    #[error("{cause} (bundles of {signer})")]
    Chain {
        /// Who signed it.
        signer: PeerId,
        /// What is in the way.
        cause: ChainError,
    },
    /// It could not be made visible.
    #[error(transparent)]
    Land(LandError),
    /// The archive does not take it.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The archive cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The engine cannot be read.
    #[error(transparent)]
    Engine(dunlin_engine::ReadError),
}

impl From<StageError> for ImportError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Bundle(cause) => Self::Bundle(cause),
            StageError::Put(cause) => Self::Put(cause),
            StageError::Read(cause) => Self::Read(cause),
            content => Self::Stage(content),
        }
    }
}

impl From<LandError> for ImportError {
    fn from(error: LandError) -> Self {
        match error {
            LandError::Put(cause) => Self::Put(cause),
            other => Self::Land(other),
        }
    }
}
