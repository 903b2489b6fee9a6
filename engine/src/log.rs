//! The append log: what was acknowledged is in it, and synced. `docs/formats/log.md` is the format.
//!
//! One record is one group commit: everything that is written before one sync shares a checksum. So a
//! crash can only tear the last record, which nobody was told about, and a damaged record with whole
//! ones after it is not a torn write but lost data: the log refuses to open on it.

use std::{io, sync::Arc};

use crate::{
    error::OpenError,
    storage::{Storage, StorageFile},
};

/// The folder of the log files.
pub(crate) const FOLDER: &str = "log";

/// The first bytes of a log file.
const MAGIC: &[u8; 8] = b"DUNLINLG";

/// The version of the format.
const VERSION: u32 = 1;

/// Magic, version, number of the first record, checksum of these.
const HEADER_BYTES: usize = 24;

/// Length, checksum, number.
const RECORD_HEADER_BYTES: usize = 16;

/// Largest record; a group is closed before it grows beyond.
pub(crate) const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What opening a log found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that were applied again because they came after the last checkpoint.
    pub replayed_records: u64,
    /// Bytes of a record that was being written when the process ended; nobody was told about it.
    pub torn_bytes: u64,
}

/// An open log, positioned behind its last record.
#[derive(Debug)]
pub(crate) struct Log {
    storage: Arc<dyn Storage>,
    file: Box<dyn StorageFile>,
    name: String,
    byte_count: u64,
    next: u64,
    /// Older files, which the next checkpoint makes superfluous, and their bytes.
    old: Vec<String>,
    old_bytes: u64,
}

impl Log {
    /// Makes the first file of a new log, durably.
    pub(crate) fn create(storage: &dyn Storage) -> io::Result<()> {
        create_file(storage, 1).map(drop)
    }

    /// Reads the log and passes every record after number `after` to `on_record`, in order; cuts off a
    /// torn last record.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        after: u64,
        mut on_record: impl FnMut(u64, &[u8]) -> Result<(), OpenError>,
    ) -> Result<(Self, Recovery), OpenError> {
        let names = file_names(&*storage)?;
        let missing = OpenError::LogMissing { expected: after + 1 };
        let Some((last, older)) = names.split_last() else { return Err(missing) };
        let mut recovery = Recovery::default();
        let mut next = None;
        let mut old_bytes = 0;
        let mut on_record = |number, payload: &[u8]| {
            if number > after {
                recovery.replayed_records += 1;
                on_record(number, payload)?;
            }
            Ok::<(), OpenError>(())
        };
        for name in older {
            let (content, _) = read(&*storage, name)?;
            let scanned = scan(name, &content, next, &mut on_record)?;
            if scanned.end != content.len() {
                return Err(damaged(name, scanned.end, "an older file ends inside a record"));
            }
            next = Some(scanned.next);
            old_bytes += content.len() as u64;
        }
        let (mut content, mut file) = read(&*storage, last)?;
        if let Some(first) = next
            && number_of(last) == next
            && content.len() <= HEADER_BYTES
        {
            // The process may have ended while it made this file; nothing else was written to it yet.
            file = create_file(&*storage, first)?.0;
            content = header(first).to_vec();
        }
        let scanned = scan(last, &content, next, &mut on_record)?;
        recovery.torn_bytes = (content.len() - scanned.end) as u64;
        if recovery.torn_bytes > 0 {
            file.set_byte_count(scanned.end as u64)?;
        }
        // The process may have ended before the last record was synced, or because that failed; a system may then take for
        // written what is not. So it is written again before anybody relies on it.
        file.write_at(scanned.last as u64, &content[scanned.last..scanned.end])?;
        file.sync()?;
        let first = number_of(&names[0]).unwrap_or_default();
        if first > after + 1 || scanned.next <= after {
            return Err(missing);
        }
        let log = Self {
            storage,
            file,
            name: last.clone(),
            byte_count: scanned.end as u64,
            next: scanned.next,
            old: older.to_vec(),
            old_bytes,
        };
        Ok((log, recovery))
    }

    /// Appends a record and syncs it; returns its number.
    pub(crate) fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        let record = record(self.next, payload);
        self.file.write_at(self.byte_count, &record)?;
        self.file.sync()?;
        self.byte_count += record.len() as u64;
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Begins a new file, durably, so that all records so far are in older ones.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        if self.byte_count == HEADER_BYTES as u64 {
            return Ok(());
        }
        let (file, name) = create_file(&*self.storage, self.next)?;
        self.old_bytes += self.byte_count;
        self.old.push(std::mem::replace(&mut self.name, name));
        self.file = file;
        self.byte_count = HEADER_BYTES as u64;
        Ok(())
    }

    /// Removes the older files: a checkpoint holds all that they said.
    pub(crate) fn remove_old(&mut self) -> io::Result<()> {
        if self.old.is_empty() {
            return Ok(());
        }
        for name in self.old.drain(..) {
            self.storage.remove(&name)?;
        }
        self.old_bytes = 0;
        self.storage.sync_folder(FOLDER)
    }

    /// Returns the bytes that a restart would read.
    pub(crate) const fn byte_count(&self) -> u64 {
        self.old_bytes + self.byte_count
    }

    /// Returns the number of the last record, 0 before the first.
    pub(crate) const fn last(&self) -> u64 {
        self.next - 1
    }
}

