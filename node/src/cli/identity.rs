//! `dunlin identity`: what it may be told.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Show the node's peer id, whether a passphrase protects its key, and the keys before it.
    Show,
    /// Seal the key with a passphrase, which every start then asks for, or change it. Where there is no terminal,
    /// DUNLIN_PASSPHRASE_FILE names a file with it, and DUNLIN_NEW_PASSPHRASE_FILE one with the new one.
    Protect,
    /// Store the key without a passphrase.
    Unprotect,
    /// Make a new key that follows the present one, and retire that for good: no peer will ever speak with it again. The
    /// node must not run. Own peers must be told the new peer id.
    Rotate {
        /// Really retire the key: there is no way back.
        #[arg(long)]
        yes: bool,
    },
    /// Check a lineage file of another node, and say which key follows which.
    Verify {
        /// The file: `lineage.cbor` of the other node's data folder.
        file: PathBuf,
    },
}
