//! Many Dunlin peers on one machine, as the separate processes that they are everywhere else.
//!
//! - [`demo`]: a network of six peers replays real telemetry, archives it, trades templates, survives a
//!   SIGKILL and a liar, and writes a report. Everything is done and asked through the peers' own
//!   commands and HTTP API.
//! - [`up`], [`status`], [`down`]: a network to play with, which lives until it is stopped.
//! - [`split`]: real nodes in network namespaces, cut in two and healed.
//! - [`liar`]: a peer that serves one block with a flipped byte.
//! - [`mod@bench`]: benchmarks on real telemetry, beside what others reach in the same run.
//! - [`sim`]: many nodes' cores under one virtual clock and one seed, with everything that can go wrong.
//! - [`vts1`]: the telemetry format that the demo and the benchmarks read.
//!
//! This room is a shell. What it knows of a peer, it learned by asking it; only the benchmarks and the simulator
//! use the rooms below themselves.

#![deny(unsafe_code)]

mod average_precision;
pub mod bench;
pub mod demo;
mod fleet;
mod interrupt;
pub mod liar;
mod peer;
mod process;
mod report;
pub mod sim;
mod split;
pub mod vts1;

pub use fleet::{DownOptions, StatusOptions, UpOptions, down, status, up};
pub use interrupt::is_interrupt;
pub use split::{SplitOptions, SplitReport, split};
