//! The segment store: one redb file. `docs/formats/store.md` lists its tables.
//!
//! Segments are committed without durability as they are sealed; a checkpoint makes them durable
//! together with the entities' states and the log position. Opening goes back to the newest checkpoint,
//! also when the database happened to keep more, and the log brings the rest again.

mod tables;

use std::io;

use dunlin_wire::{
    Cid,
    block::{Block, Codec, cid_of},
    cbor,
};
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use self::tables::SegmentTables;
use crate::{
    collection::CollectionSpec, compact::Outline, entity::EntityRecord, error::StoreError,
    observation::EntityId, segment::Segment, storage::StorageFile,
};

/// The file's name in the data folder.
pub(crate) const FILE: &str = "store.redb";

/// Largest record of an entity: an open regime of a lossless collection with its observations.
const ENTITY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Where a segment stands: its collection's number and its own.
pub(crate) type Place = (u32, u64);

/// Where an outline stands: its collection's number, its entity, and the start of its course.
type OutlinePlace = (u32, &'static str, i64);

/// Where a payload block stands: its segment's place and its index there.
type BlockPlace = (u32, u64, u32);

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const COLLECTIONS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("collections");
const ENTITIES: TableDefinition<'_, (u32, &str), &[u8]> = TableDefinition::new("entities");
const SEGMENTS: TableDefinition<'_, Place, &[u8]> = TableDefinition::new("segments");
const COLLECTION_OF: TableDefinition<'_, u64, u32> = TableDefinition::new("collection_of");
const BY_CID: TableDefinition<'_, [u8; 32], Place> = TableDefinition::new("by_cid");
const BY_TIME: TableDefinition<'_, (u32, &str, i64), (i64, u64)> = TableDefinition::new("by_time");
/// By place and not by digest: neighbors are written together, where random keys would rewrite a page
/// of other segments' payload for each block.
const PAYLOAD: TableDefinition<'_, BlockPlace, &[u8]> = TableDefinition::new("payload");
const PAYLOAD_BY_CID: TableDefinition<'_, [u8; 32], BlockPlace> =
    TableDefinition::new("payload_by_cid");
/// Equal blocks beyond the first: one of them takes its place when that is removed.
const PAYLOAD_SHARED: TableDefinition<'_, ([u8; 32], BlockPlace), ()> =
    TableDefinition::new("payload_shared");
/// Outlines of compacted segments by the start of their course.
const OUTLINES: TableDefinition<'_, OutlinePlace, &[u8]> = TableDefinition::new("outlines");
/// When the course of each ends; apart, so that looking for one does not read them all.
const OUTLINE_ENDS: TableDefinition<'_, OutlinePlace, i64> = TableDefinition::new("outline_ends");
const OUTLINE_BY_CID: TableDefinition<'_, [u8; 32], OutlinePlace> =
    TableDefinition::new("outline_by_cid");
/// Where the payload of each stands in `payload`: the number of the first segment that it was made of.
const OUTLINE_PAYLOAD: TableDefinition<'_, OutlinePlace, u64> =
    TableDefinition::new("outline_payload");
/// Segments that were removed and that a part of the index may still have.
const REMOVED: TableDefinition<'_, Place, ()> = TableDefinition::new("removed");

/// The key of the checkpoint in the meta table.
const CHECKPOINT: &str = "checkpoint";

/// What the store holds durably.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checkpoint {
    /// The last log record whose effects are in the store.
    pub(crate) record: u64,
    /// The number of the next segment.
    pub(crate) next_segment: u64,
}

/// A segment on its way into the store.
pub(crate) struct NewSegment {
    pub(crate) place: Place,
    pub(crate) segment: Segment,
    pub(crate) block: Block,
    pub(crate) payload: Vec<Block>,
}

/// An outline on its way into the store.
pub(crate) struct NewOutline<'a> {
    pub(crate) outline: &'a Outline,
    pub(crate) block: &'a Block,
    pub(crate) payload: &'a [Block],
}

/// A stored segment with its local number and its name.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stored {
    /// Rises with every segment that this node seals, from 1; the order of sealing.
    pub number: u64,
    /// The content identifier.
    pub cid: Cid,
    /// The segment.
    pub segment: Segment,
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Store(Database);

