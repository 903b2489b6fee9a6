//! How the bytes of a block stand on the disk: in one row, what is beyond it in pieces, and those of a large block
//! in a file of their own.
//!
//! redb gives each value room of a power of two, and copies what shares its page with a value that comes in. A
//! block of 1 MiB in one row takes 2 MiB, and more than twice that is written; in pieces it takes little more
//! than itself, and is still copied into pages of redb's and written from there in small parts. So large ones
//! stand in files ([`large`](super::large)), where there is a folder for them.

use dunlin_wire::block::Block;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, StorageError, Table, TableDefinition,
    TableError, WriteTransaction,
};

use super::large::{Batch, InFile, ReadFile};

/// Longest row, and longest piece, in bytes: with its key and what redb adds it fills 32 KiB.
pub(crate) const PIECE_BYTES_MAX: usize = 32 * 1024 - 128;

const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");

/// CID and number, from 1 on, to what follows the row of the block.
const PIECES: TableDefinition<'_, (&[u8], u16), &[u8]> = TableDefinition::new("pieces");

/// CID, to the number of the file with the bytes, and how many they are. The row of such a block is empty.
const LARGE: TableDefinition<'_, &[u8], (u64, u64)> = TableDefinition::new("large");

type Bytes = &'static [u8];

/// The tables of one transaction that say where the bytes of blocks are.
pub(crate) struct BlockTables<B, P, L> {
    blocks: B,
    pieces: P,
    large: L,
}

/// Those of a read transaction.
pub(crate) type Reading = BlockTables<
    ReadOnlyTable<Bytes, Bytes>,
    ReadOnlyTable<(Bytes, u16), Bytes>,
    ReadOnlyTable<Bytes, (u64, u64)>,
>;

/// Those of a write transaction.
pub(crate) type Writing<'a> = BlockTables<
    Table<'a, Bytes, Bytes>,
    Table<'a, (Bytes, u16), Bytes>,
    Table<'a, Bytes, (u64, u64)>,
>;

impl Reading {
    pub(crate) fn open(transaction: &ReadTransaction) -> Result<Self, TableError> {
        Ok(Self {
            blocks: transaction.open_table(BLOCKS)?,
            pieces: transaction.open_table(PIECES)?,
            large: transaction.open_table(LARGE)?,
        })
    }

    /// Returns the numbers of all files that have a block, in order.
    pub(super) fn files(&self) -> Result<Vec<u64>, StorageError> {
        let numbers = self.large.iter()?.map(|row| Ok(row?.1.value().0));
        let mut numbers = numbers.collect::<Result<Vec<_>, StorageError>>()?;
        numbers.sort_unstable();
        Ok(numbers)
    }
}

impl<B, P, L> BlockTables<B, P, L>
where
    B: ReadableTable<Bytes, Bytes>,
    P: ReadableTable<(Bytes, u16), Bytes>,
    L: ReadableTable<Bytes, (u64, u64)>,
{
    pub(crate) fn has(&self, cid: &[u8]) -> Result<bool, StorageError> {
        Ok(self.blocks.get(cid)?.is_some())
    }

    /// Returns the bytes of a block, as they are on the disk.
    pub(crate) fn read(
        &self,
        files: &impl ReadFile,
        cid: &[u8],
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(row) = self.blocks.get(cid)? else { return Ok(None) };
        let mut bytes = row.value().to_vec();
        if bytes.is_empty()
            && let Some(file) = self.file(cid)?
        {
            return Ok(Some(files.read(file)?));
        }
        if bytes.len() == PIECE_BYTES_MAX
            && let Some(last) = self.pieces.range((cid, 1)..=(cid, u16::MAX))?.next_back()
        {
            bytes.reserve_exact(usize::from(last?.0.value().1) * PIECE_BYTES_MAX);
        }
        self.each_piece(bytes.len(), cid, |piece| bytes.extend_from_slice(piece))?;
        Ok(Some(bytes))
    }

    /// Returns how many bytes a block has.
    pub(crate) fn length(&self, cid: &[u8]) -> Result<Option<u64>, StorageError> {
        let Some(row) = self.blocks.get(cid)? else { return Ok(None) };
        let row = row.value().len();
        if row == 0
            && let Some(file) = self.file(cid)?
        {
            return Ok(Some(file.bytes));
        }
        let mut bytes = row as u64;
        self.each_piece(row, cid, |piece| bytes += piece.len() as u64)?;
        Ok(Some(bytes))
    }

    /// Returns which file has a block, if one has.
    pub(crate) fn file(&self, cid: &[u8]) -> Result<Option<InFile>, StorageError> {
        Ok(self.large.get(cid)?.map(|row| InFile::of_row(row.value())))
    }

    /// Goes through what follows a row of so many bytes. A shorter row is all there is, and so is a longer one: it
    /// is of a file of the first format.
    fn each_piece(
        &self,
        row: usize,
        cid: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), StorageError> {
        if row == PIECE_BYTES_MAX {
            for entry in self.pieces.range((cid, 1)..=(cid, u16::MAX))? {
                take(entry?.1.value());
            }
        }
        Ok(())
    }
}

impl<'a> Writing<'a> {
    /// Opens the tables, and makes those that an older file lacks.
    pub(crate) fn open(transaction: &'a WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            blocks: transaction.open_table(BLOCKS)?,
            pieces: transaction.open_table(PIECES)?,
            large: transaction.open_table(LARGE)?,
        })
    }

    /// Writes a block, in place of what is there of it.
    pub(crate) fn write(&mut self, batch: &mut Batch, block: &Block) -> Result<(), StorageError> {
        let (key, bytes) = (block.cid().to_bytes(), block.bytes());
        let cid = key.as_slice();
        self.remove_file(batch, cid)?;
        self.remove_pieces(cid)?;
        if let Some(file) = batch.add(block) {
            self.large.insert(cid, file.to_row())?;
            self.blocks.insert(cid, &[][..])?;
            return Ok(());
        }
        let (row, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES_MAX));
        self.blocks.insert(cid, row)?;
        for (number, piece) in (1..).zip(rest.chunks(PIECE_BYTES_MAX)) {
            self.pieces.insert((cid, number), piece)?;
        }
        Ok(())
    }

    /// Removes a block; returns how many bytes it had.
    pub(crate) fn remove(
        &mut self,
        batch: &mut Batch,
        cid: &[u8],
    ) -> Result<Option<u64>, StorageError> {
        let Some(row) = self.blocks.remove(cid)?.map(|row| row.value().len()) else {
            return Ok(None);
        };
        let rest = match row {
            0 => self.remove_file(batch, cid)?,
            PIECE_BYTES_MAX => self.remove_pieces(cid)?,
            _ => 0,
        };
        Ok(Some(row as u64 + rest))
    }

    fn remove_file(&mut self, batch: &mut Batch, cid: &[u8]) -> Result<u64, StorageError> {
        let Some(file) = self.large.remove(cid)?.map(|row| InFile::of_row(row.value())) else {
            return Ok(0);
        };
        batch.remove(file);
        Ok(file.bytes)
    }

    fn remove_pieces(&mut self, cid: &[u8]) -> Result<u64, StorageError> {
        let mut bytes = 0;
        for entry in self.pieces.extract_from_if((cid, 1)..=(cid, u16::MAX), |_, _| true)? {
            bytes += entry?.1.value().len() as u64;
        }
        Ok(bytes)
    }
}
