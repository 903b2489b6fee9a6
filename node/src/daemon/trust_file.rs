//! What peers did, kept across restarts: `trust.cbor` with all records of one moment, and behind it `trust.log` with
//! what changed since.
//!
//! `docs/formats/trust.md` has the bytes. What changes is appended, so that the disk has as much to write as peers give
//! cause for, however many are remembered. When the log has outgrown the table, at the start and at the end, a new
//! table takes the place of both. A crash in between does no harm: a log that is read again says nothing new.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
};

use anyhow::Context;
use dunlin_trust::{RECORD_VERSION, Record};
use dunlin_wire::cbor;
use libp2p_identity::PeerId;
use serde_bytes::ByteBuf;

use super::frames::{Fault, Format};
use crate::data_dir::DataDir;

const TABLE: &str = "trust.cbor";
const LOG: &str = "trust.log";

/// Largest table that is read or written: 100,000 records of at most 600 bytes, with all proofs that are counted.
const TABLE_BYTES_MAX: usize = 64 << 20;

/// Log that is kept whatever the table's size.
const LOG_BYTES_MIN: u64 = 1 << 20;

/// Largest body of a frame.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Records in one frame.
const FRAME_RECORDS_MAX: usize = 4_096;

/// Changes that wait for a disk that fails. Beyond it the news that peers are forgotten is dropped, which does no
/// harm: they are forgotten again at the next start.
const WAITING_MAX: usize = 131_072;

const FORMAT: Format = Format { magic: b"dunltrus", version: 1, body_bytes_max: BODY_BYTES_MAX };

/// The open files.
#[derive(Debug)]
pub(super) struct TrustFile {
    log: File,
    log_bytes: u64,
    table_bytes: u64,
    /// What is not on disk yet; `None` for whom was forgotten. Empty unless the disk failed.
    waiting: BTreeMap<PeerId, Option<Record>>,
}

/// A frame: records that changed, and peers that were forgotten.
type Frame = (Vec<Record>, Vec<ByteBuf>);

impl TrustFile {
    /// Opens the files, making the log when there is none; returns all records.
    ///
    /// # Errors
    ///
    /// Fails when a file is damaged: who was quarantined must not be forgotten silently.
    pub(super) fn open(dir: &DataDir) -> anyhow::Result<(Self, Vec<Record>)> {
        if !dir.path().join(LOG).exists() {
            dir.replace(LOG, &FORMAT.header(), 0o600)?;
        }
        let records = read(dir)?;
        let path = dir.path().join(LOG);
        let log = OpenOptions::new().append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let log_bytes = log.metadata()?.len();
        let table_bytes = fs::metadata(dir.path().join(TABLE)).map_or(0, |table| table.len());
        let mut opened = Self { log, log_bytes, table_bytes, waiting: BTreeMap::new() };
        // This cuts off what a crash tore, too.
        opened.replace_by(dir, &records)?;
        Ok((opened, records.into_values().collect()))
    }

    /// Appends what changed and who is forgotten, durably. What a disk that fails does not take is tried again with
    /// the next change.
    ///
    /// # Errors
    ///
    /// Fails when the disk does.
    pub(super) fn update(
        &mut self,
        dir: &DataDir,
        changed: Vec<Record>,
        forgotten: &[PeerId],
    ) -> anyhow::Result<()> {
        self.waiting.extend(changed.into_iter().map(|record| (*record.peer(), Some(record))));
        self.waiting.extend(forgotten.iter().map(|peer| (*peer, None)));
        if self.waiting.len() > WAITING_MAX {
            self.waiting.retain(|_, record| record.is_some());
        }
        let frames = frames(&self.waiting)?;
        self.append(&frames).context("cannot keep what peers did")?;
        self.waiting.clear();
        self.log_bytes += frames.len() as u64;
        if self.log_bytes > self.table_bytes.max(LOG_BYTES_MIN) {
            self.fold(dir)?;
        }
        Ok(())
    }

    /// Writes a table that makes the log empty, unless it is.
    ///
    /// # Errors
    ///
    /// Fails when the disk does; what was kept is kept.
    pub(super) fn fold(&mut self, dir: &DataDir) -> anyhow::Result<()> {
        if self.has_changes() { self.replace_by(dir, &read(dir)?) } else { Ok(()) }
    }

    fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        // A write that failed may have left half a frame.
        self.log.set_len(self.log_bytes)?;
        self.log.write_all(frames)?;
        self.log.sync_data()
    }

    fn replace_by(
        &mut self,
        dir: &DataDir,
        records: &BTreeMap<PeerId, Record>,
    ) -> anyhow::Result<()> {
        if !self.has_changes() {
            return Ok(());
        }
        let records: Vec<_> = records.values().collect();
        let bytes = cbor::encode(&(RECORD_VERSION, records))?;
        // What could not be read back would keep the node from starting.
        anyhow::ensure!(
            bytes.len() <= TABLE_BYTES_MAX,
            "{TABLE} would have {} bytes, more than {TABLE_BYTES_MAX}",
            bytes.len()
        );
        dir.replace(TABLE, &bytes, 0o600).context("cannot keep what peers did")?;
        self.table_bytes = bytes.len() as u64;
        self.log.set_len(FORMAT.header().len() as u64)?;
        self.log.sync_all()?;
        self.log_bytes = FORMAT.header().len() as u64;
        Ok(())
    }

    fn has_changes(&self) -> bool {
        self.log_bytes > FORMAT.header().len() as u64
    }
}

/// Returns all records, as the log has changed those of the table.
fn read(dir: &DataDir) -> anyhow::Result<BTreeMap<PeerId, Record>> {
    let mut records = read_table(dir)?;
    let path = dir.path().join(LOG);
    let damaged = |fault: Fault| {
        let what = match fault {
            Fault::Foreign => "is no log of records".to_owned(),
            Fault::Version => "was written by a newer version, or its header is damaged".to_owned(),
            Fault::Damaged { offset } => format!("is damaged at byte {offset}"),
        };
        let path = path.display();
        anyhow::anyhow!("{path} {what}; remove it to forget what peers did since {TABLE}")
    };
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for (offset, body) in FORMAT.read(&bytes).map_err(damaged)?.bodies {
        let (changed, forgotten): Frame = cbor::decode(body, BODY_BYTES_MAX).map_err(|cause| {
            anyhow::Error::from(cause).context(damaged(Fault::Damaged { offset }))
        })?;
        records.extend(changed.into_iter().map(|record| (*record.peer(), record)));
        for peer in forgotten {
            let peer = PeerId::from_bytes(&peer);
            records.remove(&peer.map_err(|_| damaged(Fault::Damaged { offset }))?);
        }
    }
    Ok(records)
}

