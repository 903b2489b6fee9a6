//! Payload blocks of version 1, which older stores hold: planes of XORed words in a `zstd` frame.
//!
//! Nothing writes them any more.

use super::{Header, PayloadError, metadata_of};
use crate::{observation::Metadata, rows::Rows};

/// Reads what follows the header of a block.
pub(super) fn decode(header: Header, packed: &[u8], rows: &mut Rows) -> Result<(), PayloadError> {
    let Header { dim, count, metadata } = header;
    let content_bytes = header.content_bytes();
    let content =
        zstd::bulk::decompress(packed, content_bytes).map_err(PayloadError::Compression)?;
    if content.len() != content_bytes {
        return Err(PayloadError::Misfit { what: "size" });
    }
    let (columns, tail) = content.split_at(content_bytes - metadata);
    debug_assert_eq!(columns.len(), count * (8 + 4 * dim), "the header gave this size");
    push_block(columns, &metadata_of(tail)?, rows, count)
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
