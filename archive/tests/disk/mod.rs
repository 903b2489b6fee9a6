//! A disk in memory, with a store of redb and files of blocks on it: it knows what a loss of power would leave, has no
//! room when it is told so, and refuses a step once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use dunlin_archive::{Archive, BlockFolder, Config, FileName, LARGE_BYTES_MIN, Object, Pin};
use dunlin_wire::block::{Block, Codec};

/// What a disk has, with what would be left of it if it lost power now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Powerless {
    /// redb's file as of its last sync.
    redb: Arc<Vec<u8>>,
    folders: BTreeSet<u64>,
    /// Files, and whether the name of each is durable.
    pub(crate) files: BTreeMap<FileName, (Arc<Vec<u8>>, bool)>,
    /// Files that were removed: until names are synced, they may be back.
    removed: BTreeMap<FileName, Arc<Vec<u8>>>,
}

impl Powerless {
    /// Returns what a crash leaves that lost everything that need not be durable, or kept all of it.
    pub(crate) fn left(&self, is_all_kept: bool) -> Self {
        let mut left = self.clone();
        left.files.retain(|_, (_, is_durable)| *is_durable || is_all_kept);
        let removed = std::mem::take(&mut left.removed);
        if is_all_kept {
            left.files.extend(removed.into_iter().map(|(name, bytes)| (name, (bytes, true))));
        }
        left
    }
}

/// What a disk is asked for, and may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    StoreLength,
    StoreWrite,
    StoreSync,
    FolderMake,
    FileWrite,
    FolderSync,
    FileRemove,
}

impl Asked {
    /// Returns whether it is redb that asks.
    pub(crate) fn is_of_store(self) -> bool {
        self < Self::FolderMake
    }
}

/// What a disk says when it refuses.
pub(crate) const REFUSED: &str = "the disk refuses";

/// A disk that remembers what it was before and after each step, and has no room for more files than it is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// redb's file as it is written.
    now: Vec<u8>,
    pub(crate) disk: Powerless,
    pub(crate) steps: Vec<Powerless>,
    pub(crate) files_max: Option<usize>,
    /// How often it is asked until it refuses.
    pub(crate) refuses_after: Option<usize>,
    pub(crate) refused: Option<Asked>,
}

impl Recorded {
    /// Notes what there was before a step.
    fn note(&mut self) {
        let before = self.disk.clone();
        self.steps.push(before);
    }

    /// Returns whether it does what it is asked for.
    fn does(&mut self, asked: Asked) -> bool {
        match &mut self.refuses_after {
            Some(0) => {
                self.refuses_after = None;
                self.refused = Some(asked);
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// Returns what is there when nobody loses power, and what may be left when somebody does: everything that was
    /// written, or nothing that was not synced.
    pub(crate) fn after_a_restart(&self) -> [Powerless; 3] {
        let redb = Arc::new(self.now.clone());
        let as_is = Powerless { redb: Arc::clone(&redb), ..self.disk.clone() };
        [as_is, Powerless { redb, ..self.disk.left(true) }, self.disk.left(false)]
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::other(REFUSED))
}

impl Recorder {
    pub(crate) fn of(disk: Powerless) -> Self {
        let now = disk.redb.to_vec();
        Self(Arc::new(Mutex::new(Recorded { now, disk, ..Recorded::default() })))
    }

    pub(crate) fn open(&self) -> Archive {
        Archive::open_on(self.clone(), Some(Box::new(self.clone())), Config::default()).unwrap()
    }

    pub(crate) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap()
    }

    pub(crate) fn steps(&self) -> usize {
        self.recorded().steps.len()
    }

    pub(crate) fn files(&self) -> usize {
        self.recorded().disk.files.len()
    }
}

impl redb::StorageBackend for Recorder {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.recorded().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.recorded().now[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut recorded = self.recorded();
        if !recorded.does(Asked::StoreLength) {
            return refused();
        }
        recorded.now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut recorded = self.recorded();
        recorded.note();
        if !recorded.does(Asked::StoreSync) {
            return refused();
        }
        recorded.disk.redb = Arc::new(recorded.now.clone());
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut recorded = self.recorded();
        let is_whole = recorded.does(Asked::StoreWrite);
        // One that fails may have been done in part.
        let data = if is_whole { data } else { &data[..data.len() / 2] };
        let start = usize::try_from(offset).unwrap();
        recorded.now[start..start + data.len()].copy_from_slice(data);
        if is_whole { Ok(()) } else { refused() }
    }
}

impl BlockFolder for Recorder {
    fn make(&self, folder: u64) -> io::Result<()> {
        let mut recorded = self.recorded();
        recorded.note();
        if !recorded.does(Asked::FolderMake) {
            return refused();
        }
        recorded.disk.folders.insert(folder);
        Ok(())
    }

    fn write(&self, name: FileName, bytes: &[u8]) -> io::Result<()> {
        let mut recorded = self.recorded();
        recorded.note();
        if !recorded.disk.folders.contains(&name.folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if recorded.files_max.is_some_and(|most| recorded.disk.files.len() >= most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let is_whole = recorded.does(Asked::FileWrite);
        let bytes = if is_whole { bytes } else { &bytes[..bytes.len() / 2] };
        let disk = &mut recorded.disk;
        let taken = disk.files.insert(name, (Arc::new(bytes.to_vec()), false));
        assert!(taken.is_none() && !disk.removed.contains_key(&name), "{name} was in use");
        if is_whole { Ok(()) } else { refused() }
    }

    fn sync(&self, folder: u64) -> io::Result<()> {
        let mut recorded = self.recorded();
        recorded.note();
        if !recorded.does(Asked::FolderSync) {
            return refused();
        }
        let disk = &mut recorded.disk;
        let files = disk.files.iter_mut().filter(|(name, _)| name.folder == folder);
        files.for_each(|(_, (_, is_durable))| *is_durable = true);
        disk.removed.retain(|name, _| name.folder != folder);
        Ok(())
    }

    fn read(&self, name: FileName, bytes_max: usize) -> io::Result<Vec<u8>> {
        let recorded = self.recorded();
        let file = recorded.disk.files.get(&name);
        Ok(file.map_or(Vec::new(), |(bytes, _)| bytes[..bytes.len().min(bytes_max)].to_vec()))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        let mut recorded = self.recorded();
        recorded.note();
        if !recorded.does(Asked::FileRemove) {
            return refused();
        }
        let (bytes, _) = recorded.disk.files.remove(&name).ok_or(io::ErrorKind::NotFound)?;
        recorded.disk.removed.insert(name, bytes);
        Ok(())
    }

    fn sweep(&self, named: &dyn Fn(u64) -> bool) -> io::Result<Option<u64>> {
        let mut recorded = self.recorded();
        recorded.note();
        let disk = &mut recorded.disk;
        let last = disk.files.keys().map(|name| name.number).max();
        disk.files.retain(|name, _| named(name.number));
        Ok(last)
    }
}

fn large(number: u64) -> Block {
    let words = (0..LARGE_BYTES_MIN as u64 / 8)
        .map(|word| ((number << 40) + word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Block::new(Codec::Raw, words.flatten().collect())
}

/// An object with one block in redb and two in files.
pub(crate) fn with_files(number: u64) -> Object {
    let root = Block::new(Codec::Raw, format!("root {number}").into_bytes());
    let links = vec![large(2 * number), large(2 * number + 1)];
    Object { pin: Pin::own("servers"), root, links }
}
