//! Bundles: segments and templates in one signed file, for where no network goes.
//!
//! A bundle is a CARv1 file whose one root links to a signed [`Manifest`] and to an index of everything in
//! it, part by part. So whoever has the signature has all of it: the manifest names the index, the index
//! names every block, and a block is what its CID names. The index comes before the blocks, hence a reader
//! knows at every byte which block is next, and finds what was cut, altered, added or moved at once, with
//! one part of the index in memory.
//!
//! The header of a CAR names its root, and the root's CID depends on all of the above. A writer therefore
//! goes over the blocks twice: [`Builder`] takes their CIDs and makes index and counts; [`write()`] streams.
//! The other way, a manifest at the end, would spare the first pass, but a reader would not know what it
//! reads, and by whom, until it has read it all; and the first pass finds damage before anything is signed.
//!
//! Blocks stand in the order of a walk from the root, depth first, each once: what Kubo's `dag export` makes
//! of an imported bundle is the same bundle. `docs/formats/bundle.md` has the bytes.

mod chain;
mod export;
mod import;
mod index;
mod manifest;
mod read;
mod write;

pub(crate) use self::index::{Index, Part, PartKind};
pub use self::{
    chain::{ChainError, Gaps, Link, follows},
    export::{Export, ExportError, Exported, exported},
    import::{StageError, Staged, stage},
    index::{Builder, Contents, Full, PART_ENTRIES_MAX},
    manifest::{BLOCKS_MAX, COLLECTIONS_MAX, Counts, Form, Manifest, Policy, Span, TEMPLATES_MAX},
    read::{BundleError, Entry, Kind, Reader},
    write::{WriteError, write},
};
