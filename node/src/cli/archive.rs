//! `dunlin archive`: what it may be told.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ArchiveCommand {
    /// Show what the archive holds, what waits, and the root of each collection's catalog: one CID that names
    /// all of its segments, the same on every node that archived the same.
    Status,
    /// Take in the blocks of a CAR file, such as `ipfs dag export` writes.
    Import {
        /// The file, or `-` for standard input.
        file: PathBuf,
        /// Strangers may have these blocks: a public gateway serves them.
        #[arg(long)]
        public: bool,
    },
}
