//! The data folder: one node's identity, secrets, settings and stores.
//!
//! | name | what | mode |
//! | --- | --- | --- |
//! | `config.toml` | settings | 0644 |
//! | `identity.key` | Ed25519 key of the peer, protobuf-encoded as libp2p does, or sealed with a passphrase | 0600 |
//! | `lineage.cbor` | the keys before it, as both of each two said | 0644 |
//! | `api.token` | bearer token of the local API | 0600 |
//! | `api.address` | where the API of the running node listens | 0644 |
//! | `network.address` | where the running node listens for peers | 0644 |
//! | `lock` | held while a node runs | 0600 |
//! | `trust.cbor`, `trust.log` | what peers did | 0600 |
//! | `peers.cbor` | where peers are | 0600 |
//! | `proofs.cbor` | what proves misconduct of peers | 0600 |
//! | `quarantined.cbor` | whom the operator quarantined | 0600 |
//! | `sealing.keys` | keys of sealed segments | 0600 |
//! | `sealing.keys.lock` | held while those change | 0600 |
//! | `license.cbor` | what lets the node into a closed network | 0600 |
//! | `revocations.log` | keys that are revoked for ever, with the proofs | 0600 |
//! | `shares.cbor` | what of each collection may leave | 0600 |
//! | `engine/`, `archive/`, `privacy/` | stores of those rooms | 0700 |

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use dunlin_client::{ADDRESS_FILE, TOKEN_FILE};
use libp2p_identity::Keypair;

use crate::{
    config::DEFAULT_TOML,
    identity_file::{Identity, PassphraseError},
};

/// File that lists where the running node listens for peers, one address a line.
pub(crate) const NETWORK_ADDRESS_FILE: &str = "network.address";

/// File that holds the address of the running node's gateway.
pub(crate) const GATEWAY_ADDRESS_FILE: &str = "gateway.address";

const CONFIG_FILE: &str = "config.toml";
pub(crate) const IDENTITY_FILE: &str = "identity.key";
const LOCK_FILE: &str = "lock";

/// What may stand in a folder whose first start was interrupted.
const FIRST_FILES: [&str; 6] = [
    LOCK_FILE,
    CONFIG_FILE,
    TOKEN_FILE,
    ".config.toml.next",
    ".api.token.next",
    ".identity.key.next",
];

/// Length of the bearer token before hexadecimal encoding.
const TOKEN_BYTES: usize = 32;

/// A data folder that exists and is ours.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// The key, once it was read: a passphrase is asked for once, and stretching it takes its time.
    identity: OnceLock<Keypair>,
}

impl DataDir {
    /// Returns the folder that is used when none is named: `dunlin` in the user's data folder.
    pub(crate) fn default_path() -> PathBuf {
        let home = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
        match (home("XDG_DATA_HOME"), home("HOME")) {
            (Some(data), _) => PathBuf::from(data).join("dunlin"),
            (None, Some(home)) => PathBuf::from(home).join(".local/share/dunlin"),
            (None, None) => PathBuf::from("dunlin-data"),
        }
    }

    /// Opens the folder, making what is missing: itself, the identity, the token, the configuration.
    /// What is there is kept.
    ///
    /// # Errors
    ///
    /// Fails when the folder is not ours, or when another process is about to make it.
    pub(crate) fn open_or_create(path: &Path) -> Result<Self, DataDirError> {
        let dir = Self::claim(path)?;
        if !dir.path.join(IDENTITY_FILE).exists() {
            let _lock = dir.lock()?;
            dir.complete()?;
        }
        Ok(dir)
    }

    /// Does as [`Self::open_or_create`], and takes the folder as [`Self::lock`] does.
    pub(crate) fn open_or_create_locked(path: &Path) -> Result<(Self, File), DataDirError> {
        let dir = Self::claim(path)?;
        let lock = dir.lock()?;
        dir.complete()?;
        Ok((dir, lock))
    }

