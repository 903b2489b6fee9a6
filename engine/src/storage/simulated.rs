//! A folder in memory that crashes and fails as a disk does.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{Storage, StorageFile};

/// A folder in memory. Clones share it.
///
/// Every change (write, cut, sync, removal) counts as one step; after [`Simulated::fail_after`] steps
/// all further ones fail, as a disk does that is full or gone. [`Simulated::crash`] returns what a
/// machine finds that lost power at this moment.
#[derive(Clone, Debug, Default)]
pub struct Simulated {
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
struct World {
    /// What the running process sees: name to file index.
    names: BTreeMap<String, usize>,
    /// What a crash leaves of the names.
    durable_names: BTreeMap<String, usize>,
    files: Vec<SimulatedFile>,
    steps: u64,
    steps_max: Option<u64>,
    /// How many syncs of files succeed before one fails.
    syncs_before_failure: Option<u64>,
    locked: bool,
}

#[derive(Debug, Default)]
struct SimulatedFile {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, in order, for crashes that keep some of them.
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Resize(bytes) => content.resize(*bytes, 0),
        }
    }
}

impl Simulated {
    /// Returns an empty folder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `steps` more changes succeed and all after them fail.
    pub fn fail_after(&self, steps: u64) {
        let mut world = self.world();
        world.steps_max = Some(world.steps + steps);
    }

    /// Lets the sync of a file after `syncs` others fail. What it was to write is not written by later ones either: a system
    /// that could not write a page may take it for written from then on.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.world().syncs_before_failure = Some(syncs);
    }

    /// Lets changes succeed again.
    pub fn heal(&self) {
        self.world().steps_max = None;
    }

    /// Returns how many changes were asked for so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.world().steps
    }

    /// Returns what is left after a power loss: synced content under synced names.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_keeping(|| false)
    }

    /// Returns what is left after a power loss of a disk that had written some of the unsynced changes:
    /// `keep` is asked for each of them.
    #[must_use]
    pub fn crash_keeping(&self, mut keep: impl FnMut() -> bool) -> Self {
        let world = self.world();
        let files = world.files.iter().map(|file| {
            let mut content = file.durable.clone();
            for change in &file.unsynced {
                if keep() {
                    change.apply(&mut content);
                }
            }
            SimulatedFile { current: content.clone(), durable: content, unsynced: Vec::new() }
        });
        let names = world.durable_names.clone();
        let left = World {
            files: files.collect(),
            durable_names: names.clone(),
            names,
            ..World::default()
        };
        Self { world: Arc::new(Mutex::new(left)) }
    }

    /// Returns a file's content as the running process sees it.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let world = self.world();
        world.names.get(name).map(|index| world.files[*index].current.clone())
    }

    /// Replaces a file's content durably, as a person or a failing disk may between two runs.
    pub fn put(&self, name: &str, content: Vec<u8>) {
        let mut world = self.world();
        let index = world.index_of(name);
        world.durable_names.insert(name.to_owned(), index);
        let durable = content.clone();
        world.files[index] = SimulatedFile { current: content, durable, unsynced: Vec::new() };
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics while it holds the simulated folder")
    }
}

impl World {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.steps_max {
            Some(max) if self.steps > max => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn index_of(&mut self, name: &str) -> usize {
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        self.files.push(SimulatedFile::default());
        self.names.insert(name.to_owned(), self.files.len() - 1);
        self.files.len() - 1
    }

    fn change(&mut self, index: usize, change: Change) -> io::Result<()> {
        self.step()?;
        let file = &mut self.files[index];
        change.apply(&mut file.current);
        file.unsynced.push(change);
        Ok(())
    }
}

impl Storage for Simulated {
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let index = self.world().index_of(name);
        Ok(Box::new(Handle { folder: self.clone(), index }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let world = self.world();
        let inside = |name: &String| match folder {
            "" => Some(name.split('/').next().unwrap_or(name).to_owned()),
            _ => Some(name.strip_prefix(folder)?.strip_prefix('/')?.to_owned()),
        };
        let mut names: Vec<String> = world.names.keys().filter_map(inside).collect();
        names.dedup();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world();
        world.step()?;
        world.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut world = self.world();
        world.step()?;
        let inside = |name: &String| match folder {
            "" => !name.contains('/'),
            _ => name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
        };
        let names = world.names.clone();
        world.durable_names.retain(|name, _| !inside(name));
        world.durable_names.extend(names.into_iter().filter(|(name, _)| inside(name)));
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>> {
        let mut world = self.world();
        if std::mem::replace(&mut world.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Locked(self.clone())))
    }
}

/// The held lock of a simulated folder.
#[derive(Debug)]
struct Locked(Simulated);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.world().locked = false;
    }
}

#[derive(Debug)]
struct Handle {
    folder: Simulated,
    index: usize,
}

impl StorageFile for Handle {
    fn byte_count(&self) -> io::Result<u64> {
        Ok(self.folder.world().files[self.index].current.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let world = self.folder.world();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = world.files[self.index].current.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let change = Change::Write { offset, bytes: bytes.to_vec() };
        self.folder.world().change(self.index, change)
    }

    fn set_byte_count(&self, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        self.folder.world().change(self.index, Change::Resize(bytes))
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.folder.world();
        world.step()?;
        let before = world.syncs_before_failure.take();
        let is_failing = before == Some(0);
        world.syncs_before_failure = before.and_then(|syncs| syncs.checked_sub(1));
        let file = &mut world.files[self.index];
        let unsynced = std::mem::take(&mut file.unsynced);
        if is_failing {
            return Err(io::Error::other("the disk did not take it"));
        }
        for change in unsynced {
            change.apply(&mut file.durable);
        }
        Ok(())
    }
}
