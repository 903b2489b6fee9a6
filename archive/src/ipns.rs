//! IPNS: a name that is a key, and signed records that say what it stands for at the moment.
//!
//! Records are those of <https://specs.ipfs.tech/ipns/ipns-record/>: a protobuf message around a DAG-CBOR
//! map, which the name's key has signed. [`Name`] is the key's hash, [`Record`] a record whose signature
//! has been checked. `docs/formats/ipns.md` says what we emit and accept. Nothing here reads a clock or
//! knows a network.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use dunlin_archive::ipns::{Name, Record, Terms};
//! use libp2p_identity::Keypair;
//!
//! let key = Keypair::generate_ed25519();
//! let name = Name::of(&key.public().to_peer_id()).expect("an Ed25519 key");
//! let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
//! let terms = Terms {
//!     value: "/ipfs/bafkqaddwgevxmmraojswg33smq".to_owned(),
//!     sequence: 1,
//!     eol: now + Duration::from_secs(3600),
//!     ttl: Duration::from_secs(60),
//! };
//! let record = Record::sign(&key, &terms)?;
//! assert_eq!(Record::open(&name, record.bytes(), now)?, record);
//! assert!(Record::open(&name, record.bytes(), terms.eol).is_err(), "it has expired");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod name;
mod record;
#[cfg(test)]
mod tests;

pub use self::{
    name::{Name, NameError},
    record::{InvalidRecord, RECORD_BYTES_MAX, Record, SignError, Terms},
};
