//! One short name for all that a pin holds.

use redb::ReadableDatabase;
use sha2::{Digest as _, Sha256};

use super::{Archive, tables::PINS};
use crate::{Pin, ReadError};

/// A short name for a set of roots, to compare two sets by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// How many roots there are.
    pub count: u64,
    /// The sha2-256 of their CIDs, in order.
    pub sha256: [u8; 32],
}

impl Archive {
    /// Returns the digest of the roots that `pin` holds. Takes time linear in their number.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn digest(&self, pin: &Pin) -> Result<Digest, ReadError> {
        let pins = self.database.begin_read()?.open_table(PINS)?;
        let (mut hash, mut count) = (Sha256::new(), 0);
        for entry in pins.range((pin.as_str(), &[][..])..)? {
            let (key, _) = entry?;
            let (name, root) = key.value();
            if name != pin.as_str() {
                break;
            }
            hash.update(root);
            count += 1;
        }
        Ok(Digest { count, sha256: hash.finalize().into() })
    }
}
