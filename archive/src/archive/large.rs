//! Large blocks, each in a file of its own.
//!
//! A file has a number, which the row of its block names, and which is never given to another: what a transaction
//! writes never meets what an earlier one removes. Files are written and synced, and then their names, before the
//! commit that names them; so no row names a file that a crash could lose. They are removed after the commit
//! that has no row for them any more. What a crash leaves in between is named by no row, and goes when the
//! archive is opened.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Display, Formatter},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use dunlin_wire::{block::Block, limits::BLOCK_BYTES_MAX};

use crate::OpenError;

/// Blocks from this size on, in bytes, stand in files. A file costs a sync of its own: `docs/formats/archive.md`
/// has what was measured.
pub const LARGE_BYTES_MIN: usize = 256 * 1024;

/// Files of one subfolder: a million of them make a thousand.
const FILES_PER_FOLDER: u64 = 1_000;

/// Threads that write and sync files of one batch, for a disk takes several syncs together: 64 files of 1 MiB took
/// 0.24 s on one, 0.13 s on two, 0.10 s on four, and 0.09 s on eight.
const WRITERS_MAX: usize = 4;

/// What a file of a block is called: its number, and that of the subfolder that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    /// Subfolder.
    pub folder: u64,
    /// File.
    pub number: u64,
}

impl FileName {
    fn of(number: u64) -> Self {
        Self { folder: number / FILES_PER_FOLDER, number }
    }
}

impl Display for FileName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.folder, self.number)
    }
}

/// Where the files of blocks are. What is said of durability is what the archive relies on.
pub trait BlockFolder: Debug + Send + Sync {
    /// Makes a subfolder, unless it is there. It is durable afterwards.
    ///
    /// # Errors
    ///
    /// Fails when the disk refuses.
    fn make(&self, folder: u64) -> io::Result<()>;

    /// Writes a file that is not there. Its bytes are durable afterwards; its name need not be.
    ///
    /// # Errors
    ///
    /// Fails when the disk refuses; a part of the file may be there.
    fn write(&self, name: FileName, bytes: &[u8]) -> io::Result<()>;

    /// Makes the names in a subfolder durable.
    ///
    /// # Errors
    ///
    /// Fails when the disk refuses.
    fn sync(&self, folder: u64) -> io::Result<()>;

    /// Returns the first `bytes_max` bytes of a file, or fewer when it has no more. One that is not there, or cannot be
    /// read, has as many as could be read.
    ///
    /// # Errors
    ///
    /// Fails when the system does not let the file be opened, which says nothing about its bytes.
    fn read(&self, name: FileName, bytes_max: usize) -> io::Result<Vec<u8>>;

    /// Removes a file. Whether it is back after a crash does not matter.
    ///
    /// # Errors
    ///
    /// Fails when the disk refuses.
    fn remove(&self, name: FileName) -> io::Result<()>;

    /// Removes every file whose number is not `named`, and empty subfolders. Returns the highest number that there was.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be read.
    fn sweep(&self, named: &dyn Fn(u64) -> bool) -> io::Result<Option<u64>>;
}

/// Where the bytes of a large block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFile {
    number: u64,
    pub(crate) bytes: u64,
}

impl InFile {
    pub(super) fn of_row((number, bytes): (u64, u64)) -> Self {
        Self { number, bytes }
    }

    pub(super) fn to_row(self) -> (u64, u64) {
        (self.number, self.bytes)
    }
}

/// Who can read files of blocks.
pub(crate) trait ReadFile {
    /// Returns the bytes of a file, as they are.
    fn read(&self, file: InFile) -> io::Result<Vec<u8>>;
}

/// The files of an archive, if it has any: without them every block stands in redb.
pub(crate) type Files = Option<Arc<LargeFiles>>;

impl ReadFile for Files {
    fn read(&self, file: InFile) -> io::Result<Vec<u8>> {
        let Some(files) = self else { return Ok(Vec::new()) };
        // One more than there should be: a file that has grown is damaged, too. The row is of the disk, and may be
        // wrong.
        let bytes_max = usize::try_from(file.bytes).unwrap_or(usize::MAX).min(BLOCK_BYTES_MAX);
        files.folder.read(FileName::of(file.number), bytes_max + 1)
    }
}

