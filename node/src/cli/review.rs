//! `dunlin review`: what it may be told.

use clap::Subcommand;
use dunlin_wire::Cid;

#[derive(Debug, Subcommand)]
pub(crate) enum ReviewCommand {
    /// List the conflicts: two nodes of yours sealed different segments of one entity and time. Both are kept.
    Ls,
    /// Show a conflict: both segments, who sealed them, and why answers use which.
    Show {
        /// Its name, as `dunlin review ls` prints it.
        id: String,
    },
    /// Decide which of both segments answers use. It is signed, and your other nodes get it. It removes neither, and a
    /// later decision takes its place.
    Resolve {
        /// The conflict's name.
        id: String,
        /// The CID of the segment to use.
        #[arg(long, value_name = "CID")]
        prefer: Cid,
    },
}
