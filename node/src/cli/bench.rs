//! `dunlin bench`: what it may be told.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::fidelity;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How well anomaly scores tell labelled incidents from the rest.
    ///
    /// Prints one row for each set, entity and scorer, then the means over each set's entities (entity
    /// mean): the average precision with which scores of the test half rank the labelled observations
    /// first, knowing the train half, each observation for itself. The engine's scorers are named
    /// dunlin (what a node answers) and dunlin-…; dunlin-learning goes on learning in the test half, a
    /// day late. Random scores, drift, Mahalanobis, a PCA residual, raw nearest neighbors and two
    /// regime distances are measured beside them. Takes a minute or two.
    Anomalies(BenchArgs),
    /// How small telemetry gets at each fidelity, and what that costs in error.
    ///
    /// Prints one row for each set of entities and codec: bytes of all values as 32-bit floats over bytes
    /// stored (ratio), error in shares of each channel's range, its largest, and how many segments hold
    /// one entity. The engine's codecs are named dunlin-…, with -regimes where it seals at every change
    /// of behaviour instead of when a segment is full, and with -compacted where all but the newest 16 of
    /// these regimes have been compacted; zstd, pcodec, a plain quantizer and fixed windows
    /// are measured beside them. Takes seconds for the built-in data, minutes for a month of many channels.
    Compression(BenchArgs),
    /// What templates of others are worth to a node that has just started.
    ///
    /// Each entity in turn is the newcomer and knows its last hours; the others release what they learned, in at
    /// most 32 templates together, at several units of privacy and epsilons, and some of them may lie. Prints for
    /// each case the average precision of scores alone, with the sets that the newcomer's gate let in, and with
    /// shuffled ones: means over entities and seeds, or with --json a row for each. Scored are the first three days,
    /// in which templates count, or as many as it takes until the first incident has ended. Takes minutes; --quick is
    /// enough for a look.
    Templates {
        /// A folder of VTS1 data with its manifest.json, instead of the built-in servers of the ASD set.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Such a folder whose entities share, instead of the newcomer's neighbours.
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Only this set of the data: asd, smd.
        #[arg(long, value_name = "NAME")]
        set: Option<String>,
        /// Only 6 hours and all of the history, and no fleets of days or entities.
        #[arg(long)]
        quick: bool,
        /// Also draw the means into this file, as SVG.
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        /// How often each case is repeated, with fresh noise and another shuffle.
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
        seeds: u64,
    },
    /// How long it takes to find out what a fleet does, and how well that is found.
    ///
    /// Folds the segments of a made-up fleet, or the rows of data, into what `dunlin behaviours` shows. ARI is the
    /// adjusted Rand index: how well the groups agree with what the fleet was made of.
    Discovery {
        #[command(flatten)]
        data: BenchData,
        /// How many segments.
        #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
        segments: u32,
    },
    /// How soon a folder with many segments answers after a start, and how much memory that takes.
    ///
    /// Makes the segments first, which takes minutes for a million, and opens them in a fresh process.
    ///
    /// Segments are made of made-up levels, or of the rows of the data.
    Open {
        #[command(flatten)]
        data: BenchData,
        /// About how many segments.
        #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
        segments: u64,
        /// Write here, and remove it again; the system's folder for temporary files when absent.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Only open what was made, in this folder.
        #[arg(long, value_name = "DIR", hide = true)]
        reopen: Option<PathBuf>,
    },
    /// What a crowd of clients costs a bootstrap node in memory.
    ///
    /// Runs one on loopback. Clients come from an address and with a key of their own, say who they are, leave a record in
    /// the DHT, stay, and leave when their place is needed. Prints resident memory before, meanwhile, at the end, and when
    /// all have left, and how many of all records one of them is given. Takes minutes.
    Bootstrap {
        /// How many clients come in all.
        #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=30_000))]
        clients: u32,
        /// How many of them are connected at once.
        #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(dunlin_testnet::bench::bootstrap::LIVE_MAX)))]
        live: u32,
    },
    /// How many observations a second are taken in durably, and how long a batch waits.
    ///
    /// Prints one row for each case: observations per second over all writers, the median and the
    /// 99th percentile of the time from a batch's call until it is on disk, and what one observation
    /// costs in its regime. Takes half a minute; disks differ, so name the one to measure with --dir.
    Ingest {
        #[command(flatten)]
        data: BenchData,
        /// What is kept of the observations: summary, bounded, lossless.
        #[arg(long, default_value = "summary", value_parser = fidelity::<dunlin_engine::Fidelity>)]
        fidelity: dunlin_engine::Fidelity,
        /// Write here, and remove it again; the system's folder for temporary files when absent.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A folder of VTS1 data with its manifest.json, instead of the built-in servers of the ASD set.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchData {
    /// A folder of VTS1 data with its manifest.json, instead of made-up telemetry.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}
