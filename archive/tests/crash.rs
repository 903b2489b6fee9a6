//! A crash at any write leaves whole batches: what was acknowledged, and nothing half done.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::{Arc, Mutex};

use dunlin_archive::{Archive, Config, Object, Pin};
use dunlin_wire::block::{Block, Codec};

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
    let archive = Archive::open_on(storage.clone(), Config::default()).unwrap();
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
        let archive = Archive::open_on(disk, Config::default()).unwrap();
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
