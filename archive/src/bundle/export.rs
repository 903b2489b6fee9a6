//! Making an own bundle of what an archive holds: the first of two passes, at whose end it has a number.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    envelope::{self, SignError, Signed},
};
use libp2p_identity::Keypair;

use super::{Builder, Contents, Counts, Full, Link, Manifest, Policy, Span, index::Root};
use crate::{Archive, PutError, ReadError, Sent};

/// An own bundle that is being made. What is not finished is no bundle; the next one clears it away.
#[derive(Debug)]
pub struct Export<'a> {
    archive: &'a Archive,
    last: Option<Link>,
    builder: Builder,
}

/// An own bundle that was made: its number is taken, and [`super::write`] writes it as often as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Where it is.
    pub sent: Sent,
    /// What it is.
    pub signed: Signed<Manifest>,
}

impl<'a> Export<'a> {
    /// Begins the next own bundle. One is made at a time: the caller sees to that.
    ///
    /// # Errors
    ///
    /// Fails when the archive cannot be read or written.
    pub fn begin(archive: &'a Archive) -> Result<Self, ExportError> {
        let last = archive.sent(None)?.map(|sent| sent.link);
        let export = Self { archive, last, builder: Builder::default() };
        archive.begin_bundle(export.sequence())?;
        Ok(export)
    }

    /// Returns the number that the bundle will have.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.last.map_or(1, |last| last.sequence + 1)
    }

    /// Returns how much is in it so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.builder.counts()
    }

    /// Takes a segment of a collection in, with all the blocks that it links to, each with its size.
    ///
    /// # Errors
    ///
    /// Fails when the bundle is full, and can be finished then.
    pub fn segment(
        &mut self,
        collection: &str,
        segment: &Block,
        payload: &[(Cid, usize)],
        span: Span,
    ) -> Result<(), ExportError> {
        let segment = (*segment.cid(), segment.bytes().len());
        let part = self.builder.segment(collection, segment, payload, span)?;
        self.keep(part)
    }

    /// Takes the signed envelope of a template set in.
    ///
    /// # Errors
    ///
    /// As [`Self::segment`].
    pub fn template(&mut self, envelope: &Block) -> Result<(), ExportError> {
        let part = self.builder.template(*envelope.cid(), envelope.bytes().len())?;
        self.keep(part)?;
        // A newer one takes its place meanwhile, and the bundle may have to be written again.
        self.keep(Some(envelope.clone()))
    }

    /// Signs the bundle, and notes it as the last one.
    ///
    /// # Durability
    ///
    /// When this returns, no crash gives its number to another bundle.
    ///
    /// # Errors
    ///
    /// Fails when the archive cannot be written.
    pub fn finish(
        self,
        keypair: &Keypair,
        created_unix_ms: u64,
        policy: Policy,
    ) -> Result<Exported, ExportError> {
        let (archive, sequence) = (self.archive, self.sequence());
        let previous = self.last.map(|last| last.bundle);
        let Contents { part, index, counts, span } = self.builder.finish();
        let content = *index.cid();
        let manifest =
            Manifest { sequence, previous, created_unix_ms, policy, counts, span, content };
        let signed = envelope::sign(keypair, manifest)?;
        let envelope = Block::new(Codec::DagCbor, signed.bytes.clone());
        let root = Root::new(*envelope.cid(), content).to_block();
        let link = Link { sequence, bundle: *envelope.cid() };
        let sent = Sent { link, root: *root.cid() };
        let frames: Vec<Block> = part.into_iter().chain([index, envelope, root]).collect();
        archive.finish_bundle(&sent, &content, &frames)?;
        Ok(Exported { sent, signed })
    }

    fn keep(&self, block: Option<Block>) -> Result<(), ExportError> {
        Ok(block.map_or(Ok(()), |block| self.archive.keep_part(self.sequence(), block))?)
    }
}

/// Returns the own bundle of this number, or the last one.
///
/// # Errors
///
/// Fails when the archive cannot be read. One whose index is not kept any more counts as none.
pub fn exported(archive: &Archive, sequence: Option<u64>) -> Result<Option<Exported>, ReadError> {
    let Some(sent) = archive.sent(sequence)? else { return Ok(None) };
    let envelope = archive.get(&sent.link.bundle)?;
    let signed = envelope.and_then(|bytes| envelope::open::<Manifest>(&bytes).ok());
    Ok(signed.map(|signed| Exported { sent, signed }))
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// There is no room for more.
    #[error(transparent)]
    Full(#[from] Full),
    /// The archive cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The archive does not take index and manifest.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The manifest cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}
