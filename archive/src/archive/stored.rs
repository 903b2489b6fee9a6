//! How the bytes of a block stand in the file: in one row, and what is beyond it in pieces.
//!
//! redb gives each value room of a power of two, and copies what shares its page with a value that comes in. A
//! block of 1 MiB in one row takes 2 MiB, and more than twice that is written; in pieces it takes little more
//! than itself.

use redb::{ReadableTable, StorageError, Table, TableDefinition};

/// Longest row, and longest piece, in bytes: with its key and what redb adds it fills 32 KiB.
pub(crate) const PIECE_BYTES_MAX: usize = 32 * 1024 - 128;

pub(crate) const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");

/// CID and number, from 1 on, to what follows the row of the block.
pub(crate) const PIECES: TableDefinition<'_, (&[u8], u16), &[u8]> = TableDefinition::new("pieces");

pub(crate) type BlocksTable<'a> = Table<'a, &'static [u8], &'static [u8]>;
pub(crate) type PiecesTable<'a> = Table<'a, (&'static [u8], u16), &'static [u8]>;

/// Returns the bytes of a block, as they are on the disk.
pub(crate) fn read(
    blocks: &impl ReadableTable<&'static [u8], &'static [u8]>,
    pieces: &impl ReadableTable<(&'static [u8], u16), &'static [u8]>,
    cid: &[u8],
) -> Result<Option<Vec<u8>>, StorageError> {
    let Some(row) = blocks.get(cid)? else { return Ok(None) };
    let mut bytes = row.value().to_vec();
    if bytes.len() == PIECE_BYTES_MAX
        && let Some(last) = pieces.range((cid, 1)..=(cid, u16::MAX))?.next_back()
    {
        bytes.reserve_exact(usize::from(last?.0.value().1) * PIECE_BYTES_MAX);
    }
    each_piece(bytes.len(), pieces, cid, |piece| bytes.extend_from_slice(piece))?;
    Ok(Some(bytes))
}

/// Returns how many bytes a block has.
pub(crate) fn length(
    blocks: &impl ReadableTable<&'static [u8], &'static [u8]>,
    pieces: &impl ReadableTable<(&'static [u8], u16), &'static [u8]>,
    cid: &[u8],
) -> Result<Option<u64>, StorageError> {
    let Some(row) = blocks.get(cid)? else { return Ok(None) };
    let row = row.value().len();
    let mut bytes = row as u64;
    each_piece(row, pieces, cid, |piece| bytes += piece.len() as u64)?;
    Ok(Some(bytes))
}

/// Writes the bytes of a block, over what is there of it.
pub(crate) fn write(
    blocks: &mut BlocksTable<'_>,
    pieces: &mut PiecesTable<'_>,
    cid: &[u8],
    bytes: &[u8],
) -> Result<(), StorageError> {
    let (row, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES_MAX));
    remove_pieces(pieces, cid)?;
    blocks.insert(cid, row)?;
    for (number, piece) in (1..).zip(rest.chunks(PIECE_BYTES_MAX)) {
        pieces.insert((cid, number), piece)?;
    }
    Ok(())
}

/// Removes a block; returns how many bytes it had.
pub(crate) fn remove(
    blocks: &mut BlocksTable<'_>,
    pieces: &mut PiecesTable<'_>,
    cid: &[u8],
) -> Result<Option<u64>, StorageError> {
    let Some(row) = blocks.remove(cid)?.map(|row| row.value().len()) else { return Ok(None) };
    let rest = if row == PIECE_BYTES_MAX { remove_pieces(pieces, cid)? } else { 0 };
    Ok(Some(row as u64 + rest))
}

/// Goes through what follows a row of so many bytes. A shorter row is all there is, and so is a longer one: it
/// is of a file of the first format.
fn each_piece(
    row: usize,
    pieces: &impl ReadableTable<(&'static [u8], u16), &'static [u8]>,
    cid: &[u8],
    mut take: impl FnMut(&[u8]),
) -> Result<(), StorageError> {
    if row == PIECE_BYTES_MAX {
        for entry in pieces.range((cid, 1)..=(cid, u16::MAX))? {
            take(entry?.1.value());
        }
    }
    Ok(())
}

fn remove_pieces(pieces: &mut PiecesTable<'_>, cid: &[u8]) -> Result<u64, StorageError> {
    let mut bytes = 0;
    for entry in pieces.extract_from_if((cid, 1)..=(cid, u16::MAX), |_, _| true)? {
        bytes += entry?.1.value().len() as u64;
    }
    Ok(bytes)
}
