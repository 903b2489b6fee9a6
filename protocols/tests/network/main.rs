//! Real nodes that meet on loopback: one file per family of claims, in one program, because linking
//! libp2p once is what these tests spend most of their time on.

#![expect(clippy::unwrap_used, reason = "these are tests: a failure ends them")]

mod catalogs;
mod common;

mod bitswap;
mod console;
mod discovery;
mod exchange;
mod first_packets;
mod flood;
mod gossip;
mod hostile;
mod idle;
mod island;
mod known;
mod limits;
mod membership;
mod naming;
mod relaying;
mod replicas;
mod transports;
