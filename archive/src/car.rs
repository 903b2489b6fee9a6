//! CARv1 files: a header with roots, then blocks, each behind its length and its CID.
//!
//! Follows the CARv1 specification of IPLD. [`Reader`] streams: one block is in memory at a time, no
//! length is believed before its bytes are there, and a block whose bytes do not hash to its CID ends the
//! reading. What [`header`] and [`section`] write is what Kubo's `dag import` reads.

use std::io::{self, Read};

use dunlin_wire::{Cid, cbor, limits::BLOCK_BYTES_MAX};
use serde::{Deserialize, Serialize};

use crate::dag::{self, CheckError};

/// Largest header, in bytes: some 1,500 roots. Files of ours have one.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Largest CID in a section, in bytes: the digest of an identity CID is data, and 64 bytes are its limit.
const CID_BYTES_MAX: usize = 100;

/// Longest varint of a length, in bytes: 35 bits are far beyond every limit here.
const VARINT_BYTES_MAX: usize = 5;

/// What stands before the first block.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    roots: Vec<Cid>,
    version: u64,
}

/// The one field that headers of all versions have.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionOnly {
    version: u64,
}

/// Returns the first bytes of a file with these roots.
///
/// # Panics
///
/// Panics when there are more roots than a header can hold.
#[must_use]
pub fn header(roots: &[Cid]) -> Vec<u8> {
    let header = Header { roots: roots.to_vec(), version: 1 };
    let body = cbor::encode(&header).expect("a list of CIDs has an encoding");
    assert!(body.len() <= HEADER_BYTES_MAX, "a header of {} bytes", body.len());
    let mut bytes = varint(body.len() as u64);
    bytes.extend(body);
    bytes
}

/// Appends a block to `out`.
pub fn section(out: &mut Vec<u8>, cid: &Cid, bytes: &[u8]) {
    let cid = cid.to_bytes();
    out.extend(varint((cid.len() + bytes.len()) as u64));
    out.extend(cid);
    out.extend_from_slice(bytes);
}

/// Returns how many bytes [`section`] appends.
#[must_use]
pub fn section_bytes(cid: &Cid, block_bytes: usize) -> usize {
    let content = cid.to_bytes().len() + block_bytes;
    varint(content as u64).len() + content
}

/// Reads a file block by block.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    roots: Vec<Cid>,
    offset: u64,
}

/// A block of a file; its bytes are what its CID names.
#[derive(Clone, PartialEq, Eq)]
pub struct Section {
    /// The name.
    pub cid: Cid,
    /// The content.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cid, bytes) = (self.cid.to_string(), self.bytes.len());
        f.debug_struct("Section").field("cid", &cid).field("bytes", &bytes).finish()
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// Fails when `input` does not begin like a CARv1 file.
    pub fn open(input: R) -> Result<Self, CarError> {
        let mut reader = Self { input, roots: Vec::new(), offset: 0 };
        let length = reader.length()?.ok_or(CarError::Truncated { offset: 0 })?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > HEADER_BYTES_MAX {
            return Err(CarError::Header);
        }
        let body = reader.take(length)?;
        let version = cbor::decode::<VersionOnly>(&body, HEADER_BYTES_MAX);
        if let Ok(VersionOnly { version }) = version {
            return Err(CarError::Version { version });
        }
        let header: Header = cbor::decode(&body, HEADER_BYTES_MAX).map_err(|_| CarError::Header)?;
        if header.version != 1 {
            return Err(CarError::Version { version: header.version });
        }
        reader.roots = header.roots;
        Ok(reader)
    }

    /// Returns the roots that the header names; the blocks need not be in the file.
    #[must_use]
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// Returns how many bytes were read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the next block, verified, or nothing at the end of the file.
    ///
    /// # Errors
    ///
    /// Fails when the file is cut off or damaged; nothing behind that can be read.
    pub fn next_section(&mut self) -> Result<Option<Section>, CarError> {
        let section = self.next_claimed()?;
        if let Some(Section { cid, bytes }) = &section {
            dag::check(cid, bytes).map_err(|cause| CarError::Block { cid: *cid, cause })?;
        }
        Ok(section)
    }

