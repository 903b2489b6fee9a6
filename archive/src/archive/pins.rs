//! What pins hold, and letting go of it.

use std::collections::BTreeMap;

use dunlin_wire::Cid;
use redb::ReadableDatabase;
use sha2::{Digest as _, Sha256};

use super::{
    Archive, Digest,
    tables::{PINS, stored_cid},
    writer::Writer,
};
use crate::{Pin, PutError, ReadError};

impl Archive {
    /// Returns whether `pin` holds the object with this root.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn is_pinned(&self, pin: &Pin, root: &Cid) -> Result<bool, ReadError> {
        let pins = self.database.begin_read()?.open_table(PINS)?;
        Ok(pins.get((pin.as_str(), root.to_bytes().as_slice()))?.is_some())
    }

    /// Returns up to `limit` roots that `pin` holds, in order of their bytes, behind `after`.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn roots(
        &self,
        pin: &Pin,
        after: Option<&Cid>,
        limit: usize,
    ) -> Result<Vec<Cid>, ReadError> {
        let pins = self.database.begin_read()?.open_table(PINS)?;
        let after = after.map(Cid::to_bytes).unwrap_or_default();
        let mut roots = Vec::new();
        for entry in pins.range((pin.as_str(), after.as_slice())..)? {
            let (key, _) = entry?;
            let (name, root) = key.value();
            if name != pin.as_str() || roots.len() == limit {
                break;
            }
            if root != after.as_slice() {
                roots.push(stored_cid(root)?);
            }
        }
        Ok(roots)
    }

    /// Returns every pin that begins with `prefix`, with how many roots it holds.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn pins(&self, prefix: &str) -> Result<BTreeMap<Pin, u64>, ReadError> {
        let pins = self.database.begin_read()?.open_table(PINS)?;
        let mut counts = BTreeMap::new();
        for entry in pins.range((prefix, &[][..])..)? {
            let (key, _) = entry?;
            let (name, _) = key.value();
            if !name.starts_with(prefix) {
                break;
            }
            *counts.entry(Pin::from_stored(name)).or_default() += 1;
        }
        Ok(counts)
    }

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

    /// Lets go of all that `pin` holds: what no other pin holds leaves.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing has left then.
    pub fn unpin(&self, pin: &Pin) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let (before, now) = {
            let mut writer = Writer::open(&transaction)?;
            for root in writer.roots(pin)? {
                writer.unpin(pin, &root)?;
            }
            writer.finish()?
        };
        self.commit(transaction, before, now)
    }
}
