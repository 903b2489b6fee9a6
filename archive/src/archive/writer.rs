//! The tables of one write transaction, and what may be done to them.

use dunlin_wire::{
    Cid,
    block::{Block, verify},
    cbor,
};
use redb::{ReadableTable, StorageError, Table, WriteTransaction};

use super::{
    Object, Stats,
    large::{Batch, Files},
    stored::Writing,
    tables::{
        CATALOGS, HELD, META, PINS, PUBLIC, REFERENCES, TAKEN, read_stats, stored_cid, stored_links,
    },
};
use crate::{
    Pin, PutError,
    catalog::{self, CatalogError, Entry, Root},
    places::Places,
};

/// The tables of one write transaction.
pub(crate) struct Writer<'a> {
    pub(crate) meta: Table<'a, &'static str, u64>,
    pub(crate) blocks: Writing<'a>,
    pub(crate) references: Table<'a, &'static [u8], u64>,
    pub(crate) pins: Table<'a, (&'static str, &'static [u8]), &'static [u8]>,
    pub(crate) public: Table<'a, &'static [u8], u64>,
    pub(crate) catalogs: Table<'a, &'static str, (&'static [u8], u64)>,
    held: Table<'a, &'static str, u64>,
    places: Places<'a>,
    taken: Table<'a, (&'static str, &'static [u8]), u64>,
    batch: Batch,
    before: Stats,
    now: Stats,
}

/// What a write transaction did, beside its tables.
pub(crate) struct Changes {
    /// What the archive held before, and holds now.
    pub(crate) before: Stats,
    pub(crate) now: Stats,
    pub(super) batch: Batch,
}

impl Changes {
    /// Returns how much has left.
    pub(crate) fn freed_bytes(&self) -> u64 {
        self.before.bytes.saturating_sub(self.now.bytes)
    }
}

impl<'a> Writer<'a> {
    pub(super) fn open(transaction: &'a WriteTransaction, files: Files) -> Result<Self, PutError> {
        let meta = transaction.open_table(META)?;
        let before = read_stats(&meta)?;
        Ok(Self {
            places: Places::open(transaction, &meta)?,
            meta,
            blocks: Writing::open(transaction)?,
            references: transaction.open_table(REFERENCES)?,
            pins: transaction.open_table(PINS)?,
            held: transaction.open_table(HELD)?,
            public: transaction.open_table(PUBLIC)?,
            catalogs: transaction.open_table(CATALOGS)?,
            taken: transaction.open_table(TAKEN)?,
            batch: Batch::new(files),
            before,
            now: before,
        })
    }

    pub(crate) fn put(&mut self, object: &Object) -> Result<(), PutError> {
        let root = object.root.cid().to_bytes();
        let pin = (object.pin.as_str(), root.as_slice());
        let held = self.pins.get(pin)?.map(|links| stored_links(links.value())).transpose()?;
        let mut links = held.clone().unwrap_or_default();
        for block in object.blocks() {
            let is_root = block.cid() == object.root.cid();
            let is_held = if is_root { held.is_some() } else { links.contains(block.cid()) };
            self.store(block, !is_held)?;
            if object.pin.is_public() && !is_held {
                count_up(&mut self.public, &block.cid().to_bytes())?;
            }
            if !is_root && !is_held {
                links.push(*block.cid());
            }
        }
        if held.as_ref() != Some(&links) {
            let links = cbor::encode(&links).expect("a list of CIDs has an encoding");
            self.pins.insert(pin, links.as_slice())?;
            self.places.on_pinned(&object.pin, &root)?;
        }
        if held.is_none() {
            self.count_held(&object.pin, true)?;
        }
        Ok(())
    }

    /// Counts that a pin holds one root more, or one less.
    pub(super) fn count_held(&mut self, pin: &Pin, is_more: bool) -> Result<(), StorageError> {
        let before = self.held.get(pin.as_str())?.map_or(0, |count| count.value());
        // Counts are read from the disk, too.
        match if is_more { before.saturating_add(1) } else { before.saturating_sub(1) } {
            0 => drop(self.held.remove(pin.as_str())?),
            count => drop(self.held.insert(pin.as_str(), count)?),
        }
        Ok(())
    }

    /// Enters segments in the catalog of a pin.
    pub(crate) fn enter(&mut self, pin: &Pin, entries: &[Entry]) -> Result<(), PutError> {
        let root = match self.catalogs.get(pin.as_str())? {
            None => None,
            Some(root) => {
                let (cid, count) = root.value();
                Some(Root { cid: stored_cid(cid)?, count })
            }
        };
        // One that is damaged is as good as none.
        let get = |cid: &Cid| self.whole(cid);
        let update = catalog::insert(get, root.as_ref(), entries).map_err(|cause| match cause {
            CatalogError::Store(cause) => cause.into(),
            cause => PutError::Catalog { what: cause.to_string() },
        })?;
        let Some(update) = update else { return Ok(()) };
        let nodes = Pin::catalog(pin);
        for block in update.added {
            self.put(&Object::leaf(nodes.clone(), block))?;
        }
        self.retire(pin, &update.removed)?;
        for cid in &update.removed {
            self.unpin(&nodes, cid)?;
        }
        let root = (update.root.cid.to_bytes(), update.root.count);
        self.catalogs.insert(pin.as_str(), (root.0.as_slice(), root.1))?;
        self.put_own_root(pin)
    }

