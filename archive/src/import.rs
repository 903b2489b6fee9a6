//! Taking a CAR file into the archive: any blocks of any IPFS node, under one pin.
//!
//! The file is a stream, stored in batches; one that turns out to be damaged leaves what came before the
//! damage, every block of it verified, and importing it again goes on from there at the price of reading.
//! Bundles, which are whole or not at all, are `crate::bundle`.

use std::io::Read;

use dunlin_wire::Cid;

use crate::{
    Archive, Object, Pin, PutError,
    car::{CarError, Reader},
    names::stored_block,
};

/// Blocks in one durable commit.
const BATCH_BLOCKS_MAX: usize = 1024;

/// Bytes in one durable commit. They are in memory until then.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Who may have what is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// The operator's own peers and tools.
    Private,
    /// Everybody who can reach a public gateway.
    Public,
}

/// What an import brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The roots that the file names.
    pub roots: Vec<Cid>,
    /// Blocks that were read and are in the archive now.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
    /// Blocks whose CID carries their content: they need no place.
    pub inline: u64,
}

/// Imports a CAR file.
///
/// # Errors
///
/// Fails when the file is damaged, has blocks that cannot be verified, or the archive does not take them.
/// What was read before stays.
pub fn import(
    archive: &Archive,
    input: impl Read,
    visibility: Visibility,
) -> Result<Imported, ImportError> {
    let mut reader = Reader::open(input)?;
    let name = reader.roots().first().map_or("rootless".to_owned(), ToString::to_string);
    let pin = match visibility {
        Visibility::Private => Pin::imported(&name),
        Visibility::Public => Pin::public(&name),
    };
    let mut imported = Imported { roots: reader.roots().to_vec(), ..Imported::default() };
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    while let Some(section) = reader.next_section()? {
        let cid = section.cid;
        let block = stored_block(&cid, section.bytes);
        let block = block.map_err(|cause| CarError::Block { cid, cause })?;
        let Some(block) = block else {
            imported.inline += 1;
            continue;
        };
        imported.blocks += 1;
        imported.bytes += block.bytes().len() as u64;
        batch_bytes += block.bytes().len();
        batch.push(Object::leaf(pin.clone(), block));
        if batch.len() == BATCH_BLOCKS_MAX || batch_bytes >= BATCH_BYTES_MAX {
            archive.put(&batch, None)?;
            batch.clear();
            batch_bytes = 0;
        }
    }
    archive.put(&batch, None)?;
    Ok(imported)
}

/// Why an import ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file.
    #[error(transparent)]
    Car(#[from] CarError),
    /// The archive.
    #[error(transparent)]
    Put(#[from] PutError),
}