    /// Makes the folder itself, unless it is there; refuses one that was never a node's.
    fn claim(path: &Path) -> Result<Self, DataDirError> {
        let fail = |cause| DataDirError::Access { path: path.into(), cause };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        let path = path.canonicalize().map_err(fail)?;
        if !path.join(IDENTITY_FILE).exists() {
            let entries = fs::read_dir(&path).map_err(fail)?;
            let names: Result<Vec<_>, _> =
                entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
            let names = names.map_err(fail)?;
            // An interrupted first start leaves the lock, which comes first, and a few files of ours.
            let is_begun = names.iter().any(|name| name == LOCK_FILE)
                && names.iter().all(|name| FIRST_FILES.iter().any(|first| name == first));
            if !names.is_empty() && !is_begun {
                return Err(DataDirError::Foreign { path });
            }
        }
        Ok(Self { path, identity: OnceLock::new() })
    }

    /// Makes the files that are missing. The caller holds the lock.
    fn complete(&self) -> Result<(), DataDirError> {
        self.create_once(CONFIG_FILE, 0o644, || Ok(DEFAULT_TOML.as_bytes().to_vec()))?;
        self.create_once(TOKEN_FILE, 0o600, || Ok(new_token()))?;
        // Last, because it marks the folder as complete and ours.
        self.create_once(IDENTITY_FILE, 0o600, new_identity)
    }

