//! Whom the operator quarantined, kept across restarts: `quarantined.cbor`, replaced as a whole.

use std::{
    collections::BTreeSet,
    fs, io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use dunlin_trust::{HELD_MAX, Trust};
use dunlin_wire::cbor;
use libp2p_identity::PeerId;

use super::clock::now;
use crate::data_dir::DataDir;

const FILE: &str = "quarantined.cbor";

/// The version of the file.
const VERSION: u8 = 1;

/// Largest file: as many peer ids as can be held.
const FILE_BYTES_MAX: usize = HELD_MAX * 128;

/// The peers that the operator quarantined.
#[derive(Debug)]
pub(crate) struct Holds(Mutex<BTreeSet<PeerId>>);

impl Holds {
    /// Reads the file, when there is one, and has `trust` hold whom it names.
    ///
    /// # Errors
    ///
    /// Fails when the file is damaged: what the operator said is not guessed.
    pub(super) fn load(dir: &DataDir, trust: &mut Trust) -> anyhow::Result<Self> {
        let path = dir.path().join(FILE);
        let bytes = match fs::read(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Ok(Self(Mutex::default()));
            }
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let damaged = || {
            format!("{} is damaged; remove it, and nobody is held in quarantine", path.display())
        };
        let (version, named): (u8, Vec<String>) =
            cbor::decode(&bytes, FILE_BYTES_MAX).with_context(damaged)?;
        anyhow::ensure!(version == VERSION, "{} was written by a newer version", path.display());
        let peers: Result<BTreeSet<PeerId>, _> = named.iter().map(|name| name.parse()).collect();
        let peers = peers.with_context(damaged)?;
        for peer in &peers {
            trust.hold(now(), *peer).with_context(damaged)?;
        }
        Ok(Self(Mutex::new(peers)))
    }

    /// Holds a peer, or does not any more.
    ///
    /// # Errors
    ///
    /// Fails when as many are held as can be, or the disk fails. Nothing changed then.
    ///
    /// # Durability
    ///
    /// It is on disk when this returns.
    pub(crate) fn set(&self, dir: &DataDir, peer: PeerId, is_held: bool) -> anyhow::Result<()> {
        // Held over the write, so that the file holds what was said last.
        let mut held = self.lock();
        let mut next = held.clone();
        let is_changed = if is_held { next.insert(peer) } else { next.remove(&peer) };
        if !is_changed {
            return Ok(());
        }
        anyhow::ensure!(next.len() <= HELD_MAX, "{HELD_MAX} peers are held already; release one");
        let named: Vec<_> = next.iter().map(ToString::to_string).collect();
        let bytes = cbor::encode(&(VERSION, named))?;
        dir.replace(FILE, &bytes, 0o600).context("cannot keep who is quarantined")?;
        *held = next;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<PeerId>> {
        // It is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use dunlin_trust::{Config, Standing};

    use super::*;

    const PEER: &str = "12D3KooWCYJGHHBLAYG1oAnwoSTfZkEo3QVuaRfJSRW2FsTNzXHs";

    #[test]
    fn who_is_held_stays_so_after_a_restart_and_who_is_released_does_not() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let peer: PeerId = PEER.parse().unwrap();
        for (is_held, standing) in [(true, Standing::Quarantined), (false, Standing::Probation)] {
            let mut trust = Trust::new(Config::default(), Vec::new());
            let holds = Holds::load(&dir, &mut trust).unwrap();
            holds.set(&dir, peer, is_held).unwrap();
            holds.set(&dir, peer, is_held).unwrap();
            let mut trust = Trust::new(Config::default(), Vec::new());
            Holds::load(&dir, &mut trust).unwrap();
            assert_eq!(trust.standing(now(), &peer), standing);
        }
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let load = || Holds::load(&dir, &mut Trust::new(Config::default(), Vec::new()));
        // No peer, a newer version, and a damaged file.
        for bytes in [&b"\x82\x01\x81\x61a"[..], b"\x82\x02\x80", b"\x82\x01"] {
            dir.replace(FILE, bytes, 0o600).unwrap();
            assert!(load().is_err(), "{bytes:02x?}");
        }
        let golden = [&b"\x82\x01\x81\x78\x34"[..], PEER.as_bytes()].concat();
        dir.replace(FILE, &golden, 0o600).unwrap();
        assert_eq!(load().unwrap().lock().len(), 1);
    }
}
