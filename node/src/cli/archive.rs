//! `dunlin archive`: what it may be told.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ArchiveCommand {
    /// Show what the archive holds, what waits, and the root of each collection's catalog: one CID that names
    /// all of its segments, the same on every node that archived the same.
    ///
    /// It also tells what the node's name stands for, and what of the archive is provided on the DHT, due to be,
    /// or was told to nobody.
    Status,
    /// Show where the node's objects have copies, and what it holds for others.
    Replicas,
    /// List, set or remove pins: what stays in the archive, and why.
    #[command(subcommand)]
    Pins(PinsCommand),
    /// Give room back to the disk that what has left the archive took. The node must not run.
    Compact,
    /// Publish everything public under the node's name, now; print the name and the root.
    ///
    /// Public is what `dunlin archive import --public` took in, and nothing else. The node publishes by itself
    /// when that changes (`archive.publish`); this is for who does not want to wait.
    Publish,
    /// Ask the DHT what a node's name stands for: the newest root of everything that it made public.
    Resolve {
        /// A name like k51…, or a peer id.
        name: String,
    },
    /// Take in the blocks of a CAR file, such as `ipfs dag export` writes.
    Import {
        /// The file, or `-` for standard input.
        file: PathBuf,
        /// Strangers may have these blocks: a public gateway serves them, the node's name leads to them, and the
        /// DHT is told of their root.
        #[arg(long)]
        public: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PinsCommand {
    /// List the pins that you set, with the blocks and bytes of each.
    Ls {
        /// Show what every pin holds, the node's own too. It reads the whole archive.
        #[arg(long)]
        all: bool,
    },
    /// Pin a block under a name, with all that it links to: it stays whatever else lets go of it.
    Add {
        /// The pin's name: letters, digits, `-`, `_` and `.`.
        name: String,
        /// What to pin.
        cid: String,
        /// The block alone.
        #[arg(long)]
        direct: bool,
    },
    /// Let go of a pin. What no other pin holds leaves the archive.
    Rm {
        /// Its name, or a path that `ls --all` shows under imported/, public/, fetched/ or replica/.
        pin: String,
    },
}
