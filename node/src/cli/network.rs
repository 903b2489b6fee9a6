//! `dunlin network`: what it may be told.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use libp2p_identity::PeerId;

#[derive(Debug, Subcommand)]
#[command(
    after_help = "A closed network, step by step:\n  dunlin network create plant-7 --dir authorities -n 3 --threshold 2\n                     make three keys, of which two must agree; put the [network] lines\n                     that it prints into the config.toml of every node\n  dunlin network license PEER --config authorities/network.toml \\\n      --key authorities/authority-1.key -o peer.license\n  dunlin network sign peer.license --key authorities/authority-2.key\n                     on another machine, if that key is there: the file travels\n  dunlin network join peer.license       on the node that it is for; then start it\n\nTo shut a peer out for ever:\n  dunlin network revoke PEER --key authority-1.key -o peer.revocation\n  dunlin network sign peer.revocation --key authority-2.key\n  dunlin network publish peer.revocation       at any running node"
)]
pub(crate) enum NetworkCommand {
    /// Make the keys of a closed network's authorities, and the lines for its nodes' configuration.
    Create {
        /// The network's name.
        name: String,
        /// A new or empty folder for the keys. Move each to where its authority keeps it: whoever has enough of
        /// them decides who is in the network.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How many authorities.
        #[arg(short = 'n', long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
        authorities: u8,
        /// How many of them must sign.
        #[arg(long, default_value_t = 2)]
        threshold: u8,
    },
    /// Make the key of one authority, where it is to stay; name its id in `network.authorities`.
    Key {
        /// The file; there must be none yet.
        file: PathBuf,
    },
    /// Say that a peer may join, and sign that with the keys that are here.
    License {
        /// The peer, as `dunlin init` printed it there.
        peer: PeerId,
        #[command(flatten)]
        signing: SigningArgs,
        /// For how many days from now.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Say that peers are peers no more, and sign that with the keys that are here. Nothing takes it back.
    Revoke {
        /// The peers.
        #[arg(required = true)]
        peers: Vec<PeerId>,
        #[command(flatten)]
        signing: SigningArgs,
        /// The revocations that the network knows: a node's revocations.log; the data folder's when absent.
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
    },
    /// Add the signature of one more authority to a license or revocation.
    Sign {
        /// The file.
        file: PathBuf,
        /// The authority's key; may be repeated.
        #[arg(long, required = true, value_name = "FILE")]
        key: Vec<PathBuf>,
    },
    /// Show what a file says, who signed it, and how many signatures it needs yet.
    Show {
        /// The file.
        file: PathBuf,
        /// The configuration that names the authorities; the data folder's when absent.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Install the license of this node; it counts from the next start on.
    Join {
        /// The license, signed by enough authorities.
        file: PathBuf,
    },
    /// Hand a revocation or withdrawal to the running node: it writes it down, acts on it, and tells everybody.
    Publish {
        /// The file.
        file: PathBuf,
    },
    /// Say that a key is to be trusted no more, because somebody else may have it: this node's, or the one in
    /// `--key`. Nothing takes it back.
    Withdraw {
        /// Another key: of an authority, or a copy of a node's identity.key.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The revocations that the network knows. An authority that withdraws stands by those that it signed.
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// Where the statement goes, for `dunlin network publish`.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Really do it: there is no way back.
        #[arg(long)]
        yes: bool,
    },
    /// Show the running node's network: who speaks for it, this node's license, what is revoked.
    Status,
}

/// With what something is signed, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct SigningArgs {
    /// An authority's key; may be repeated.
    #[arg(long, required = true, value_name = "FILE")]
    pub(crate) key: Vec<PathBuf>,
    /// The configuration that names the network and its authorities: a node's config.toml, or the network.toml
    /// that `create` made; the data folder's when absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the statement goes; there must be no such file.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}
