//! The key ring: the keys that seal this node's segments, and those that open what others sealed.
//!
//! It is one file of the data folder, `sealing.keys`, readable by its owner alone and refused otherwise. The
//! node and the command line both use it, so each reads it when it needs a key, and changes it under a lock of
//! its own. `docs/formats/sealed.md` has the bytes. Keys never go over the API, into a log or onto a command line.

use std::{path::PathBuf, str::FromStr};

use dunlin_archive::sealing::{KEY_BYTES, KeyId, SealingKey};
use dunlin_engine::CollectionName;
use dunlin_wire::cbor;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use zeroize::Zeroizing;

use crate::data_dir::{DataDir, DataDirError};

/// The file.
pub(crate) const FILE: &str = "sealing.keys";

/// Held by whoever changes the file.
const LOCK_FILE: &str = "sealing.keys.lock";

/// The version of the file, and of a key as text.
const VERSION: u8 = 1;

/// Keys in the ring; more are refused. Each is read whenever one is needed.
const KEYS_MAX: usize = 1024;

/// Largest file that is read: the largest ring fits.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// What a key as text begins with.
const TEXT_PREFIX: &str = "dunlin-sealing-key";

/// All keys, oldest first.
#[derive(Debug, Default)]
pub(crate) struct KeyRing(Vec<HeldKey>);

/// A key with what it is for.
#[derive(Clone, Debug)]
pub(crate) struct HeldKey {
    /// The collection whose segments it seals, here or on the node that it came from.
    pub(crate) collection: CollectionName,
    pub(crate) key: SealingKey,
    /// When it was made or imported, in milliseconds since the epoch.
    pub(crate) since_ms: u64,
    /// Whether this node seals the collection with it; of the keys of a collection at most one does.
    pub(crate) seals: bool,
}

/// Whether an imported key also seals what this node has of its collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It opens what others sealed.
    Open,
    /// Equal segments get equal CIDs on all nodes that seal with it, and all of them can read this node's.
    OpenAndSeal,
}

/// A key as it is in the file: collection, secret, since when, whether it seals.
#[derive(Serialize, Deserialize)]
struct Stored(String, ByteBuf, u64, bool);

impl KeyRing {
    /// Reads the ring; an empty one when there is no file yet.
    ///
    /// # Errors
    ///
    /// Fails when others than the owner may read the file, or when it is damaged.
    pub(crate) fn load(dir: &DataDir) -> Result<Self, KeyRingError> {
        let Some((path, bytes)) = dir.secret_if_any(FILE)? else { return Ok(Self::default()) };
        let bytes = Zeroizing::new(bytes);
        let damaged = || KeyRingError::Damaged { path: path.clone() };
        let (version, stored): (u8, Vec<Stored>) =
            cbor::decode(&bytes, FILE_BYTES_MAX).map_err(|_| damaged())?;
        if version != VERSION {
            return Err(KeyRingError::Version { path, version });
        }
        let keys: Option<Vec<_>> = stored.into_iter().map(HeldKey::from_stored).collect();
        keys.map(Self).ok_or_else(damaged)
    }

    /// Returns all keys, oldest first.
    pub(crate) fn keys(&self) -> &[HeldKey] {
        &self.0
    }

    /// Returns the key with an id.
    pub(crate) fn get(&self, id: &KeyId) -> Option<&HeldKey> {
        self.0.iter().find(|held| held.key.id() == *id)
    }

    /// Returns the key with which this node seals a collection, if there is one yet.
    pub(crate) fn sealing(&self, collection: &CollectionName) -> Option<&SealingKey> {
        self.0
            .iter()
            .find(|held| held.seals && held.collection == *collection)
            .map(|held| &held.key)
    }

    /// Returns the key with which this node seals a collection, making one when there is none.
    ///
    /// # Durability
    ///
    /// A new key is on disk when this returns.
    pub(crate) fn sealing_or_new(
        dir: &DataDir,
        collection: &CollectionName,
        now_ms: u64,
    ) -> Result<SealingKey, KeyRingError> {
        if let Some(key) = Self::load(dir)?.sealing(collection) {
            return Ok(key.clone());
        }
        // Somebody else may have made it meanwhile: looked up again under the lock.
        Self::change(dir, |ring| match ring.sealing(collection) {
            Some(key) => Ok(key.clone()),
            None => ring.add_new(collection, now_ms),
        })
    }

