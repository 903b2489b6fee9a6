//! What the archive keeps of what others are told: the roots over everything, the newest record of the node's
//! name, and what the DHT was told of when.
//!
//! The root over own catalogs is made anew in the commit that changes one of them. The public root is made when
//! it is published, and from then on a node of it that is replaced stays until there have been two newer
//! publications: who resolved the name a moment ago still finds everything.

use dunlin_wire::{Cid, block::Block};
use redb::{ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError};

use super::{
    Archive, Object,
    tables::{CATALOGS, PINS, PUBLIC, stored_cid},
    writer::Writer,
};
use crate::{
    Pin, PutError, ReadError,
    names::stored_names,
    providing::{Change, Row},
    roots::{Listed, Roots},
};

/// CID, to whether it is a root and an object (bits 0 and 1), when peers were told of it (0: never), when that
/// was last tried, and how often it has failed since.
const PROVIDED: TableDefinition<'_, &[u8], (u8, u64, u64, u32)> = TableDefinition::new("provided");

/// What the node's name stands for: `record`, the newest record.
const NAME: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("name");

const ROOT_BIT: u8 = 1;
const OBJECT_BIT: u8 = 2;

/// How many publications there were; none while nothing is published.
const GENERATION: &str = "generation";

/// Publications for which what left the public root is kept.
const KEPT_GENERATIONS: u64 = 2;

/// What is public, as it was just published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The root over everything.
    pub root: Cid,
    /// What it lists.
    pub roots: Roots,
}

impl Publication {
    fn of(roots: Roots) -> Option<Self> {
        (!roots.is_empty()).then(|| Self { root: *roots.to_block().cid(), roots })
    }

    /// Returns the root and everything that it lists.
    pub fn all(&self) -> impl Iterator<Item = &Cid> {
        std::iter::once(&self.root).chain(self.roots.links())
    }
}

