//! The ledger under crashes, damage and failing disks.

use std::sync::{Arc, Mutex, MutexGuard};

use proptest::prelude::*;

use super::format::{HEAD_BYTES, HEADER_BYTES};
use super::*;
use crate::bounds::Bounds;

/// A disk that outlives the ledger: what was written, what of it was synced, and when it fails.
#[derive(Debug, Default)]
struct Disk {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Changes left before every further one fails.
    changes_left: Option<usize>,
    /// How many bytes of the first failing write get through.
    torn_bytes: usize,
}

impl Disk {
    /// Whether the next change gets through, and if not, how many bytes of it do.
    fn spend_change(&mut self) -> Result<(), usize> {
        match &mut self.changes_left {
            None => Ok(()),
            Some(0) => Err(std::mem::take(&mut self.torn_bytes)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[start..end].copy_from_slice(bytes);
    }
}

#[derive(Clone, Debug, Default)]
struct SharedDisk(Arc<Mutex<Disk>>);

impl SharedDisk {
    fn with(bytes: &[u8]) -> Self {
        let disk = Self::default();
        disk.lock().bytes = bytes.to_vec();
        disk.lock().synced = bytes.to_vec();
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    fn fail_after(&self, changes: usize, torn_bytes: usize) {
        self.lock().changes_left = Some(changes);
        self.lock().torn_bytes = torn_bytes;
    }

    fn open(&self) -> Result<Ledger, OpenError> {
        Ledger::open_storage(Box::new(self.clone()), eps(CEILING))
    }
}

impl Storage for SharedDisk {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.lock().bytes.clone())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        let allowed = disk.spend_change();
        let through = allowed.err().map_or(bytes.len(), |torn| torn.min(bytes.len()));
        disk.write(offset, &bytes[..through]);
        allowed.map_err(|_| io::Error::other("disk failed"))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.lock();
        disk.spend_change().map_err(|_| io::Error::other("disk failed"))?;
        disk.bytes.truncate(len as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.lock();
        disk.spend_change().map_err(|_| io::Error::other("disk failed"))?;
        disk.synced = disk.bytes.clone();
        Ok(())
    }
}

const CEILING: f64 = 3.0;

fn eps(value: f64) -> Epsilon {
    Epsilon::new(value).expect("a valid epsilon")
}

fn data(seed: u16) -> Dataset {
    let bounds = Bounds::uniform(1, 0.0, 70_000.0).expect("a range");
    Dataset::new(&[f32::from(seed)], 1, bounds).expect("a dataset")
}

fn intent<'a>(collection: &'a str, data: &'a Dataset, epsilon: f64) -> Intent<'a> {
    Intent {
        collection,
        data,
        unit: Unit::Observation,
        epsilon: eps(epsilon),
        now_unix_ms: 1_763_700_000_000,
        purpose: "templates",
    }
}

fn reserve(ledger: &mut Ledger, collection: &str, seed: u16) -> Result<Receipt, ReserveError> {
    ledger.reserve(&intent(collection, &data(seed), 1.0))
}

/// A ledger of three releases in two collections, and its file.
fn three_releases() -> (SharedDisk, Vec<u8>) {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().expect("a new ledger");
    for (collection, seed) in [("servers", 1), ("flights", 2), ("servers", 3)] {
        let receipt = reserve(&mut ledger, collection, seed).expect("within the ceiling");
        ledger.note_released(receipt).expect("a working disk");
    }
    let bytes = disk.lock().bytes.clone();
    (disk, bytes)
}

#[test]
fn spending_survives_a_restart() {
    let (disk, _) = three_releases();
    let ledger = disk.open().unwrap();
    assert_eq!(ledger.spent("servers"), eps(2.0));
    assert_eq!(ledger.spent("flights"), eps(1.0));
    assert_eq!(ledger.left("servers"), eps(1.0));
    assert_eq!(ledger.left("never seen"), eps(CEILING));
    let entries = ledger.entries();
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|entry| entry.is_released && entry.purpose == "templates"));
    assert_eq!(entries[1].collection.as_deref(), Some("flights"));
    assert_eq!(entries[1].unit, Some(Unit::Observation));
}

#[test]
fn the_ceiling_is_exact_and_the_refusal_says_what_is_left() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    for seed in 0..30 {
        drop(ledger.reserve(&intent("servers", &data(seed), 0.1)).unwrap());
    }
    let before = disk.lock().bytes.clone();
    let refused = ledger.reserve(&intent("servers", &data(99), 0.001)).unwrap_err();
    assert!(matches!(&refused, ReserveError::Exhausted { left, .. } if *left == Epsilon::ZERO));
    assert_eq!(refused.to_string(), "collection servers: epsilon 0.001 asked, but 0 of 3 is left");
    assert_eq!(disk.lock().bytes, before, "a refusal writes nothing");
    assert!(reserve(&mut ledger, "flights", 99).is_ok(), "ceilings are per collection");
}

