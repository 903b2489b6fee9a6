//! Bitswap over libp2p: carries what `dunlin_archive::bitswap` decides.
//!
//! [`behaviour`] holds the two cores and speaks with the network's task, [`handler`] reads and writes the
//! streams of one connection, [`protocol`] has names, framing and limits.

mod behaviour;
mod handler;
mod protocol;

pub(crate) use behaviour::{Behaviour, Event};
pub(crate) use protocol::is_protocol;
