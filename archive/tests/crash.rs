//! A crash at any write leaves whole batches: what was acknowledged, and nothing half done.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[expect(dead_code, reason = "bundles are made here, and little else is done with them")]
mod sender;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex},
};

use dunlin_archive::{
    Archive, BlockFolder, Config, FileName, LARGE_BYTES_MIN, LandError, Object, Pin, PutError,
    bundle::{ChainError, Gaps},
};
use dunlin_wire::block::{Block, Codec};
use sender::{Sender, import};

/// Storage that remembers what a crash would leave at each sync: only what was synced.
#[derive(Debug, Default)]
struct Disk {
    now: Vec<u8>,
    /// What is on the disk for sure after each sync.
    synced: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
struct Storage(Arc<Mutex<Disk>>);

impl redb::StorageBackend for Storage {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let disk = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&disk.now[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.lock().unwrap().now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        let mut disk = self.0.lock().unwrap();
        let now = disk.now.clone();
        disk.synced.push(now);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let mut disk = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        disk.now[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn batch(number: u64) -> Vec<Object> {
    let content =
        |part: u64| Block::new(Codec::Raw, format!("batch {number} part {part}").into_bytes());
    (0..5)
        .map(|part| Object {
            pin: Pin::own("servers"),
            root: content(part),
            links: vec![content(part + 100)],
        })
        .collect()
}

#[test]
fn reopened_after_every_sync_it_holds_whole_batches() {
    let storage = Storage::default();
    let archive = Archive::open_on(storage.clone(), None, Config::default()).unwrap();
    // A file that is still being laid out has no name yet (see `Archive::open`).
    let opened = storage.0.lock().unwrap().synced.len();
    // How many syncs had happened when each batch was acknowledged.
    let mut acknowledged = Vec::new();
    for number in 0..12 {
        archive.put(&batch(number), Some(number)).unwrap();
        acknowledged.push(storage.0.lock().unwrap().synced.len());
    }
    drop(archive);
    let images = std::mem::take(&mut storage.0.lock().unwrap().synced);
    assert!(images.len() >= 12);
    for (index, image) in images.into_iter().enumerate().skip(opened) {
        let sure = acknowledged.iter().filter(|&&syncs| syncs <= index + 1).count() as u64;
        let disk = Storage(Arc::new(Mutex::new(Disk { now: image, synced: Vec::new() })));
        let archive = Archive::open_on(disk, None, Config::default()).unwrap();
        let held = archive.position().unwrap().map_or(0, |position| position + 1);
        assert!(held >= sure, "sync {index}: {held} batches of {sure} acknowledged");
        assert_eq!(archive.stats().unwrap().blocks, 10 * held, "sync {index}");
        for number in 0..held {
            for object in batch(number) {
                for block in [&object.root, &object.links[0]] {
                    assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
                }
            }
        }
    }
}

#[test]
fn a_crash_at_any_sync_of_an_import_leaves_the_bundle_or_nothing_and_the_next_run_finishes_it() {
    let mut sender = Sender::new(1);
    let segments = sender.fill("servers", 600, 1);
    let bytes = sender.export();
    let storage = Storage::default();
    let archive = Archive::open_on(storage.clone(), None, Config::default()).unwrap();
    let opened = storage.0.lock().unwrap().synced.len();
    import(&archive, &bytes[..], Gaps::Refused).unwrap();
    drop(archive);
    let images = std::mem::take(&mut storage.0.lock().unwrap().synced);
    let (mut before, mut after, mut resumed) = (0, 0, 0);
    for (index, image) in images.into_iter().enumerate().skip(opened) {
        let disk = Storage(Arc::new(Mutex::new(Disk { now: image, synced: Vec::new() })));
        let archive = Archive::open_on(disk, None, Config::default()).unwrap();
        let is_here = archive.last_received(&sender.peer()).unwrap().is_some();
        let visible = |block: &Block| archive.has(block.cid()).unwrap();
        for (root, links) in &segments {
            for block in links.iter().chain([root]) {
                assert_eq!(visible(block), is_here, "sync {index}: {block:?}");
            }
        }
        resumed += usize::from(!archive.staged().unwrap().is_empty());
        match import(&archive, &bytes[..], Gaps::Refused) {
            Ok(()) => {
                assert!(!is_here, "sync {index}");
                before += 1;
            }
            Err(LandError::Chain(ChainError::Replayed { .. })) => {
                assert!(is_here, "sync {index}");
                after += 1;
            }
            Err(other) => panic!("sync {index}: {other:?}"),
        }
        assert_eq!(archive.roots(&Pin::fetched("servers"), None, 1_000).unwrap().len(), 600);
        assert_eq!((archive.stats().unwrap().blocks, archive.staged().unwrap().len()), (1_200, 0));
    }
    assert!(before >= 5 && after >= 1 && resumed >= 4, "{before}, {after}, {resumed}");
}

/// What a disk has, with what would be left of it if it lost power now.
#[derive(Clone, Debug, Default)]
struct Powerless {
    /// redb's file as of its last sync.
    redb: Arc<Vec<u8>>,
    folders: BTreeSet<u64>,
    /// Files, and whether the name of each is durable.
    files: BTreeMap<FileName, (Arc<Vec<u8>>, bool)>,
    /// Files that were removed: until names are synced, they may be back.
    removed: BTreeMap<FileName, Arc<Vec<u8>>>,
}

impl Powerless {
    /// Returns what a crash leaves that lost everything that need not be durable, or kept all of it.
    fn left(&self, is_all_kept: bool) -> Self {
        let mut left = self.clone();
        left.files.retain(|_, (_, is_durable)| *is_durable || is_all_kept);
        let removed = std::mem::take(&mut left.removed);
        if is_all_kept {
            left.files.extend(removed.into_iter().map(|(name, bytes)| (name, (bytes, true))));
        }
        left
    }
}

/// A disk that remembers what it was before and after each step, and has no room for more files than it is told.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    /// redb's file as it is written.
    now: Vec<u8>,
    disk: Powerless,
    steps: Vec<Powerless>,
    files_max: Option<usize>,
}

impl Recorder {
    fn of(disk: Powerless) -> Self {
        let now = disk.redb.to_vec();
        Self(Arc::new(Mutex::new(Recorded { now, disk, ..Recorded::default() })))
    }

    fn open(&self) -> Archive {
        Archive::open_on(self.clone(), Some(Box::new(self.clone())), Config::default()).unwrap()
    }

    fn steps(&self) -> usize {
        self.0.lock().unwrap().steps.len()
    }

    fn files(&self) -> usize {
        self.0.lock().unwrap().disk.files.len()
    }

    /// Takes a step, and notes what there was before it.
    fn step<T>(&self, take: impl FnOnce(&mut Recorded) -> T) -> T {
        let mut recorded = self.0.lock().unwrap();
        let before = recorded.disk.clone();
        recorded.steps.push(before);
        take(&mut recorded)
    }
}

impl redb::StorageBackend for Recorder {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap().now[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.lock().unwrap().now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.step(|recorded| recorded.disk.redb = Arc::new(recorded.now.clone()));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let start = usize::try_from(offset).unwrap();
        self.0.lock().unwrap().now[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl BlockFolder for Recorder {
    fn make(&self, folder: u64) -> io::Result<()> {
        self.step(|recorded| recorded.disk.folders.insert(folder));
        Ok(())
    }

    fn write(&self, name: FileName, bytes: &[u8]) -> io::Result<()> {
        self.step(|Recorded { disk, files_max, .. }| {
            if !disk.folders.contains(&name.folder) {
                return Err(io::ErrorKind::NotFound.into());
            }
            if files_max.is_some_and(|most| disk.files.len() >= most) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = disk.files.insert(name, (Arc::new(bytes.to_vec()), false));
            assert!(taken.is_none() && !disk.removed.contains_key(&name), "{name} was in use");
            Ok(())
        })
    }

    fn sync(&self, folder: u64) -> io::Result<()> {
        self.step(|Recorded { disk, .. }| {
            let files = disk.files.iter_mut().filter(|(name, _)| name.folder == folder);
            files.for_each(|(_, (_, is_durable))| *is_durable = true);
            disk.removed.retain(|name, _| name.folder != folder);
        });
        Ok(())
    }

    fn read(&self, name: FileName, bytes_max: usize) -> io::Result<Vec<u8>> {
        let recorded = self.0.lock().unwrap();
        let file = recorded.disk.files.get(&name);
        Ok(file.map_or(Vec::new(), |(bytes, _)| bytes[..bytes.len().min(bytes_max)].to_vec()))
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.step(|Recorded { disk, .. }| {
            let (bytes, _) = disk.files.remove(&name).ok_or(io::ErrorKind::NotFound)?;
            disk.removed.insert(name, bytes);
            Ok(())
        })
    }

    fn sweep(&self, named: &dyn Fn(u64) -> bool) -> io::Result<Option<u64>> {
        Ok(self.step(|Recorded { disk, .. }| {
            let last = disk.files.keys().map(|name| name.number).max();
            disk.files.retain(|name, _| named(name.number));
            last
        }))
    }
}

fn large(number: u64) -> Block {
    let words = (0..LARGE_BYTES_MIN as u64 / 8)
        .map(|word| ((number << 40) + word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Block::new(Codec::Raw, words.flatten().collect())
}

/// An object with one block in redb and two in files.
fn with_files(number: u64) -> Object {
    let root = Block::new(Codec::Raw, format!("root {number}").into_bytes());
    let links = vec![large(2 * number), large(2 * number + 1)];
    Object { pin: Pin::own("servers"), root, links }
}

#[test]
fn a_crash_before_any_step_on_files_loses_nothing_acknowledged_and_leaves_no_stray_file() {
    let disk = Recorder::default();
    let archive = disk.open();
    let pin = Pin::own("servers");
    let mut held = BTreeSet::new();
    // After how many steps what was acknowledged.
    let mut acknowledged = vec![(disk.steps(), held.clone())];
    for number in 0..5 {
        archive.put(&[with_files(number)], None).unwrap();
        held.insert(number);
        acknowledged.push((disk.steps(), held.clone()));
        if let Some(old) = number.checked_sub(2) {
            archive.unpin_root(&pin, with_files(old).root.cid()).unwrap();
            held.remove(&old);
            acknowledged.push((disk.steps(), held.clone()));
        }
    }
    // Put again after it left.
    archive.put(&[with_files(0)], None).unwrap();
    held.insert(0);
    acknowledged.push((disk.steps(), held.clone()));
    drop(archive);
    assert_eq!(disk.files(), 2 * held.len());
    let steps = std::mem::take(&mut disk.0.lock().unwrap().steps);
    let mut strays = 0;
    for (step, at) in steps.iter().enumerate().skip(acknowledged[0].0) {
        let sure = acknowledged.iter().rposition(|(steps, _)| *steps <= step).unwrap();
        for left in [at.left(false), at.left(true)] {
            let files = left.files.len();
            let disk = Recorder::of(left);
            let archive = disk.open();
            let roots = archive.roots(&pin, None, 100).unwrap();
            let is_held = |number: &u64| roots.contains(with_files(*number).root.cid());
            let found: BTreeSet<u64> = (0..5).filter(is_held).collect();
            let allowed = acknowledged[sure..].iter().take(2).map(|(_, held)| held);
            assert!(allowed.into_iter().any(|held| *held == found), "step {step}: {found:?}");
            for number in &found {
                for block in with_files(*number).links {
                    let read = archive.get(block.cid()).unwrap();
                    assert_eq!(read.as_deref(), Some(block.bytes()), "step {step}");
                }
            }
            assert_eq!(disk.files(), 2 * found.len(), "step {step}");
            strays += files - disk.files();
            archive.put(&[with_files(9)], None).unwrap();
            let block = &with_files(9).links[1];
            assert_eq!(archive.get(block.cid()).unwrap().as_deref(), Some(block.bytes()));
        }
    }
    assert!(strays > 10, "{strays}");
}

#[test]
fn a_disk_without_room_for_files_refuses_the_batch_and_leaves_nothing_of_it() {
    let disk = Recorder::default();
    let archive = disk.open();
    archive.put(&[with_files(0)], Some(0)).unwrap();
    for files_max in 2..6 {
        disk.0.lock().unwrap().files_max = Some(files_max);
        let refused = archive.put(&[with_files(1), with_files(2)], Some(1)).unwrap_err();
        assert!(matches!(refused, PutError::Database(_)), "{refused}");
        assert_eq!((disk.files(), archive.position().unwrap()), (2, Some(0)));
        assert_eq!(archive.stats().unwrap().blocks, 3);
    }
    disk.0.lock().unwrap().files_max = None;
    archive.put(&[with_files(1), with_files(2)], Some(1)).unwrap();
    assert_eq!((disk.files(), archive.position().unwrap()), (6, Some(1)));
}
