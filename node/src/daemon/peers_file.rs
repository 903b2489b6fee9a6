//! Where peers are, kept across restarts in `peers.cbor` (`docs/formats/peers.md`).

use std::{fs, io};

use dunlin_protocols::{KnownPeer, decode_known_peers, encode_known_peers};

use crate::data_dir::{DataDir, DataDirError};

const FILE: &str = "peers.cbor";

/// Returns the peers that were kept. Without the file, or with a damaged one, a node finds them as a new one does.
pub(super) fn load(dir: &DataDir) -> Vec<KnownPeer> {
    let path = dir.path().join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(cause) => {
            tracing::warn!(%cause, path = %path.display(), "cannot read where peers are");
            return Vec::new();
        }
    };
    decode_known_peers(&bytes).unwrap_or_else(|cause| {
        tracing::warn!(%cause, path = %path.display(), "where peers are is forgotten");
        Vec::new()
    })
}

/// Keeps peers in place of those that were kept.
///
/// # Errors
///
/// Fails when the disk does; what was kept is kept.
pub(super) fn keep(dir: &DataDir, known: &[KnownPeer]) -> Result<(), DataDirError> {
    dir.replace(FILE, &encode_known_peers(known), 0o600)
}