    /// Returns the path of the folder, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the configuration.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG_FILE)
    }

    /// Returns the folder of one room's store, making it when it is missing.
    pub(crate) fn room(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                Err(DataDirError::Access { path, cause })
            }
            _ => Ok(path),
        }
    }

    /// Returns the node's key.
    ///
    /// # Errors
    ///
    /// Fails when others than the owner may read the file: a key that others may have read is no key; and when a
    /// passphrase seals it, which is not to be had.
    pub(crate) fn identity(&self) -> Result<Keypair, DataDirError> {
        if let Some(known) = self.identity.get() {
            return Ok(known.clone());
        }
        let keypair = self.read_identity()?.keypair;
        Ok(self.identity.get_or_init(|| keypair).clone())
    }

    /// Reads the node's key anew, with what seals it.
    ///
    /// # Errors
    ///
    /// As [`Self::identity`].
    pub(crate) fn read_identity(&self) -> Result<Identity, DataDirError> {
        Identity::read(&self.path.join(IDENTITY_FILE))
    }

    /// Returns the API's bearer token.
    pub(crate) fn token(&self) -> Result<String, DataDirError> {
        let (path, bytes) = self.read_secret(TOKEN_FILE)?;
        let token = String::from_utf8(bytes).map_err(|_| DataDirError::Identity { path })?;
        Ok(token.trim().to_owned())
    }

    /// Takes the folder for this process until the returned file is closed.
    ///
    /// # Errors
    ///
    /// Fails at once when another process holds it.
    pub(crate) fn lock(&self) -> Result<File, DataDirError> {
        use rustix::fs::{FlockOperation, flock};
        let (path, mut file) = self.open_lock(LOCK_FILE)?;
        let fail = |cause| DataDirError::Access { path: path.clone(), cause };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                let holder = holder.trim().to_owned();
                return Err(DataDirError::Locked { path: self.path.clone(), holder });
            }
            Err(errno) => return Err(fail(errno.into())),
            Ok(()) => {}
        }
        file.set_len(0).map_err(fail)?;
        writeln!(file, "{}", std::process::id()).map_err(fail)?;
        Ok(file)
    }

    /// Returns the process id, as far as it is known, of who has taken the folder.
    pub(crate) fn holder(&self) -> Option<String> {
        use rustix::fs::{FlockOperation, flock};
        let path = self.path.join(LOCK_FILE);
        let file = File::open(&path).ok()?;
        let taken = flock(&file, FlockOperation::NonBlockingLockShared);
        (taken == Err(rustix::io::Errno::WOULDBLOCK))
            .then(|| fs::read_to_string(&path).unwrap_or_default().trim().to_owned())
    }

    /// Takes a lock of this name until the returned file is closed, waiting for whoever has it.
    pub(crate) fn wait_for_lock(&self, name: &str) -> Result<File, DataDirError> {
        use rustix::fs::{FlockOperation, flock};
        let (path, file) = self.open_lock(name)?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|errno| DataDirError::Access { path, cause: errno.into() })?;
        Ok(file)
    }

    fn open_lock(&self, name: &str) -> Result<(PathBuf, File), DataDirError> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        match options.open(&path) {
            Ok(file) => Ok((path, file)),
            Err(cause) => Err(DataDirError::Access { path, cause }),
        }
    }

    /// Says where the running node can be reached. Readers see the whole text or none.
    pub(crate) fn publish(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        self.replace(name, text.as_bytes(), 0o644)
    }

    /// Takes back what [`Self::publish`] said in this run or, after a crash, in the last one.
    pub(crate) fn unpublish(&self) {
        for name in [ADDRESS_FILE, NETWORK_ADDRESS_FILE, GATEWAY_ADDRESS_FILE] {
            // Absent is what we want.
            fs::remove_file(self.path.join(name)).ok();
        }
    }

    /// Replaces a file durably: after a crash it holds the old bytes or the new ones.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), DataDirError> {
        let path = self.path.join(name);
        let next = self.path.join(format!(".{name}.next"));
        let write = || -> io::Result<()> {
            // One that an interrupted run left may have another mode.
            fs::remove_file(&next).or_else(absent_is_fine)?;
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(mode).open(&next)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|cause| DataDirError::Access { path: path.clone(), cause })
    }

    fn create_once(
        &self,
        name: &str,
        mode: u32,
        content: impl FnOnce() -> Result<Vec<u8>, DataDirError>,
    ) -> Result<(), DataDirError> {
        if self.path.join(name).exists() {
            return Ok(());
        }
        self.replace(name, &content()?, mode)
    }

    /// Returns a file that only its owner may read, with its path; nothing when there is none.
    ///
    /// # Errors
    ///
    /// As [`Self::identity`].
    pub(crate) fn secret_if_any(
        &self,
        name: &str,
    ) -> Result<Option<(PathBuf, Vec<u8>)>, DataDirError> {
        match self.read_secret(name) {
            Err(DataDirError::Access { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    fn read_secret(&self, name: &str) -> Result<(PathBuf, Vec<u8>), DataDirError> {
        let path = self.path.join(name);
        let bytes = read_secret(&path)?;
        Ok((path, bytes))
    }
}

/// Returns a file that only its owner may read.
///
/// # Errors
///
/// Fails when others may read it, too, or it cannot be read.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, DataDirError> {
    let fail = |cause| DataDirError::Access { path: path.into(), cause };
    let metadata = fs::metadata(path).map_err(fail)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(DataDirError::Exposed { path: path.into(), mode });
    }
    fs::read(path).map_err(fail)
}

/// Returns a key from a file that only its owner may read.
///
/// # Errors
///
/// As [`read_secret`], and when the file holds no key.
pub(crate) fn read_key(path: &Path) -> Result<Keypair, DataDirError> {
    let bytes = read_secret(path)?;
    Keypair::from_protobuf_encoding(&bytes)
        .map_err(|_| DataDirError::Identity { path: path.into() })
}

/// Makes a file that only its owner may read, durably. One that is there already is left alone.
///
/// # Errors
///
/// Fails when there is one, or it cannot be written.
pub(crate) fn create_secret(path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|cause| DataDirError::Access { path: path.into(), cause })
}

fn absent_is_fine(cause: io::Error) -> io::Result<()> {
    if cause.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(cause) }
}

/// Returns the bytes of a new key.
pub(crate) fn new_identity() -> Result<Vec<u8>, DataDirError> {
    let bytes = Keypair::generate_ed25519().to_protobuf_encoding();
    Ok(bytes.expect("an Ed25519 key has a protobuf encoding"))
}

