//! What peers did, kept across restarts.
//!
//! The whole file is replaced at once: after a crash it holds the records of one moment. They are few and
//! small (`peers_max` of them at most), and change at the rate at which peers misbehave.

use std::{collections::BTreeMap, fs, io};

use anyhow::Context;
use dunlin_trust::{RECORD_VERSION, Record};
use dunlin_wire::cbor;
use libp2p_identity::PeerId;

use crate::data_dir::DataDir;

const FILE: &str = "trust.cbor";

/// Largest file that is read: 100,000 records of 200 bytes fit.
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

    /// Takes over what changed, and writes it all down durably.
    pub(super) fn update(&mut self, dir: &DataDir, changed: Vec<Record>) -> anyhow::Result<()> {
        self.records.extend(changed.into_iter().map(|record| (*record.peer(), record)));
        let bytes = cbor::encode(&(RECORD_VERSION, self.records()))?;
        dir.replace(FILE, &bytes, 0o600).context("cannot keep what peers did")
    }
}