#[test]
fn equal_data_are_paid_for_once() {
    let (disk, _) = three_releases();
    let mut ledger = disk.open().unwrap();
    assert!(matches!(reserve(&mut ledger, "servers", 1), Err(ReserveError::Unchanged { .. })));
    assert!(reserve(&mut ledger, "servers", 2).is_ok(), "another collection's data are not ours");
}

#[test]
fn data_whose_release_was_lost_may_be_paid_for_again() {
    let disk = SharedDisk::default();
    drop(reserve(&mut disk.open().unwrap(), "servers", 1).unwrap());
    let mut ledger = disk.open().unwrap();
    assert!(!ledger.entries()[0].is_released);
    assert!(reserve(&mut ledger, "servers", 1).is_ok());
    assert_eq!(ledger.spent("servers"), eps(2.0), "the lost one stays spent");
}

#[test]
fn odd_intents_are_refused() {
    let mut ledger = SharedDisk::default().open().unwrap();
    let data = data(1);
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    for collection in ["", &long] {
        let refused = ledger.reserve(&intent(collection, &data, 1.0));
        assert!(matches!(refused, Err(ReserveError::Text { .. })));
    }
    let refused = ledger.reserve(&intent("servers", &data, 0.0009));
    assert!(matches!(refused, Err(ReserveError::TooSmall { .. })));
    let name = "x".repeat(TEXT_BYTES_MAX);
    let longest = Intent { purpose: &name, ..intent(&name, &data, 1.0) };
    assert!(ledger.reserve(&longest).is_ok(), "the longest entry fits");
}

/// Goal: no crash un-spends what a receipt was given for, and none bricks the ledger.
///
/// Method: fail at every change of a run and at every length of the torn write; open what a crash of
/// the process leaves (everything written) and what a power cut leaves (everything synced).
#[test]
fn crash_at_any_point_keeps_every_receipt_spent() {
    let torn_lengths = [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, HEAD_BYTES + 90, 4096];
    for changes in 0..14 {
        for torn_bytes in torn_lengths {
            let disk = SharedDisk::default();
            disk.fail_after(changes, torn_bytes);
            let mut receipts = 0;
            if let Ok(mut ledger) = disk.open() {
                for seed in 0..3 {
                    let Ok(receipt) = reserve(&mut ledger, "servers", seed) else { break };
                    receipts += 1;
                    if ledger.note_released(receipt).is_err() {
                        break;
                    }
                }
            }
            let written = disk.lock().bytes.clone();
            let synced = disk.lock().synced.clone();
            for survived in [written, synced] {
                let disk = SharedDisk::with(&survived);
                let mut ledger = disk.open().expect("a crash bricks nothing");
                let spent = ledger.spent("servers");
                assert!(spent >= eps(f64::from(receipts)), "{changes} {torn_bytes}: {spent}");
                assert!(spent <= eps(f64::from(receipts + 1)), "at most the torn one besides");
                if spent < eps(CEILING) {
                    assert!(reserve(&mut ledger, "servers", 77).is_ok());
                }
                let again = disk.open().expect("what was repaired stays so");
                assert_eq!(again.spent("servers"), ledger.spent("servers"));
            }
        }
    }
}

/// Goal: a torn entry counts from the byte on at which its cost can be read, and never less than what
/// stood before it.
#[test]
fn file_cut_anywhere_in_its_last_entry_counts_what_can_be_read() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    drop(reserve(&mut ledger, "servers", 1).unwrap());
    let first = disk.lock().bytes.len();
    drop(reserve(&mut ledger, "servers", 2).unwrap());
    let whole = disk.lock().bytes.clone();
    for cut in first..=whole.len() {
        let disk = SharedDisk::with(&whole[..cut]);
        let expected = if cut >= first + HEAD_BYTES { 2.0 } else { 1.0 };
        assert_eq!(disk.open().unwrap().spent("servers"), eps(expected), "cut at {cut}");
        // Crashing again while the torn entry is being sealed changes nothing.
        for torn_bytes in [0, 1, 20] {
            let disk = SharedDisk::with(&whole[..cut]);
            disk.fail_after(0, torn_bytes);
            disk.open().ok();
            let survived = disk.lock().bytes.clone();
            let ledger = SharedDisk::with(&survived).open().unwrap();
            assert_eq!(ledger.spent("servers"), eps(expected), "cut at {cut}, {torn_bytes}");
        }
    }
}