/// Returns whether the folder holds a log that anything was ever written to.
pub(crate) fn has_records(storage: &dyn Storage) -> io::Result<bool> {
    for name in file_names(storage)? {
        let bytes = storage.open(&name)?.byte_count()?;
        if number_of(&name) != Some(1) || bytes > HEADER_BYTES as u64 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the log's files in the order of their records.
fn file_names(storage: &dyn Storage) -> io::Result<Vec<String>> {
    let names = storage.list(FOLDER)?;
    let full = names.into_iter().map(|name| format!("{FOLDER}/{name}"));
    // Fixed width, so the order of the names is the order of the numbers.
    Ok(full.filter(|name| number_of(name).is_some()).collect())
}

fn file_name(first: u64) -> String {
    format!("{FOLDER}/{first:020}.log")
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

fn create_file(storage: &dyn Storage, first: u64) -> io::Result<(Box<dyn StorageFile>, String)> {
    let name = file_name(first);
    let file = storage.open(&name)?;
    file.set_byte_count(0)?;
    file.write_at(0, &header(first))?;
    file.sync()?;
    storage.sync_folder(FOLDER)?;
    Ok((file, name))
}

fn read(storage: &dyn Storage, name: &str) -> io::Result<(Vec<u8>, Box<dyn StorageFile>)> {
    let file = storage.open(name)?;
    let bytes = usize::try_from(file.byte_count()?).map_err(io::Error::other)?;
    let mut content = vec![0; bytes];
    file.read_at(0, &mut content)?;
    Ok((content, file))
}

fn header(first: u64) -> [u8; HEADER_BYTES] {
    header_of(VERSION, first)
}

fn header_of(version: u32, first: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    header[12..20].copy_from_slice(&first.to_le_bytes());
    let checksum = crc32fast::hash(&header[..20]);
    header[20..].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn record(number: u64, payload: &[u8]) -> Vec<u8> {
    let bytes = u32::try_from(payload.len()).expect("a group is closed before it passes 64 MiB");
    let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
    record.extend_from_slice(&bytes.to_le_bytes());
    record.extend_from_slice(&checksum(bytes, number, payload).to_le_bytes());
    record.extend_from_slice(&number.to_le_bytes());
    record.extend_from_slice(payload);
    record
}

fn checksum(bytes: u32, number: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// How far a file is whole, and where its last record begins.
struct Scanned {
    last: usize,
    end: usize,
    next: u64,
}

/// Passes the records of a file on, up to a torn end.
fn scan(
    name: &str,
    content: &[u8],
    expected: Option<u64>,
    on_record: &mut impl FnMut(u64, &[u8]) -> Result<(), OpenError>,
) -> Result<Scanned, OpenError> {
    let missing = damaged(name, 0, "it has no header of this version");
    let (Some(first), Some(head)) = (number_of(name), content.first_chunk::<HEADER_BYTES>()) else {
        return Err(missing);
    };
    let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if *head != header_of(version, first) {
        return Err(missing);
    }
    if version != VERSION {
        return Err(OpenError::Version { found: format!("log {version}"), known: "log 1" });
    }
    if expected.is_some_and(|expected| expected != first) {
        return Err(damaged(name, 0, "it does not follow the file before it"));
    }
    let mut scanned = Scanned { last: HEADER_BYTES, end: HEADER_BYTES, next: first };
    while let Some(payload) = record_at(content, scanned.end, |number| number == scanned.next) {
        on_record(scanned.next, payload)?;
        scanned.last = scanned.end;
        scanned.end += RECORD_HEADER_BYTES + payload.len();
        scanned.next += 1;
    }
    // A torn record is the last thing ever written. Whole records after it say that it was damaged
    // later; its length may be damaged too, so every position is tried.
    let later = |number: u64| number > scanned.next && number - scanned.next < 1 << 32;
    let followed = |at: &usize| record_at(content, *at, later).is_some();
    if (scanned.end + 1..content.len()).any(|at| followed(&at)) {
        return Err(damaged(name, scanned.end, "the record does not match its checksum"));
    }
    Ok(scanned)
}

/// Returns the payload of the whole record at `at` whose number is accepted.
fn record_at(content: &[u8], at: usize, accept: impl Fn(u64) -> bool) -> Option<&[u8]> {
    let rest = content.get(at..)?;
    let (head, rest) = rest.split_at_checked(RECORD_HEADER_BYTES)?;
    let word = |from: usize| {
        u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]])
    };
    let number = u64::from(word(8)) | u64::from(word(12)) << 32;
    let payload = rest.get(..word(0) as usize)?;
    let whole = accept(number) && checksum(word(0), number, payload) == word(4);
    whole.then_some(payload)
}

fn damaged(name: &str, offset: usize, what: &'static str) -> OpenError {
    OpenError::LogDamaged { file: name.to_owned(), offset: offset as u64, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Simulated;

    fn filled(records: u8) -> Simulated {
        let disk = Simulated::new();
        Log::create(&disk).unwrap();
        let (mut log, _) = open(&disk, 0);
        for record in 1..=records {
            log.append(&[record; 40]).unwrap();
        }
        disk
    }

    #[track_caller]
    fn open(disk: &Simulated, after: u64) -> (Log, Vec<u8>) {
        let mut seen = Vec::new();
        let (log, _) = try_open(disk, after, &mut seen).unwrap();
        (log, seen)
    }

    fn try_open(
        disk: &Simulated,
        after: u64,
        seen: &mut Vec<u8>,
    ) -> Result<(Log, Recovery), OpenError> {
        Log::open(Arc::new(disk.clone()), after, |_, payload| {
            seen.push(payload[0]);
            Ok(())
        })
    }

    #[test]
    fn records_come_back_in_order_after_the_checkpoint() {
        let disk = filled(5);
        assert_eq!(open(&disk, 0).1, [1, 2, 3, 4, 5]);
        assert_eq!(open(&disk.crash(), 3).1, [4, 5]);
        assert!(matches!(
            try_open(&disk, 6, &mut Vec::new()),
            Err(OpenError::LogMissing { expected: 7 })
        ));
    }

    #[test]
    fn every_torn_tail_is_cut_off() {
        let disk = filled(3);
        let whole = disk.content(&file_name(1)).unwrap();
        let two = whole.len() - 56;
        for end in two..whole.len() {
            disk.put(&file_name(1), whole[..end].to_vec());
            let mut seen = Vec::new();
            let (mut log, recovery) = try_open(&disk, 0, &mut seen).unwrap();
            assert_eq!((seen, recovery.torn_bytes as usize), (vec![1, 2], end - two));
            log.append(&[9; 3]).unwrap();
            assert_eq!(open(&disk.crash(), 0).1, [1, 2, 9]);
        }
    }

    #[test]
    fn a_flipped_bit_before_whole_records_refuses_to_open() {
        let disk = filled(4);
        let whole = disk.content(&file_name(1)).unwrap();
        let last = whole.len() - 56;
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            disk.put(&file_name(1), flipped);
            let mut seen = Vec::new();
            match try_open(&disk, 0, &mut seen) {
                Err(OpenError::LogDamaged { .. }) => assert!(at < last, "byte {at}"),
                Ok(_) => assert!(at >= last && seen == [1, 2, 3], "byte {at}"),
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }

    #[test]
    fn a_file_of_a_newer_version_is_not_called_damaged() {
        let disk = filled(2);
        let mut content = disk.content(&file_name(1)).unwrap();
        content[..HEADER_BYTES].copy_from_slice(&header_of(VERSION + 1, 1));
        disk.put(&file_name(1), content);
        let refused = try_open(&disk, 0, &mut Vec::new()).unwrap_err();
        assert!(matches!(&refused, OpenError::Version { found, .. } if found == "log 2"));
    }

    #[test]
    fn rotation_survives_a_crash_at_every_step() {
        for steps in 0.. {
            let disk = filled(2);
            let (mut log, _) = open(&disk, 0);
            disk.fail_after(steps);
            let done = log.rotate().and_then(|()| log.remove_old()).is_ok();
            let after = if done { 2 } else { 0 };
            let left = disk.crash();
            let (mut log, seen) = open(&left, after);
            assert!(done || seen == [1, 2], "steps {steps}: {seen:?}");
            assert_eq!(log.append(&[3]).unwrap(), 3);
            if done {
                return;
            }
        }
    }

    #[test]
    fn a_missing_file_is_noticed() {
        let disk = filled(2);
        let (mut log, _) = open(&disk, 0);
        log.rotate().unwrap();
        log.append(&[3]).unwrap();
        disk.remove(&file_name(1)).unwrap();
        assert!(matches!(
            try_open(&disk, 0, &mut Vec::new()),
            Err(OpenError::LogMissing { expected: 1 })
        ));
        assert_eq!(open(&disk, 2).1, [3]);
    }
}
