//! `dunlin keys`: what it may be told.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List the keys of the ring by their ids, which are public.
    Ls,
    /// Print a key, for another node of yours: whoever has it reads all that was sealed with it, for ever.
    Export {
        /// Its id, or a collection: then the key that seals that.
        key: String,
    },
    /// Take in a key that `keys export` printed. It opens what was sealed with it.
    Import {
        /// The file, or `-` for standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
        /// Seal its collection with it here, too: equal segments then get equal CIDs on both nodes, and whoever
        /// has the key reads what this node seals.
        #[arg(long)]
        seal: bool,
    },
    /// Make a new key for a collection, which seals from now on. Old keys open what they sealed; copies that
    /// were made stay as they are.
    Rotate {
        /// The collection.
        collection: String,
    },
}
