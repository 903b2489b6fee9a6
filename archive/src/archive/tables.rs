//! The tables of the file, and how a new one is laid out.

use std::collections::BTreeMap;

use dunlin_wire::{Cid, cbor};
use redb::{Database, ReadableTable, StorageError, TableDefinition};

use super::{Stats, bundles, copies, recovered, stored::Writing};
use crate::places;

/// Version of the table layout.
pub(crate) const FORMAT: u64 = 4;

/// The versions before: blocks whole in their row, however large; large ones in pieces; and nobody counting what pins hold.
/// All are read as they stand, and need nothing but the new number and those counts.
const READABLE: [u64; 3] = [1, 2, 3];

pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// How many pins reach each block.
pub(crate) const REFERENCES: TableDefinition<'_, &[u8], u64> = TableDefinition::new("references");
/// Pin and root, to the CIDs that the root links to.
pub(crate) const PINS: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("pins");

/// Pin, to how many roots it holds; those that hold none are not here.
pub(crate) const HELD: TableDefinition<'_, &str, u64> = TableDefinition::new("held");

/// Pin, to the root of its catalog and how many entries that has.
pub(crate) const CATALOGS: TableDefinition<'_, &str, (&[u8], u64)> =
    TableDefinition::new("catalogs");

/// How many public pins reach each block; none of the others are here.
pub(crate) const PUBLIC: TableDefinition<'_, &[u8], u64> = TableDefinition::new("public");

/// The row of a named pin: root, depth (0 direct, 1 recursive), whether it is complete, blocks, bytes.
pub(crate) type NamedRow<'a> = (&'a [u8], u8, u8, u64, u64);

/// Name of a pin that the operator set, to what it is set on.
pub(crate) const NAMED: TableDefinition<'_, &str, NamedRow<'static>> =
    TableDefinition::new("named");

/// Pin and root of an object that came from others, to when that was, in milliseconds since the epoch.
pub(crate) const TAKEN: TableDefinition<'_, (&str, &[u8]), u64> = TableDefinition::new("taken");

/// Root of an object and peer that holds a replica of it, to the state of that.
pub(crate) const PLACEMENTS: TableDefinition<'_, (&[u8], &[u8]), u8> =
    TableDefinition::new("placements");

/// Most links of one object: payload blocks of the largest segment, with room.
const LINKS_BYTES_MAX: usize = 1024 * 1024;

/// Makes the tables of a new file, and returns the format of the file.
pub(crate) fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let format = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("format")?.map(|format| format.value());
        let format = found.filter(|format| !READABLE.contains(format)).unwrap_or(FORMAT);
        if found != Some(format) {
            meta.insert("format", format)?;
        }
        Writing::open(&transaction)?;
        transaction.open_table(REFERENCES)?;
        let pins = transaction.open_table(PINS)?;
        let mut held = transaction.open_table(HELD)?;
        if found.is_some_and(|format| READABLE.contains(&format)) {
            for (pin, count) in counted(&pins)? {
                held.insert(pin.as_str(), count)?;
            }
        }
        transaction.open_table(PUBLIC)?;
        transaction.open_table(CATALOGS)?;
        transaction.open_table(NAMED)?;
        transaction.open_table(TAKEN)?;
        transaction.open_table(PLACEMENTS)?;
        transaction.open_table(copies::COPIES)?;
        bundles::prepare(&transaction)?;
        recovered::prepare(&transaction)?;
        places::prepare(&transaction)?;
        format
    };
    if format == FORMAT {
        transaction.commit()?;
    }
    Ok(format)
}

/// Counts what each pin holds.
fn counted(
    pins: &impl ReadableTable<(&'static str, &'static [u8]), &'static [u8]>,
) -> Result<BTreeMap<String, u64>, StorageError> {
    let mut counts = BTreeMap::new();
    for entry in pins.iter()? {
        let (key, _) = entry?;
        let (pin, _) = key.value();
        match counts.get_mut(pin) {
            Some(count) => *count += 1,
            None => drop(counts.insert(pin.to_owned(), 1)),
        }
    }
    Ok(counts)
}

pub(crate) fn read_stats(
    meta: &impl ReadableTable<&'static str, u64>,
) -> Result<Stats, StorageError> {
    let read = |key| meta.get(key).map(|stored| stored.map_or(0, |value| value.value()));
    Ok(Stats { blocks: read("blocks")?, bytes: read("bytes")? })
}

/// Keys of our own tables are CIDs that we wrote, unless the disk changed them.
pub(crate) fn stored_cid(bytes: &[u8]) -> Result<Cid, StorageError> {
    Cid::try_from(bytes).map_err(|_| StorageError::Corrupted("a key is no CID".to_owned()))
}

/// Values of our own tables are lists of CIDs that we wrote, unless the disk changed them.
pub(crate) fn stored_links(bytes: &[u8]) -> Result<Vec<Cid>, StorageError> {
    cbor::decode(bytes, LINKS_BYTES_MAX)
        .map_err(|_| StorageError::Corrupted("links are no list of CIDs".to_owned()))
}
