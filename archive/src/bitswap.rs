//! Bitswap without a network: messages, what to ask whom, and what to answer.
//!
//! The protocol is that of <https://specs.ipfs.tech/bitswap-protocol/>, in the versions 1.0.0, 1.1.0 and
//! 1.2.0; `docs/formats/bitswap.md` has its bytes and our limits. [`Message`] is one message;
//! [`Client`] asks peers for the blocks of sessions; [`Server`] keeps what peers want of us. None of them
//! reads a clock, opens a stream or knows a disk: time and facts come in, actions go out, and
//! `dunlin-protocols` carries them.

mod client;
mod message;
pub(crate) mod protobuf;
mod server;

use std::time::Duration;

pub use client::{Action as ClientAction, Client, Conduct, FetchId, Refusal, Search};
pub use message::{
    Ask, BLOCKS_MAX, CID_BYTES_MAX, Claim, ENTRIES_MAX, Kind, Message, MessageError, Named,
    Presence, Version, WANTS_MAX, Want,
};
pub use server::{Action as ServerAction, BATCH_BYTES_MAX, BatchId, Found, Query, Server, Totals};

/// Longest message, in bytes: what every implementation accepts.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A moment: how long it is since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub Duration);

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}