/// The files of an archive.
#[derive(Debug)]
pub(crate) struct LargeFiles {
    folder: Box<dyn BlockFolder>,
    /// The number that is given next.
    next: AtomicU64,
    /// The subfolder that was made last, and one more; 0: none was.
    made: AtomicU64,
}

impl LargeFiles {
    /// Opens the files and removes those that no row names, given the numbers of those that one does, in order.
    pub(super) fn open(folder: Box<dyn BlockFolder>, named: &[u64]) -> io::Result<Self> {
        let found = folder.sweep(&|number| named.binary_search(&number).is_ok())?;
        let last = found.into_iter().chain(named.last().copied()).max();
        let next = AtomicU64::new(last.map_or(0, |last| last.saturating_add(1)));
        Ok(Self { folder, next, made: AtomicU64::new(0) })
    }

    /// Writes files: they and their names are durable afterwards, or none is there.
    fn write(&self, new: &BTreeMap<u64, Block>) -> io::Result<()> {
        let written = self.try_write(new);
        if written.is_err() {
            // After a sync that failed nobody knows what the disk has: what is tried again gets new files, and makes the
            // subfolder anew, which somebody may have removed.
            self.made.store(0, Ordering::Relaxed);
            self.remove(new.keys());
        }
        written
    }

    fn try_write(&self, new: &BTreeMap<u64, Block>) -> io::Result<()> {
        let mut folders: Vec<u64> = new.keys().map(|number| FileName::of(*number).folder).collect();
        folders.dedup();
        for folder in &folders {
            if self.made.load(Ordering::Relaxed) != folder + 1 {
                self.folder.make(*folder)?;
                self.made.store(folder + 1, Ordering::Relaxed);
            }
        }
        self.write_beside_each_other(&new.iter().collect::<Vec<_>>())?;
        folders.into_iter().try_for_each(|folder| self.folder.sync(folder))
    }

    /// Writes files on several threads, for a disk takes their syncs together.
    fn write_beside_each_other(&self, new: &[(&u64, &Block)]) -> io::Result<()> {
        let next = AtomicUsize::new(0);
        let write_some = || {
            while let Some((number, block)) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(cause) = self.folder.write(FileName::of(**number), block.bytes()) {
                    // The others need not go on.
                    next.store(new.len(), Ordering::Relaxed);
                    return Err(cause);
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            // A system that has no thread to spare leaves more to this one.
            let start = |_| thread::Builder::new().spawn_scoped(scope, write_some).ok();
            let others: Vec<_> = (1..new.len().min(WRITERS_MAX)).map_while(start).collect();
            let mine = write_some();
            others.into_iter().fold(mine, |all, other| {
                all.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })
    }

    /// Removes files. What the disk does not let go of goes when the archive is opened.
    fn remove<'a>(&self, numbers: impl IntoIterator<Item = &'a u64>) {
        for number in numbers {
            self.folder.remove(FileName::of(*number)).ok();
        }
    }
}

/// What one transaction does to files. Nothing is done before it is committed.
#[derive(Debug)]
pub(crate) struct Batch {
    files: Files,
    new: BTreeMap<u64, Block>,
    gone: Vec<u64>,
}

impl Batch {
    pub(super) fn new(files: Files) -> Self {
        Self { files, new: BTreeMap::new(), gone: Vec::new() }
    }

    /// Takes a block if it belongs in a file, and returns which one it will be in.
    pub(super) fn add(&mut self, block: &Block) -> Option<InFile> {
        let bytes = block.bytes().len();
        let files = self.files.as_ref().filter(|_| bytes >= LARGE_BYTES_MIN)?;
        let number = files.next.fetch_add(1, Ordering::Relaxed);
        self.new.insert(number, block.clone());
        Some(InFile { number, bytes: bytes as u64 })
    }

    /// Notes that no row names a file any more.
    pub(super) fn remove(&mut self, file: InFile) {
        if self.new.remove(&file.number).is_none() {
            self.gone.push(file.number);
        }
    }

    /// Writes what is new: it is durable afterwards, or nothing of it is there.
    pub(super) fn write(&self) -> io::Result<()> {
        match &self.files {
            Some(files) if !self.new.is_empty() => files.write(&self.new),
            _ => Ok(()),
        }
    }

