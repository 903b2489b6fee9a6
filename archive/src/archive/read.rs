//! Reading: every block that is returned was verified.

use dunlin_wire::{Cid, block::Block};
use redb::ReadableDatabase;

use super::{
    Archive, Stats, bundles,
    stored::Reading,
    tables::{CATALOGS, META, PUBLIC, read_stats, stored_cid},
};
use crate::{Pin, ReadError, catalog::Root};

impl Archive {
    /// Returns a block, verified.
    ///
    /// # Errors
    ///
    /// Fails when the stored bytes no longer hash to `cid`; they are not returned.
    pub fn block(&self, cid: &Cid) -> Result<Option<Block>, ReadError> {
        let (key, mut damaged) = (cid.to_bytes(), None);
        loop {
            let transaction = self.database.begin_read()?;
            let blocks = Reading::open(&transaction)?;
            let Some(bytes) = blocks.read(&self.files, &key)? else { return Ok(None) };
            if bundles::is_hidden(&transaction, &key)? {
                return Ok(None);
            }
            if let Ok(block) = Block::verified(*cid, bytes) {
                return Ok(Some(block));
            }
            // A file may have left with its row since this transaction began. Only if the row is still there, the
            // file is damaged; one that names another file is of a block that was put again meanwhile.
            let file = blocks.file(&key)?;
            if file == damaged {
                return Err(ReadError::Damaged { cid: *cid });
            }
            damaged = file;
        }
    }

    /// Returns the bytes of a block, verified.
    ///
    /// # Errors
    ///
    /// As [`Self::block`].
    pub fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.block(cid)?.map(Block::into_bytes))
    }

    /// Returns whether the archive holds a block.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn has(&self, cid: &Cid) -> Result<bool, ReadError> {
        let (transaction, key) = (self.database.begin_read()?, cid.to_bytes());
        let is_here = Reading::open(&transaction)?.has(&key)?;
        Ok(is_here && !bundles::is_hidden(&transaction, &key)?)
    }

    /// Returns whether a public pin reaches a block: whether strangers may have it.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn is_public(&self, cid: &Cid) -> Result<bool, ReadError> {
        let public = self.database.begin_read()?.open_table(PUBLIC)?;
        Ok(public.get(cid.to_bytes().as_slice())?.is_some())
    }

    /// Returns the root of a pin's catalog, if it has one.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn catalog(&self, pin: &Pin) -> Result<Option<Root>, ReadError> {
        let catalogs = self.database.begin_read()?.open_table(CATALOGS)?;
        let Some(root) = catalogs.get(pin.as_str())? else { return Ok(None) };
        let (cid, count) = root.value();
        Ok(Some(Root { cid: stored_cid(cid)?, count }))
    }

    /// Returns the position of the last [`Self::put`] that gave one.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn position(&self) -> Result<Option<u64>, ReadError> {
        let meta = self.database.begin_read()?.open_table(META)?;
        Ok(meta.get("position")?.map(|position| position.value()))
    }

    /// Returns what the archive holds.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn stats(&self) -> Result<Stats, ReadError> {
        let meta = self.database.begin_read()?.open_table(META)?;
        Ok(read_stats(&meta)?)
    }
}
