//! The block store: blocks by CID, kept by pins, in one redb file.
//!
//! `docs/formats/archive.md` describes the tables. A block is stored once however many objects link to
//! it, and leaves when the last pin that reaches it does: every pin counts its blocks.

mod bundles;
mod create;

use std::{collections::BTreeMap, path::Path};

use dunlin_wire::{
    Cid,
    block::{Block, verify},
    cbor,
};
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageBackend, StorageError, Table,
    TableDefinition, WriteTransaction,
};
use sha2::{Digest as _, Sha256};

pub use self::bundles::{LandError, Landing, Sent};
use crate::{
    OpenError, Pin, PutError, ReadError,
    catalog::{self, CatalogError, Entry, Root},
};

/// Version of the table layout.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");
/// How many pins reach each block.
const REFERENCES: TableDefinition<'_, &[u8], u64> = TableDefinition::new("references");
/// Pin and root, to the CIDs that the root links to.
const PINS: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("pins");

/// Pin, to the root of its catalog and how many entries that has.
const CATALOGS: TableDefinition<'_, &str, (&[u8], u64)> = TableDefinition::new("catalogs");

/// How many public pins reach each block; none of the others are here.
const PUBLIC: TableDefinition<'_, &[u8], u64> = TableDefinition::new("public");

/// Most links of one object: payload blocks of the largest segment, with room.
const LINKS_BYTES_MAX: usize = 1024 * 1024;

/// What an archive may use.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest size of all blocks together, in bytes; default 10 GiB. A batch beyond it is refused.
    pub bytes_max: u64,
    /// Memory for redb's cache, in bytes; default 4 MiB. More makes repeated reads faster.
    pub cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { bytes_max: 10 << 30, cache_bytes: 4 << 20 }
    }
}

/// A root block with the blocks that it links to, and why it is kept.
#[derive(Clone, Debug)]
pub struct Object {
    /// Why it is kept.
    pub pin: Pin,
    /// The block that names the object.
    pub root: Block,
    /// All blocks that the root links to.
    pub links: Vec<Block>,
}

impl Object {
    /// Returns an object of one block.
    #[must_use]
    pub fn leaf(pin: Pin, root: Block) -> Self {
        Self { pin, root, links: Vec::new() }
    }

    /// Returns the CIDs of the root and of the blocks it links to.
    pub fn cids(&self) -> impl Iterator<Item = Cid> {
        self.blocks().map(|block| *block.cid())
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        std::iter::once(&self.root).chain(&self.links)
    }
}

/// What an archive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
}

/// A short name for a set of roots, to compare two sets by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// How many roots there are.
    pub count: u64,
    /// The sha2-256 of their CIDs, in order.
    pub sha256: [u8; 32],
}

/// A block store with pins. Cheap to share: all methods take `&self`, writers take turns.
pub struct Archive {
    database: Database,
    bytes_max: u64,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl Archive {
    /// Opens the archive in the file at `path`, making it when it is missing.
    ///
    /// # Errors
    ///
    /// Fails when the file is no archive, is of a newer format, or is open elsewhere.
    pub fn open(path: &Path, config: Config) -> Result<Self, OpenError> {
        if !path.exists() {
            create::create_whole(path)?;
        }
        let mut builder = Database::builder();
        let database = builder.set_cache_size(config.cache_bytes).open(path);
        Self::with_database(path, database, config.bytes_max)
    }

    /// Opens an archive on a storage of the caller's, for tests of what a crash leaves behind.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_on(storage: impl StorageBackend, config: Config) -> Result<Self, OpenError> {
        let database = Database::builder().create_with_backend(storage);
        Self::with_database(Path::new("(storage)"), database, config.bytes_max)
    }

    fn with_database(
        path: &Path,
        database: Result<Database, redb::DatabaseError>,
        bytes_max: u64,
    ) -> Result<Self, OpenError> {
        let fail =
            |cause: redb::Error| OpenError::Database { path: path.into(), cause: Box::new(cause) };
        let database = database.map_err(|cause| fail(cause.into()))?;
        let found = prepare(&database).map_err(fail)?;
        if found != FORMAT {
            return Err(OpenError::Format { path: path.into(), found, known: FORMAT });
        }
        Ok(Self { database, bytes_max })
    }

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
        let (before, now) = {
            let mut writer = Writer::open(&transaction)?;
            for object in objects {
                writer.put(object)?;
            }
            if let Some(position) = position {
                writer.meta.insert("position", position)?;
            }
            writer.finish()?
        };
        self.commit(transaction, before, now)
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
        let (before, now) = {
            let mut writer = Writer::open(&transaction)?;
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
        self.commit(transaction, before, now)
    }