    /// Returns the next block as the file claims it: the caller checks the bytes against the CID, once.
    pub(crate) fn next_claimed(&mut self) -> Result<Option<Section>, CarError> {
        let start = self.offset;
        let Some(length) = self.length()? else { return Ok(None) };
        let too_large = CarError::TooLarge { offset: start };
        let length = usize::try_from(length).map_err(|_| CarError::TooLarge { offset: start })?;
        if length > BLOCK_BYTES_MAX + CID_BYTES_MAX {
            return Err(too_large);
        }
        let mut content = self.take(length)?;
        let mut rest = content.as_slice();
        let cid = Cid::read_bytes(&mut rest).map_err(|_| CarError::Cid { offset: start })?;
        let cid_bytes = content.len() - rest.len();
        let bytes = content.split_off(cid_bytes);
        // Another encoding of the same CID would be another name in every table.
        if cid.to_bytes() != content {
            return Err(CarError::Cid { offset: start });
        }
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(too_large);
        }
        Ok(Some(Section { cid, bytes }))
    }

    /// Returns a varint, or nothing when the input ends before it.
    fn length(&mut self) -> Result<Option<u64>, CarError> {
        let start = self.offset;
        let mut value = 0_u64;
        for index in 0..VARINT_BYTES_MAX {
            let mut byte = [0];
            if self.read(&mut byte)? == 0 {
                let truncated = CarError::Truncated { offset: start };
                return if index == 0 { Ok(None) } else { Err(truncated) };
            }
            value |= u64::from(byte[0] & 0x7f) << (7 * index);
            if byte[0] < 0x80 {
                // A last byte of zero says the same as its absence, and a length of zero says nothing.
                let is_minimal = index == 0 || byte[0] != 0;
                let accepted = is_minimal && value > 0;
                return if accepted {
                    Ok(Some(value))
                } else {
                    Err(CarError::Length { offset: start })
                };
            }
        }
        Err(CarError::Length { offset: start })
    }

    /// Returns the next `length` bytes; memory grows with what arrives, not with what was announced.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, CarError> {
        let start = self.offset;
        let mut bytes = Vec::new();
        self.input.by_ref().take(length as u64).read_to_end(&mut bytes)?;
        self.offset += bytes.len() as u64;
        if bytes.len() < length { Err(CarError::Truncated { offset: start }) } else { Ok(bytes) }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, CarError> {
        loop {
            match self.input.read(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause.into()),
            }
        }
    }
}

/// Why a CAR file cannot be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarError {
    /// The file cannot be read; trying again may help.
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
    /// The header is none of a CAR file.
    #[error("this is no CAR file: its header cannot be read")]
    Header,
    /// A version that this build does not read.
    #[error("CAR version {version}, but only version 1 is read")]
    Version {
        /// The version it claims.
        version: u64,
    },
    /// The file ends inside a block.
    #[error("the file is cut off at byte {offset}")]
    Truncated {
        /// Where the part begins that is not whole.
        offset: u64,
    },
    /// A length is zero, too long, or not in its shortest form.
    #[error("no length at byte {offset}")]
    Length {
        /// Where it begins.
        offset: u64,
    },
    /// A block is larger than any may be.
    #[error("a block at byte {offset} is larger than {BLOCK_BYTES_MAX} bytes")]
    TooLarge {
        /// Where it begins.
        offset: u64,
    },
    /// A block has no readable CID.
    #[error("no CID at byte {offset}")]
    Cid {
        /// Where the block begins.
        offset: u64,
    },
    /// A block is not what its CID names.
    #[error("the block {cid} cannot be used")]
    Block {
        /// The CID it claims.
        cid: Cid,
        /// Why.
        #[source]
        cause: CheckError,
    },
}