fn new_token() -> Vec<u8> {
    let token: [u8; TOKEN_BYTES] = rand::random();
    let mut text: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    text.into_bytes()
}

/// Why a data folder cannot be used. What is in it is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DataDirError {
    /// A passphrase seals a key, and it is not to be had or not the right one.
    #[error("cannot open the key in {path}", path = path.display())]
    Passphrase {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: PassphraseError,
    },
    /// The system refuses to read or write.
    #[error("cannot use {path}", path = path.display())]
    Access {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The folder has files in it, but was never a node's.
    #[error("{path} is not empty and not a Dunlin data folder; name an empty or new folder", path = path.display())]
    Foreign {
        /// The path.
        path: PathBuf,
    },
    /// Another process runs on this folder.
    #[error("another process{holder} runs on {path}; stop it, or name another folder with --data-dir", path = path.display(), holder = if holder.is_empty() { String::new() } else { format!(" (pid {holder})") })]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Its process id, when it is known.
        holder: String,
    },
    /// Others than the owner may read a secret.
    #[error("{path} has mode {mode:o}, but nobody else may read it; run `chmod 600 {path}`", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A key or token file is damaged.
    #[error("{path} is damaged; restore it from a backup (a new one would be a new peer)", path = path.display())]
    Identity {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_is_complete_private_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("node");
        let first = DataDir::open_or_create(&path).unwrap();
        let (identity, token) = (first.identity().unwrap(), first.token().unwrap());
        let again = DataDir::open_or_create(&path).unwrap();
        assert_eq!(again.identity().unwrap().public(), identity.public());
        assert_eq!(again.token().unwrap(), token);
        assert_eq!(token.len(), 2 * TOKEN_BYTES);
        for name in ["identity.key", TOKEN_FILE] {
            assert_eq!(fs::metadata(path.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_foreign_folder_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.tex"), "x").unwrap();
        let error = DataDir::open_or_create(temp.path()).unwrap_err();
        assert!(matches!(error, DataDirError::Foreign { .. }), "{error}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_first_start_that_was_interrupted_anywhere_is_finished_by_the_next() {
        let temp = tempfile::tempdir().unwrap();
        for count in 1..=FIRST_FILES.len() {
            let path = temp.path().join(count.to_string());
            fs::create_dir(&path).unwrap();
            for name in &FIRST_FILES[..count] {
                let mode = if *name == TOKEN_FILE { 0o600 } else { 0o644 };
                let file =
                    OpenOptions::new().create(true).write(true).mode(mode).open(path.join(name));
                file.unwrap().write_all(b"# unfinished\n").unwrap();
            }
            DataDir::open_or_create(&path).unwrap().identity().unwrap();
        }
    }

    #[test]
    fn a_folder_that_only_looks_like_ours_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(CONFIG_FILE), "x").unwrap();
        let error = DataDir::open_or_create_locked(temp.path()).unwrap_err();
        assert!(matches!(error, DataDirError::Foreign { .. }), "{error}");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_another_process_is_making_is_not_made_twice() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("node");
        let (first, lock) = DataDir::open_or_create_locked(&path).unwrap();
        fs::remove_file(path.join(IDENTITY_FILE)).unwrap();
        let error = DataDir::open_or_create(&path).unwrap_err();
        assert!(matches!(error, DataDirError::Locked { .. }), "{error}");
        drop(lock);
        DataDir::open_or_create(&path).unwrap();
        assert!(first.identity().is_ok());
    }

    #[test]
    fn a_second_process_is_refused_and_told_who_runs() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let held = dir.lock().unwrap();
        let error = dir.lock().unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(held);
        dir.lock().unwrap();
    }

    #[test]
    fn an_exposed_key_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let key = dir.path().join("identity.key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(dir.identity().unwrap_err().to_string().contains("chmod 600"));
    }
}