    /// Enters segments that a pin holds in its catalog, durably.
    ///
    /// # Errors
    ///
    /// As [`Self::put_cataloged`].
    pub fn enter(&self, pin: &Pin, entries: &[Entry]) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let (before, now) = {
            let mut writer = Writer::open(&transaction)?;
            writer.enter(pin, entries)?;
            writer.finish()?
        };
        self.commit(transaction, before, now)
    }

    /// Forgets the catalog of a pin, which was damaged on disk: it can be made again of what the pin holds.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn drop_catalog(&self, pin: &Pin) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let (before, now) = {
            let mut writer = Writer::open(&transaction)?;
            let nodes = Pin::catalog(pin);
            for node in writer.roots(&nodes)? {
                writer.unpin(&nodes, &node)?;
            }
            writer.catalogs.remove(pin.as_str())?;
            writer.finish()?
        };
        self.commit(transaction, before, now)
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

    /// Makes `object` the only one under its pin: what the pin held before leaves, unless another pin
    /// holds it too.
    ///
    /// # Errors
    ///
    /// As [`Self::put`].
    pub fn replace(&self, object: &Object) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let (before, now) = {
            let mut writer = Writer::open(&transaction)?;
            writer.replace(object)?;
            writer.finish()?
        };
        self.commit(transaction, before, now)
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

    /// Writes a block again that is here and was damaged on disk; one that is not here stays so.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses.
    pub fn mend(&self, block: &Block) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let (before, now) = {
            let mut writer = Writer::open(&transaction)?;
            if writer.blocks.get(block.cid().to_bytes().as_slice())?.is_some() {
                writer.store(block, false)?;
            }
            writer.finish()?
        };
        self.commit(transaction, before, now)
    }

    /// Makes a transaction durable, unless it takes the archive beyond its quota.
    fn commit(
        &self,
        transaction: WriteTransaction,
        before: Stats,
        now: Stats,
    ) -> Result<(), PutError> {
        if now.bytes > before.bytes.max(self.bytes_max) {
            let more = now.bytes - before.bytes;
            return Err(PutError::Full { bytes: before.bytes, more, bytes_max: self.bytes_max });
        }
        Ok(transaction.commit()?)
    }

    /// Returns a block, verified.
    ///
    /// # Errors
    ///
    /// Fails when the stored bytes no longer hash to `cid`; they are not returned.
    pub fn block(&self, cid: &Cid) -> Result<Option<Block>, ReadError> {
        let (transaction, key) = (self.database.begin_read()?, cid.to_bytes());
        let Some(stored) = transaction.open_table(BLOCKS)?.get(key.as_slice())? else {
            return Ok(None);
        };
        if bundles::is_hidden(&transaction, &key)? {
            return Ok(None);
        }
        let block = Block::verified(*cid, stored.value().to_vec());
        block.map(Some).map_err(|_| ReadError::Damaged { cid: *cid })
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
        let is_here = transaction.open_table(BLOCKS)?.get(key.as_slice())?.is_some();
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

/// Makes the tables of a new file, and returns the format of the file.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let format = {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get("format")?.map(|format| format.value());
        if format.is_none() {
            meta.insert("format", FORMAT)?;
        }
        transaction.open_table(BLOCKS)?;
        transaction.open_table(REFERENCES)?;
        transaction.open_table(PINS)?;
        transaction.open_table(PUBLIC)?;
        transaction.open_table(CATALOGS)?;
        bundles::prepare(&transaction)?;
        format.unwrap_or(FORMAT)
    };
    if format == FORMAT {
        transaction.commit()?;
    }
    Ok(format)
}

fn read_stats(meta: &impl ReadableTable<&'static str, u64>) -> Result<Stats, StorageError> {
    let read = |key| meta.get(key).map(|stored| stored.map_or(0, |value| value.value()));
    Ok(Stats { blocks: read("blocks")?, bytes: read("bytes")? })
}

/// Keys of our own tables are CIDs that we wrote, unless the disk changed them.
fn stored_cid(bytes: &[u8]) -> Result<Cid, StorageError> {
    Cid::try_from(bytes).map_err(|_| StorageError::Corrupted("a key is no CID".to_owned()))
}

/// Values of our own tables are lists of CIDs that we wrote, unless the disk changed them.
fn stored_links(bytes: &[u8]) -> Result<Vec<Cid>, StorageError> {
    cbor::decode(bytes, LINKS_BYTES_MAX)
        .map_err(|_| StorageError::Corrupted("links are no list of CIDs".to_owned()))
}

/// The tables of one write transaction.
struct Writer<'a> {
    meta: Table<'a, &'static str, u64>,
    blocks: Table<'a, &'static [u8], &'static [u8]>,
    references: Table<'a, &'static [u8], u64>,
    pins: Table<'a, (&'static str, &'static [u8]), &'static [u8]>,
    public: Table<'a, &'static [u8], u64>,
    catalogs: Table<'a, &'static str, (&'static [u8], u64)>,
    before: Stats,
    now: Stats,
}

