//! `dunlin archive`: what it may be told.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ArchiveCommand {
    /// Take in the blocks of a CAR file, such as `ipfs dag export` writes.
    Import {
        /// The file, or `-` for standard input.
        file: PathBuf,
        /// Strangers may have these blocks: a public gateway serves them.
        #[arg(long)]
        public: bool,
    },
}
