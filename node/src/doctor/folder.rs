//! The data folder: whether it is there, ours, and closed to others.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::Finding;
use crate::{
    data_dir::{DataDir, IDENTITY_FILE},
    key_ring,
};

/// A data folder as it is found; looking at it makes nothing.
pub(super) struct Folder {
    path: PathBuf,
    dir: Option<DataDir>,
    problem: Option<Finding>,
}

impl Folder {
    pub(super) fn at(path: &Path) -> Self {
        let mut folder = Self { path: path.into(), dir: None, problem: None };
        let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if !path.exists() || is_empty() {
            folder.problem = Some(Finding::doubtful(
                "folder",
                format!("there is no node in {} yet", path.display()),
                "`dunlin run` makes one, and `dunlin init` without starting it",
            ));
        } else if !path.join(IDENTITY_FILE).exists() {
            folder.problem = Some(Finding::broken(
                "folder",
                format!("{} has files, but no {IDENTITY_FILE}", path.display()),
                "name the right folder with --data-dir, or restore it from a backup",
            ));
        } else {
            match DataDir::open_or_create(path) {
                Ok(dir) => folder.dir = Some(dir),
                Err(cause) => {
                    let advice = "see that this user may read and write it";
                    folder.problem = Some(Finding::broken("folder", cause.to_string(), advice));
                }
            }
        }
        folder
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a node was made here.
    pub(super) fn is_made(&self) -> bool {
        self.dir.is_some()
    }

    /// Who runs on the folder, if anybody does.
    pub(super) fn holder(&self) -> Option<String> {
        self.dir.as_ref().and_then(DataDir::holder)
    }

    pub(super) fn config_path(&self) -> PathBuf {
        self.dir.as_ref().map_or_else(|| self.path.join("config.toml"), DataDir::config_path)
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let Some(dir) = &self.dir else { return self.problem.iter().cloned().collect() };
        let mut findings = vec![self.closed(dir)];
        let peer = dir.identity().map(|key| key.public().to_peer_id());
        findings.push(match (peer, dir.token(), dir.secret_if_any(key_ring::FILE)) {
            (Ok(peer), Ok(_), Ok(_)) => Finding::fine("keys", format!("peer {peer}")),
            (Err(cause), ..) | (_, Err(cause), _) | (.., Err(cause)) => Finding::broken(
                "keys",
                cause.to_string(),
                "do as it says; the node will not start before",
            ),
        });
        findings
    }

    fn closed(&self, dir: &DataDir) -> Finding {
        let shown = dir.path().display();
        match fs::metadata(dir.path()).map(|metadata| metadata.permissions().mode() & 0o777) {
            Ok(mode) if mode & 0o022 != 0 => Finding::broken(
                "folder",
                format!("others may write into {shown} (mode {mode:o})"),
                format!("run `chmod 700 {shown}`"),
            ),
            Ok(mode) if mode & 0o077 != 0 => Finding::doubtful(
                "folder",
                format!("others may look into {shown} (mode {mode:o}); secrets in it are closed"),
                format!("run `chmod 700 {shown}`"),
            ),
            Ok(_) => Finding::fine("folder", shown.to_string()),
            Err(cause) => Finding::broken("folder", cause.to_string(), "see that it can be read"),
        }
    }
}
