//! Writing a bundle whose index is made: one block after the other, each in memory for itself.

use std::io::{self, Write};

use dunlin_wire::Cid;

use super::{Index, Part, index::Root};
use crate::car;

/// Writes the bundle with this root; `get` returns the bytes of a block, which are what its CID names.
///
/// # Errors
///
/// Fails when a block is not there or `out` takes no more; what was written until then is no bundle.
pub fn write<E>(
    out: &mut impl Write,
    root: &Cid,
    get: impl FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
) -> Result<(), WriteError<E>> {
    let mut sections = Sections { out, get, buffer: Vec::new() };
    sections.out.write_all(&car::header(&[*root]))?;
    let malformed = |cid: &Cid| WriteError::Malformed { cid: Box::new(*cid) };
    let bytes = sections.section(root)?;
    let Root(_, manifest, content) = Root::decode(&bytes).ok_or_else(|| malformed(root))?;
    sections.section(&manifest)?;
    let bytes = sections.section(&content)?;
    let Index(_, parts) = Index::decode(&bytes).ok_or_else(|| malformed(&content))?;
    for part in &parts {
        let bytes = sections.section(part)?;
        let Part(_, _, _, entries) = Part::decode(&bytes).ok_or_else(|| malformed(part))?;
        for entry in &entries {
            sections.section(entry)?;
        }
    }
    Ok(sections.out.flush()?)
}

struct Sections<'a, W, G> {
    out: &'a mut W,
    get: G,
    buffer: Vec<u8>,
}

impl<W: Write, G> Sections<'_, W, G> {
    /// Writes a block, and returns its bytes.
    fn section<E>(&mut self, cid: &Cid) -> Result<Vec<u8>, WriteError<E>>
    where
        G: FnMut(&Cid) -> Result<Option<Vec<u8>>, E>,
    {
        let bytes = (self.get)(cid).map_err(WriteError::Store)?;
        let bytes = bytes.ok_or_else(|| WriteError::Missing { cid: Box::new(*cid) })?;
        self.buffer.clear();
        car::section(&mut self.buffer, cid, &bytes);
        self.out.write_all(&self.buffer)?;
        Ok(bytes)
    }
}

/// Why a bundle was not written to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// Nobody takes what is written.
    #[error("cannot write the bundle")]
    Io(#[from] io::Error),
    /// A block has left the store since the bundle was made.
    #[error("block {cid} of the bundle is not here any more")]
    Missing {
        /// Its CID.
        cid: Box<Cid>,
    },
    /// A block of the index is none.
    #[error("block {cid} is no part of a bundle's index")]
    Malformed {
        /// Its CID.
        cid: Box<Cid>,
    },
    /// The store behind it failed.
    #[error("cannot read the blocks of the bundle")]
    Store(#[source] E),
}