    /// Removes what no row names, now that this is durable.
    pub(super) fn remove_gone(self) {
        if let Some(files) = &self.files {
            files.remove(&self.gone);
        }
    }
}

impl ReadFile for Batch {
    fn read(&self, file: InFile) -> io::Result<Vec<u8>> {
        match self.new.get(&file.number) {
            Some(block) => Ok(block.bytes().to_vec()),
            None => self.files.read(file),
        }
    }
}

/// A folder of the file system, beside the archive's file.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Returns the folder of the archive in the file at `path`. It is made when it is needed.
    pub(super) fn beside(path: &Path) -> Self {
        Self { path: path.with_extension("files") }
    }

    /// Makes sure that there is no block of an archive whose file is missing: none would be kept in a new one.
    pub(super) fn ensure_empty(&self, path: &Path) -> Result<(), OpenError> {
        let mut count = 0;
        let walked = self.walk(|_, files| {
            count += files.len();
            Ok(())
        });
        match walked {
            Err(cause) => {
                let cause = Box::new(redb::Error::Io(cause));
                Err(OpenError::Database { path: self.path.clone(), cause })
            }
            Ok(()) if count > 0 => {
                Err(OpenError::Missing { path: path.into(), folder: self.path.clone() })
            }
            Ok(()) => Ok(()),
        }
    }

    fn subfolder(&self, folder: u64) -> PathBuf {
        self.path.join(folder.to_string())
    }

    fn file(&self, name: FileName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Hands out what is in the folder: subfolders, with the files in each. What has no name of ours is somebody
    /// else's.
    fn walk(&self, mut take: impl FnMut(u64, Vec<u64>) -> io::Result<()>) -> io::Result<()> {
        for folder in numbers_in(&self.path)? {
            let mut files = numbers_in(&self.subfolder(folder))?;
            files.retain(|number| FileName::of(*number).folder == folder);
            take(folder, files)?;
        }
        Ok(())
    }
}

impl BlockFolder for Folder {
    fn make(&self, folder: u64) -> io::Result<()> {
        make_folder(&self.path)?;
        make_folder(&self.subfolder(folder))
    }

    fn write(&self, name: FileName, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(self.file(name))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn sync(&self, folder: u64) -> io::Result<()> {
        File::open(self.subfolder(folder))?.sync_all()
    }

    fn read(&self, name: FileName, bytes_max: usize) -> io::Result<Vec<u8>> {
        let file = match File::open(self.file(name)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let mut bytes = Vec::with_capacity(bytes_max);
        // A disk that cannot read it back has lost it; the block is written again elsewhere.
        file.take(bytes_max as u64).read_to_end(&mut bytes).ok();
        Ok(bytes)
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        fs::remove_file(self.file(name))
    }

    fn sweep(&self, named: &dyn Fn(u64) -> bool) -> io::Result<Option<u64>> {
        let mut last = None;
        self.walk(|folder, files| {
            let mut is_empty = true;
            for number in files {
                last = last.max(Some(number));
                // One that does not go now goes another time: its number is not given again.
                let is_gone = !named(number) && self.remove(FileName::of(number)).is_ok();
                is_empty &= is_gone;
            }
            if is_empty {
                // Unless somebody has put something else in.
                fs::remove_dir(self.subfolder(folder)).ok();
            }
            Ok(())
        })?;
        Ok(last)
    }
}

/// Returns what is in a folder under a number, none when there is no folder.
fn numbers_in(path: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        numbers.extend(number.filter(|number| *name == *number.to_string()));
    }
    Ok(numbers)
}

/// Makes a folder for its owner alone, unless it is there, and makes its name durable.
fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
        _ => {}
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Returns how much an archive takes on the disk, in bytes: the file at `path`, and the files of large blocks beside
/// it. Takes time linear in how many those are; what cannot be read counts as nothing.
#[must_use]
pub fn disk_bytes(path: &Path) -> u64 {
    let bytes_of = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let mut bytes = bytes_of(path);
    let folder = Folder::beside(path);
    folder
        .walk(|_, files| {
            let files = files.into_iter().map(|number| folder.file(FileName::of(number)));
            bytes += files.map(|file| bytes_of(&file)).sum::<u64>();
            Ok(())
        })
        .ok();
    bytes
}
