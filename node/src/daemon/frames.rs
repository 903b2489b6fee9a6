//! Files that grow by frames, each appended in one write: header, then length, body and checksums.
//!
//! `docs/formats/revocations.md` has the bytes. A crash can tear nothing but the last frame, which nobody was
//! told about; damage before that is an error.

const HEADER_BYTES: usize = 16;
/// Length and its checksum.
pub(super) const HEAD_BYTES: usize = 8;
const CRC_BYTES: usize = 4;
/// Frames begin at multiples of this, so that no head lies in two sectors of a disk.
pub(super) const ALIGNMENT: usize = 8;

/// A kind of file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// How it begins.
    pub(super) magic: &'static [u8; 8],
    /// Behind that.
    pub(super) version: u32,
    /// Largest body of a frame.
    pub(super) body_bytes_max: usize,
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    /// Where each frame begins, and its body.
    pub(super) bodies: Vec<(usize, &'a [u8])>,
    /// Where they end; what comes behind was being written at a crash.
    pub(super) end: usize,
}

/// Why a file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It begins otherwise.
    Foreign,
    /// A newer version, or a damaged header.
    Version,
    /// A frame before the last one is not as it was written.
    Damaged {
        /// Where.
        offset: usize,
    },
}

impl Format {
    /// Returns the bytes of a file without frames.
    pub(super) fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(self.magic);
        header[8..12].copy_from_slice(&self.version.to_le_bytes());
        let crc = crc_of(&header[..12]);
        header[12..].copy_from_slice(&crc);
        header
    }

    /// Returns the bytes of a frame, or `None` when the body is larger than one takes.
    pub(super) fn frame(&self, body: &[u8]) -> Option<Vec<u8>> {
        let length =
            u32::try_from(body.len()).ok().filter(|_| body.len() <= self.body_bytes_max)?;
        let length = length.to_le_bytes();
        let mut frame = [&length[..], &crc_of(&length), body, &crc_of(body)].concat();
        frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
        Some(frame)
    }

    /// Reads a whole file.
    pub(super) fn read<'a>(&self, bytes: &'a [u8]) -> Result<Frames<'a>, Fault> {
        if !bytes.starts_with(self.magic) {
            return Err(Fault::Foreign);
        }
        if !bytes.starts_with(&self.header()) {
            return Err(Fault::Version);
        }
        let mut frames = Frames { bodies: Vec::new(), end: HEADER_BYTES };
        while let Some((body, end)) = self.frame_at(bytes, frames.end)? {
            frames.bodies.push((frames.end, body));
            frames.end = end;
        }
        Ok(frames)
    }

    /// Returns a frame's body and its end; `None` where there is nothing, or a frame that was being written.
    fn frame_at<'a>(&self, bytes: &'a [u8], at: usize) -> Result<Option<(&'a [u8], usize)>, Fault> {
        let damaged = Fault::Damaged { offset: at };
        let Some(head) = bytes.get(at..at + HEAD_BYTES) else { return Ok(None) };
        // The file grew, and the sector with the head was not written.
        if head.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (length, crc) = head.split_at(4);
        let length_bytes: [u8; 4] = length.try_into().expect("four of eight bytes");
        let length = u32::from_le_bytes(length_bytes) as usize;
        if crc != crc_of(&length_bytes) || length > self.body_bytes_max {
            return Err(damaged);
        }
        let body_at = at + HEAD_BYTES;
        let end = (body_at + length + CRC_BYTES).next_multiple_of(ALIGNMENT);
        let Some(rest) = bytes.get(body_at..end) else { return Ok(None) };
        let (body, crc) = rest.split_at(length);
        if crc.starts_with(&crc_of(body)) {
            return Ok(Some((body, end)));
        }
        // Nobody was told of the last one.
        if end == bytes.len() { Ok(None) } else { Err(damaged) }
    }
}

fn crc_of(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}