impl Archive {
    /// Returns the root over the catalogs of own segments; none before there is one.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn own_root(&self) -> Result<Option<Cid>, ReadError> {
        Ok(self.roots(&Pin::own_root(), None, 1)?.pop())
    }

    /// Returns what [`Self::publish`] would publish now.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn public_roots(&self) -> Result<Option<Publication>, ReadError> {
        let transaction = self.database.begin_read()?;
        let listing = Listing {
            pins: &transaction.open_table(PINS)?,
            catalogs: &transaction.open_table(CATALOGS)?,
            public: &transaction.open_table(PUBLIC)?,
        };
        Ok(Publication::of(listing.roots()?))
    }

    /// Returns what was published last.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn published(&self) -> Result<Option<Publication>, ReadError> {
        let Some(root) = self.roots(&Pin::published(), None, 1)?.pop() else { return Ok(None) };
        let bytes = self.get(&root)?.unwrap_or_default();
        // One that does not decode is of a newer version: it is published anew.
        Ok(Roots::decode(&bytes).ok().and_then(Publication::of))
    }

    /// Makes the root over everything public and keeps it, with what it leads to. Returns nothing when nothing
    /// is public; then what was published before is let go.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn publish(&self) -> Result<Option<Publication>, PutError> {
        let transaction = self.database.begin_write()?;
        let mut writer = self.writer(&transaction)?;
        let listing =
            Listing { pins: &writer.pins, catalogs: &writer.catalogs, public: &writer.public };
        let roots = listing.roots()?;
        if roots.is_empty() {
            drop(writer);
            transaction.abort()?;
            self.unpublish()?;
            return Ok(None);
        }
        let block = roots.to_block();
        let root = *block.cid();
        let is_new = writer.roots(&Pin::published())? != [root];
        if is_new {
            writer.begin_generation()?;
            for old in writer.roots(&Pin::published())? {
                writer.keep_retired(&old)?;
                writer.unpin(&Pin::published(), &old)?;
            }
            writer.put(&Object::leaf(Pin::published(), block))?;
        }
        let changes = writer.finish()?;
        if is_new {
            self.commit(transaction, changes)?;
        } else {
            transaction.abort()?;
        }
        Ok(Some(Publication { root, roots }))
    }

    /// Lets go of what was published and is not public by itself. What others have heard stays heard.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn unpublish(&self) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let mut writer = self.writer(&transaction)?;
        let is_published = writer.meta.remove(GENERATION)?.is_some();
        let retired = pin_names(&writer.pins, Pin::RETIRED)?;
        for pin in retired.into_iter().chain([Pin::published()]) {
            for root in writer.roots(&pin)? {
                writer.unpin(&pin, &root)?;
            }
        }
        let changes = writer.finish()?;
        if is_published { self.commit(transaction, changes) } else { Ok(transaction.abort()?) }
    }

    /// Returns what was kept of what the DHT was told.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn provided(&self) -> Result<Vec<Row>, ReadError> {
        let table = match self.database.begin_read()?.open_table(PROVIDED) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let mut rows = Vec::new();
        for entry in table.iter()? {
            let (cid, row) = entry?;
            let (bits, told_ms, tried_ms, failures) = row.value();
            rows.push(Row {
                cid: stored_cid(cid.value())?,
                is_root: bits & ROOT_BIT != 0,
                is_object: bits & OBJECT_BIT != 0,
                told_ms: (told_ms > 0).then_some(told_ms),
                tried_ms,
                failures,
            });
        }
        Ok(rows)
    }

    /// Keeps what changed in what the DHT was told, in one durable commit.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn keep_provided(&self, changes: &[Change]) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(PROVIDED)?;
            for change in changes {
                match change {
                    Change::Forget(cid) => {
                        table.remove(cid.to_bytes().as_slice())?;
                    }
                    Change::Keep(row) => {
                        let bits =
                            u8::from(row.is_root) * ROOT_BIT + u8::from(row.is_object) * OBJECT_BIT;
                        let told_ms = row.told_ms.unwrap_or(0);
                        let value = (bits, told_ms, row.tried_ms, row.failures);
                        table.insert(row.cid.to_bytes().as_slice(), value)?;
                    }
                }
            }
        }
        Ok(transaction.commit()?)
    }

    /// Returns the newest record of the node's name that was kept, as it was given.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn name_record(&self) -> Result<Option<Vec<u8>>, ReadError> {
        let table = match self.database.begin_read()?.open_table(NAME) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        Ok(table.get("record")?.map(|record| record.value().to_vec()))
    }

    /// Keeps a record of the node's name in place of the one before.
    ///
    /// # Durability
    ///
    /// When this returns, no crash brings the one before back.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; the one before is kept then.
    pub fn keep_name_record(&self, record: &[u8]) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(NAME)?.insert("record", record)?;
        Ok(transaction.commit()?)
    }
}

