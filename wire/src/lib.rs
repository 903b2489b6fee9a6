//! The bytes of Dunlin that must be the same everywhere.
//!
//! This room holds strict canonical DAG-CBOR ([`cbor`]), content identifiers and blocks
//! ([`block`]), signed envelopes ([`envelope`]) and the sizes that every decoder enforces before it
//! allocates ([`limits`]). It knows no message of its own: the rooms above own their types and bring
//! them here to become bytes.
//!
//! It is pure: no clock, no socket, no file, no task, no random generator.
//!
//! ```
//! use dunlin_wire::{block::{Block, Codec}, cbor};
//!
//! let bytes = cbor::encode(&("regime", 3u8))?;
//! let block = Block::new(Codec::DagCbor, bytes);
//! let (name, count): (String, u8) = cbor::decode(block.bytes(), 64)?;
//! assert_eq!((name.as_str(), count), ("regime", 3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod block;
pub mod cbor;
pub mod envelope;
pub mod limits;

pub use cid::Cid;
