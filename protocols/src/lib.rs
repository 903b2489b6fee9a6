//! The one libp2p swarm of a Dunlin node: whom it meets, what it says, and what it lets others do.
//!
//! [`Network::start`] builds the swarm and its one task; a cheap [`Handle`] talks to it, and a bounded
//! queue of [`Event`]s tells the shell what peers want and say. The task owns the node's
//! [`dunlin_trust::Trust`]: every request, in or out, passes its gate, and what peers do becomes evidence
//! where it is seen.
//!
//! - [`messages`]: the bytes, as pure types with strict decoders (`docs/formats/messages.md`).
//! - [`Config`]: the name of the network, addresses, and the limits of `config.rs`.
//!
//! Not here: what the answers are. Segments come from the archive and templates from the shell, which
//! answers [`Event::SegmentsRequested`], [`Event::BlocksWanted`], [`Event::TemplatesRequested`],
//! [`Event::CatalogsRequested`], [`Event::ReplicasRequested`] and [`Event::ConsoleLooks`]. Nor is any file: the shell writes down what
//! [`Event::RevocationsChecked`], [`Event::TrustChanged`], [`Event::ProofsHeld`] and [`Event::PeersKnown`] bring.

#![forbid(unsafe_code)]

mod address_book;
mod address_limits;
mod address_rates;
mod bandwidth;
mod behaviour;
mod bitswap;
mod codec;
mod config;
mod connection_limits;
mod consoles;
mod counters;
mod discovery;
mod event;
mod fetch;
mod guarded;
mod handle;
mod hearing;
mod island;
mod known_peers;
mod members_only;
pub mod messages;
mod multiplexer;
mod name_store;
mod network;
mod peers;
mod pinging;
mod provider_store;
mod quic;
mod rate;
mod reachability;
mod refusals;
mod relay_client;
mod relays;
mod requests;
mod transport;

pub use bandwidth::{Bandwidth, Traffic};
pub use config::{Config, ConfigError, NetworkName, Reach, RelayLimits, Room};
pub use counters::Counters;
pub use dunlin_archive::bitswap::{Found, Query, Search};
pub use event::{
    Audience, BlocksReply, CatalogsReply, ConsoleReply, Event, ReplicasReply, RevocationsKept,
    SegmentsReply, TemplatesReply,
};
pub use fetch::Fetch;
pub use handle::{
    BlocksAnswer, Handle, NetworkError, Reaching, Records, RevocationsView, SegmentsPage,
    StatementsAnswer,
};
pub use hearing::{Heard, Verdict};
pub use island::Island;
pub use known_peers::{
    KNOWN_ADDRESSES_MAX, KNOWN_PEERS_MAX, KnownAddress, KnownPeer, KnownPeersError, Source,
    decode_known_peers, encode_known_peers,
};
pub use libp2p::{Multiaddr, PeerId, StreamProtocol, identity::Keypair, multiaddr::Protocol};
pub use network::{Network, StartError};
pub use peers::{Direction, Link, PeerView, Transport};
pub use reachability::Reachability;
pub use transport::check_name_servers;
