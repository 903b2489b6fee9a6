//! Payload blocks of lossless segments: columns of observations, bit for bit.
//! `docs/formats/segment.md` is the format.
//!
//! Neighboring telemetry values share most of their bits, so each column is XORed with its predecessor
//! and split into planes of equal significance before `zstd`. The transform is exact for every bit
//! pattern. The compressed bytes belong to the CID: another `zstd` release may write others, so the
//! golden vectors guard an update of it.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor,
    limits::PAYLOAD_BLOCK_BYTES_MAX,
};

use crate::{
    observation::Metadata,
    rows::Rows,
    segment::{PAYLOAD_LINKS_MAX, Segment},
};

/// The version of the layout.
const VERSION: u8 = 1;

/// Bytes before the compressed part: version, dimension, rows, metadata bytes.
const HEADER_BYTES: usize = 1 + 2 + 4 + 4;

/// Uncompressed content of one block. What cannot be compressed grows by less than the difference to
/// [`PAYLOAD_BLOCK_BYTES_MAX`], so every block fits.
const CONTENT_BYTES_MAX: usize = PAYLOAD_BLOCK_BYTES_MAX - 64 * 1024;

/// Content at which a regime is sealed whatever its policy says; it keeps the number of blocks of a
/// segment below [`PAYLOAD_LINKS_MAX`].
pub(crate) const REGIME_BYTES_MAX: usize = 32 * 1024 * 1024;

const _: () = assert!(REGIME_BYTES_MAX / CONTENT_BYTES_MAX * 2 < PAYLOAD_LINKS_MAX);

/// The compression level: what higher ones gain on such short columns is under one percent.
const ZSTD_LEVEL: i32 = 3;

/// Makes payload blocks. It keeps the compressor's memory, which takes longer to set up than a short
/// regime takes to compress.
pub(crate) struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    pub(crate) fn new() -> Self {
        Self(zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("the level is one of zstd's"))
    }

    /// Returns `rows` as blocks, in order.
    pub(crate) fn pack(&mut self, rows: &Rows) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut from = 0;
        while from < rows.count() {
            let to = block_end(rows, from);
            blocks.push(Block::new(Codec::Raw, encode_block(&mut self.0, rows, from, to)));
            from = to;
        }
        blocks
    }
}

/// Returns the observations of a lossless segment from its payload blocks, in the segment's order.
///
/// # Errors
///
/// Fails when a block is not what the segment links to, or does not fit the segment.
pub fn decode(segment: &Segment, blocks: &[Block]) -> Result<Rows, PayloadError> {
    if blocks.len() != segment.payload().len() {
        return Err(PayloadError::Blocks {
            expected: segment.payload().len(),
            found: blocks.len(),
        });
    }
    let mut rows = Rows::new(segment.dim());
    for (block, cid) in blocks.iter().zip(segment.payload()) {
        if block.cid() != cid {
            let (expected, found) = (Box::new(*cid), Box::new(*block.cid()));
            return Err(PayloadError::OtherBlock { expected, found });
        }
        decode_block(block.bytes(), &mut rows)?;
    }
    check_fits(segment, &rows)?;
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
    #[error("payload version {version}, but only {VERSION} is known")]
    Version {
        /// The version it claims.
        version: u8,
    },
    /// The compressed part cannot be read.
    #[error("the payload cannot be decompressed")]
    Compression(#[source] std::io::Error),
    /// A part of the block contradicts another, or the segment.
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

fn encode_block(
    compressor: &mut zstd::bulk::Compressor<'_>,
    rows: &Rows,
    from: usize,
    to: usize,
) -> Vec<u8> {
    let count = to - from;
    let metadata = rows.metadata_between(from, to);
    let metadata = match metadata.as_slice() {
        [] => Vec::new(),
        some => cbor::encode(&some).expect("metadata holds strings only"),
    };
    let mut content = Vec::with_capacity(count * (8 + 4 * rows.dim()) + metadata.len());
    push_planes(&mut content, deltas(&rows.times()[from..to]));
    for channel in 0..rows.dim() {
        let column = (from..to).map(|row| rows.values()[row * rows.dim() + channel].to_bits());
        push_planes(&mut content, xors(column));
    }
    content.extend_from_slice(&metadata);
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&(rows.dim() as u16).to_le_bytes());
    bytes.extend_from_slice(&(count as u32).to_le_bytes());
    bytes.extend_from_slice(&(metadata.len() as u32).to_le_bytes());
    let packed = compressor.compress(&content);
    bytes.extend_from_slice(&packed.expect("the output buffer has the size that zstd asks for"));
    assert!(bytes.len() <= PAYLOAD_BLOCK_BYTES_MAX, "payload blocks fit their limit");
    bytes
}

fn decode_block(bytes: &[u8], rows: &mut Rows) -> Result<(), PayloadError> {
    let misfit = |what| PayloadError::Misfit { what };
    let (header, packed) = bytes.split_at_checked(HEADER_BYTES).ok_or(misfit("header"))?;
    if header[0] != VERSION {
        return Err(PayloadError::Version { version: header[0] });
    }
    let dim = usize::from(u16::from_le_bytes([header[1], header[2]]));
    let count = u32::from_le_bytes([header[3], header[4], header[5], header[6]]) as usize;
    let metadata = u32::from_le_bytes([header[7], header[8], header[9], header[10]]) as usize;
    let content_bytes = count
        .checked_mul(8 + 4 * dim)
        .and_then(|bytes| bytes.checked_add(metadata))
        .filter(|bytes| *bytes <= PAYLOAD_BLOCK_BYTES_MAX)
        .ok_or(misfit("size"))?;
    if dim != rows.dim() || count == 0 {
        return Err(misfit("shape"));
    }
    let content =
        zstd::bulk::decompress(packed, content_bytes).map_err(PayloadError::Compression)?;
    if content.len() != content_bytes {
        return Err(misfit("size"));
    }
    let (columns, metadata) = content.split_at(count * (8 + 4 * dim));
    push_block(columns, &metadata_of(metadata)?, rows, count)
}

fn metadata_of(bytes: &[u8]) -> Result<Vec<(u32, Metadata)>, PayloadError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    cbor::decode(bytes, bytes.len()).map_err(|_| PayloadError::Misfit { what: "metadata" })
}

