//! What stands in the tables of the store, and counts in them.

use dunlin_wire::{Cid, cbor};
use redb::{ReadableTable, StorageError, Table};

/// Most links of one object: payload blocks of the largest segment, with room.
const LINKS_BYTES_MAX: usize = 1024 * 1024;

/// Keys of our own tables are CIDs that we wrote, unless the disk changed them.
pub(super) fn stored_cid(bytes: &[u8]) -> Result<Cid, StorageError> {
    Cid::try_from(bytes).map_err(|_| StorageError::Corrupted("a key is no CID".to_owned()))
}

/// Values of our own tables are lists of CIDs that we wrote, unless the disk changed them.
pub(super) fn stored_links(bytes: &[u8]) -> Result<Vec<Cid>, StorageError> {
    cbor::decode(bytes, LINKS_BYTES_MAX)
        .map_err(|_| StorageError::Corrupted("links are no list of CIDs".to_owned()))
}

pub(super) fn count_up(
    counts: &mut Table<'_, &'static [u8], u64>,
    key: &[u8],
) -> Result<(), StorageError> {
    let count = counts.get(key)?.map_or(0, |count| count.value());
    counts.insert(key, count + 1)?;
    Ok(())
}

/// Returns whether that was the last one.
pub(super) fn count_down(
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
