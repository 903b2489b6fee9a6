//! Putting objects in: a batch is one durable transaction.

use std::collections::BTreeMap;

use dunlin_wire::block::Block;
use redb::WriteTransaction;

use super::{
    Archive, Object,
    writer::{Changes, Writer},
};
use crate::{Pin, PutError, catalog::Entry};

impl Archive {
    /// Stores objects with their pins, and how far the caller has come with archiving: all of it in one
    /// durable commit, or nothing. What is there already is kept and counted once: a pin that holds the
    /// root gains the links that it did not have, and a block that was damaged on disk is whole again.
    ///
    /// # Durability
    ///
    /// When this returns, no crash loses what was stored.
    ///
    /// # Errors
    ///
    /// Fails when the quota does not allow it or the store refuses; nothing is stored then.
    pub fn put(&self, objects: &[Object], position: Option<u64>) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for object in objects {
                writer.put(object)?;
            }
            if let Some(position) = position {
                writer.meta.insert("position", position)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// As [`Self::put`] for segments, each with the start of its course: they are entered in the catalogs of
    /// their pins in the same commit.
    ///
    /// # Errors
    ///
    /// As [`Self::put`], and when the catalog cannot be read; nothing is stored then.
    pub fn put_cataloged(
        &self,
        segments: &[(i64, Object)],
        position: Option<u64>,
    ) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for (_, object) in segments {
                writer.put(object)?;
            }
            let mut entries: BTreeMap<&Pin, Vec<Entry>> = BTreeMap::new();
            for (start, object) in segments {
                let of_pin = entries.entry(&object.pin).or_default();
                of_pin.extend(Entry::new(*start, object.root.cid()));
            }
            for (pin, entries) in entries {
                writer.enter(pin, &entries)?;
            }
            if let Some(position) = position {
                writer.meta.insert("position", position)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Enters segments that a pin holds in its catalog, durably.
    ///
    /// # Errors
    ///
    /// As [`Self::put_cataloged`].
    pub fn enter(&self, pin: &Pin, entries: &[Entry]) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            writer.enter(pin, entries)?;
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Forgets the catalog of a pin, which was damaged on disk: it can be made again of what the pin holds.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn drop_catalog(&self, pin: &Pin) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            let nodes = Pin::catalog(pin);
            for node in writer.roots(&nodes)? {
                writer.unpin(&nodes, &node)?;
            }
            writer.catalogs.remove(pin.as_str())?;
            writer.put_own_root(pin)?;
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Makes `object` the only one under its pin: what the pin held before leaves, unless another pin
    /// holds it too.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn replace(&self, object: &Object) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            writer.replace(object)?;
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Writes a block again that is here and was damaged on disk; one that is not here stays so.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses.
    pub fn mend(&self, block: &Block) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            if writer.blocks.has(&block.cid().to_bytes())? {
                writer.store(block, false)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Opens the tables of a write transaction.
    pub(crate) fn writer<'a>(
        &self,
        transaction: &'a WriteTransaction,
    ) -> Result<Writer<'a>, PutError> {
        Writer::open(transaction, self.files.clone())
    }

    /// Makes a transaction durable, unless it takes the archive beyond its quota: its files before it, and what
    /// it has no use for any more is removed after it. When it is not known whether it is durable, both stay.
    pub(crate) fn commit(
        &self,
        transaction: WriteTransaction,
        changes: Changes,
    ) -> Result<(), PutError> {
        let Changes { before, now, batch } = changes;
        if now.bytes > before.bytes.max(self.bytes_max) {
            let more = now.bytes - before.bytes;
            return Err(PutError::Full { bytes: before.bytes, more, bytes_max: self.bytes_max });
        }
        batch.write()?;
        transaction.commit()?;
        batch.remove_gone();
        Ok(())
    }
}
