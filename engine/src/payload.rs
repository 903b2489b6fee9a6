//! Payload blocks: the observations of a segment or an outline, bit for bit or within a stated error.
//! `docs/formats/segment.md` is the format.
//!
//! Times and values are one arithmetic-coded stream (`codec`), metadata is a `zstd` frame. All bytes belong
//! to the CID: another `zstd` release may write others, so golden vectors guard an update of it.

mod planes;

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
    limits::PAYLOAD_BLOCK_BYTES_MAX,
};

use crate::{
    codec::{self, Tolerance},
    compact::Outline,
    observation::{Metadata, Timestamp},
    rows::Rows,
    segment::{PAYLOAD_LINKS_MAX, Segment},
};

/// The version of the layout that is written.
const VERSION: u8 = 2;

/// The version before it, which is still read.
const VERSION_PLANES: u8 = 1;

/// Bytes that every version begins with: version, dimension, rows, metadata bytes.
const HEADER_BYTES: usize = 1 + 2 + 4 + 4;

/// Content of one block as it is in memory. It bounds what a hostile block makes its reader do, and it is
/// long enough for the coder to have learned everything that it will: a month of minutes of 38 channels.
const CONTENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Content at which a regime is sealed whatever its policy says; it keeps the number of blocks of a
/// segment below [`PAYLOAD_LINKS_MAX`].
pub(crate) const REGIME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Content that fits into a block however badly it compresses.
const CONTENT_BYTES_SAFE: usize = PAYLOAD_BLOCK_BYTES_MAX - 128 * 1024;

// A block that is too large is halved, so blocks have at least about half of what is safe.
const _: () = assert!(REGIME_BYTES_MAX / (CONTENT_BYTES_SAFE / 2) * 3 / 2 < PAYLOAD_LINKS_MAX);

/// The compression level of metadata: higher ones gain little on a few repeated words.
const ZSTD_LEVEL: i32 = 3;

/// Rows, counted from the block's first, and what they carry.
type Carried = Vec<(u32, Metadata)>;

/// Returns `rows` as blocks, in order, each value as near to what it was as the tolerance says.
pub(crate) fn pack(rows: &Rows, tolerance: Tolerance<'_>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut from = 0;
    while from < rows.count() {
        let mut to = block_end(rows, from);
        let bytes = loop {
            let bytes = encode_block(rows, from, to, tolerance);
            if bytes.len() <= PAYLOAD_BLOCK_BYTES_MAX {
                break bytes;
            }
            assert!(to - from > 1, "one row fits a block");
            to = from + (to - from).div_ceil(2);
        };
        blocks.push(Block::new(Codec::Raw, bytes));
        from = to;
    }
    blocks
}

/// Returns the observations of a segment from its payload blocks, in the segment's order: bit for
/// bit when it is lossless, within the stated error when it is bounded.
///
/// # Errors
///
/// Fails when a block is not what the segment links to, or does not fit the segment.
pub fn decode(segment: &Segment, blocks: &[Block]) -> Result<Rows, PayloadError> {
    let rows = decode_linked(segment.dim(), segment.payload(), blocks)?;
    check_fits(&rows, segment.count() as usize, (segment.start(), segment.end()))?;
    Ok(rows)
}

/// Returns the observations that an outline kept, as [`decode`] does those of a segment.
pub(crate) fn decode_outlined(outline: &Outline, blocks: &[Block]) -> Result<Rows, PayloadError> {
    let rows = decode_linked(outline.dim(), outline.payload(), blocks)?;
    let count = outline.pieces().iter().map(|piece| piece.count as usize).sum();
    check_fits(&rows, count, outline.span())?;
    Ok(rows)
}

/// Returns what is in blocks of these names.
fn decode_linked(dim: usize, links: &[Cid], blocks: &[Block]) -> Result<Rows, PayloadError> {
    if blocks.len() != links.len() {
        return Err(PayloadError::Blocks { expected: links.len(), found: blocks.len() });
    }
    let mut rows = Rows::new(dim);
    for (block, cid) in blocks.iter().zip(links) {
        if block.cid() != cid {
            let (expected, found) = (Box::new(*cid), Box::new(*block.cid()));
            return Err(PayloadError::OtherBlock { expected, found });
        }
        decode_block(block.bytes(), &mut rows)?;
    }
    Ok(rows)
}