#[test]
fn file_grown_by_zeros_before_the_entry_was_written_opens() {
    let (_, mut bytes) = three_releases();
    bytes.resize(bytes.len() + 300, 0);
    let ledger = SharedDisk::with(&bytes).open().unwrap();
    assert_eq!(ledger.spent("servers"), eps(2.0));
}

#[test]
fn torn_entry_is_sealed_and_more_follow() {
    let disk = SharedDisk::default();
    drop(reserve(&mut disk.open().unwrap(), "servers", 1).unwrap());
    disk.lock().bytes.pop();
    drop(reserve(&mut disk.open().unwrap(), "servers", 1).unwrap());
    let ledger = disk.open().unwrap();
    assert_eq!(ledger.entries().len(), 2);
    assert_eq!(ledger.entries()[0].collection, None);
    assert_eq!(ledger.spent("servers"), eps(2.0));
}

#[test]
fn damage_before_the_end_is_refused() {
    let (_, whole) = three_releases();
    // Anything in the first two records, whose neighbours show that they were once whole.
    for at in HEADER_BYTES..HEADER_BYTES + 2 * HEAD_BYTES + 100 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        let opened = SharedDisk::with(&bytes).open();
        assert!(matches!(opened, Err(OpenError::Damaged { .. })), "byte {at}: {opened:?}");
    }
}

#[test]
fn removing_an_entry_from_the_middle_is_refused() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    let mut ends = vec![disk.lock().bytes.len()];
    for seed in 0..3 {
        drop(reserve(&mut ledger, "servers", seed).unwrap());
        ends.push(disk.lock().bytes.len());
    }
    let mut bytes = disk.lock().bytes.clone();
    bytes.drain(ends[0]..ends[1]);
    assert!(matches!(SharedDisk::with(&bytes).open(), Err(OpenError::Damaged { .. })));
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    for bytes in [&b"{\"budget\": 3}"[..], b"dunledgr\x02\0\0\0abcd rest of it"] {
        let disk = SharedDisk::with(bytes);
        assert!(matches!(disk.open(), Err(OpenError::Foreign)));
        assert_eq!(disk.lock().bytes, bytes);
    }
}

#[test]
fn failed_sync_gives_no_receipt_and_stops_the_ledger() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    disk.fail_after(1, 0);
    assert!(matches!(reserve(&mut ledger, "servers", 1), Err(ReserveError::Io(_))));
    assert_eq!(ledger.spent("servers"), eps(1.0), "it may be on disk, so it counts");
    disk.lock().changes_left = None;
    assert!(matches!(reserve(&mut ledger, "servers", 2), Err(ReserveError::Poisoned)));
    assert!(reserve(&mut disk.open().unwrap(), "servers", 2).is_ok());
}

#[test]
fn an_entry_is_synced_before_its_receipt_exists() {
    let disk = SharedDisk::default();
    let mut ledger = disk.open().unwrap();
    let receipt = reserve(&mut ledger, "servers", 1).unwrap();
    let synced = disk.lock().synced.clone();
    assert_eq!(SharedDisk::with(&synced).open().unwrap().spent("servers"), eps(1.0));
    drop(receipt);
}

/// The bytes of version 1: a changed vector is a format change.
#[test]
fn bytes_are_those_of_the_format_page() {
    let disk = SharedDisk::default();
    drop(reserve(&mut disk.open().unwrap(), "servers", 1).unwrap());
    let bytes = disk.lock().bytes.clone();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = include_str!("../../tests/vectors/ledger-1.hex");
    let golden: String =
        golden.lines().map(|line| line.split('#').next().unwrap_or("").replace(' ', "")).collect();
    assert_eq!(hex, golden);
}

proptest! {
    #[test]
    fn damaged_files_never_panic_nor_show_more_left_than_there_was(
        at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>(),
    ) {
        let (_, whole) = three_releases();
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(ledger) = SharedDisk::with(&bytes).open() {
            // Only the very last record can be damaged unnoticed, and it is a note that costs nothing.
            prop_assert_eq!(ledger.spent("servers"), eps(2.0));
        }
        bytes.truncate(cut.index(bytes.len()));
        SharedDisk::with(&bytes).open().ok();
    }

    #[test]
    fn any_bytes_open_or_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600), prefixed in any::<bool>()) {
        if prefixed {
            bytes = [&format::header()[..], &bytes].concat();
        }
        SharedDisk::with(&bytes).open().ok();
    }
}

#[test]
fn ledger_on_a_real_file_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ledger = Ledger::open(&path, eps(CEILING)).unwrap();
    let receipt = reserve(&mut ledger, "servers", 1).unwrap();
    ledger.note_released(receipt).unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path, eps(CEILING)).unwrap();
    assert_eq!(ledger.spent("servers"), eps(1.0));
    assert!(ledger.entries()[0].is_released);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "others must not read it");
    }
}
