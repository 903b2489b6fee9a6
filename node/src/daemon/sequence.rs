//! The number of the next announcement, kept across restarts: `announced.cbor`.
//!
//! Two different announcements of one number prove to everybody that this node says both. So a number is used once,
//! whatever the clock does: some are put aside on disk before the first of them is used, and a start goes on
//! behind those. It begins no lower than the clock, which is where a node stands that was restored from an older copy.

use std::{fs, io};

use anyhow::Context;
use dunlin_wire::cbor;

use super::clock;
use crate::data_dir::DataDir;

const FILE: &str = "announced.cbor";

/// The version of the file.
const VERSION: u8 = 1;

/// Largest file: a version and a number.
const FILE_BYTES_MAX: usize = 16;

/// Numbers that are put aside at once: an hour's, when a node announces all it may.
const ASIDE: u64 = 4_096;

/// The numbers of announcements.
#[derive(Debug)]
pub(super) struct Sequence {
    next: u64,
    /// From here on, numbers are not put aside yet.
    end: u64,
}

impl Sequence {
    /// Reads the file, when there is one.
    ///
    /// # Errors
    ///
    /// Fails when it is damaged: a guess might be a number that was used.
    pub(super) fn load(dir: &DataDir) -> anyhow::Result<Self> {
        let path = dir.path().join(FILE);
        let used = match fs::read(&path) {
            // Before there was a file, announcements had the time in milliseconds.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => 0,
            read => {
                let bytes = read.with_context(|| format!("cannot read {}", path.display()))?;
                let read: Result<(u8, u64), _> = cbor::decode(&bytes, FILE_BYTES_MAX);
                let (version, used) = read.with_context(|| {
                    format!("{} is damaged; remove it once the clock is right", path.display())
                })?;
                anyhow::ensure!(
                    version == VERSION,
                    "{} was written by a newer version",
                    path.display()
                );
                used
            }
        };
        let next = used.max(clock::now().0);
        Ok(Self { next, end: next })
    }

    /// Returns a number that was never used.
    ///
    /// # Errors
    ///
    /// Fails when the disk does; nothing may be announced then.
    ///
    /// # Durability
    ///
    /// It is on disk that it is used when this returns.
    pub(super) fn next(&mut self, dir: &DataDir) -> anyhow::Result<u64> {
        if self.next == self.end {
            let end = self.end.checked_add(ASIDE).context("there are no numbers left")?;
            let bytes = cbor::encode(&(VERSION, end))?;
            dir.replace(FILE, &bytes, 0o600)
                .context("cannot keep which announcements were made")?;
            self.end = end;
        }
        let number = self.next;
        self.next += 1;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        (temp, dir)
    }

    #[test]
    fn no_number_is_used_twice_however_often_the_node_is_killed() {
        let (_temp, dir) = folder();
        let mut last = 0;
        for run in 0..5 {
            let mut sequence = Sequence::load(&dir).unwrap();
            for _ in 0..=run * ASIDE {
                let number = sequence.next(&dir).unwrap();
                assert!(number > last, "{number} after {last}");
                last = number;
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_changes_nothing() {
        let (_temp, dir) = folder();
        let far = u64::MAX / 2;
        dir.replace(FILE, &cbor::encode(&(VERSION, far)).unwrap(), 0o600).unwrap();
        let mut sequence = Sequence::load(&dir).unwrap();
        assert_eq!(sequence.next(&dir).unwrap(), far);
        assert_eq!(Sequence::load(&dir).unwrap().next(&dir).unwrap(), far + ASIDE);
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        let (_temp, dir) = folder();
        for bytes in [&b"\x82\x02\x00"[..], b"\x82\x01", b""] {
            dir.replace(FILE, bytes, 0o600).unwrap();
            assert!(Sequence::load(&dir).is_err(), "{bytes:02x?}");
        }
        // Version 1, number 2^53.
        dir.replace(FILE, b"\x82\x01\x1b\x00\x20\x00\x00\x00\x00\x00\x00", 0o600).unwrap();
        assert_eq!(Sequence::load(&dir).unwrap().next, 1 << 53);
    }
}