    /// Makes a new key for a collection, with which it is sealed from now on. The old ones still open.
    pub(crate) fn rotate(
        dir: &DataDir,
        collection: &CollectionName,
        now_ms: u64,
    ) -> Result<SealingKey, KeyRingError> {
        Self::change(dir, |ring| ring.add_new(collection, now_ms))
    }

    /// Adds a key that another node exported. One that is here already stays, and may begin to seal.
    pub(crate) fn import(
        dir: &DataDir,
        exported: &ExportedKey,
        purpose: Use,
        now_ms: u64,
    ) -> Result<KeyId, KeyRingError> {
        let (id, collection) = (exported.key.id(), &exported.collection);
        Self::change(dir, |ring| {
            match ring.get(&id) {
                Some(held) if held.collection != *collection => {
                    let known = held.collection.clone();
                    return Err(KeyRingError::OtherCollection { id, known });
                }
                Some(_) => {}
                None => ring.add(collection, exported.key.clone(), now_ms)?,
            }
            if purpose == Use::OpenAndSeal {
                ring.seal_with(collection, id);
            }
            Ok(id)
        })
    }

    fn add_new(
        &mut self,
        collection: &CollectionName,
        now_ms: u64,
    ) -> Result<SealingKey, KeyRingError> {
        let key = SealingKey::new(Zeroizing::new(rand::random::<[u8; KEY_BYTES]>()));
        self.add(collection, key.clone(), now_ms)?;
        self.seal_with(collection, key.id());
        Ok(key)
    }

    fn add(
        &mut self,
        collection: &CollectionName,
        key: SealingKey,
        since_ms: u64,
    ) -> Result<(), KeyRingError> {
        if self.0.len() >= KEYS_MAX {
            return Err(KeyRingError::Full);
        }
        self.0.push(HeldKey { collection: collection.clone(), key, since_ms, seals: false });
        Ok(())
    }

    fn seal_with(&mut self, collection: &CollectionName, id: KeyId) {
        for held in self.0.iter_mut().filter(|held| held.collection == *collection) {
            held.seals = held.key.id() == id;
        }
    }

    /// Changes the ring on disk; nobody else changes it meanwhile. A change that fails changes nothing.
    fn change<T>(
        dir: &DataDir,
        change: impl FnOnce(&mut Self) -> Result<T, KeyRingError>,
    ) -> Result<T, KeyRingError> {
        let _lock = dir.wait_for_lock(LOCK_FILE)?;
        let mut ring = Self::load(dir)?;
        let done = change(&mut ring)?;
        let stored: Vec<_> = ring.0.iter().map(HeldKey::to_stored).collect();
        let bytes =
            cbor::encode(&(VERSION, stored)).expect("text, bytes and numbers have an encoding");
        dir.replace(FILE, &Zeroizing::new(bytes), 0o600)?;
        Ok(done)
    }
}

impl HeldKey {
    fn to_stored(&self) -> Stored {
        let secret = ByteBuf::from(*self.key.secret());
        Stored(self.collection.to_string(), secret, self.since_ms, self.seals)
    }

    fn from_stored(Stored(collection, secret, since_ms, seals): Stored) -> Option<Self> {
        let secret = Zeroizing::new(secret.as_slice().try_into().ok()?);
        let collection = CollectionName::new(collection).ok()?;
        Some(Self { collection, key: SealingKey::new(secret), since_ms, seals })
    }

    /// Returns the key as text, for another node of the operator's. Whoever has it reads all that it sealed.
    pub(crate) fn export(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(256));
        text.push_str(&format!("{TEXT_PREFIX}:{VERSION}:{}:{}:", self.collection, self.key.id()));
        for byte in self.key.secret() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(digit.into(), 16).expect("a nibble is a digit"));
            }
        }
        text
    }
}

