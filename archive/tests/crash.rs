//! A crash at any write leaves whole batches: what was acknowledged, and nothing half done.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[expect(dead_code, reason = "a disk that refuses a step is for `failing.rs`")]
mod disk;
#[expect(dead_code, reason = "bundles are made here, and little else is done with them")]
mod sender;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use disk::{Recorder, with_files};
use dunlin_archive::{
    Archive, Config, LandError, Object, Pin, PutError,
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
    let steps = std::mem::take(&mut disk.recorded().steps);
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
        disk.recorded().files_max = Some(files_max);
        let refused = archive.put(&[with_files(1), with_files(2)], Some(1)).unwrap_err();
        assert!(matches!(refused, PutError::Database(_)), "{refused}");
        assert_eq!((disk.files(), archive.position().unwrap()), (2, Some(0)));
        assert_eq!(archive.stats().unwrap().blocks, 3);
    }
    disk.recorded().files_max = None;
    archive.put(&[with_files(1), with_files(2)], Some(1)).unwrap();
    assert_eq!((disk.files(), archive.position().unwrap()), (6, Some(1)));
}
