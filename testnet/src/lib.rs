//! Many Dunlin peers on one machine, as the separate processes that they are everywhere else.
//!
//! - [`demo`]: a network of six peers replays real telemetry, archives it, trades templates, survives a
//!   SIGKILL and a liar, and writes a report. Everything is done and asked through the peers' own
//!   commands and HTTP API.
//! - [`up`], [`tell`], [`down`]: a network to play with, which lives until it is stopped, and what may be done to it.
//! - [`play`]: scenarios, which do it by a script, check, and report.
//! - [`split`]: real nodes in network namespaces, cut in two and healed.
//! - [`nat`]: the routers of homes, for scenarios and tests.
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
mod exchange;
mod fleet;
mod hostile;
mod interrupt;
pub mod liar;
mod links;
#[cfg(target_os = "linux")]
pub mod nat;
#[cfg(not(target_os = "linux"))]
#[path = "nat/elsewhere.rs"]
pub mod nat;
mod network;
mod peer;
mod process;
mod report;
mod scenario;
pub mod sim;
mod skew;
#[cfg(target_os = "linux")]
mod space;
#[cfg(not(target_os = "linux"))]
#[path = "space/elsewhere.rs"]
mod space;
mod split;
pub mod vts1;

pub use dunlin_hostile::{
    Attack, HostileError, Options as HostileOptions, Report as HostileReport, run as attack,
};
pub use exchange::Measured;
pub use fleet::{
    Deed, DownOptions, FleetOptions, UpOptions, default_dir, down, supervise, tell, up,
};
pub use hostile::{Assault, AssaultReport};
pub use interrupt::is_interrupt;
pub use links::{Counts, Line, Profile};
pub use scenario::{ScenarioOptions, ScenarioReport, Slope, SoakReport, StepReport, play};
pub use split::{SplitOptions, SplitReport, split};
