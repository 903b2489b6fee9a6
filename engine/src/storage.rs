//! The one way to files: a folder of named files, real ([`Disk`]) or simulated ([`Simulated`]).
//!
//! The simulated folder keeps, like a disk that loses power, only what was synced, and fails on demand.
//! Log and store both go through this trait, so a test can crash the engine at any single write.

mod disk;
mod simulated;

use std::{fmt::Debug, io};

pub use disk::Disk;
pub use simulated::Simulated;

/// A folder of files. Names are relative, with `/` between a folder and its file.
pub trait Storage: Debug + Send + Sync {
    /// Opens a file for reading and writing, making it (and its folder) when it is not there.
    ///
    /// A made file survives a crash only after [`Self::sync_folder`] of its folder.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be opened or made.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Returns the names in a folder (`""` is the top), in order; none when it does not exist.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be read.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// Fails when there is none or it cannot be removed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be synced.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// Takes the folder for this engine alone, until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Fails with [`io::ErrorKind::WouldBlock`] when another engine has it.
    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>>;
}

/// An open file, read and written at offsets.
pub trait StorageFile: Debug + Send + Sync {
    /// Returns the length in bytes.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be asked.
    fn byte_count(&self) -> io::Result<u64>;

    /// Fills `out` from `offset`.
    ///
    /// # Errors
    ///
    /// Fails with [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// Fails when not all could be written; some may have been.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    ///
    /// Fails when the length could not be changed.
    fn set_byte_count(&self, bytes: u64) -> io::Result<()>;

    /// Makes everything written durable.
    ///
    /// # Errors
    ///
    /// Fails when it did not reach the disk; what did is unknown from then on.
    fn sync(&self) -> io::Result<()>;
}