/// Why blocks are not the payload of a segment. Nothing in them may be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// There are more or fewer blocks than links.
    #[error("{found} payload blocks for {expected} links")]
    Blocks {
        /// How many links the segment has.
        expected: usize,
        /// How many blocks were given.
        found: usize,
    },
    /// A block is not the one at its place.
    #[error("expected payload block {expected}, found {found}")]
    OtherBlock {
        /// What the segment links to.
        expected: Box<Cid>,
        /// What was given.
        found: Box<Cid>,
    },
    /// A version that this build does not know.
    #[error("payload version {version}, but {VERSION} is the newest one known")]
    Version {
        /// The version it claims.
        version: u8,
    },
    /// The compressed part cannot be read.
    #[error("the payload cannot be decompressed")]
    Compression(#[source] std::io::Error),
    /// A part of the block contradicts another, or what links to it.
    #[error("the payload's {what} does not fit")]
    Misfit {
        /// Which part.
        what: &'static str,
    },
}

/// Returns the end of the block that begins at row `from`.
fn block_end(rows: &Rows, from: usize) -> usize {
    let row_bytes = 8 + 4 * rows.dim();
    let mut bytes = 0;
    for index in from..rows.count() {
        bytes += row_bytes + rows.metadata(index).map_or(0, metadata_bound);
        if bytes > CONTENT_BYTES_MAX && index > from {
            return index;
        }
    }
    rows.count()
}

/// Returns an upper bound of the encoded size of one row's metadata.
fn metadata_bound(metadata: &Metadata) -> usize {
    metadata.byte_count() + 16 + 6 * metadata.pairs().len()
}

fn encode_block(rows: &Rows, from: usize, to: usize, tolerance: Tolerance<'_>) -> Vec<u8> {
    let metadata = rows.metadata_between(from, to);
    let metadata = match metadata.as_slice() {
        [] => Vec::new(),
        some => cbor::encode(&some).expect("metadata holds strings only"),
    };
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&(rows.dim() as u16).to_le_bytes());
    bytes.extend_from_slice(&((to - from) as u32).to_le_bytes());
    bytes.extend_from_slice(&(metadata.len() as u32).to_le_bytes());
    if !metadata.is_empty() {
        let frame = zstd::bulk::compress(&metadata, ZSTD_LEVEL);
        let frame = frame.expect("the output buffer has the size that zstd asks for");
        bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&frame);
    }
    let values = &rows.values()[from * rows.dim()..to * rows.dim()];
    codec::encode(bytes, &rows.times()[from..to], values, tolerance)
}

/// The shape of a block's content.
#[derive(Clone, Copy)]
struct Header {
    dim: usize,
    count: usize,
    /// Bytes of metadata.
    metadata: usize,
}

impl Header {
    const fn content_bytes(self) -> usize {
        self.count * (8 + 4 * self.dim) + self.metadata
    }
}

fn decode_block(bytes: &[u8], rows: &mut Rows) -> Result<(), PayloadError> {
    let misfit = |what| PayloadError::Misfit { what };
    let (header, packed) = bytes.split_at_checked(HEADER_BYTES).ok_or(misfit("header"))?;
    let version = header[0];
    let limit = match version {
        VERSION => CONTENT_BYTES_MAX + PAYLOAD_BLOCK_BYTES_MAX,
        VERSION_PLANES => PAYLOAD_BLOCK_BYTES_MAX,
        _ => return Err(PayloadError::Version { version }),
    };
    let dim = usize::from(u16::from_le_bytes([header[1], header[2]]));
    let count = u32::from_le_bytes([header[3], header[4], header[5], header[6]]) as usize;
    let metadata = u32::from_le_bytes([header[7], header[8], header[9], header[10]]) as usize;
    let header = Header { dim, count, metadata };
    if count > limit || metadata > limit || header.content_bytes() > limit {
        return Err(misfit("size"));
    }
    if dim != rows.dim() || count == 0 {
        return Err(misfit("shape"));
    }
    if version == VERSION_PLANES {
        return planes::decode(header, packed, rows);
    }
    let (metadata, coded) = split_metadata(header, packed)?;
    let (times, values) = codec::decode(coded, dim, count).map_err(misfit)?;
    let mut carried = metadata.into_iter().peekable();
    for (row, (time, values)) in times.iter().zip(values.chunks_exact(dim)).enumerate() {
        let here = carried.next_if(|(index, _)| *index as usize == row);
        rows.push(*time, values, here.map(|(_, metadata)| metadata));
    }
    if carried.next().is_some() { Err(misfit("metadata")) } else { Ok(()) }
}

