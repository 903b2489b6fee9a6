//! Arguments of `dunlin testnet sim`.

use std::path::PathBuf;

use clap::Args;
use dunlin_testnet::sim::{Bug, Faults, PEERS_MAX, PEERS_MIN};

/// What to simulate.
#[derive(Debug, Args)]
pub(crate) struct SimArgs {
    /// The seed: the same one gives the same run.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many seeds, from that one on.
    #[arg(long, default_value_t = 1)]
    pub(crate) seeds: u64,
    /// How many nodes.
    #[arg(long, default_value_t = 50, value_parser = peers)]
    pub(crate) peers: usize,
    /// How many minutes of virtual time; by default 2, and 60 above 1,000 nodes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) minutes: Option<u64>,
    /// What goes wrong: all, none, or some of delay, loss, duplication, partition, crash, skew, churn, malice, with
    /// commas between them.
    #[arg(long, default_value_t = Faults::all())]
    pub(crate) faults: Faults,
    /// A mistake that every node makes, for the invariants to find.
    #[arg(long)]
    pub(crate) bug: Option<Bug>,
    /// Write a line for each event to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

fn peers(text: &str) -> Result<usize, String> {
    let peers = text.parse().ok().filter(|peers| (PEERS_MIN..=PEERS_MAX).contains(peers));
    peers.ok_or_else(|| format!("expected a number from {PEERS_MIN} to {PEERS_MAX}"))
}