/// A key that was read from text.
#[derive(Debug)]
pub(crate) struct ExportedKey {
    pub(crate) collection: CollectionName,
    key: SealingKey,
}

impl FromStr for ExportedKey {
    type Err = KeyRingError;

    /// Reads what [`HeldKey::export`] wrote. The id in it tells a slip of the pen from a key.
    fn from_str(text: &str) -> Result<Self, KeyRingError> {
        let mut parts = text.trim().split(':');
        let mut part = || parts.next().ok_or(KeyRingError::NoKey);
        let (prefix, version, collection, id, secret) =
            (part()?, part()?, part()?, part()?, part()?);
        let is_ours = prefix == TEXT_PREFIX && version == VERSION.to_string();
        if !is_ours || parts.next().is_some() {
            return Err(KeyRingError::NoKey);
        }
        let collection = CollectionName::new(collection).map_err(|_| KeyRingError::NoKey)?;
        let key = SealingKey::new(secret_from_hex(secret).ok_or(KeyRingError::NoKey)?);
        if id.parse::<KeyId>() != Ok(key.id()) {
            return Err(KeyRingError::NoKey);
        }
        Ok(Self { collection, key })
    }
}

fn secret_from_hex(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(secret)
}

/// Why a key cannot be had. The file is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KeyRingError {
    /// The file or its folder cannot be used, or others may read it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The file is damaged.
    #[error("{path} is damaged; restore it from a backup, or nobody opens what its keys sealed", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A newer version wrote the file.
    #[error("{path} has version {version}, but this build knows {VERSION}", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u8,
    },
    /// There are as many keys as there may be.
    #[error("the key ring holds {KEYS_MAX} keys and takes no more")]
    Full,
    /// A text is no exported key.
    #[error(
        "this is no key that `dunlin keys export` wrote, or one that was cut or changed on the way"
    )]
    NoKey,
    /// The key is here for another collection.
    #[error("key {id} is here already, for collection {known}")]
    OtherCollection {
        /// The key.
        id: KeyId,
        /// Its collection.
        known: CollectionName,
    },
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    fn name(text: &str) -> CollectionName {
        CollectionName::new(text).unwrap()
    }

    fn dir(temp: &tempfile::TempDir, node: &str) -> DataDir {
        DataDir::open_or_create(&temp.path().join(node)).unwrap()
    }

    #[test]
    fn a_key_is_made_once_kept_and_readable_by_its_owner_alone() {
        let temp = tempfile::tempdir().unwrap();
        let dir = dir(&temp, "node");
        assert!(KeyRing::load(&dir).unwrap().keys().is_empty());
        let key = KeyRing::sealing_or_new(&dir, &name("servers"), 5).unwrap();
        let again = KeyRing::sealing_or_new(&dir, &name("servers"), 6).unwrap();
        assert_eq!(again.secret(), key.secret());
        let other = KeyRing::sealing_or_new(&dir, &name("cars"), 7).unwrap();
        assert_ne!(other.secret(), key.secret());
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refusal = KeyRing::load(&dir).unwrap_err().to_string();
        assert!(refusal.contains("chmod 600"), "{refusal}");
    }

    #[test]
    fn a_new_key_seals_from_now_on_and_the_old_one_still_opens() {
        let temp = tempfile::tempdir().unwrap();
        let dir = dir(&temp, "node");
        let old = KeyRing::sealing_or_new(&dir, &name("servers"), 5).unwrap();
        let new = KeyRing::rotate(&dir, &name("servers"), 6).unwrap();
        let ring = KeyRing::load(&dir).unwrap();
        assert_eq!(ring.sealing(&name("servers")).unwrap().id(), new.id());
        assert_eq!(ring.get(&old.id()).unwrap().key.secret(), old.secret());
        assert_eq!(ring.keys().iter().filter(|held| held.seals).count(), 1);
    }

    #[test]
    fn an_exported_key_opens_elsewhere_and_seals_only_when_told_to() {
        let temp = tempfile::tempdir().unwrap();
        let (a, b) = (dir(&temp, "a"), dir(&temp, "b"));
        let key = KeyRing::sealing_or_new(&a, &name("servers"), 5).unwrap();
        let text = KeyRing::load(&a).unwrap().keys()[0].export();
        let exported: ExportedKey = text.parse().unwrap();
        for _ in 0..2 {
            KeyRing::import(&b, &exported, Use::Open, 9).unwrap();
        }
        let ring = KeyRing::load(&b).unwrap();
        assert_eq!(ring.keys().len(), 1);
        assert_eq!(ring.get(&key.id()).unwrap().key.secret(), key.secret());
        // A key of somebody else's must not seal what is ours: they could read it.
        assert!(ring.sealing(&name("servers")).is_none());
        let own = KeyRing::sealing_or_new(&b, &name("servers"), 10).unwrap();
        assert_ne!(own.id(), key.id());
        KeyRing::import(&b, &exported, Use::OpenAndSeal, 11).unwrap();
        let ring = KeyRing::load(&b).unwrap();
        assert_eq!(ring.sealing(&name("servers")).unwrap().id(), key.id());
        assert!(ring.get(&own.id()).is_some());
    }

    #[test]
    fn a_key_that_was_changed_on_the_way_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = dir(&temp, "node");
        KeyRing::sealing_or_new(&dir, &name("servers"), 5).unwrap();
        let text = KeyRing::load(&dir).unwrap().keys()[0].export();
        for at in 0..text.len() {
            let mut changed = text.to_string();
            let other = if changed.as_bytes()[at] == b'0' { "1" } else { "0" };
            changed.replace_range(at..=at, other);
            // The collection's name is a label, and no part of the key.
            let is_label = (text.find("servers").unwrap()..).take(7).any(|label| label == at);
            assert!(is_label || changed.parse::<ExportedKey>().is_err(), "{at}");
            assert!(text[..at].parse::<ExportedKey>().is_err(), "{at}");
        }
        assert!(format!("{}:x", text.as_str()).parse::<ExportedKey>().is_err());
        assert!(format!("{}\n", text.as_str()).parse::<ExportedKey>().is_ok());
    }

    #[test]
    fn golden() {
        let temp = tempfile::tempdir().unwrap();
        let dir = dir(&temp, "node");
        let text = format!(
            "dunlin-sealing-key:1:servers:74f84a1d784bbcc074ae4ab497490fb4:{}",
            "07".repeat(KEY_BYTES)
        );
        KeyRing::import(&dir, &text.parse().unwrap(), Use::OpenAndSeal, 5).unwrap();
        let bytes = fs::read(dir.path().join(FILE)).unwrap();
        let secret = [7; KEY_BYTES];
        let expected =
            [b"\x82\x01\x81\x84\x67servers\x58\x20".as_slice(), &secret, b"\x05\xf5"].concat();
        assert_eq!(bytes, expected);
        assert_eq!(KeyRing::load(&dir).unwrap().keys()[0].export().as_str(), text);
    }

    #[test]
    fn a_damaged_ring_is_refused_and_never_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let dir = dir(&temp, "node");
        KeyRing::sealing_or_new(&dir, &name("servers"), 5).unwrap();
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(matches!(KeyRing::load(&dir), Err(KeyRingError::Damaged { .. })));
        assert!(KeyRing::sealing_or_new(&dir, &name("cars"), 6).is_err());
        assert_eq!(fs::read(&path).unwrap(), whole[..whole.len() - 1]);
    }

    #[test]
    fn secrets_are_not_shown() {
        let temp = tempfile::tempdir().unwrap();
        let dir = dir(&temp, "node");
        let text = format!(
            "dunlin-sealing-key:1:servers:74f84a1d784bbcc074ae4ab497490fb4:{}",
            "07".repeat(KEY_BYTES)
        );
        KeyRing::import(&dir, &text.parse().unwrap(), Use::Open, 5).unwrap();
        let shown = format!("{:?}", KeyRing::load(&dir).unwrap());
        assert!(!shown.contains("07070") && !shown.contains("7, 7"), "{shown}");
    }
}