/// Returns the metadata behind the header, and what follows it.
fn split_metadata(header: Header, packed: &[u8]) -> Result<(Carried, &[u8]), PayloadError> {
    let misfit = || PayloadError::Misfit { what: "metadata" };
    if header.metadata == 0 {
        return Ok((Vec::new(), packed));
    }
    let (frame_bytes, rest) = packed.split_first_chunk::<4>().ok_or_else(misfit)?;
    let frame_bytes = u32::from_le_bytes(*frame_bytes) as usize;
    let (frame, rest) = rest.split_at_checked(frame_bytes).ok_or_else(misfit)?;
    let content =
        zstd::bulk::decompress(frame, header.metadata).map_err(PayloadError::Compression)?;
    if content.len() != header.metadata {
        return Err(misfit());
    }
    Ok((metadata_of(&content)?, rest))
}

fn metadata_of(bytes: &[u8]) -> Result<Carried, PayloadError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    cbor::decode(bytes, bytes.len()).map_err(|_| PayloadError::Misfit { what: "metadata" })
}

/// Checks what a segment or an outline says about its observations.
fn check_fits(
    rows: &Rows,
    count: usize,
    (start, end): (Timestamp, Timestamp),
) -> Result<(), PayloadError> {
    let misfit = |what| Err(PayloadError::Misfit { what });
    let times = rows.times();
    if rows.count() != count {
        return misfit("count");
    }
    let ends = (times.first().copied(), times.last().copied());
    if ends != (Some(start.0), Some(end.0)) || !times.is_sorted_by(|a, b| a < b) {
        return misfit("times");
    }
    if rows.values().iter().all(|value| value.is_finite()) { Ok(()) } else { misfit("values") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn decoded(rows: &Rows) -> Rows {
        let mut back = Rows::new(rows.dim());
        for block in pack(rows, Tolerance::Exact) {
            decode_block(block.bytes(), &mut back).unwrap();
        }
        back
    }

    fn note(text: &str) -> Metadata {
        Metadata::new(BTreeMap::from([("note".to_owned(), text.to_owned())])).unwrap()
    }

    #[test]
    fn every_bit_pattern_survives() {
        let mut rows = Rows::new(3);
        let odd = [-0.0, f32::MIN_POSITIVE / 3.0, f32::MAX, f32::MIN, 1e-45, 0.1];
        for (index, value) in odd.into_iter().enumerate() {
            let metadata = (index % 2 == 1).then(|| note(&index.to_string()));
            rows.push(i64::MIN / 2 + index as i64, &[value, -value, 0.5], metadata);
        }
        let back = decoded(&rows);
        let bits = |rows: &Rows| rows.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&rows));
        assert_eq!(back, rows);
    }

    #[test]
    fn noise_that_cannot_be_compressed_still_fits_its_blocks() {
        let mut rows = Rows::new(4096);
        let mut state = 1_u32;
        for time in 0..80 {
            let noise = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(state & 0xbfff_ffff)
            };
            let values: Vec<f32> = (0..4096).map(noise).collect();
            rows.push(time, &values, Some(note(&"n".repeat(900))));
        }
        let blocks = pack(&rows, Tolerance::Exact);
        assert!(blocks.len() > 1, "a block that is too large is split");
        assert!(blocks.iter().all(|block| block.bytes().len() <= PAYLOAD_BLOCK_BYTES_MAX));
        let mut back = Rows::new(4096);
        blocks.iter().for_each(|block| decode_block(block.bytes(), &mut back).unwrap());
        assert_eq!(back, rows);
    }

    #[test]
    fn blocks_of_the_first_version_are_read() {
        let frame = "28b52ffd2050250100d800000f0f0f00424242004040403e00000080003c01000080804000031000958f578205";
        let mut bytes = vec![1, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        let byte = |at: usize| u8::from_str_radix(&frame[at..at + 2], 16).unwrap();
        bytes.extend((0..frame.len()).step_by(2).map(byte));
        let mut rows = Rows::new(3);
        decode_block(&bytes, &mut rows).unwrap();
        assert_eq!((rows.count(), rows.row(3)), (4, &[0.25, 3.0 / 64.0, 0.0][..]));
        assert_eq!(rows.times(), [0, 1_000_000, 2_000_000, 3_000_000]);
    }

    proptest! {
        #[test]
        fn damaged_blocks_never_panic(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut rows = Rows::new(2);
            for time in 0..50 {
                rows.push(time, &[time as f32, 1.0], (time == 7).then(|| note("x")));
            }
            let mut bytes = pack(&rows, Tolerance::Exact)[0].bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let _decoded_or_refused = decode_block(&bytes, &mut Rows::new(2));
        }

        #[test]
        fn arbitrary_blocks_never_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(decode_block(&bytes, &mut Rows::new(1)).is_err());
        }
    }
}