/// Returns `value` as an unsigned LEB128 number.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(VARINT_BYTES_MAX);
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits are a byte");
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::{Block, Codec};
    use proptest::prelude::*;

    use super::*;

    fn file(blocks: &[Block]) -> Vec<u8> {
        let roots: Vec<_> = blocks.first().map(|block| *block.cid()).into_iter().collect();
        let mut bytes = header(&roots);
        for block in blocks {
            section(&mut bytes, block.cid(), block.bytes());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Section>, CarError> {
        let mut reader = Reader::open(bytes)?;
        std::iter::from_fn(|| reader.next_section().transpose()).collect()
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        // The header of a file with one root, as `ipfs dag export` writes it: a length of 58, then the
        // map of `roots` (a link of 36 bytes behind tag 42) and `version`.
        let block = Block::new(Codec::Raw, b"dunlin".to_vec());
        let bytes = file(std::slice::from_ref(&block));
        assert_eq!(&bytes[..12], b"\x3a\xa2\x65roots\x81\xd8\x2a\x58");
        assert_eq!(&bytes[12..14], b"\x25\x00");
        assert_eq!(&bytes[50..59], b"\x67version\x01");
        assert_eq!(bytes[59], 36 + 6);
        assert_eq!(bytes.len(), 59 + section_bytes(block.cid(), 6));
    }

    #[test]
    fn a_second_version_is_named() {
        let pragma = b"\x0a\xa1\x67version\x02";
        assert!(matches!(Reader::open(&pragma[..]), Err(CarError::Version { version: 2 })));
    }

    #[test]
    fn lengths_are_not_believed() {
        let mut bytes = header(&[]);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(matches!(read(&bytes), Err(CarError::TooLarge { .. })));
        for length in [&[0xff; 9][..], &[0x80, 0x00], &[0]] {
            let bytes = [&header(&[]), length].concat();
            assert!(matches!(read(&bytes), Err(CarError::Length { .. })), "{length:02x?}");
        }
        assert!(matches!(Reader::open(&[0xff, 0xff, 0x7f][..]), Err(CarError::Header)));
        assert!(matches!(Reader::open(&[][..]), Err(CarError::Truncated { offset: 0 })));
    }

    #[test]
    fn other_bytes_than_the_cid_names_are_refused() {
        let (one, other) =
            (Block::new(Codec::Raw, vec![1]), Block::new(Codec::DagCbor, vec![0x80]));
        let mut bytes = header(&[]);
        section(&mut bytes, one.cid(), other.bytes());
        assert!(matches!(read(&bytes), Err(CarError::Block { cause: CheckError::Mismatch, .. })));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(contents in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let blocks: Vec<_> =
                contents.into_iter().map(|bytes| Block::new(Codec::Raw, bytes)).collect();
            let sections = read(&file(&blocks)).unwrap();
            prop_assert_eq!(sections.len(), blocks.len());
            for (section, block) in sections.iter().zip(&blocks) {
                prop_assert_eq!((&section.cid, section.bytes.as_slice()), (block.cid(), block.bytes()));
            }
        }

        #[test]
        fn one_changed_byte_is_found_or_changes_the_header(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let blocks: Vec<_> = (0..3).map(|n| Block::new(Codec::Raw, vec![n; 40])).collect();
            let mut bytes = file(&blocks);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(sections) = read(&bytes) {
                // A codec is part of the name and of no hash.
                let same = sections.iter().zip(&blocks).all(|(section, block)| section.bytes == block.bytes());
                prop_assert!(same && sections.len() == 3);
            }
        }

        #[test]
        fn every_cut_inside_a_block_is_found(at in any::<prop::sample::Index>()) {
            let bytes = file(&[Block::new(Codec::Raw, vec![7; 40])]);
            let head = header(&[*Block::new(Codec::Raw, vec![7; 40]).cid()]).len();
            let at = at.index(bytes.len());
            prop_assert_eq!(read(&bytes[..at]).is_ok(), at == head);
        }
    }
}