impl<'a> Writer<'a> {
    fn open(transaction: &'a WriteTransaction) -> Result<Self, PutError> {
        let meta = transaction.open_table(META)?;
        let before = read_stats(&meta)?;
        Ok(Self {
            meta,
            blocks: transaction.open_table(BLOCKS)?,
            references: transaction.open_table(REFERENCES)?,
            pins: transaction.open_table(PINS)?,
            public: transaction.open_table(PUBLIC)?,
            catalogs: transaction.open_table(CATALOGS)?,
            before,
            now: before,
        })
    }

    fn put(&mut self, object: &Object) -> Result<(), PutError> {
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
        }
        Ok(())
    }

    /// Enters segments in the catalog of a pin.
    fn enter(&mut self, pin: &Pin, entries: &[Entry]) -> Result<(), PutError> {
        let root = match self.catalogs.get(pin.as_str())? {
            None => None,
            Some(root) => {
                let (cid, count) = root.value();
                Some(Root { cid: stored_cid(cid)?, count })
            }
        };
        let get = |cid: &Cid| match self.blocks.get(cid.to_bytes().as_slice()) {
            Ok(None) => Ok(None),
            // One that is damaged is as good as none.
            Ok(Some(bytes)) => Ok(verify(cid, bytes.value()).ok().map(|()| bytes.value().to_vec())),
            Err(cause) => Err(cause),
        };
        let update = catalog::insert(get, root.as_ref(), entries).map_err(|cause| match cause {
            CatalogError::Store(cause) => cause.into(),
            cause => PutError::Catalog { what: cause.to_string() },
        })?;
        let Some(update) = update else { return Ok(()) };
        let nodes = Pin::catalog(pin);
        for block in update.added {
            self.put(&Object::leaf(nodes.clone(), block))?;
        }
        for cid in &update.removed {
            self.unpin(&nodes, cid)?;
        }
        let root = (update.root.cid.to_bytes(), update.root.count);
        self.catalogs.insert(pin.as_str(), (root.0.as_slice(), root.1))?;
        Ok(())
    }

    /// Stores a block, unless it is there and whole, and counts one more pin that reaches it.
    fn store(&mut self, block: &Block, is_new: bool) -> Result<(), PutError> {
        let key = block.cid().to_bytes();
        let stored = self.blocks.get(key.as_slice())?.map(|stored| {
            let bytes = stored.value();
            (bytes.len() as u64, verify(block.cid(), bytes).is_ok())
        });
        if !matches!(stored, Some((_, true))) {
            self.blocks.insert(key.as_slice(), block.bytes())?;
            self.now.blocks += u64::from(stored.is_none());
            let before = stored.map_or(0, |(bytes, _)| bytes);
            // Counts are read from the disk, too.
            self.now.bytes = self.now.bytes.saturating_sub(before) + block.bytes().len() as u64;
        }
        if is_new {
            count_up(&mut self.references, &key)?;
        }
        Ok(())
    }

    fn roots(&self, pin: &Pin) -> Result<Vec<Cid>, PutError> {
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

    fn unpin(&mut self, pin: &Pin, root: &Cid) -> Result<(), PutError> {
        let links: Vec<Cid> = {
            let Some(links) = self.pins.remove((pin.as_str(), root.to_bytes().as_slice()))? else {
                return Ok(());
            };
            stored_links(links.value())?
        };
        for cid in std::iter::once(root).chain(&links) {
            if pin.is_public() {
                count_down(&mut self.public, &cid.to_bytes())?;
            }
            self.release(cid)?;
        }
        Ok(())
    }

    /// Takes one reference from a block, and the block itself with the last one.
    fn release(&mut self, cid: &Cid) -> Result<(), PutError> {
        let key = cid.to_bytes();
        if !count_down(&mut self.references, &key)? {
            return Ok(());
        }
        if let Some(block) = self.blocks.remove(key.as_slice())? {
            self.now.blocks = self.now.blocks.saturating_sub(1);
            self.now.bytes = self.now.bytes.saturating_sub(block.value().len() as u64);
        }
        Ok(())
    }

    /// Writes the counts; returns those before and after.
    fn finish(mut self) -> Result<(Stats, Stats), PutError> {
        self.meta.insert("blocks", self.now.blocks)?;
        self.meta.insert("bytes", self.now.bytes)?;
        Ok((self.before, self.now))
    }
}

fn count_up(counts: &mut Table<'_, &'static [u8], u64>, key: &[u8]) -> Result<(), StorageError> {
    let count = counts.get(key)?.map_or(0, |count| count.value());
    counts.insert(key, count + 1)?;
    Ok(())
}

/// Returns whether that was the last one.
fn count_down(
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