fn push_block(
    columns: &[u8],
    metadata: &[(u32, Metadata)],
    rows: &mut Rows,
    count: usize,
) -> Result<(), PayloadError> {
    let dim = rows.dim();
    let (times, columns) = columns.split_at(count * 8);
    let mut time = 0_i64;
    let mut values = vec![0.0_f32; count * dim];
    for (channel, planes) in columns.chunks_exact(count * 4).enumerate() {
        let mut bits = 0_u32;
        for row in 0..count {
            bits ^=
                (0..4).fold(0, |word, plane| word << 8 | u32::from(planes[plane * count + row]));
            values[row * dim + channel] = f32::from_bits(bits);
        }
    }
    let mut carried = metadata.iter().peekable();
    for row in 0..count {
        let delta = (0..8).fold(0, |word, plane| word << 8 | u64::from(times[plane * count + row]));
        time = time.wrapping_add(delta.cast_signed());
        let here = carried.next_if(|(index, _)| *index as usize == row);
        let values = &values[row * dim..(row + 1) * dim];
        rows.push(time, values, here.map(|(_, metadata)| metadata.clone()));
    }
    match carried.next() {
        Some(_) => Err(PayloadError::Misfit { what: "metadata" }),
        None => Ok(()),
    }
}

/// Checks what a segment says about its observations.
fn check_fits(segment: &Segment, rows: &Rows) -> Result<(), PayloadError> {
    let misfit = |what| Err(PayloadError::Misfit { what });
    let times = rows.times();
    if rows.count() != segment.count() as usize {
        return misfit("count");
    }
    let ends = (times.first().copied(), times.last().copied());
    if ends != (Some(segment.start().0), Some(segment.end().0)) || !times.is_sorted_by(|a, b| a < b)
    {
        return misfit("times");
    }
    if rows.values().iter().all(|value| value.is_finite()) { Ok(()) } else { misfit("values") }
}

/// Returns each time minus its predecessor; the first one stands as it is.
fn deltas(times: &[i64]) -> Vec<[u8; 8]> {
    let mut before = 0_i64;
    let delta = |time: &i64| {
        let delta = time.wrapping_sub(before);
        before = *time;
        delta.to_be_bytes()
    };
    times.iter().map(delta).collect()
}

/// Returns each word XOR its predecessor; the first one stands as it is.
fn xors(column: impl Iterator<Item = u32>) -> Vec<[u8; 4]> {
    let mut before = 0;
    let changed = |bits: u32| {
        let changed = bits ^ before;
        before = bits;
        changed.to_be_bytes()
    };
    column.map(changed).collect()
}

/// Appends the most significant bytes of all words, then the next ones, and so on.
fn push_planes<const N: usize>(content: &mut Vec<u8>, words: Vec<[u8; N]>) {
    for plane in 0..N {
        content.extend(words.iter().map(|word| word[plane]));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn decoded(rows: &Rows) -> Rows {
        let mut back = Rows::new(rows.dim());
        for block in Packer::new().pack(rows) {
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
        for time in 0..200 {
            let noise = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(state & 0xbfff_ffff)
            };
            let values: Vec<f32> = (0..4096).map(noise).collect();
            rows.push(time, &values, Some(note(&"n".repeat(900))));
        }
        assert!(Packer::new().pack(&rows).len() > 2);
        assert!(
            Packer::new()
                .pack(&rows)
                .iter()
                .all(|block| block.bytes().len() <= PAYLOAD_BLOCK_BYTES_MAX)
        );
        assert_eq!(decoded(&rows), rows);
    }

    proptest! {
        #[test]
        fn damaged_blocks_never_panic(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut rows = Rows::new(2);
            for time in 0..50 {
                rows.push(time, &[time as f32, 1.0], (time == 7).then(|| note("x")));
            }
            let mut bytes = Packer::new().pack(&rows)[0].bytes().to_vec();
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