fn read_table(dir: &DataDir) -> anyhow::Result<BTreeMap<PeerId, Record>> {
    let path = dir.path().join(TABLE);
    let bytes = match fs::read(&path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let (version, records): (u8, Vec<Record>) = cbor::decode(&bytes, TABLE_BYTES_MAX)
        .with_context(|| {
            format!("{} is damaged; remove it to judge all peers anew", path.display())
        })?;
    anyhow::ensure!(
        version == RECORD_VERSION,
        "{} has version {version}, but this build knows {RECORD_VERSION}",
        path.display()
    );
    Ok(records.into_iter().map(|record| (*record.peer(), record)).collect())
}

/// Returns the bytes of changes.
fn frames(changes: &BTreeMap<PeerId, Option<Record>>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let changes: Vec<_> = changes.iter().collect();
    for part in changes.chunks(FRAME_RECORDS_MAX) {
        let changed: Vec<_> = part.iter().filter_map(|(_, record)| record.as_ref()).collect();
        let forgotten = part.iter().filter(|(_, record)| record.is_none());
        let forgotten: Vec<_> = forgotten.map(|(peer, _)| ByteBuf::from(peer.to_bytes())).collect();
        let body = cbor::encode(&(changed, forgotten))?;
        bytes.extend(FORMAT.frame(&body).context("a part of the changes is too large")?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use dunlin_trust::{Config, Evidence, Standing, Trust, UnixMillis};

    use super::*;

    fn peer(number: u64) -> PeerId {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend(number.to_be_bytes().repeat(4));
        PeerId::from_bytes(&bytes).unwrap()
    }

    fn folder() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        (temp, dir)
    }

    /// Keeps what trust hands out after these strangers misbehaved once.
    fn misbehave(
        trust: &mut Trust,
        file: &mut TrustFile,
        dir: &DataDir,
        strangers: std::ops::Range<u64>,
    ) {
        for number in strangers {
            trust.observe(UnixMillis(1 + number), peer(number), Evidence::WrongCid);
        }
        let forgotten: Vec<_> = std::iter::from_fn(|| trust.next_forgotten()).collect();
        let changed = std::iter::from_fn(|| trust.next_dirty()).collect();
        file.update(dir, changed, &forgotten).unwrap();
    }

    fn small(peers_max: usize, records: Vec<Record>) -> Trust {
        Trust::new(Config { peers_max, ..Config::default() }, records)
    }

    fn length(dir: &DataDir, name: &str) -> u64 {
        fs::metadata(dir.path().join(name)).map_or(0, |file| file.len())
    }

    #[test]
    fn strangers_that_come_and_go_do_not_make_the_files_grow() {
        let (_temp, dir) = folder();
        let mut trust = small(10, Vec::new());
        let (mut file, _) = TrustFile::open(&dir).unwrap();
        for round in 0..400 {
            misbehave(&mut trust, &mut file, &dir, 100 * round..100 * (round + 1));
            assert!(length(&dir, LOG) < LOG_BYTES_MIN + 100_000);
        }
        file.fold(&dir).unwrap();
        assert!(length(&dir, TABLE) < 4_000 && length(&dir, LOG) == 16);
        let mut kept: Vec<_> = trust.peers().copied().collect();
        let records = TrustFile::open(&dir).unwrap().1;
        kept.sort();
        assert_eq!(records.iter().map(|record| *record.peer()).collect::<Vec<_>>(), kept);
    }

    #[test]
    fn what_was_kept_is_there_wherever_a_crash_tears_the_log() {
        let (_temp, dir) = folder();
        let mut trust = small(100, Vec::new());
        let (mut file, _) = TrustFile::open(&dir).unwrap();
        misbehave(&mut trust, &mut file, &dir, 0..3);
        // The disk took the new table, and the log is still the old one.
        let log = fs::read(dir.path().join(LOG)).unwrap();
        file.fold(&dir).unwrap();
        let (mut file, records) = TrustFile::open(&dir).unwrap();
        fs::write(dir.path().join(LOG), &log).unwrap();
        assert_eq!(TrustFile::open(&dir).unwrap().1, records);
        misbehave(&mut trust, &mut file, &dir, 3..4);
        let before = fs::read(dir.path().join(LOG)).unwrap();
        misbehave(&mut trust, &mut file, &dir, 4..5);
        let whole = fs::read(dir.path().join(LOG)).unwrap();
        for length in before.len()..whole.len() {
            fs::write(dir.path().join(LOG), &whole[..length]).unwrap();
            fs::remove_file(dir.path().join(TABLE)).unwrap();
            let (_, records) = TrustFile::open(&dir).unwrap();
            let found: Vec<_> = records.iter().map(|record| *record.peer()).collect();
            assert_eq!(found, [peer(3)], "cut at {length}");
            assert!(small(9, records).standing(UnixMillis(9), &peer(3)) == Standing::Quarantined);
        }
    }

    #[test]
    fn damage_keeps_the_node_from_starting() {
        let (_temp, dir) = folder();
        let (mut file, _) = TrustFile::open(&dir).unwrap();
        let mut trust = small(100, Vec::new());
        misbehave(&mut trust, &mut file, &dir, 0..1);
        misbehave(&mut trust, &mut file, &dir, 1..2);
        let whole = fs::read(dir.path().join(LOG)).unwrap();
        for at in [0, 9, 30, 60] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(dir.path().join(LOG), damaged).unwrap();
            assert!(TrustFile::open(&dir).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_the_disk_refused_is_kept_with_the_next_change() {
        let (_temp, dir) = folder();
        let mut trust = small(100, Vec::new());
        let (mut file, _) = TrustFile::open(&dir).unwrap();
        misbehave(&mut trust, &mut file, &dir, 0..1);
        let writable = std::mem::replace(&mut file.log, File::open("/dev/null").unwrap());
        trust.observe(UnixMillis(1), peer(1), Evidence::WrongCid);
        let changed = std::iter::from_fn(|| trust.next_dirty()).collect();
        assert!(file.update(&dir, changed, &[]).is_err());
        file.log = writable;
        misbehave(&mut trust, &mut file, &dir, 2..3);
        assert_eq!(TrustFile::open(&dir).unwrap().1.len(), 3);
    }

    /// As it was written before there was a log.
    #[test]
    fn a_table_alone_is_read() {
        let (_temp, dir) = folder();
        let mut trust = small(9, Vec::new());
        trust.observe(UnixMillis(1), peer(1), Evidence::WrongCid);
        let records = vec![trust.next_dirty().unwrap()];
        let bytes = cbor::encode(&(RECORD_VERSION, &records)).unwrap();
        fs::write(dir.path().join(TABLE), bytes).unwrap();
        assert_eq!(TrustFile::open(&dir).unwrap().1, records);
    }

    /// A header, and a frame with one peer forgotten.
    #[test]
    fn golden_bytes() {
        let bytes = [&FORMAT.header()[..], &frames(&BTreeMap::from([(peer(1), None)])).unwrap()];
        let hex: String = bytes.concat().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    const GOLDEN: &str = "64756e6c7472757301000000ba1641a4270000009b48a11c82808158221220000000000000000100\
        0000000000000100000000000000010000000000000001ecd9afee0000000000";
}
