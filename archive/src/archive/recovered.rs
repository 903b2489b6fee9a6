//! What peers that share a collection seal, side by side: who has what, and what overlaps in time.
//!
//! Every segment of a collection lands here, those of this node as those of its peers: it is entered in one
//! catalog, whose root peers compare, and in an index by entity and time, which finds those that
//! contradict it. That, the segment itself and the conflicts that it makes are one durable commit, so that no crash
//! leaves a segment whose conflicts nobody noticed.

use dunlin_wire::{Cid, block::verify};
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition};

use super::{
    Archive, Object,
    large::Files,
    stored::Reading,
    tables::{CATALOGS, stored_cid},
};
use crate::{
    Pin, PutError, ReadError,
    catalog::{Entry, Root},
};

/// A segment's collection, entity, start in microseconds since the epoch, and CID.
type Place<'a> = (&'a str, &'a [u8], i64, &'a [u8]);

/// Place of a segment, to its end, in microseconds since the epoch.
const SERIES: TableDefinition<'_, Place<'static>, i64> = TableDefinition::new("series");

/// Collection and entity, to the longest time that one of its segments covers: how far before a moment a segment may
/// begin that reaches it.
const LONGEST: TableDefinition<'_, (&str, &[u8]), u64> = TableDefinition::new("longest");

/// Name of a conflict, or of the decision about one, to its record (`docs/formats/recovery.md`).
const CONFLICTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("conflicts");

/// Segments of one entity that are looked at for one that lands. An entity's regimes follow each other, so only
/// very many of them within a long one, or a peer that makes them up, come near it.
pub const OVERLAPPING_MAX: usize = 4_096;

/// A segment that lands.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its entity.
    pub entity: String,
    /// Its start and its end, in microseconds since the epoch.
    pub time: (i64, i64),
    /// Its CID.
    pub cid: Cid,
    /// What to store of it: nothing of one that is in the archive already.
    pub object: Option<Object>,
}

/// A segment of the same entity whose time touches that of one that lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlapping {
    /// Its CID.
    pub cid: Cid,
    /// Its start and its end, in microseconds since the epoch.
    pub time: (i64, i64),
}

/// A record of what somebody else decided, to be persisted with what it is about: its name, and its bytes.
pub type NamedRecord = (Vec<u8>, Vec<u8>);

/// Makes the tables of a new file.
pub(super) fn prepare(transaction: &redb::WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(SERIES)?;
    transaction.open_table(LONGEST)?;
    transaction.open_table(CONFLICTS)?;
    Ok(())
}

