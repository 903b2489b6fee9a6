//! Why the archive cannot open, store or read.

use std::path::PathBuf;

use dunlin_wire::Cid;

/// Why an archive cannot be opened. Its files are unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is no archive, is held by another process, or cannot be read.
    #[error("cannot open the archive {path}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: Box<redb::Error>,
    },
    /// The file is missing, and large blocks of it are there: without it they would be files that nobody needs.
    #[error("{path} is missing, but {folder} has blocks of it; put the file back, or remove the folder to begin anew", path = path.display(), folder = folder.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The folder of its large blocks.
        folder: PathBuf,
    },
    /// The file was written by a newer version, or by something else.
    #[error("{path} has archive format {found}, but this version reads {known}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it claims.
        found: u64,
        /// The format that this build writes.
        known: u64,
    },
}

/// Why nothing of a batch was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The quota does not allow it. More room helps: raise `archive.mib_max`.
    #[error("the archive is full: {bytes} bytes, {more} more would pass the limit of {bytes_max}")]
    Full {
        /// What it holds.
        bytes: u64,
        /// What the batch would add.
        more: u64,
        /// What it may hold.
        bytes_max: u64,
    },
    /// A catalog is damaged on disk. [`Archive::drop_catalog`](crate::Archive::drop_catalog) makes room for
    /// a new one.
    #[error("the catalog is damaged: {what}")]
    Catalog {
        /// What is wrong with it.
        what: String,
    },
    /// The store refused.
    #[error("the archive cannot store")]
    Database(#[source] Box<redb::Error>),
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stored bytes no longer hash to their CID. They are not returned; fetch the block again.
    #[error("the archived block {cid} is damaged on disk")]
    Damaged {
        /// Its CID.
        cid: Cid,
    },
    /// The store refused.
    #[error("the archive cannot be read")]
    Database(#[source] Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for PutError {
    fn from(cause: E) -> Self {
        Self::Database(Box::new(cause.into()))
    }
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(cause: E) -> Self {
        Self::Database(Box::new(cause.into()))
    }
}
