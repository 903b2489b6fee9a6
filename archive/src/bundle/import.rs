//! The first half of an import: blocks go to the staging area, where nobody sees them.
//!
//! The second half, [`Archive::land`], makes all of them visible at once.

use std::io::Read;

use dunlin_wire::{Cid, block::Block};

use super::{BundleError, Entry, Reader};
use crate::{Archive, PutError, ReadError};

/// Blocks in one durable commit: what a crash costs at most.
const BATCH_BLOCKS_MAX: usize = 256;

/// Bytes in one durable commit. They are in memory until then.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What was brought to the staging area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    /// Blocks that are new there.
    pub new: u64,
    /// Blocks that an earlier run, which did not come to its end, had left there.
    pub resumed: u64,
}

/// Reads a bundle to its end and keeps its blocks in the staging area of the archive. `inspect` sees every
/// block first, and says what is wrong with it. Run again, it goes on where it stopped: what is staged is
/// read and checked, but not written again.
///
/// # Errors
///
/// Fails when the bundle is not whole, a block is not what the index says, or the archive does not take it.
/// What was staged before stays for the next run.
pub fn stage<R: Read>(
    archive: &Archive,
    reader: &mut Reader<R>,
    mut inspect: impl FnMut(&Entry) -> Result<(), &'static str>,
) -> Result<Staged, StageError> {
    let bundle = reader.link().bundle;
    let mut batch =
        Batch { archive, bundle, blocks: Vec::new(), bytes: 0, staged: Staged::default() };
    let index = reader.index().clone();
    batch.add(index)?;
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                let cid = entry.block.cid();
                inspect(&entry)
                    .map_err(|what| StageError::Content { cid: Box::new(*cid), what })?;
                batch.add(entry.block)?;
            }
            Ok(None) => {
                batch.commit()?;
                return Ok(batch.staged);
            }
            Err(cause) => {
                // It is verified, and spares the next run as much; if it fails, that run reads it again.
                batch.commit().ok();
                return Err(cause.into());
            }
        }
    }
}

/// Blocks that are not staged yet.
struct Batch<'a> {
    archive: &'a Archive,
    bundle: Cid,
    blocks: Vec<Block>,
    bytes: usize,
    staged: Staged,
}

impl Batch<'_> {
    fn add(&mut self, block: Block) -> Result<(), StageError> {
        if self.archive.is_staged(&self.bundle, block.cid())? {
            self.staged.resumed += 1;
            return Ok(());
        }
        self.bytes += block.bytes().len();
        self.blocks.push(block);
        if self.blocks.len() == BATCH_BLOCKS_MAX || self.bytes >= BATCH_BYTES_MAX {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StageError> {
        self.archive.stage(&self.bundle, &self.blocks)?;
        self.staged.new += self.blocks.len() as u64;
        self.blocks.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Why a bundle is not in the staging area as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A block is not what the index says it is.
    #[error("block {cid} of the bundle is {what}")]
    Content {
        /// Its CID.
        cid: Box<Cid>,
        /// What it is.
        what: &'static str,
    },
    /// The archive does not take it.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The archive cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}
