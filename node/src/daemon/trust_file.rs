//! What peers did, kept across restarts.
//!
//! The whole file is replaced at once: after a crash it holds the records of one moment. They are few and
//! small, there are as many as trust remembers peers, and they change at the rate at which peers misbehave.

use std::{collections::BTreeMap, fs, io};

use anyhow::Context;
use dunlin_trust::{RECORD_VERSION, Record};
use dunlin_wire::cbor;
use libp2p_identity::PeerId;

use crate::data_dir::DataDir;

const FILE: &str = "trust.cbor";

/// Largest file that is read or written: 100,000 records of 200 bytes fit, and trust remembers fewer.
const FILE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The records of all peers, as they are on disk.
#[derive(Debug)]
pub(super) struct TrustFile {
    records: BTreeMap<PeerId, Record>,
}

impl TrustFile {
    /// Reads the file, when there is one.
    ///
    /// # Errors
    ///
    /// Fails when the file is damaged: who was quarantined must not be forgotten silently.
    pub(super) fn load(dir: &DataDir) -> anyhow::Result<Self> {
        let path = dir.path().join(FILE);
        let bytes = match fs::read(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { records: BTreeMap::new() });
            }
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let (version, records): (u8, Vec<Record>) = cbor::decode(&bytes, FILE_BYTES_MAX)
            .with_context(|| {
                format!("{} is damaged; remove it to judge all peers anew", path.display())
            })?;
        anyhow::ensure!(
            version == RECORD_VERSION,
            "{} has version {version}, but this build knows {RECORD_VERSION}",
            path.display()
        );
        Ok(Self { records: records.into_iter().map(|record| (*record.peer(), record)).collect() })
    }

    /// Returns all records.
    pub(super) fn records(&self) -> Vec<Record> {
        self.records.values().cloned().collect()
    }

    /// Takes over what changed and drops what is forgotten, and writes it all down durably.
    pub(super) fn update(
        &mut self,
        dir: &DataDir,
        changed: Vec<Record>,
        forgotten: &[PeerId],
    ) -> anyhow::Result<()> {
        self.records.extend(changed.into_iter().map(|record| (*record.peer(), record)));
        for peer in forgotten {
            self.records.remove(peer);
        }
        let bytes = cbor::encode(&(RECORD_VERSION, self.records()))?;
        // What could not be read back would keep the node from starting.
        anyhow::ensure!(
            bytes.len() <= FILE_BYTES_MAX,
            "{FILE} would have {} bytes, more than {FILE_BYTES_MAX}",
            bytes.len()
        );
        dir.replace(FILE, &bytes, 0o600).context("cannot keep what peers did")
    }
}

#[cfg(test)]
mod tests {
    use dunlin_trust::{Config, Evidence, Trust, UnixMillis};
    use libp2p_identity::Keypair;

    use super::*;

    /// Returns what trust hands out after so many strangers misbehaved once.
    fn conduct(trust: &mut Trust, strangers: usize) -> (Vec<Record>, Vec<PeerId>) {
        for _ in 0..strangers {
            let peer = Keypair::generate_ed25519().public().to_peer_id();
            trust.observe(UnixMillis(1), peer, Evidence::Timeout);
        }
        let forgotten = std::iter::from_fn(|| trust.next_forgotten()).collect();
        (std::iter::from_fn(|| trust.next_dirty()).collect(), forgotten)
    }

    #[test]
    fn strangers_that_come_and_go_do_not_make_the_file_grow() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let mut trust = Trust::new(Config { peers_max: 10, ..Config::default() }, Vec::new());
        let mut file = TrustFile::load(&dir).unwrap();
        for _ in 0..5 {
            let (changed, forgotten) = conduct(&mut trust, 20);
            file.update(&dir, changed, &forgotten).unwrap();
            assert_eq!(TrustFile::load(&dir).unwrap().records().len(), 10);
        }
    }

    #[test]
    fn a_file_with_more_records_than_trust_remembers_shrinks_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let mut generous = Trust::new(Config::default(), Vec::new());
        let mut file = TrustFile::load(&dir).unwrap();
        let (changed, forgotten) = conduct(&mut generous, 30);
        file.update(&dir, changed, &forgotten).unwrap();
        let mut trust = Trust::new(Config { peers_max: 10, ..Config::default() }, file.records());
        let (changed, forgotten) = conduct(&mut trust, 0);
        file.update(&dir, changed, &forgotten).unwrap();
        assert_eq!(TrustFile::load(&dir).unwrap().records().len(), 10);
    }
}
