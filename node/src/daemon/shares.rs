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
const VERSION: u8 = 2;

/// The version before, which is read: it knew no noised segments.
const VERSION_FIRST: u8 = 1;

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
    /// A noised mean for each entity and window of time, to everybody.
    Noised(Windows),
}

/// Which windows of time are released. Both are chosen without a look at the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// What was observed before this is not released, in microseconds since the epoch.
    pub(crate) since_us: i64,
    /// Their length, in microseconds.
    pub(crate) length_us: u64,
}

/// The file: version, forms by collection, and since when and in which windows noised ones are.
type Stored = (u8, BTreeMap<String, String>, BTreeMap<String, (i64, u64)>);

impl Share {
    /// Returns the name used in the file and in logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Sealed => "sealed",
            Self::Noised(_) => "noised",
        }
    }

    /// Returns the form of a name; one that is noised has windows, and no other has.
    fn named(name: &str, windows: Option<Windows>) -> Option<Self> {
        let all = [Some(Self::Private), Some(Self::Sealed), windows.map(Self::Noised)];
        let found = all.into_iter().flatten().find(|share| share.as_str() == name)?;
        (found.windows() == windows).then_some(found)
    }

    const fn windows(self) -> Option<Windows> {
        match self {
            Self::Noised(windows) => Some(windows),
            Self::Private | Self::Sealed => None,
        }
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
        let known = || format!("{} was written by a newer version", path.display());
        let (named, mut windows) = decode(&bytes)
            .with_context(|| {
                format!("{} is damaged; remove it, and all collections are private", path.display())
            })?
            .with_context(known)?;
        let mut shares = BTreeMap::new();
        for (collection, share) in named {
            let windows = windows.remove(&collection);
            let windows = windows.map(|(since_us, length_us)| Windows { since_us, length_us });
            let share = Share::named(&share, windows).with_context(known)?;
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
        let windows: BTreeMap<&str, (i64, u64)> = next
            .iter()
            .filter_map(|(name, share)| Some((name.as_str(), share.windows()?)))
            .map(|(name, windows)| (name, (windows.since_us, windows.length_us)))
            .collect();
        let bytes = cbor::encode(&(VERSION, named, windows))?;
        dir.replace(FILE, &bytes, 0o600).context("cannot keep what may leave")?;
        *shares = next;
        Ok(before)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CollectionName, Share>> {
        // It is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a file says: forms by collection, and windows of those that are noised.
type Said = (BTreeMap<String, String>, BTreeMap<String, (i64, u64)>);

/// Returns what a file says; `None` if a newer version wrote it.
fn decode(bytes: &[u8]) -> anyhow::Result<Option<Said>> {
    if let Ok((version, named)) =
        cbor::decode::<(u8, BTreeMap<String, String>)>(bytes, FILE_BYTES_MAX)
        && version == VERSION_FIRST
    {
        return Ok(Some((named, BTreeMap::new())));
    }
    let (version, named, windows): Stored = cbor::decode(bytes, FILE_BYTES_MAX)?;
    Ok((version == VERSION).then_some((named, windows)))
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
        let noised = Share::Noised(Windows { since_us: -5, length_us: 3_600_000_000 });
        assert_eq!(set("pumps", noised), Share::Private);
        let again = Shares::load(&dir).unwrap();
        let kept = [
            (name("cars"), Share::Private),
            (name("pumps"), noised),
            (name("servers"), Share::Sealed),
        ];
        assert_eq!(again.all(), kept.into());
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        // A newer form, a newer version, and a damaged file.
        let newer_form = &b"\x83\x02\xa1\x61a\x65shown\xa0"[..];
        let no_windows = &b"\x83\x02\xa1\x61a\x66noised\xa0"[..];
        let odd_windows = &b"\x83\x02\xa1\x61a\x66sealed\xa1\x61a\x82\x00\x00"[..];
        let first = &b"\x82\x01\xa1\x61a\x65shown"[..];
        for bytes in [newer_form, no_windows, odd_windows, first, b"\x83\x03\xa0\xa0", b"\x82\x01"]
        {
            dir.replace(FILE, bytes, 0o600).unwrap();
            assert!(Shares::load(&dir).is_err(), "{bytes:02x?}");
        }
        dir.replace(FILE, b"\x82\x01\xa1\x61a\x66sealed", 0o600).unwrap();
        let known = [(CollectionName::new("a").unwrap(), Share::Sealed)];
        assert_eq!(Shares::load(&dir).unwrap().all(), known.into());
    }
}