impl Archive {
    /// Takes segments of a collection in. For each that is new, `on_landed` is told which others its time touches, and
    /// whether there are more than [`OVERLAPPING_MAX`]; the records that it returns are stored in the same durable commit as all
    /// segments. Returns how many were new.
    ///
    /// # Errors
    ///
    /// As [`Self::put_cataloged`]; nothing is stored then, though `on_landed` may have been told.
    pub fn take_in(
        &self,
        collection: &str,
        arrivals: &[Arrival],
        mut on_landed: impl FnMut(&Arrival, &[Overlapping], bool) -> Vec<NamedRecord>,
    ) -> Result<usize, PutError> {
        let transaction = self.database.begin_write()?;
        let mut new = 0;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            let mut series = transaction.open_table(SERIES)?;
            let mut longest = transaction.open_table(LONGEST)?;
            let mut conflicts = transaction.open_table(CONFLICTS)?;
            let mut entries = Vec::with_capacity(arrivals.len());
            for arrival in arrivals {
                if let Some(object) = &arrival.object {
                    writer.put(object)?;
                }
                let ((start, end), cid) = (arrival.time, arrival.cid.to_bytes());
                entries.extend(Entry::new(start, &arrival.cid));
                let of = (collection, arrival.entity.as_bytes());
                if series.get((of.0, of.1, start, cid.as_slice()))?.is_some() {
                    continue;
                }
                let reach = longest.get(of)?.map_or(0, |longest| longest.value());
                let (overlapping, is_cut) = overlapping(&series, of, arrival.time, reach)?;
                for (name, record) in on_landed(arrival, &overlapping, is_cut) {
                    conflicts.insert(name.as_slice(), record.as_slice())?;
                }
                series.insert((of.0, of.1, start, cid.as_slice()), end)?;
                let covered = end.saturating_sub(start).unsigned_abs();
                if covered > reach {
                    longest.insert(of, covered)?;
                }
                new += 1;
            }
            writer.enter(&Pin::recovered(collection), &entries)?;
            writer.finish()?
        };
        self.commit(transaction, changes)?;
        Ok(new)
    }

    /// Stores records beside those of conflicts, or in their place, durably, with statements about them that came from
    /// others: blocks that are entered in the collection's catalog of statements.
    ///
    /// # Errors
    ///
    /// As [`Self::put_cataloged`]; nothing is stored then.
    pub fn put_statements(
        &self,
        collection: &str,
        statements: &[Object],
        records: &[NamedRecord],
    ) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            let mut conflicts = transaction.open_table(CONFLICTS)?;
            for statement in statements {
                writer.put(statement)?;
            }
            let entries = statements.iter().filter_map(|one| Entry::new(0, one.root.cid()));
            let entries: Vec<_> = entries.collect();
            if !entries.is_empty() {
                writer.enter(&Pin::statements(collection), &entries)?;
            }
            for (name, record) in records {
                conflicts.insert(name.as_slice(), record.as_slice())?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Returns the records of all conflicts and decisions, in the order of their names.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn conflict_records(&self) -> Result<Vec<Vec<u8>>, ReadError> {
        let conflicts = self.database.begin_read()?.open_table(CONFLICTS)?;
        let records = conflicts.iter()?.map(|entry| Ok(entry?.1.value().to_vec()));
        Ok(records.collect::<Result<_, StorageError>>()?)
    }

    /// Returns the archive as it is now, for one who reads a catalog while it grows.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, ReadError> {
        Ok(Snapshot { transaction: self.database.begin_read()?, files: self.files.clone() })
    }
}

/// Returns the segments of an entity that may overlap a time, and whether there are more.
fn overlapping(
    series: &impl ReadableTable<Place<'static>, i64>,
    (collection, entity): (&str, &[u8]),
    (start, end): (i64, i64),
    reach: u64,
) -> Result<(Vec<Overlapping>, bool), StorageError> {
    let from = start.saturating_sub_unsigned(reach);
    let mut found = Vec::new();
    for (seen, entry) in series.range((collection, entity, from, &[][..])..)?.enumerate() {
        let (key, last) = entry?;
        let (of_collection, of_entity, first, cid) = key.value();
        if (of_collection, of_entity) != (collection, entity) || first > end {
            break;
        }
        if seen == OVERLAPPING_MAX {
            return Ok((found, true));
        }
        let last = last.value();
        if last >= start {
            found.push(Overlapping { cid: stored_cid(cid)?, time: (first, last) });
        }
    }
    Ok((found, false))
}

/// The archive as it was at one moment.
pub struct Snapshot {
    transaction: ReadTransaction,
    files: Files,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Returns the root of a pin's catalog, if it has one.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn catalog(&self, pin: &Pin) -> Result<Option<Root>, ReadError> {
        let catalogs = self.transaction.open_table(CATALOGS)?;
        let Some(root) = catalogs.get(pin.as_str())? else { return Ok(None) };
        let (cid, count) = root.value();
        Ok(Some(Root { cid: stored_cid(cid)?, count }))
    }

    /// Returns the bytes of a block, when it was there and whole. A large one that has left the archive since is as
    /// good as damaged; nodes of catalogs are not large.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>, ReadError> {
        let bytes = Reading::open(&self.transaction)?.read(&self.files, &cid.to_bytes())?;
        Ok(bytes.filter(|bytes| verify(cid, bytes).is_ok()))
    }
}
