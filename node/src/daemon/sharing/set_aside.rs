//! Sets that the operator took back: they count no more, until the operator says otherwise or their signer
//! releases another one.

use std::{collections::BTreeSet, io, path::Path};

use anyhow::Context as _;

use super::SETS_MAX;
use crate::data_dir::DataDir;

/// One digest of an envelope in hexadecimal on each line.
const FILE: &str = "templates-set-aside";

/// Longest file that is read: twice what is ever written.
const BYTES_MAX: u64 = 2 * 65 * SETS_MAX as u64;

/// The digests of envelopes that were taken back.
#[derive(Debug, Default)]
pub(super) struct SetAside(BTreeSet<[u8; 32]>);

impl SetAside {
    /// Reads what was kept.
    pub(super) fn open(dir: &DataDir) -> anyhow::Result<Self> {
        let path = dir.path().join(FILE);
        let text = match read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(cause) => {
                return Err(cause).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let digests = text.lines().map(from_hex).collect::<Option<BTreeSet<_>>>();
        // To forget it would adopt again what the operator took back.
        let digests = digests.with_context(|| {
            format!(
                "{} is damaged; remove it to put all sets before the gate again",
                path.display()
            )
        })?;
        Ok(Self(digests))
    }

    pub(super) fn contains(&self, digest: &[u8; 32]) -> bool {
        self.0.contains(digest)
    }

    /// Keeps `digests` alone of those that it knows, adds or removes `changed`, and writes it down first.
    pub(super) fn change(
        &mut self,
        dir: &DataDir,
        held: &BTreeSet<[u8; 32]>,
        changed: &BTreeSet<[u8; 32]>,
        is_aside: bool,
    ) -> anyhow::Result<()> {
        let mut next: BTreeSet<[u8; 32]> = self.0.intersection(held).copied().collect();
        for digest in changed {
            if is_aside {
                next.insert(*digest)
            } else {
                next.remove(digest)
            };
        }
        if next != self.0 {
            let text: String = next.iter().map(|digest| to_hex(digest) + "\n").collect();
            dir.replace(FILE, text.as_bytes(), 0o600)?;
            self.0 = next;
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn to_hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(line: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if line.len() != 64 || !line.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(line.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_back_stays_so_after_a_restart_and_is_forgotten_with_its_set() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        let (a, b) = ([1; 32], [0xab; 32]);
        let held = BTreeSet::from([a, b]);
        let mut aside = SetAside::open(&dir).unwrap();
        aside.change(&dir, &held, &held, true).unwrap();
        let mut aside = SetAside::open(&dir).unwrap();
        assert!(aside.contains(&a) && aside.contains(&b));
        aside.change(&dir, &held, &BTreeSet::from([a]), false).unwrap();
        assert!(!SetAside::open(&dir).unwrap().contains(&a));
        aside.change(&dir, &BTreeSet::new(), &BTreeSet::new(), true).unwrap();
        assert!(!SetAside::open(&dir).unwrap().contains(&b));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open_or_create(&temp.path().join("node")).unwrap();
        std::fs::write(dir.path().join(FILE), "zz\n").unwrap();
        assert!(format!("{:#}", SetAside::open(&dir).unwrap_err()).contains(FILE));
    }
}
