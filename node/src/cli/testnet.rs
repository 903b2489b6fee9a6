//! `dunlin demo` and `dunlin testnet`: what they may be told.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use dunlin_protocols::Multiaddr;
use dunlin_testnet::Attack;
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
    /// Start a bootstrap node and peers, on loopback or in network namespaces.
    Up {
        /// How many peers.
        #[arg(short, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
        n: u32,
        /// Give each node a network namespace, whose links can be broken. Linux; as root, or where users may make
        /// namespaces.
        #[arg(long)]
        netns: bool,
        /// What the links are like: lan, wan or edge.
        #[arg(long, value_enum, default_value = "lan", requires = "netns")]
        profile: LinkProfile,
        #[command(flatten)]
        place: TestnetDir,
    },
    /// Show the peers of the testnet.
    Status(TestnetDir),
    /// Cut groups of nodes off each other: `1-3|4-6`. The bootstrap node is `bootstrap`; who is in no group is reached
    /// by all.
    Partition {
        /// The groups.
        groups: String,
        #[command(flatten)]
        place: TestnetDir,
    },
    /// Let nothing that some nodes send reach others; the way back stays open.
    Cut {
        /// Whose packets are lost.
        from: String,
        /// On their way to whom.
        to: String,
        #[command(flatten)]
        place: TestnetDir,
    },
    /// Take all cuts away, and let paused nodes go on.
    Heal(TestnetDir),
    /// Stop nodes where they are, as a closed lid does: `2`, `1-3`, `all`.
    Pause(TestnetNodes),
    /// Let paused nodes go on.
    Resume(TestnetNodes),
    /// Kill nodes as a crash would.
    Kill(TestnetNodes),
    /// Start nodes that do not run, with the data that they had.
    Start(TestnetNodes),
    /// Kill one peer after another, and start it again.
    Churn {
        /// How often.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "20s")]
        every: Duration,
        /// For how long.
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "2m")]
        during: Duration,
        #[command(flatten)]
        place: TestnetDir,
    },
    /// Attack a peer, and say what honest ones notice: connections-one, connections-many, slow-handshakes, streams,
    /// oversize, half, unread, gossip, kad-records, kad-eclipse, identify, yamux, nesting, and in network namespaces quic-initials,
    /// quic-half, quic-connections or quic-unread.
    Attack {
        /// What to try.
        attack: Attack,
        /// On whom.
        #[arg(long, default_value = "1", value_name = "PEER")]
        victim: String,
        /// For how long; before, peers are watched for as long, to compare.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
        seconds: u32,
        #[command(flatten)]
        place: TestnetDir,
    },
    /// Print the newest lines of nodes' logs.
    Logs {
        /// Whose.
        #[arg(default_value = "all")]
        nodes: String,
        /// How many lines of each.
        #[arg(short, default_value_t = 20)]
        n: usize,
        #[command(flatten)]
        place: TestnetDir,
    },
    /// Stop the testnet.
    Down {
        #[command(flatten)]
        place: TestnetDir,
        /// Remove the data folders too.
        #[arg(long)]
        purge: bool,
    },
    /// Play a scenario on a network of its own, check what it says, and report. The exit code is 1 when something did
    /// not hold.
    Run {
        /// The scenario; docs/testnet.md tells how to write one.
        scenario: PathBuf,
        /// The build of this program that all nodes begin with, instead of this one.
        #[arg(long, value_name = "PROGRAM")]
        old: Option<PathBuf>,
        /// The build that scenarios upgrade nodes to, instead of this one.
        #[arg(long, value_name = "PROGRAM", alias = "other")]
        new: Option<PathBuf>,
        /// How many peers, instead of what the scenario says.
        #[arg(short, value_parser = clap::value_parser!(u32).range(1..=50))]
        n: Option<u32>,
        /// How many minutes a soak takes, instead of what the scenario says.
        #[arg(long)]
        minutes: Option<f64>,
        /// Where the report and its plots go as files, and the nodes' logs when something did not hold.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Simulate a network under faults: the nodes' decisions in virtual time, no processes.
    Sim(SimArgs),
    /// Split a real network in two, have both sides go on, heal it, and say what became of it.
    ///
    /// The nodes run in network namespaces, half of them on a side. It needs root, `ip`, `mount` and `unshare`, touches nothing
    /// outside, and leaves nothing behind. The exit code is 1 when something was lost or not agreed on.
    Split {
        /// How many nodes: an even number, at most 32.
        #[arg(short, default_value_t = 6)]
        n: usize,
        /// Segments that each node seals before the split.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        common: u32,
        /// Segments that each node seals while the network is split.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        segments: u32,
        /// Have only the nodes of one side seal those.
        #[arg(long)]
        one_side: bool,
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
    /// The process that keeps a testnet, which `up` starts.
    #[command(hide = true)]
    Supervise(TestnetDir),
    /// Attack one node, for `attack` and scenarios.
    #[command(hide = true)]
    Hostile {
        /// What to try.
        #[arg(long)]
        attack: Attack,
        /// The victim, with its peer id.
        #[arg(long)]
        target: Multiaddr,
        /// Its network.
        #[arg(long)]
        network: String,
        /// The first address to come from.
        #[arg(long)]
        from: Ipv4Addr,
        /// How many addresses follow each other from there.
        #[arg(long, default_value_t = 1)]
        addresses: u8,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
}

/// Where a testnet is.
#[derive(Debug, Args)]
pub(crate) struct TestnetDir {
    /// Where its data folders are.
    #[arg(long, value_name = "DIR", default_value_os_t = dunlin_testnet::default_dir())]
    pub(crate) dir: PathBuf,
}

/// Nodes of a testnet.
#[derive(Debug, Args)]
pub(crate) struct TestnetNodes {
    /// Numbers, names and ranges with commas between them, `all`, or `bootstrap`.
    pub(crate) nodes: String,
    #[command(flatten)]
    pub(crate) place: TestnetDir,
}

/// What links are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkProfile {
    /// Machines in one room.
    Lan,
    /// Servers in different places.
    Wan,
    /// Devices by radio.
    Edge,
}
