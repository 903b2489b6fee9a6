//! The archive: where segments live by CID, and how they are fetched from peers.
//!
//! [`Archive`] is a block store on one redb file, with large blocks in files beside it. Objects are put whole, a root with the blocks it links
//! to, under a [`Pin`] that says why they are kept; a batch is one durable commit, and what is read back
//! is verified against its CID every time. [`Retrieval`] decides which peer to ask for which block; it
//! is pure, and the shell above carries its questions over the network. [`bitswap`] does the same for the
//! protocol of IPFS: its messages, what to ask of whom, and what to answer. [`dag`] reads graphs of blocks,
//! those of other IPFS nodes too, and [`car`] the files in which blocks travel; [`catalog`] names all segments
//! of a collection by one CID, and a [`bundle`] carries segments and templates where no network goes.
//! [`replication`] decides which peers hold copies, and finds out whether they do; [`backend`] is about other places
//! for blocks: a Kubo node, and pinning services. [`sealing`] encrypts segments, so that copies of them may leave.
//!
//! ```
//! use dunlin_archive::{Archive, Config, Object, Pin};
//! use dunlin_wire::block::{Block, Codec};
//!
//! let folder = tempfile::tempdir()?;
//! let archive = Archive::open(&folder.path().join("blocks.redb"), Config::default())?;
//! let block = Block::new(Codec::Raw, b"a regime".to_vec());
//! let cid = *block.cid();
//! archive.put(&[Object::leaf(Pin::own("servers"), block)], None)?;
//! assert_eq!(archive.get(&cid)?.as_deref(), Some(&b"a regime"[..]));
//! assert_eq!(archive.roots(&Pin::own("servers"), None, 10)?, [cid]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod archive;
pub mod backend;
pub mod bitswap;
pub mod bundle;
pub mod car;
pub mod catalog;
pub mod dag;
mod error;
mod files;
mod import;
pub mod ipns;
mod names;
pub mod naming;
mod pin;
mod places;
pub mod providing;
pub mod replication;
mod retrieval;
pub mod roots;
pub mod sealing;

pub use archive::{
    Archive, Arrival, BlockFolder, Config, Depth, Digest, FileName, Held, LARGE_BYTES_MIN,
    LandError, Landing, NamedPin, NamedRecord, OVERLAPPING_MAX, Object, Overlapping, PinError,
    Publication, RetainError, Retained, Retention, SealedCopy, Sent, Snapshot, Stats, Usage,
    disk_bytes,
};
pub use error::{OpenError, PutError, ReadError};
pub use import::{ImportError, Imported, Visibility, import};
pub use names::{stored_block, stored_names};
pub use pin::{Pin, PinName, PinNameError};
pub use places::{Errand, Placing, Selection};
pub use retrieval::{Answer, Ask, Attempt, AttemptOutcome, Outcome, Retrieval};
