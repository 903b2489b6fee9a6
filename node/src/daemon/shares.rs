//! In what form the segments of each collection may leave this node: the operator's word, kept durably.
//!
//! It is no part of a collection's specification: two nodes that share the same observations differently
//! still seal the same segments. What is not listed is private.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use dunlin_engine::CollectionName;
use dunlin_wire::cbor;

use crate::data_dir::DataDir;

const FILE: &str = "shares.cbor";

/// The version of the file.
const VERSION: u8 = 1;

/// Largest file that is read: as many collections as an engine has.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// The form in which segments may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Share {
    /// To the operator's own peers alone.
    #[default]
    Private,
    /// Encrypted copies, to everybody.
    Sealed,
}

impl Share {
    /// Returns the name used in the file and in logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Sealed => "sealed",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Private, Self::Sealed].into_iter().find(|share| share.as_str() == name)
    }
}

/// The forms of all collections.
#[derive(Debug)]
pub(crate) struct Shares(Mutex<BTreeMap<CollectionName, Share>>);

impl Shares {
    /// Reads the file, when there is one.
    ///
    /// # Errors
    ///
    /// Fails when the file is damaged or names a form that this build does not know: what the operator allowed
    /// is not guessed.
    pub(super) fn load(dir: &DataDir) -> anyhow::Result<Self> {
        let path = dir.path().join(FILE);
        let bytes = match fs::read(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Ok(Self(Mutex::default()));
            }
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let (version, named): (u8, BTreeMap<String, String>) = cbor::decode(&bytes, FILE_BYTES_MAX)
            .with_context(|| {
                format!("{} is damaged; remove it, and all collections are private", path.display())
            })?;
        let known = || format!("{} was written by a newer version", path.display());
        anyhow::ensure!(version == VERSION, known());
        let mut shares = BTreeMap::new();
        for (collection, share) in named {
            let share = Share::named(&share).with_context(known)?;
            shares.insert(CollectionName::new(collection).with_context(known)?, share);
        }
        Ok(Self(Mutex::new(shares)))
    }

    /// Returns every collection that ever was anything but private, with what it is now. Others are private.
    pub(crate) fn all(&self) -> BTreeMap<CollectionName, Share> {
        self.lock().clone()
    }

    /// Sets the form of a collection; returns the one before.
    ///
    /// # Durability
    ///
    /// It is on disk when this returns. When it fails, nothing changed.
    pub(crate) fn set(
        &self,
        dir: &DataDir,
        collection: &CollectionName,
        share: Share,
    ) -> anyhow::Result<Share> {
        // Held over the write, so that the file holds what was said last.
        let mut shares = self.lock();
        let mut next = shares.clone();
        let before = next.insert(collection.clone(), share).unwrap_or_default();
        let named: BTreeMap<&str, &str> =
            next.iter().map(|(name, share)| (name.as_str(), share.as_str())).collect();
        let bytes = cbor::encode(&(VERSION, named))?;
        dir.replace(FILE, &bytes, 0o600).context("cannot keep what may leave")?;
        *shares = next;
        Ok(before)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CollectionName, Share>> {
        // It is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_says_is_kept_and_nothing_else_is_private_no_more() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let name = |text: &str| CollectionName::new(text).unwrap();
        let shares = Shares::load(&dir).unwrap();
        let set = |collection: &str, share| shares.set(&dir, &name(collection), share).unwrap();
        assert_eq!(set("servers", Share::Sealed), Share::Private);
        assert_eq!(set("cars", Share::Sealed), Share::Private);
        assert_eq!(set("cars", Share::Private), Share::Sealed);
        let again = Shares::load(&dir).unwrap();
        let kept = [(name("cars"), Share::Private), (name("servers"), Share::Sealed)];
        assert_eq!(again.all(), kept.into());
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        // A newer form, a newer version, and a damaged file.
        for bytes in [&b"\x82\x01\xa1\x61a\x65shown"[..], b"\x82\x02\xa0", b"\x82\x01"] {
            dir.replace(FILE, bytes, 0o600).unwrap();
            assert!(Shares::load(&dir).is_err(), "{bytes:02x?}");
        }
        dir.replace(FILE, b"\x82\x01\xa1\x61a\x66sealed", 0o600).unwrap();
        let known = [(CollectionName::new("a").unwrap(), Share::Sealed)];
        assert_eq!(Shares::load(&dir).unwrap().all(), known.into());
    }
}
