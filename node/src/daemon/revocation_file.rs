//! The revocations that count here, in `revocations.log`: appended and synced before they are acted on.
//!
//! `docs/formats/revocations.md` has the bytes. A crash can tear nothing but the last frame, which nobody was
//! told about; damage before that is an error, because a revocation must not be forgotten silently.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use dunlin_trust::Trust;
use dunlin_wire::cbor;
use serde_bytes::ByteBuf;

use super::frames::{Fault, Format};
use crate::data_dir::DataDir;

/// The file in the data folder.
pub(crate) const FILE: &str = "revocations.log";

/// Largest body of a frame: a whole log of keys, with its signatures, or a batch of withdrawals.
const BODY_BYTES_MAX: usize = 8 << 20;

const FORMAT: Format = Format { magic: b"dunlrevo", version: 1, body_bytes_max: BODY_BYTES_MAX };

/// The file is written anew at the start when it is so much larger than twice what is in it.
const WASTE_BYTES_MIN: usize = 1 << 20;

/// The open file.
#[derive(Debug)]
pub(crate) struct RevocationFile {
    file: File,
    /// Records that do not count under the authorities of now, as they are. They are not thrown away: an
    /// operator may have mistyped a key.
    foreign: Vec<Vec<u8>>,
    /// Whether a write failed: what is on disk behind the last good frame is not known then.
    is_broken: bool,
}

impl RevocationFile {
    /// Opens the file, making it when there is none, cuts off what a crash tore, and has `trust` take in the
    /// rest.
    ///
    /// # Errors
    ///
    /// Fails when the file is damaged, or cannot be read or written.
    pub(crate) fn open(dir: &DataDir, trust: &mut Trust) -> anyhow::Result<Self> {
        let path = dir.path().join(FILE);
        if !path.exists() {
            dir.replace(FILE, &FORMAT.header(), 0o600)?;
        }
        let contents = Contents::read(&path)?;
        let mut foreign = Vec::new();
        for record in contents.records {
            if let Err(cause) = trust.restore_revocation(&record) {
                tracing::warn!(%cause, "a revocation on disk does not count under these authorities");
                foreign.push(record);
            }
        }
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut opened = Self { file, foreign, is_broken: false };
        if contents.torn_bytes > 0 {
            let torn_bytes = contents.torn_bytes;
            tracing::info!(torn_bytes, "cut off a revocation that was being written at a crash");
            opened.file.set_len(contents.end as u64)?;
            opened.file.sync_all()?;
        }
        let records: Vec<_> = trust.revocations().snapshot().collect();
        let needed: usize = records.iter().map(|record| record.len() + 32).sum();
        if contents.end > 2 * needed + WASTE_BYTES_MIN {
            opened.replace(dir, records)?;
        }
        Ok(opened)
    }

    /// Returns how many records do not count under the authorities of now.
    pub(crate) fn foreign(&self) -> usize {
        self.foreign.len()
    }

    /// Writes records down behind all others, or in place of them.
    ///
    /// # Errors
    ///
    /// Fails when the disk does, and from then on always: a restart finds out what is there.
    ///
    /// # Durability
    ///
    /// They are on disk when this returns.
    pub(crate) fn keep(
        &mut self,
        dir: &DataDir,
        records: Vec<Vec<u8>>,
        is_everything: bool,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_broken, "{FILE} could not be written; restart the node");
        let kept = if is_everything { self.replace(dir, records) } else { self.append(records) };
        self.is_broken = kept.is_err();
        kept
    }

    fn append(&mut self, records: Vec<Vec<u8>>) -> anyhow::Result<()> {
        let frame = frame(records)?;
        let written = self.file.write_all(&frame).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("cannot write {FILE}"))
    }

    fn replace(&mut self, dir: &DataDir, records: Vec<Vec<u8>>) -> anyhow::Result<()> {
        let mut bytes = FORMAT.header().to_vec();
        for record in self.foreign.iter().cloned().chain(records) {
            bytes.extend(frame(vec![record])?);
        }
        dir.replace(FILE, &bytes, 0o600)?;
        self.file = OpenOptions::new().append(true).open(dir.path().join(FILE))?;
        Ok(())
    }
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Records for [`Trust::restore_revocation`], in their order.
    pub(crate) records: Vec<Vec<u8>>,
    end: usize,
    torn_bytes: usize,
}

impl Contents {
    /// Reads a file and changes nothing.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read, is of another kind, or is damaged.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::parse(&bytes).map_err(|problem| FileError { path: path.into(), problem })?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let frames = FORMAT.read(bytes)?;
        let mut records = Vec::new();
        for (offset, body) in frames.bodies {
            let body: Vec<ByteBuf> =
                cbor::decode(body, BODY_BYTES_MAX).map_err(|_| Problem::Damaged { offset })?;
            records.extend(body.into_iter().map(ByteBuf::into_vec));
        }
        Ok(Self { records, end: frames.end, torn_bytes: bytes.len() - frames.end })
    }
}

/// Returns the bytes of records that are written together.
fn frame(records: Vec<Vec<u8>>) -> io::Result<Vec<u8>> {
    let body: Vec<_> = records.into_iter().map(ByteBuf::from).collect();
    let body = cbor::encode(&body).map_err(io::Error::other)?;
    let frame = FORMAT.frame(&body);
    frame.ok_or_else(|| io::Error::other("more revocations than one write takes"))
}

