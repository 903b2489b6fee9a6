//! Sealed copies: which public object stands for which own segment.
//!
//! A copy is put, found and dropped with the entry that says whose it is, in one commit. So making copies can
//! be broken off anywhere: what has no entry has no copy.

use std::collections::BTreeMap;

use dunlin_wire::Cid;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use super::{Archive, Object, tables::stored_cid};
use crate::{Pin, PutError, ReadError, catalog::Entry};

/// Pin and root of a segment, to the root of its sealed copy.
pub(super) const COPIES: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("copies");

/// The sealed copy of a segment.
#[derive(Clone, Debug)]
pub struct SealedCopy {
    /// The segment's own root.
    pub of: Cid,
    /// The copy, under the pin of copies.
    pub object: Object,
}

impl Archive {
    /// Stores sealed copies of segments that `own` holds, and enters them in the catalogs of their pins, all
    /// in one durable commit. A segment that has a copy already keeps that one, and the new one is not stored.
    ///
    /// # Errors
    ///
    /// As [`Self::put_cataloged`]; nothing is stored then.
    pub fn put_copies(&self, own: &Pin, copies: &[SealedCopy]) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            let mut table = transaction.open_table(COPIES)?;
            let mut entries: BTreeMap<&Pin, Vec<Entry>> = BTreeMap::new();
            for SealedCopy { of, object } in copies {
                let (of, copy) = (of.to_bytes(), object.root.cid().to_bytes());
                let key = (own.as_str(), of.as_slice());
                if table.get(key)?.is_some() {
                    continue;
                }
                table.insert(key, copy.as_slice())?;
                writer.put(object)?;
                entries.entry(&object.pin).or_default().extend(Entry::of_sealed(object.root.cid()));
            }
            for (pin, entries) in entries {
                writer.enter(pin, &entries)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Returns the root of the sealed copy of a segment that `own` holds, if there is one.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn copy_of(&self, own: &Pin, root: &Cid) -> Result<Option<Cid>, ReadError> {
        let copies = self.database.begin_read()?.open_table(COPIES)?;
        let copy = copies.get((own.as_str(), root.to_bytes().as_slice()))?;
        Ok(copy.map(|copy| stored_cid(copy.value())).transpose()?)
    }

    /// Returns up to `limit` roots that `own` holds without a sealed copy, in order of their bytes, behind
    /// `after`. Takes time linear in the number of those that it passes over.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn without_copy(
        &self,
        own: &Pin,
        after: Option<&Cid>,
        limit: usize,
    ) -> Result<Vec<Cid>, ReadError> {
        let transaction = self.database.begin_read()?;
        let pins = transaction.open_table(super::tables::PINS)?;
        let copies = transaction.open_table(COPIES)?;
        let after = after.map(Cid::to_bytes).unwrap_or_default();
        let mut roots = Vec::new();
        for entry in pins.range((own.as_str(), after.as_slice())..)? {
            let (key, _) = entry?;
            let (name, root) = key.value();
            if name != own.as_str() || roots.len() == limit {
                break;
            }
            if root != after.as_slice() && copies.get((name, root))?.is_none() {
                roots.push(stored_cid(root)?);
            }
        }
        Ok(roots)
    }

    /// Drops up to `limit` sealed copies of segments that `own` holds from under the pin `of_copies`, in one
    /// durable commit, and the catalog of all of them with the first. Returns the roots of those dropped:
    /// fewer than `limit`, when none is left.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing has left then.
    pub fn drop_copies(
        &self,
        own: &Pin,
        of_copies: &Pin,
        limit: usize,
    ) -> Result<Vec<Cid>, PutError> {
        // First, so that no catalog names what is gone.
        self.drop_catalog(of_copies)?;
        let transaction = self.database.begin_write()?;
        let (dropped, changes) = {
            let mut writer = self.writer(&transaction)?;
            let mut table = transaction.open_table(COPIES)?;
            let mut found = Vec::new();
            for entry in table.range((own.as_str(), &[][..])..)? {
                let (key, copy) = entry?;
                let (name, root) = key.value();
                if name != own.as_str() || found.len() == limit {
                    break;
                }
                found.push((root.to_vec(), stored_cid(copy.value())?));
            }
            for (root, copy) in &found {
                table.remove((own.as_str(), root.as_slice()))?;
                writer.unpin(of_copies, copy)?;
            }
            let dropped = found.into_iter().map(|(_, copy)| copy).collect::<Vec<_>>();
            (dropped, writer.finish()?)
        };
        self.commit(transaction, changes)?;
        Ok(dropped)
    }
}
