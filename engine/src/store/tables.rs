//! The tables that a segment stands in, all of which change together.

use dunlin_wire::block::{Block, Codec, cid_of};
use redb::{ReadableTable, Table, WriteTransaction};

use super::{
    BY_CID, BY_TIME, BlockPlace, COLLECTION_OF, NewSegment, PAYLOAD, PAYLOAD_BY_CID,
    PAYLOAD_SHARED, Place, SEGMENTS, digest_of,
};
use crate::error::StoreError;

/// The tables that segments stand in, while they change.
pub(super) struct SegmentTables<'t> {
    pub(super) segments: Table<'t, Place, &'static [u8]>,
    pub(super) collection_of: Table<'t, u64, u32>,
    by_cid: Table<'t, [u8; 32], Place>,
    pub(super) by_time: Table<'t, (u32, &'static str, i64), (i64, u64)>,
    payload: Table<'t, BlockPlace, &'static [u8]>,
    payload_by_cid: Table<'t, [u8; 32], BlockPlace>,
    payload_shared: Table<'t, ([u8; 32], BlockPlace), ()>,
}

impl<'t> SegmentTables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            segments: transaction.open_table(SEGMENTS)?,
            collection_of: transaction.open_table(COLLECTION_OF)?,
            by_cid: transaction.open_table(BY_CID)?,
            by_time: transaction.open_table(BY_TIME)?,
            payload: transaction.open_table(PAYLOAD)?,
            payload_by_cid: transaction.open_table(PAYLOAD_BY_CID)?,
            payload_shared: transaction.open_table(PAYLOAD_SHARED)?,
        })
    }

    pub(super) fn insert(&mut self, new: &NewSegment) -> Result<(), StoreError> {
        let NewSegment { place, segment, block, payload } = new;
        self.segments.insert(*place, block.bytes())?;
        self.collection_of.insert(place.1, place.0)?;
        self.by_cid.insert(digest_of(block.cid())?, *place)?;
        let key = (place.0, segment.entity().as_str(), segment.start().0);
        self.by_time.insert(key, (segment.end().0, place.1))?;
        self.insert_payload(*place, payload)
    }

    /// Puts payload blocks where those of the segment of this place stand.
    pub(super) fn insert_payload(
        &mut self,
        place: Place,
        payload: &[Block],
    ) -> Result<(), StoreError> {
        for (block, index) in payload.iter().zip(0_u32..) {
            let block_place = (place.0, place.1, index);
            self.payload.insert(block_place, block.bytes())?;
            let digest = digest_of(block.cid())?;
            // Equal observations of two entities make equal blocks: the first stays named.
            if self.payload_by_cid.get(digest)?.is_none() {
                self.payload_by_cid.insert(digest, block_place)?;
            } else {
                self.payload_shared.insert((digest, block_place), ())?;
            }
        }
        Ok(())
    }

    /// Removes a segment of an entity that begins at `start`. Nothing is decoded: one that is damaged can
    /// be removed too.
    pub(super) fn remove(
        &mut self,
        place: Place,
        (entity, start): (&str, i64),
    ) -> Result<(), StoreError> {
        let (collection, number) = place;
        self.collection_of.remove(number)?;
        self.by_time.remove((collection, entity, start))?;
        let bytes = self.segments.remove(place)?.map(|bytes| cid_of(Codec::DagCbor, bytes.value()));
        let Some(cid) = bytes else { return Ok(()) };
        let digest = digest_of(&cid)?;
        // Observations that were removed and came again make the same segment once more.
        if self.by_cid.get(digest)?.is_some_and(|named| named.value() == place) {
            self.by_cid.remove(digest)?;
        }
        self.remove_payload(place)
    }

    /// Removes the payload blocks that stand at a segment's place.
    pub(super) fn remove_payload(&mut self, place: Place) -> Result<(), StoreError> {
        let (collection, number) = place;
        let mut blocks = Vec::new();
        let all = (collection, number, 0)..=(collection, number, u32::MAX);
        for entry in self.payload.range(all)? {
            let (block_place, bytes) = entry?;
            blocks.push((block_place.value(), cid_of(Codec::Raw, bytes.value())));
        }
        for (block_place, cid) in blocks {
            self.payload.remove(block_place)?;
            self.unname(digest_of(&cid)?, block_place)?;
        }
        Ok(())
    }

    /// Takes away the name of a payload block that is gone; an equal one gets it.
    fn unname(&mut self, digest: [u8; 32], place: BlockPlace) -> Result<(), StoreError> {
        self.payload_shared.remove((digest, place))?;
        if self.payload_by_cid.get(digest)?.is_none_or(|named| named.value() != place) {
            return Ok(());
        }
        let all = (digest, (0, 0, 0))..=(digest, (u32::MAX, u64::MAX, u32::MAX));
        let next = self.payload_shared.range(all)?.next().transpose()?;
        match next.map(|(key, _)| key.value().1) {
            Some(next) => {
                self.payload_shared.remove((digest, next))?;
                self.payload_by_cid.insert(digest, next)?;
            }
            None => {
                self.payload_by_cid.remove(digest)?;
            }
        }
        Ok(())
    }
}