impl Store {
    /// Opens the database in `file`, making it when the file is empty.
    pub(crate) fn open(file: Box<dyn StorageFile>, cache_bytes: usize) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        let store = Self(builder.create_with_backend(Backend(file))?);
        if store.0.begin_read()?.list_tables()?.next().is_none() {
            store.create_tables()?;
        }
        Ok(store)
    }

    /// Makes the tables that earlier versions did not have.
    pub(crate) fn upgrade(&self) -> Result<(), StoreError> {
        let transaction = self.begin(Durability::Immediate)?;
        {
            transaction.open_table(REMOVED)?;
            transaction.open_table(OUTLINES)?;
            transaction.open_table(OUTLINE_ENDS)?;
            transaction.open_table(OUTLINE_BY_CID)?;
            transaction.open_table(OUTLINE_PAYLOAD)?;
            let mut shared = transaction.open_table(PAYLOAD_SHARED)?;
            let named = transaction.open_table(PAYLOAD_BY_CID)?;
            for entry in transaction.open_table(PAYLOAD)?.range::<BlockPlace>(..)? {
                let (place, bytes) = entry?;
                let digest = digest_of(&cid_of(Codec::Raw, bytes.value()))?;
                if named.get(digest)?.is_some_and(|first| first.value() != place.value()) {
                    shared.insert((digest, place.value()), ())?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Makes the store go back to its checkpoint, and returns that.
    pub(crate) fn roll_back(&self) -> Result<Checkpoint, StoreError> {
        let transaction = self.begin(Durability::Immediate)?;
        let checkpoint = {
            let meta = transaction.open_table(META)?;
            let record = meta.get(CHECKPOINT)?.ok_or(StoreError::Damaged { what: "checkpoint" })?;
            decode::<Checkpoint>(record.value(), 64, "checkpoint")?
        };
        if remove_from(&transaction, checkpoint.next_segment)? {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(checkpoint)
    }

    /// Adds segments; they are visible at once, and durable with the next checkpoint.
    pub(crate) fn insert(&self, segments: &[NewSegment]) -> Result<(), StoreError> {
        if segments.is_empty() {
            return Ok(());
        }
        let transaction = self.begin(Durability::None)?;
        {
            let mut tables = SegmentTables::open(&transaction)?;
            for segment in segments {
                tables.insert(segment)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Removes the segments of an entity and returns their numbers; it is visible at once, and durable with the next checkpoint.
    /// Removing what is gone already does nothing.
    pub(crate) fn remove(
        &self,
        collection: u32,
        entity: &EntityId,
    ) -> Result<Vec<u64>, StoreError> {
        let mut numbers = Vec::new();
        let transaction = self.begin(Durability::None)?;
        {
            let mut tables = SegmentTables::open(&transaction)?;
            let mut removed = transaction.open_table(REMOVED)?;
            let name = entity.as_str();
            let range = (collection, name, i64::MIN)..=(collection, name, i64::MAX);
            let mut starts = Vec::new();
            for entry in tables.by_time.range(range)? {
                let (key, value) = entry?;
                starts.push(key.value().2);
                numbers.push(value.value().1);
            }
            for (number, start) in numbers.iter().zip(starts) {
                tables.remove((collection, *number), (name, start))?;
                removed.insert((collection, *number), ())?;
            }
            let mut outlines = transaction.open_table(OUTLINES)?;
            let mut by_cid = transaction.open_table(OUTLINE_BY_CID)?;
            let range = (collection, name, i64::MIN)..=(collection, name, i64::MAX);
            for entry in outlines.extract_from_if(range, |_, _| true)? {
                let (_, outline) = entry?;
                by_cid.remove(digest_of(&cid_of(Codec::DagCbor, outline.value()))?)?;
            }
            let range = || (collection, name, i64::MIN)..=(collection, name, i64::MAX);
            transaction.open_table(OUTLINE_ENDS)?.retain_in(range(), |_, _| false)?;
            let mut payload = transaction.open_table(OUTLINE_PAYLOAD)?;
            for entry in payload.extract_from_if(range(), |_, _| true)? {
                tables.remove_payload((collection, entry?.1.value()))?;
            }
        }
        transaction.commit()?;
        Ok(numbers)
    }

    /// Puts an outline in place of the segments that it was made of, durably and at once; says whether
    /// they were all still there. Call it right behind a checkpoint: nothing older may be replayed then.
    pub(crate) fn compact(
        &self,
        collection: u32,
        segments: &[(u64, i64)],
        outline: &NewOutline<'_>,
    ) -> Result<bool, StoreError> {
        let transaction = self.begin(Durability::Immediate)?;
        {
            let mut tables = SegmentTables::open(&transaction)?;
            let mut removed = transaction.open_table(REMOVED)?;
            let entity = outline.outline.entity().as_str();
            for (number, start) in segments {
                if tables.segments.get((collection, *number))?.is_none() {
                    return Ok(false);
                }
                tables.remove((collection, *number), (entity, *start))?;
                removed.insert((collection, *number), ())?;
            }
            let (start, end) = outline.outline.span();
            let place = (collection, entity, start.0);
            transaction.open_table(OUTLINES)?.insert(place, outline.block.bytes())?;
            transaction.open_table(OUTLINE_ENDS)?.insert(place, end.0)?;
            let mut by_cid = transaction.open_table(OUTLINE_BY_CID)?;
            by_cid.insert(digest_of(outline.block.cid())?, place)?;
            // Numbers are never given twice, so that of a segment which is gone is free.
            if let Some((number, _)) = segments.first().filter(|_| !outline.payload.is_empty()) {
                tables.insert_payload((collection, *number), outline.payload)?;
                transaction.open_table(OUTLINE_PAYLOAD)?.insert(place, number)?;
            }
        }
        transaction.commit()?;
        Ok(true)
    }

    /// Returns the segments of a collection that were removed and not yet forgotten, by number.
    pub(crate) fn removed(&self, collection: u32) -> Result<Vec<u64>, StoreError> {
        let table = self.0.begin_read()?.open_table(REMOVED)?;
        let numbers = table.range((collection, 0)..=(collection, u64::MAX))?;
        numbers.map(|entry| Ok(entry?.0.value().1)).collect()
    }

    /// Forgets that segments were removed: no part of the index has them any more.
    pub(crate) fn forget_removed(
        &self,
        collection: u32,
        numbers: &[u64],
    ) -> Result<(), StoreError> {
        if numbers.is_empty() {
            return Ok(());
        }
        let transaction = self.begin(Durability::None)?;
        {
            let mut removed = transaction.open_table(REMOVED)?;
            for number in numbers {
                removed.remove((collection, *number))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Makes everything durable: the segments so far, the given states, and the log position.
    pub(crate) fn checkpoint<'a>(
        &self,
        checkpoint: Checkpoint,
        collections: impl Iterator<Item = (u32, &'a CollectionSpec)>,
        entities: impl Iterator<Item = (u32, &'a EntityId, EntityRecord)>,
        removed: impl Iterator<Item = (u32, &'a EntityId)>,
    ) -> Result<(), StoreError> {
        let transaction = self.begin(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(COLLECTIONS)?;
            for (number, spec) in collections {
                table.insert(number, encode(spec).as_slice())?;
            }
            let mut table = transaction.open_table(ENTITIES)?;
            // Before the others: one of the same name may have come since.
            for (collection, entity) in removed {
                table.remove((collection, entity.as_str()))?;
            }
            for (collection, entity, record) in entities {
                table.insert((collection, entity.as_str()), encode(&record).as_slice())?;
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert(CHECKPOINT, encode(&checkpoint).as_slice())?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Returns the collections of the checkpoint by their numbers.
    pub(crate) fn collections(&self) -> Result<Vec<(u32, CollectionSpec)>, StoreError> {
        let table = self.0.begin_read()?.open_table(COLLECTIONS)?;
        let spec =
            |entry: Result<(redb::AccessGuard<'_, u32>, redb::AccessGuard<'_, &[u8]>), _>| {
                let (number, record) = entry?;
                let spec = CollectionSpec::decode(record.value());
                Ok((number.value(), spec.ok_or(StoreError::Damaged { what: "a collection" })?))
            };
        table.range::<u32>(..)?.map(spec).collect()
    }

    /// Passes the entities of the checkpoint on.
    pub(crate) fn entities(
        &self,
        mut on_entity: impl FnMut(u32, EntityId, EntityRecord) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let table = self.0.begin_read()?.open_table(ENTITIES)?;
        for entry in table.range::<(u32, &str)>(..)? {
            let (key, record) = entry?;
            let (collection, entity) = key.value();
            let entity =
                EntityId::new(entity).map_err(|_| StoreError::Damaged { what: "entity" })?;
            let record = decode(record.value(), ENTITY_BYTES_MAX, "an entity")?;
            on_entity(collection, entity, record)?;
        }
        Ok(())
    }

    /// Returns the segments as they are now.
    pub(crate) fn reader(&self) -> Result<Reader, StoreError> {
        let transaction = self.0.begin_read()?;
        Ok(Reader {
            segments: transaction.open_table(SEGMENTS)?,
            by_time: transaction.open_table(BY_TIME)?,
            transaction,
        })
    }

    fn begin(&self, durability: Durability) -> Result<WriteTransaction, StoreError> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(durability)?;
        // Otherwise opening after a crash would have to walk the whole database.
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        Ok(transaction)
    }

    fn create_tables(&self) -> Result<(), StoreError> {
        let transaction = self.begin(Durability::Immediate)?;
        {
            transaction.open_table(COLLECTIONS)?;
            transaction.open_table(ENTITIES)?;
            transaction.open_table(SEGMENTS)?;
            transaction.open_table(COLLECTION_OF)?;
            transaction.open_table(BY_CID)?;
            transaction.open_table(BY_TIME)?;
            transaction.open_table(PAYLOAD)?;
            transaction.open_table(PAYLOAD_BY_CID)?;
            transaction.open_table(PAYLOAD_SHARED)?;
            transaction.open_table(REMOVED)?;
            transaction.open_table(OUTLINES)?;
            transaction.open_table(OUTLINE_ENDS)?;
            transaction.open_table(OUTLINE_BY_CID)?;
            transaction.open_table(OUTLINE_PAYLOAD)?;
            let mut meta = transaction.open_table(META)?;
            let start = Checkpoint { record: 0, next_segment: 1 };
            meta.insert(CHECKPOINT, encode(&start).as_slice())?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// A consistent view of the segments.
pub(crate) struct Reader {
    transaction: ReadTransaction,
    segments: ReadOnlyTable<Place, &'static [u8]>,
    by_time: ReadOnlyTable<(u32, &'static str, i64), (i64, u64)>,
}

impl Reader {
    /// Returns the segments of a collection in the order of their numbers, after `after`.
    pub(crate) fn of_collection(
        &self,
        collection: u32,
        after: u64,
    ) -> Result<impl Iterator<Item = Result<Stored, StoreError>> + '_, StoreError> {
        let range = (collection, after.saturating_add(1))..=(collection, u64::MAX);
        let stored =
            |entry: Result<(redb::AccessGuard<'_, Place>, redb::AccessGuard<'_, &[u8]>), _>| {
                let (place, bytes) = entry?;
                stored(place.value().1, bytes.value())
            };
        Ok(self.segments.range(range)?.map(stored))
    }

    /// Returns the segments of an entity that overlap `from..=to`, in time order.
    pub(crate) fn of_entity(
        &self,
        collection: u32,
        entity: &EntityId,
        from: i64,
        to: i64,
    ) -> Result<impl DoubleEndedIterator<Item = Result<Stored, StoreError>> + '_, StoreError> {
        let name = entity.as_str();
        // Segments of one entity do not overlap: only the last that starts before may reach into it.
        let mut before =
            self.by_time.range((collection, name, i64::MIN)..=(collection, name, from))?;
        let start = match before.next_back().transpose()? {
            Some((key, ends)) if ends.value().0 >= from => key.value().2,
            _ => from,
        };
        let first = (collection, name, start);
        // An empty range must stay one: redb refuses a start behind the end.
        let last = (collection, name, to.max(start));
        let entries = self.by_time.range(first..=last)?;
        let inside = move |start: i64| start <= to;
        Ok(entries.filter_map(move |entry| match entry {
            Err(error) => Some(Err(error.into())),
            Ok((key, ends)) if inside(key.value().2) => Some(self.at((collection, ends.value().1))),
            Ok(_) => None,
        }))
    }

    /// Returns the outlines of an entity that overlap `from..=to`, in time order.
    pub(crate) fn outlines_of(
        &self,
        collection: u32,
        entity: &EntityId,
        from: i64,
        to: i64,
    ) -> Result<Vec<(Cid, Outline)>, StoreError> {
        let ends = self.transaction.open_table(OUTLINE_ENDS)?;
        let table = self.transaction.open_table(OUTLINES)?;
        let name = entity.as_str();
        let mut outlines = Vec::new();
        for entry in ends.range((collection, name, i64::MIN)..=(collection, name, to))? {
            let (place, end) = entry?;
            if end.value() >= from {
                let bytes = table.get(place.value())?;
                let bytes = bytes.ok_or(StoreError::Damaged { what: "an index" })?;
                let cid = cid_of(Codec::DagCbor, bytes.value());
                outlines.push((cid, Outline::decode(bytes.value())?));
            }
        }
        Ok(outlines)
    }

    /// Returns the start of the last outline of an entity that begins up to `to`.
    pub(crate) fn last_outline_start(
        &self,
        collection: u32,
        entity: &EntityId,
        to: i64,
    ) -> Result<Option<i64>, StoreError> {
        let ends = self.transaction.open_table(OUTLINE_ENDS)?;
        let name = entity.as_str();
        let last = ends.range((collection, name, i64::MIN)..=(collection, name, to))?.next_back();
        Ok(last.transpose()?.map(|(place, _)| place.value().2))
    }

    /// Returns whether an outline of a collection, or of one entity of it, overlaps `from..=to`.
    pub(crate) fn has_outlines(
        &self,
        collection: u32,
        entity: Option<&EntityId>,
        from: i64,
        to: i64,
    ) -> Result<bool, StoreError> {
        let table = self.transaction.open_table(OUTLINE_ENDS)?;
        let entries = match entity.map(EntityId::as_str) {
            Some(name) => table.range((collection, name, i64::MIN)..=(collection, name, to))?,
            None => table.range((collection, "", i64::MIN)..(collection + 1, "", i64::MIN))?,
        };
        for entry in entries {
            let (place, value) = entry?;
            if value.value() >= from && place.value().2 <= to {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the outline that `cid` names.
    pub(crate) fn outline(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let Ok(digest) = digest_of(cid) else { return Ok(None) };
        let places = self.transaction.open_table(OUTLINE_BY_CID)?;
        let Some(place) = places.get(digest)? else { return Ok(None) };
        let table = self.transaction.open_table(OUTLINES)?;
        let bytes = table.get(place.value())?.ok_or(StoreError::Damaged { what: "an index" })?;
        let block = Block::new(Codec::DagCbor, bytes.value().to_vec());
        Ok(Some(block).filter(|block| block.cid() == cid))
    }

    /// Returns how many segments an entity has here.
    pub(crate) fn count_of_entity(
        &self,
        collection: u32,
        entity: &EntityId,
    ) -> Result<usize, StoreError> {
        let name = entity.as_str();
        let range = (collection, name, i64::MIN)..=(collection, name, i64::MAX);
        Ok(self.by_time.range(range)?.count())
    }

    /// Returns the segments of all collections in the order of their numbers, after `after`.
    pub(crate) fn after(&self, after: u64, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let table = self.transaction.open_table(COLLECTION_OF)?;
        let entries = table.range(after.saturating_add(1)..)?.take(limit);
        entries
            .map(|entry| {
                let (number, collection) = entry?;
                self.at((collection.value(), number.value()))
            })
            .collect()
    }

    /// Returns the segment that `cid` names.
    pub(crate) fn by_cid(&self, cid: &Cid) -> Result<Option<Stored>, StoreError> {
        let Ok(digest) = digest_of(cid) else { return Ok(None) };
        let place = self.transaction.open_table(BY_CID)?.get(digest)?.map(|place| place.value());
        let stored = place.map(|place| self.at(place)).transpose()?;
        // A CID of another codec may share the digest.
        Ok(stored.filter(|stored| stored.cid == *cid))
    }

    /// Returns the payload block that `cid` names.
    pub(crate) fn payload(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let Ok(digest) = digest_of(cid) else { return Ok(None) };
        let places = self.transaction.open_table(PAYLOAD_BY_CID)?;
        let Some(place) = places.get(digest)?.map(|place| place.value()) else { return Ok(None) };
        let table = self.transaction.open_table(PAYLOAD)?;
        let bytes = table.get(place)?.ok_or(StoreError::Damaged { what: "an index" })?;
        let block = Block::new(Codec::Raw, bytes.value().to_vec());
        Ok(Some(block).filter(|block| block.cid() == cid))
    }

    /// Returns the payload blocks of a stored segment in order.
    pub(crate) fn payload_of(&self, stored: &Stored) -> Result<Vec<Block>, StoreError> {
        let number = stored.number;
        let Some(collection) = self.transaction.open_table(COLLECTION_OF)?.get(number)? else {
            return Err(StoreError::Damaged { what: "an index" });
        };
        self.payload_at((collection.value(), number), stored.segment.payload())
    }

    /// Returns the payload blocks of an entity's outline in order.
    pub(crate) fn payload_of_outline(
        &self,
        collection: u32,
        outline: &Outline,
    ) -> Result<Vec<Block>, StoreError> {
        let place = (collection, outline.entity().as_str(), outline.span().0.0);
        let Some(number) = self.transaction.open_table(OUTLINE_PAYLOAD)?.get(place)? else {
            return Err(StoreError::Damaged { what: "an index" });
        };
        self.payload_at((collection, number.value()), outline.payload())
    }

    fn payload_at(&self, place: Place, links: &[Cid]) -> Result<Vec<Block>, StoreError> {
        let table = self.transaction.open_table(PAYLOAD)?;
        let block = |(cid, index): (&Cid, u32)| match table.get((place.0, place.1, index))? {
            Some(bytes) => Ok(Block::new(Codec::Raw, bytes.value().to_vec())),
            None => Err(StoreError::BlockMissing { cid: Box::new(*cid) }),
        };
        links.iter().zip(0_u32..).map(block).collect()
    }

    /// Returns a segment that may have been removed.
    pub(crate) fn find(&self, place: Place) -> Result<Option<Stored>, StoreError> {
        let bytes = self.segments.get(place)?;
        bytes.map(|bytes| stored(place.1, bytes.value())).transpose()
    }

    fn at(&self, place: Place) -> Result<Stored, StoreError> {
        let bytes = self.segments.get(place)?.ok_or(StoreError::Damaged { what: "an index" })?;
        stored(place.1, bytes.value())
    }
}

/// Removes every segment from `first` on; returns whether there was one.
fn remove_from(transaction: &WriteTransaction, first: u64) -> Result<bool, StoreError> {
    let mut tables = SegmentTables::open(transaction)?;
    let mut removed = false;
    loop {
        let newest = tables.collection_of.last()?;
        let newest = newest.map(|(number, place)| (number.value(), place.value()));
        let Some((number, collection)) = newest.filter(|(number, _)| *number >= first) else {
            return Ok(removed);
        };
        removed = true;
        let bytes = tables.segments.get((collection, number))?;
        let bytes = bytes.ok_or(StoreError::Damaged { what: "an index" })?.value().to_vec();
        let segment = stored(number, &bytes)?.segment;
        tables.remove((collection, number), (segment.entity().as_str(), segment.start().0))?;
    }
}

fn stored(number: u64, bytes: &[u8]) -> Result<Stored, StoreError> {
    let segment = Segment::decode(bytes)?;
    Ok(Stored { number, cid: cid_of(Codec::DagCbor, bytes), segment })
}

fn digest_of(cid: &Cid) -> Result<[u8; 32], StoreError> {
    cid.hash().digest().try_into().map_err(|_| StoreError::Damaged { what: "a CID" })
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    cbor::encode(value).expect("what a checkpoint keeps is finite")
}

fn decode<T: Serialize + serde::de::DeserializeOwned>(
    bytes: &[u8],
    bytes_max: usize,
    what: &'static str,
) -> Result<T, StoreError> {
    cbor::decode(bytes, bytes_max).map_err(|_| StoreError::Damaged { what })
}

/// A file of ours as redb sees it.
#[derive(Debug)]
struct Backend(Box<dyn StorageFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.byte_count()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_byte_count(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
}