/// A file that cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}", path = path.display())]
struct FileError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("it is no log of revocations")]
    Foreign,
    #[error("it was written by a newer version, or its header is damaged")]
    Version,
    #[error(
        "damaged at byte {offset}; restore it from a backup or from another node of the network \
         (without it, what this node alone knows to be revoked is forgotten)"
    )]
    Damaged { offset: usize },
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Foreign => Self::Foreign,
            Fault::Version => Self::Version,
            Fault::Damaged { offset } => Self::Damaged { offset },
        }
    }
}

#[cfg(test)]
mod tests {
    use dunlin_trust::{Acquaintance, Config, UnixMillis, Withdrawal};
    use dunlin_wire::envelope;
    use libp2p_identity::{Keypair, PeerId};

    use super::{
        super::frames::{ALIGNMENT, HEAD_BYTES},
        *,
    };

    fn key(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap()
    }

    fn peer(seed: u8) -> PeerId {
        key(seed).public().to_peer_id()
    }

    fn open_network() -> Trust {
        Trust::new(Config::default(), Vec::new())
    }

    fn record(seed: u8) -> Vec<u8> {
        let signed = envelope::sign(&key(seed), Withdrawal::new(UnixMillis(1_000), None)).unwrap();
        let trust = open_network();
        let checked = trust.revocations().check_withdrawal(&signed.bytes, Acquaintance::Known);
        checked.unwrap().unwrap().record()
    }

    fn revoked(dir: &DataDir) -> Result<Vec<u8>, String> {
        let mut trust = open_network();
        RevocationFile::open(dir, &mut trust).map_err(|cause| format!("{cause:#}"))?;
        Ok((1..20).filter(|seed| trust.revocations().is_revoked(&peer(*seed))).collect())
    }

    fn folder() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        (temp, dir)
    }

    #[test]
    fn what_was_kept_is_there_after_every_restart() {
        let (_temp, dir) = folder();
        for seed in 1..5 {
            assert_eq!(revoked(&dir).unwrap(), (1..seed).collect::<Vec<_>>());
            let mut file = RevocationFile::open(&dir, &mut open_network()).unwrap();
            file.keep(&dir, vec![record(seed)], false).unwrap();
        }
        let mut file = RevocationFile::open(&dir, &mut open_network()).unwrap();
        file.keep(&dir, vec![record(7), record(8)], true).unwrap();
        file.keep(&dir, vec![record(9)], false).unwrap();
        assert_eq!(revoked(&dir).unwrap(), [7, 8, 9]);
    }

    #[test]
    fn a_file_that_a_crash_tore_anywhere_loses_nothing_that_was_acknowledged() {
        let (_temp, dir) = folder();
        let mut file = RevocationFile::open(&dir, &mut open_network()).unwrap();
        file.keep(&dir, vec![record(1)], false).unwrap();
        file.keep(&dir, vec![record(2)], false).unwrap();
        let path = dir.path().join(FILE);
        let acknowledged = fs::read(&path).unwrap();
        file.keep(&dir, vec![record(3)], false).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in acknowledged.len()..whole.len() {
            let mut torn = whole[..length].to_vec();
            fs::write(&path, &torn).unwrap();
            assert_eq!(revoked(&dir).unwrap(), [1, 2], "cut at {length}");
            assert_eq!(fs::read(&path).unwrap(), acknowledged, "cut at {length}");
            // The file had grown, but its end was not written.
            torn.resize(whole.len(), 0);
            fs::write(&path, &torn).unwrap();
            let is_in_head = (1..HEAD_BYTES).contains(&(length - acknowledged.len()));
            // A sector is written whole or not at all, and a head lies in one.
            if torn != whole && !is_in_head {
                assert_eq!(revoked(&dir).unwrap(), [1, 2], "zeros from {length}");
            }
        }
    }

    #[test]
    fn damage_before_the_end_keeps_the_node_from_starting() {
        let (_temp, dir) = folder();
        let mut file = RevocationFile::open(&dir, &mut open_network()).unwrap();
        for seed in 1..3 {
            file.keep(&dir, vec![record(seed)], false).unwrap();
        }
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let first = FORMAT.header().len() + frame(vec![record(1)]).unwrap().len();
        for at in 0..first - ALIGNMENT {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).unwrap();
            assert!(revoked(&dir).is_err(), "byte {at}");
            assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is repaired");
        }
    }

    #[test]
    fn what_does_not_count_under_these_authorities_is_kept() {
        let (_temp, dir) = folder();
        let authorities = dunlin_trust::Authorities::new("plant", [peer(90)], 1).unwrap();
        let known = dunlin_trust::Revocations::new(Some(authorities));
        let draft = known.draft(&[peer(5)], UnixMillis(1_000)).unwrap();
        let signature = draft.sign(&key(90)).unwrap();
        let extension = draft.signed(vec![signature]).unwrap();
        let foreign = known.check_extension(extension).unwrap().unwrap().record();
        let mut file = RevocationFile::open(&dir, &mut open_network()).unwrap();
        file.keep(&dir, vec![foreign.clone(), record(1)], false).unwrap();
        let mut file = RevocationFile::open(&dir, &mut open_network()).unwrap();
        assert_eq!(file.foreign(), 1);
        file.keep(&dir, vec![record(1)], true).unwrap();
        let records = Contents::read(&dir.path().join(FILE)).unwrap().records;
        assert_eq!(records, [foreign, record(1)]);
    }

    /// The file with one record of the bytes 1, 2, 3.
    #[test]
    fn golden_bytes() {
        let bytes = [&FORMAT.header()[..], &frame(vec![vec![1, 2, 3]]).unwrap()].concat();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(Contents::parse(&bytes).unwrap().records, [[1, 2, 3]]);
    }

    const GOLDEN: &str =
        "64756e6c7265766f0100000050b5d3e3050000002e2f9a168143010203e3c0f86900000000000000";
}
