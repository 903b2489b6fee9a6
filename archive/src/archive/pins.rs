//! What pins hold, and letting go of it.

use std::collections::BTreeMap;

use dunlin_wire::Cid;
use redb::ReadableDatabase;

use super::{
    Archive,
    stored::Reading,
    tables::{HELD, PINS, stored_cid, stored_links},
};
use crate::{Pin, PutError, ReadError};

/// What a pin holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Roots.
    pub roots: u64,
    /// Blocks, each once for each root that reaches it.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
}

/// An object that a pin holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The blocks that its root links to.
    pub links: Vec<Cid>,
    /// The size of all its blocks.
    pub bytes: u64,
}

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

    /// Returns every pin that begins with `prefix`, with how many roots it holds. Takes time linear in how many pins there are, not in
    /// what they hold.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn pins(&self, prefix: &str) -> Result<BTreeMap<Pin, u64>, ReadError> {
        let held = self.database.begin_read()?.open_table(HELD)?;
        let mut counts = BTreeMap::new();
        for entry in held.range(prefix..)? {
            let (name, count) = entry?;
            if !name.value().starts_with(prefix) {
                break;
            }
            counts.insert(Pin::from_stored(name.value()), count.value());
        }
        Ok(counts)
    }

    /// Lets go of all that `pin` holds: what no other pin holds leaves.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing has left then.
    pub fn unpin(&self, pin: &Pin) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for root in writer.roots(pin)? {
                writer.unpin(pin, &root)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Lets go of some roots that `pin` holds; returns the size of what no other pin holds, and has left.
    ///
    /// # Errors
    ///
    /// As [`Self::unpin`].
    pub fn unpin_roots(&self, pin: &Pin, roots: &[Cid]) -> Result<u64, PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for root in roots {
                writer.unpin(pin, root)?;
            }
            writer.finish()?
        };
        let freed = changes.freed_bytes();
        self.commit(transaction, changes)?;
        Ok(freed)
    }

    /// Returns what `pin` holds of an object with this root: what it links to, and its size.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn held(&self, pin: &Pin, root: &Cid) -> Result<Option<Held>, ReadError> {
        let transaction = self.database.begin_read()?;
        let blocks = Reading::open(&transaction)?;
        let pins = transaction.open_table(PINS)?;
        let Some(links) = pins.get((pin.as_str(), root.to_bytes().as_slice()))? else {
            return Ok(None);
        };
        let (links, mut bytes) = (stored_links(links.value())?, 0);
        for cid in std::iter::once(root).chain(&links) {
            bytes += blocks.length(&cid.to_bytes())?.unwrap_or(0);
        }
        Ok(Some(Held { links, bytes }))
    }

    /// Returns every pin that begins with `prefix`, with what it holds. Takes time linear in that.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn usage(&self, prefix: &str) -> Result<BTreeMap<Pin, Usage>, ReadError> {
        let transaction = self.database.begin_read()?;
        let blocks = Reading::open(&transaction)?;
        let pins = transaction.open_table(PINS)?;
        let mut found: BTreeMap<Pin, Usage> = BTreeMap::new();
        for entry in pins.range((prefix, &[][..])..)? {
            let (key, links) = entry?;
            let (name, root) = key.value();
            if !name.starts_with(prefix) {
                break;
            }
            let usage = found.entry(Pin::from_stored(name)).or_default();
            usage.roots += 1;
            let links = stored_links(links.value())?;
            for cid in std::iter::once(root.to_vec()).chain(links.iter().map(Cid::to_bytes)) {
                usage.blocks += 1;
                usage.bytes += blocks.length(&cid)?.unwrap_or(0);
            }
        }
        Ok(found)
    }
}