impl Writer<'_> {
    /// Makes the root over the catalogs of own segments anew, one of which has changed.
    pub(super) fn put_own_root(&mut self, changed: &Pin) -> Result<(), PutError> {
        if !changed.as_str().starts_with(Pin::OWN) {
            return Ok(());
        }
        let catalogs = catalogs_below(&self.catalogs, Pin::OWN)?.into_iter();
        let listed = catalogs.map(|(pin, root, count)| {
            let collection = pin.as_str().strip_prefix(Pin::OWN).unwrap_or_default();
            Listed(collection.to_owned(), root, count)
        });
        let roots = Roots::new(listed.collect(), Vec::new());
        let block = roots.to_block();
        for old in self.roots(&Pin::own_root())? {
            if old != *block.cid() {
                self.unpin(&Pin::own_root(), &old)?;
            }
        }
        if roots.is_empty() {
            return Ok(());
        }
        self.put(&Object::leaf(Pin::own_root(), block))
    }

    /// Keeps nodes that leave a public catalog, if it is published.
    pub(super) fn retire(&mut self, of: &Pin, nodes: &[Cid]) -> Result<(), PutError> {
        if of.is_public() {
            for node in nodes {
                self.keep_retired(node)?;
            }
        }
        Ok(())
    }

    fn keep_retired(&mut self, node: &Cid) -> Result<(), PutError> {
        let Some(generation) = self.meta.get(GENERATION)?.map(|count| count.value()) else {
            return Ok(());
        };
        // One that is damaged is as good as none.
        let block = self.whole(node)?.and_then(|bytes| Block::verified(*node, bytes).ok());
        block.map_or(Ok(()), |block| self.put(&Object::leaf(Pin::retired(generation), block)))
    }

    /// Begins the next publication, and lets go of what only an old one had.
    fn begin_generation(&mut self) -> Result<(), PutError> {
        let generation = self.meta.get(GENERATION)?.map_or(0, |count| count.value()) + 1;
        self.meta.insert(GENERATION, generation)?;
        if let Some(old) = generation.checked_sub(KEPT_GENERATIONS) {
            let pin = Pin::retired(old);
            for root in self.roots(&pin)? {
                self.unpin(&pin, &root)?;
            }
        }
        Ok(())
    }
}

type Pins = (&'static str, &'static [u8]);

/// The tables that say what is public.
struct Listing<'a, P, C, N> {
    pins: &'a P,
    catalogs: &'a C,
    public: &'a N,
}

impl<P, C, N> Listing<'_, P, C, N>
where
    P: ReadableTable<Pins, &'static [u8]>,
    C: ReadableTable<&'static str, (&'static [u8], u64)>,
    N: ReadableTable<&'static [u8], u64>,
{
    /// Lists everything public: catalogs without saying of what, and the graphs that were imported.
    fn roots(&self) -> Result<Roots, StorageError> {
        let catalogs = catalogs_below(self.catalogs, Pin::PUBLIC)?;
        let mut graphs = Vec::new();
        for pin in pin_names(self.pins, Pin::PUBLIC)? {
            if catalogs.iter().any(|(of, ..)| *of == pin) {
                continue;
            }
            // Imports are named after the root of their file; its block may not have come yet.
            let name = pin.as_str().strip_prefix(Pin::PUBLIC).and_then(|name| name.parse().ok());
            if let Some(root) = name
                && self.holds(&root)?
            {
                graphs.push(root);
            }
        }
        let listed =
            catalogs.into_iter().map(|(_, root, count)| Listed(String::new(), root, count));
        Ok(Roots::new(listed.collect(), graphs))
    }

    fn holds(&self, cid: &Cid) -> Result<bool, StorageError> {
        for name in stored_names(cid) {
            if self.public.get(name.to_bytes().as_slice())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn catalogs_below(
    catalogs: &impl ReadableTable<&'static str, (&'static [u8], u64)>,
    prefix: &str,
) -> Result<Vec<(Pin, Cid, u64)>, StorageError> {
    let mut found = Vec::new();
    for entry in catalogs.range(prefix..)? {
        let (pin, root) = entry?;
        if !pin.value().starts_with(prefix) {
            break;
        }
        let (cid, count) = root.value();
        found.push((Pin::from_stored(pin.value()), stored_cid(cid)?, count));
    }
    Ok(found)
}

/// Returns the pins that begin with `prefix`, without looking at all that they hold.
fn pin_names(
    pins: &impl ReadableTable<Pins, &'static [u8]>,
    prefix: &str,
) -> Result<Vec<Pin>, StorageError> {
    let mut found = Vec::new();
    let mut from = prefix.to_owned();
    while let Some(entry) = pins.range((from.as_str(), &[][..])..)?.next() {
        let (key, _) = entry?;
        let (name, _) = key.value();
        if !name.starts_with(prefix) {
            break;
        }
        found.push(Pin::from_stored(name));
        // The smallest text behind this one.
        from = format!("{name}\0");
    }
    Ok(found)
}