    /// Returns the bytes of a block when they are here and what its CID names.
    pub(crate) fn whole(&self, cid: &Cid) -> Result<Option<Vec<u8>>, StorageError> {
        let bytes = self.blocks.read(&self.batch, &cid.to_bytes())?;
        Ok(bytes.filter(|bytes| verify(cid, bytes).is_ok()))
    }

    /// Stores a block, unless it is there and whole, and counts one more pin that reaches it.
    pub(crate) fn store(&mut self, block: &Block, is_new: bool) -> Result<(), PutError> {
        let key = block.cid().to_bytes();
        let stored = self.blocks.read(&self.batch, &key)?;
        let is_there = stored.is_some();
        if stored.is_none_or(|bytes| verify(block.cid(), &bytes).is_err()) {
            self.blocks.write(&mut self.batch, block)?;
        }
        // One that was damaged was counted when it came, with the bytes that its CID names.
        if !is_there {
            // Counts are read from the disk, too.
            self.now.blocks = self.now.blocks.saturating_add(1);
            self.now.bytes = self.now.bytes.saturating_add(block.bytes().len() as u64);
        }
        if is_new {
            count_up(&mut self.references, &key)?;
        }
        Ok(())
    }

    pub(crate) fn roots(&self, pin: &Pin) -> Result<Vec<Cid>, PutError> {
        let mut roots = Vec::new();
        for entry in self.pins.range((pin.as_str(), &[][..])..)? {
            let (key, _) = entry?;
            let (name, root) = key.value();
            if name != pin.as_str() {
                break;
            }
            roots.push(stored_cid(root)?);
        }
        Ok(roots)
    }

    /// Has a pin hold a block by itself that is here; says whether it is.
    pub(crate) fn hold(&mut self, pin: &Pin, cid: &Cid) -> Result<bool, PutError> {
        let key = cid.to_bytes();
        if !self.blocks.has(&key)? {
            return Ok(false);
        }
        let of_pin = (pin.as_str(), key.as_slice());
        if self.pins.get(of_pin)?.is_none() {
            let links = cbor::encode(&Vec::<Cid>::new()).expect("an empty list has an encoding");
            self.pins.insert(of_pin, links.as_slice())?;
            self.count_held(pin, true)?;
            self.places.on_pinned(pin, &key)?;
            count_up(&mut self.references, &key)?;
            if pin.is_public() {
                count_up(&mut self.public, &key)?;
            }
        }
        Ok(true)
    }

    /// Notes when an object came, unless that is known.
    pub(crate) fn date(&mut self, pin: &str, root: &[u8], now_ms: u64) -> Result<(), PutError> {
        if self.pins.get((pin, root))?.is_some() && self.taken.get((pin, root))?.is_none() {
            self.taken.insert((pin, root), now_ms)?;
        }
        Ok(())
    }

    /// Returns what the archive holds as of now.
    pub(super) fn stats(&self) -> Stats {
        self.now
    }

    /// Returns whether one pin alone reaches a block.
    pub(crate) fn is_held_once(&self, cid: &[u8]) -> Result<bool, PutError> {
        Ok(self.references.get(cid)?.is_some_and(|count| count.value() == 1))
    }

    /// Lets go of one root; says whether the pin held it.
    pub(crate) fn unpin(&mut self, pin: &Pin, root: &Cid) -> Result<bool, PutError> {
        let key = root.to_bytes();
        let of_pin = (pin.as_str(), key.as_slice());
        let links: Vec<Cid> = {
            let Some(links) = self.pins.remove(of_pin)? else { return Ok(false) };
            stored_links(links.value())?
        };
        self.count_held(pin, false)?;
        self.taken.remove(of_pin)?;
        self.places.on_unpinned(pin, &key)?;
        for cid in std::iter::once(root).chain(&links) {
            if pin.is_public() {
                count_down(&mut self.public, &cid.to_bytes())?;
            }
            self.release(cid)?;
        }
        Ok(true)
    }

    /// Takes one reference from a block, and the block itself with the last one.
    fn release(&mut self, cid: &Cid) -> Result<(), PutError> {
        let key = cid.to_bytes();
        if !count_down(&mut self.references, &key)? {
            return Ok(());
        }
        if let Some(bytes) = self.blocks.remove(&mut self.batch, &key)? {
            self.now.blocks = self.now.blocks.saturating_sub(1);
            self.now.bytes = self.now.bytes.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Writes the counts; returns what is yet to be done when the transaction is committed.
    pub(crate) fn finish(mut self) -> Result<Changes, PutError> {
        self.meta.insert("blocks", self.now.blocks)?;
        self.meta.insert("bytes", self.now.bytes)?;
        Ok(Changes { before: self.before, now: self.now, batch: self.batch })
    }
}

pub(crate) fn count_up(
    counts: &mut Table<'_, &'static [u8], u64>,
    key: &[u8],
) -> Result<(), StorageError> {
    let count = counts.get(key)?.map_or(0, |count| count.value());
    counts.insert(key, count + 1)?;
    Ok(())
}

/// Returns whether that was the last one.
pub(crate) fn count_down(
    counts: &mut Table<'_, &'static [u8], u64>,
    key: &[u8],
) -> Result<bool, StorageError> {
    let count = counts.get(key)?.map_or(0, |count| count.value());
    if count > 1 {
        counts.insert(key, count - 1)?;
    } else {
        counts.remove(key)?;
    }
    Ok(count <= 1)
}
