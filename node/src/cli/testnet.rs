//! `dunlin demo` and `dunlin testnet`: what they may be told.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use libp2p_identity::PeerId;

use super::{NetworkArgs, SimArgs};

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A folder of VTS1 data instead of the built-in one.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where to write the report.
    #[arg(long, value_name = "DIR", default_value = "dunlin-demo")]
    pub(crate) out: PathBuf,
    /// Keep the peers' data folders and say where they are.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TestnetCommand {
    /// Start a bootstrap node and peers on loopback.
    Up {
        /// How many peers.
        #[arg(short, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
        n: u32,
        /// Where their data folders go.
        #[arg(long, value_name = "DIR", default_value = "dunlin-testnet")]
        dir: PathBuf,
    },
    /// Show the peers of the testnet.
    Status {
        /// Where their data folders are.
        #[arg(long, value_name = "DIR", default_value = "dunlin-testnet")]
        dir: PathBuf,
    },
    /// Stop the testnet.
    Down {
        /// Where their data folders are.
        #[arg(long, value_name = "DIR", default_value = "dunlin-testnet")]
        dir: PathBuf,
        /// Remove the data folders too.
        #[arg(long)]
        purge: bool,
    },
    /// Simulate a network under faults: the nodes' decisions in virtual time, no processes.
    Sim(SimArgs),
    /// Split a real network in two, have both sides go on, heal it, and say what became of it.
    ///
    /// Six nodes run in network namespaces, three on a side. It needs root, `ip`, `mount` and `unshare`, touches nothing
    /// outside, and leaves nothing behind. The exit code is 1 when something was lost or not agreed on.
    Split {
        /// Segments that each node seals before the split.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200_000))]
        common: u32,
        /// Segments that each node seals while the network is split.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        segments: u32,
        /// How long it stays split at least.
        #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=3_600))]
        seconds: u64,
        /// Where the nodes' data go, in a folder of their own that is removed at the end; in memory when absent.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Run a peer that serves one block with a flipped byte, for tests of verification.
    #[command(hide = true)]
    Liar {
        #[command(flatten)]
        network: NetworkArgs,
        /// Peer to lie to; may be repeated.
        #[arg(long, value_name = "PEER")]
        victim: Vec<PeerId>,
        /// File with the true bytes of the block.
        #[arg(long)]
        block: PathBuf,
        /// The CID to lie about.
        #[arg(long)]
        cid: String,
    },
}
