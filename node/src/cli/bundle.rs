//! `dunlin bundle`: what it may be told.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use libp2p_identity::PeerId;

/// What to do with bundles.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Write what is archived here into a file for another node.
    ///
    /// The file holds plain segments, neither encrypted nor noised, with their observations where the
    /// collection keeps them: whoever has the file can read it. Template sets go with them, signed by who
    /// released them. What is still open goes with a later bundle; `dunlin segments seal` ends a regime.
    ///
    /// Bundles are numbered and each names the one before it, so give all of them to every receiver. One
    /// that got lost is written again, byte for byte, with --again.
    #[command(
        after_help = "Examples:\n  dunlin bundle export -o monday.car                   what no bundle carried yet\n  dunlin bundle export --since 2026-03-01T00:00:00Z -o march.car\n  dunlin bundle export -o - | ssh island dunlin bundle import -\n  dunlin bundle export --again 7 -o seven.car          bundle 7 once more"
    )]
    Export(ExportArgs),
    /// Check a bundle from its first byte to its last: signature, index, every block. Needs no node.
    ///
    /// Whether its signer is trusted, and whether it is the next one, only the node that imports it knows.
    Verify {
        /// The file, or `-` for standard input.
        file: PathBuf,
        /// It must be signed by this peer; may be repeated.
        #[arg(long, value_name = "PEER")]
        from: Vec<PeerId>,
    },
    /// Take a bundle in, whole or not at all.
    ///
    /// It must be signed by one of your own peers (`own_peers`), or by a peer that you name here, and be the
    /// one behind the last that was imported of that peer. A quarantined or revoked peer's is refused.
    /// Nothing is visible until all of it has arrived and was checked. Interrupted, run it again: it goes on
    /// where it stopped.
    Import {
        /// The file, or `-` for standard input.
        file: PathBuf,
        /// Take it if this peer signed it; may be repeated. Your own peers when absent.
        #[arg(long, value_name = "PEER")]
        from: Vec<PeerId>,
        /// Go on although bundles before it were never imported: what they carried will be missing.
        #[arg(long)]
        accept_gap: bool,
    },
    /// Show the last bundle that was made, and the last one of each peer that was imported.
    Ls,
}

/// What to write, and where.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// `last` for what no bundle of this node carried yet, or a time: all that ended then or later, carried
    /// or not. Microseconds since the epoch, or RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = since, default_value = "last", allow_hyphen_values = true)]
    pub(crate) since: Since,
    /// Of this collection alone; may be repeated.
    #[arg(long = "collection", short, value_name = "NAME")]
    pub(crate) collections: Vec<String>,
    /// Write the bundle of this number again, instead of a new one.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["since", "collections"])]
    pub(crate) again: Option<u64>,
    /// The file, or `-` for standard output. One that is there is replaced when the new one is whole.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// What was not carried yet.
    Last,
    /// A time in microseconds since the epoch.
    Time(i64),
}

fn since(text: &str) -> Result<Since, String> {
    match text {
        "last" => Ok(Since::Last),
        time => crate::input::parse_time(time)
            .map(Since::Time)
            .map_err(|problem| format!("{problem}, or `last`")),
    }
}
