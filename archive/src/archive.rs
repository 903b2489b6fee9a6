//! The block store: blocks by CID, kept by pins, in one redb file, and large ones in files beside it.
//!
//! `docs/formats/archive.md` describes the tables. A block is stored once however many objects link to
//! it, and leaves when the last pin that reaches it does: every pin counts its blocks.

mod bundles;
mod copies;
mod digest;
mod large;
mod named;
mod pins;
mod placements;
mod publishing;
mod put;
mod read;
mod recovered;
mod retain;
pub(crate) mod stored;
pub(crate) mod tables;
pub(crate) mod writer;

use std::{path::Path, sync::Arc};

use dunlin_wire::{Cid, block::Block};
use redb::{Database, ReadableDatabase, StorageBackend};

pub use self::{
    bundles::{LandError, Landing, Sent},
    copies::SealedCopy,
    digest::Digest,
    large::{BlockFolder, FileName, LARGE_BYTES_MIN, disk_bytes},
    named::{Depth, NamedPin, PinError},
    pins::{Held, Usage},
    publishing::Publication,
    recovered::{Arrival, NamedRecord, OVERLAPPING_MAX, Overlapping, Snapshot},
    retain::{RetainError, Retained, Retention},
};
use self::{
    large::{Files, Folder, LargeFiles},
    stored::Reading,
    tables::{FORMAT, prepare},
};
use crate::{OpenError, Pin, PutError, files};

/// What an archive may use.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest size of all blocks together, in bytes; default 10 GiB. A batch beyond it is refused.
    pub bytes_max: u64,
    /// Memory for redb's cache, in bytes; default 4 MiB. More makes repeated reads faster.
    pub cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { bytes_max: 10 << 30, cache_bytes: 4 << 20 }
    }
}

/// A root block with the blocks that it links to, and why it is kept.
#[derive(Clone, Debug)]
pub struct Object {
    /// Why it is kept.
    pub pin: Pin,
    /// The block that names the object.
    pub root: Block,
    /// All blocks that the root links to.
    pub links: Vec<Block>,
}

impl Object {
    /// Returns an object of one block.
    #[must_use]
    pub fn leaf(pin: Pin, root: Block) -> Self {
        Self { pin, root, links: Vec::new() }
    }

    /// Returns the CIDs of the root and of the blocks it links to.
    pub fn cids(&self) -> impl Iterator<Item = Cid> {
        self.blocks().map(|block| *block.cid())
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        std::iter::once(&self.root).chain(&self.links)
    }
}

/// What an archive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
}

/// A block store with pins. Cheap to share: all methods take `&self`, writers take turns.
pub struct Archive {
    pub(crate) database: Database,
    files: Files,
    bytes_max: u64,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl Archive {
    /// Opens the archive in the file at `path`, making it when it is missing. Large blocks are in a folder beside
    /// it, whose name ends with `.files` instead.
    ///
    /// # Errors
    ///
    /// Fails when the file is no archive, is of a newer format, is open elsewhere, or is missing while its large blocks
    /// are there.
    pub fn open(path: &Path, config: Config) -> Result<Self, OpenError> {
        let folder = Folder::beside(path);
        if !path.exists() {
            folder.ensure_empty(path)?;
            files::create_whole(path, |database| prepare(database).map(drop))?;
        }
        let mut builder = Database::builder();
        let database = builder.set_cache_size(config.cache_bytes).open(path);
        Self::with_database(path, database, Some(Box::new(folder)), config.bytes_max)
    }

    /// Opens an archive on a storage of the caller's, for tests of what a crash leaves behind. Without a folder all
    /// blocks are in the storage.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_on(
        storage: impl StorageBackend,
        folder: Option<Box<dyn BlockFolder>>,
        config: Config,
    ) -> Result<Self, OpenError> {
        let mut builder = Database::builder();
        let database = builder.set_cache_size(config.cache_bytes).create_with_backend(storage);
        Self::with_database(Path::new("(storage)"), database, folder, config.bytes_max)
    }

    fn with_database(
        path: &Path,
        database: Result<Database, redb::DatabaseError>,
        folder: Option<Box<dyn BlockFolder>>,
        bytes_max: u64,
    ) -> Result<Self, OpenError> {
        let fail =
            |cause: redb::Error| OpenError::Database { path: path.into(), cause: Box::new(cause) };
        let database = database.map_err(|cause| fail(cause.into()))?;
        let found = prepare(&database).map_err(fail)?;
        if found != FORMAT {
            return Err(OpenError::Format { path: path.into(), found, known: FORMAT });
        }
        let files = folder.map(|folder| open_files(&database, folder)).transpose();
        Ok(Self { database, files: files.map_err(fail)?.map(Arc::new), bytes_max })
    }

    /// Gives room back to the disk that what has left took in redb's file; returns whether there was any. It takes as long
    /// as copying what stays, and nothing else can be done meanwhile.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses.
    pub fn compact(&mut self) -> Result<bool, PutError> {
        Ok(self.database.compact()?)
    }
}

/// Opens the files of large blocks, and removes those that a crash has left behind.
fn open_files(
    database: &Database,
    folder: Box<dyn BlockFolder>,
) -> Result<LargeFiles, redb::Error> {
    let named = Reading::open(&database.begin_read()?)?.files()?;
    Ok(LargeFiles::open(folder, &named)?)
}
