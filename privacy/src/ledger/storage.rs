//! The file under the ledger, behind a trait so that tests can crash it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The few things a ledger does with its file.
pub(crate) trait Storage {
    fn len(&mut self) -> io::Result<u64>;
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Overwrites from `offset` on, growing the file as needed.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Puts `bytes` in place of the whole file, durably and at once: a crash leaves the one or the other.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything written is on disk.
    fn sync(&mut self) -> io::Result<()>;
}

#[derive(Debug)]
pub(crate) struct FileStorage {
    path: PathBuf,
    file: File,
}

impl FileStorage {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = private().create(true).truncate(false).open(path)?;
        sync_folder(path)?;
        Ok(Self { path: path.to_owned(), file })
    }
}

/// How a ledger's file is opened: the digests of private data are in it.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The name of a file is durable only once its folder is.
#[cfg_attr(not(unix), expect(clippy::unnecessary_wraps, reason = "folders cannot be synced there"))]
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

impl Storage for FileStorage {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let next = self.path.with_extension("next");
        let mut file = private().create(true).truncate(true).open(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&next, &self.path)?;
        sync_folder(&self.path)?;
        self.file = file;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}
