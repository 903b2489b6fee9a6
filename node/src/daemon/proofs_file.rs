//! The proofs of misconduct that this node can show others, kept across restarts in `proofs.cbor`
//! (`docs/formats/evidence.md`).
//!
//! What they count for is in the records of peers. Without the file nothing is forgotten of that; a peer that missed a proof
//! then learns it from another node.

use std::{fs, io, path::Path};

use dunlin_trust::{decode_proofs, encode_proofs};

use crate::data_dir::{DataDir, DataDirError};

const FILE: &str = "proofs.cbor";

/// What a damaged file is called from then on. One from before is replaced.
const DAMAGED: &str = "proofs.cbor.damaged";

/// Returns the proofs that were kept. A file that cannot be used is set aside, for whoever wants to look at it.
pub(super) fn load(dir: &DataDir) -> Vec<Vec<u8>> {
    let path = dir.path().join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(cause) => {
            tracing::warn!(%cause, path = %path.display(), "cannot read what was proven");
            return Vec::new();
        }
    };
    decode_proofs(&bytes).unwrap_or_else(|cause| {
        tracing::warn!(%cause, path = %path.display(), "what was proven is set aside");
        set_aside(&path, &dir.path().join(DAMAGED));
        Vec::new()
    })
}

fn set_aside(path: &Path, to: &Path) {
    if let Err(cause) = fs::rename(path, to) {
        tracing::warn!(%cause, path = %path.display(), "cannot set a damaged file aside");
    }
}

/// Keeps proofs in place of those that were kept.
///
/// # Errors
///
/// Fails when the disk does; what was kept is kept.
pub(super) fn keep(dir: &DataDir, proofs: &[Vec<u8>]) -> Result<(), DataDirError> {
    dir.replace(FILE, &encode_proofs(proofs), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_last_is_loaded_and_a_damaged_file_is_set_aside() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        assert_eq!(load(&dir), Vec::<Vec<u8>>::new());
        for proofs in [vec![vec![1]], vec![vec![1], vec![2, 3]]] {
            keep(&dir, &proofs).unwrap();
            assert_eq!(load(&dir), proofs);
        }
        let damaged = b"\x82\x01\x81";
        dir.replace(FILE, damaged, 0o600).unwrap();
        assert_eq!(load(&dir), Vec::<Vec<u8>>::new());
        assert_eq!(fs::read(dir.path().join(DAMAGED)).unwrap(), damaged);
        assert!(!dir.path().join(FILE).exists());
        keep(&dir, &[vec![4]]).unwrap();
        assert_eq!(load(&dir), [[4]]);
    }
}
