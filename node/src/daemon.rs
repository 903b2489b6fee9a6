//! `dunlin run` and `dunlin bootstrap`: processes that live until they are told to end.

mod announcer;
mod archiver;
mod bundles;
mod clock;
mod compaction;
mod console;
mod exchanges;
mod fetch;
mod fleets;
mod frames;
mod gateways;
mod holds;
mod logging;
mod membership;
mod node;
mod opening;
mod outside;
mod peers_file;
mod placing;
mod proofs_file;
mod publisher;
mod recovery;
mod replication;
mod responder;
mod retention;
mod revocation_file;
mod sealer;
mod sequence;
mod shared;
mod shares;
mod sharing;
mod teaching;
#[cfg(feature = "otel")]
mod traces;
mod trust_file;
mod upkeep;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use dunlin_bootstrap::Shell;
use dunlin_protocols::{Handle, KnownPeer, Multiaddr, Reach, Room};
use dunlin_trust::{Acquaintance, Endorsements, Pending};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    bundles::{BundleCounters, BundleWish, ImportError, ImportWish, MakeError, Since},
    clock::now,
    compaction::CompactionWish,
    console::{PASS_LIFE, reached_here},
    fetch::{FetchError, FetchWish, Fetched},
    fleets::FleetError,
    gateways::GatewayUrl,
    membership::{LICENSE_FILE, license_of},
    opening::{FromSealed, Unopened},
    publisher::{Progress as PublishProgress, PublishError, Published},
    recovery::{Counts as RecoveryCounts, ResolveError, Standings, Touched, Whose, losers},
    replication::Kept,
    revocation_file::{Contents as RevocationContents, FILE as REVOCATIONS_FILE},
    shared::{Observed, Shared},
    shares::{Share, Windows},
    sharing::{
        Held, Judged, ReleaseRequest, SharingError,
        segments::{NoisedError, SegmentTerms},
    },
};
use self::{node::Node, revocation_file::RevocationFile};
use crate::{
    cli::{NetworkArgs, RunArgs},
    config::{Config, Mode, NetworkConfig},
    data_dir::{DataDir, NETWORK_ADDRESS_FILE},
    interrupt, page,
};

/// Longest clean end. What is acknowledged is durable anyway; this is for peers and checkpoints.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);

/// How long work on disks may outlast the node before the process ends over it. It is durable, or it was
/// not acknowledged.
const WORK_DEADLINE: Duration = Duration::from_secs(1);

/// Threads that drive sockets. Work on disks and vectors has threads of its own, so few suffice.
const NETWORK_THREADS: usize = 2;

/// Runs a node until Ctrl-C or SIGTERM.
pub(crate) fn run(path: &Path, args: RunArgs) -> anyhow::Result<ExitCode> {
    let (dir, _lock) = DataDir::open_or_create_locked(path)?;
    let mut config = Config::load(&dir.config_path())?;
    config.network.own_peers.extend(args.own_peer);
    config.api.listen = args.api.unwrap_or(config.api.listen);
    config.gateway.listen = args.gateway.unwrap_or(config.gateway.listen);
    config.gateway.serve = args.gateway_serve.unwrap_or(config.gateway.serve);
    config.check_mode().map_err(anyhow::Error::msg)?;
    let _logging = logging::init(&config.log, args.network.log_file.as_deref())?;
    override_network(&mut config.network, args.network);
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut node = Node::start(dir, config).await?;
        let failed = tokio::select! {
            () = interrupt::wait() => None,
            cause = node.failed() => Some(cause),
        };
        end_at_once_on_second_interrupt();
        let ended = node.shutdown(SHUTDOWN_DEADLINE).await;
        failed.map_or(ended, Err)
    });
    runtime.shutdown_timeout(WORK_DEADLINE);
    done.map(|()| ExitCode::SUCCESS)
}

/// Runs a bootstrap node until Ctrl-C or SIGTERM.
pub(crate) fn bootstrap(path: &Path, args: NetworkArgs) -> anyhow::Result<ExitCode> {
    let (dir, _lock) = DataDir::open_or_create_locked(path)?;
    let mut config = Config::load(&dir.config_path())?;
    anyhow::ensure!(
        config.network.mode != Mode::AirGapped,
        "a bootstrap node that meets nobody is of no use; set `network.mode` to \"federated\""
    );
    dir.unpublish();
    let _logging = logging::init(&config.log, args.log_file.as_deref())?;
    override_network(&mut config.network, args);
    let identity = dir.identity()?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let stop = CancellationToken::new();
        let on_signal = stop.clone();
        tokio::spawn(async move {
            interrupt::wait().await;
            on_signal.cancel();
            end_at_once_on_second_interrupt();
        });
        let mut addresses = Vec::new();
        let on_listening = |address: &Multiaddr| publish_address(&dir, &mut addresses, address);
        let (mut trust, license) =
            membership::join(&dir, &config.network, &config.trust, Vec::new())?;
        let mut revocations = RevocationFile::open(&dir, &mut trust)?;
        let keep = |records, is_everything| {
            let kept = revocations.keep(&dir, records, is_everything);
            kept.inspect_err(|cause| tracing::error!(cause = format!("{cause:#}"), "revocations"))
                .is_ok()
        };
        let keep_peers = |known: Vec<KnownPeer>| {
            if let Err(cause) = peers_file::keep(&dir, &known) {
                let cause = format!("{:#}", anyhow::Error::from(cause));
                tracing::error!(cause, "cannot keep where peers are");
            }
        };
        let mut network = network_config(&config, license, true);
        network.known_peers = peers_file::load(&dir);
        let listener = match config.page.listen.0 {
            Some(at) => Some(page::bind(at).await?),
            None => None,
        };
        let (name, stop_page) = (config.network.name.to_string(), stop.child_token());
        let on_start = move |network| {
            if let Some(listener) = listener {
                tokio::spawn(show_page(listener, network, name, stop_page));
            }
        };
        let shell = Shell { on_start, on_listening, keep_revocations: keep, keep_peers };
        dunlin_bootstrap::run(network, identity, trust, stop, shell).await
    });
    runtime.shutdown_timeout(WORK_DEADLINE);
    dir.unpublish();
    done.map(|()| ExitCode::SUCCESS)
}

/// Serves the page of a bootstrap node. Without it, the node goes on.
async fn show_page(listener: TcpListener, network: Handle, name: String, stop: CancellationToken) {
    if let Err(cause) = page::serve(listener, network, name, stop).await {
        tracing::error!(cause = format!("{cause:#}"), "the page is gone");
    }
}

/// Writes down that a key of this node retired itself, as if a peer had said so.
///
/// # Errors
///
/// Fails when it is no withdrawal, or the disk does.
///
/// # Durability
///
/// It is on disk when this returns.
pub(crate) fn keep_withdrawal(
    dir: &DataDir,
    config: &Config,
    withdrawal: &[u8],
) -> anyhow::Result<()> {
    let (mut trust, _) = membership::join(dir, &config.network, &config.trust, Vec::new())?;
    let mut revocations = RevocationFile::open(dir, &mut trust)?;
    let checked = trust.revocations().check_withdrawal(withdrawal, Acquaintance::Known)?;
    // Nothing comes of it when the key is withdrawn already.
    let records: Vec<_> = checked.iter().map(Pending::record).collect();
    if records.is_empty() { Ok(()) } else { revocations.keep(dir, records, false) }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// Flags win over the file.
fn override_network(config: &mut NetworkConfig, args: NetworkArgs) {
    if let Some(name) = args.network {
        config.name = name;
    }
    if !args.listen.is_empty() {
        config.listen = args.listen;
    }
    config.bootstrap.extend(args.bootstrap);
    config.one_machine |= args.one_machine;
}

fn network_config(
    config: &Config,
    license: Option<Endorsements>,
    is_bootstrap: bool,
) -> dunlin_protocols::Config {
    let helping = config.relay.of_node(is_bootstrap);
    let config = &config.network;
    dunlin_protocols::Config {
        is_air_gapped: config.mode == Mode::AirGapped,
        island: (config.mode == Mode::Island).then_some(config.island),
        helping,
        room: if is_bootstrap { Room::of_bootstrap() } else { Room::of_node() },
        // In a network whose machines reach each other, a router has nothing to forward.
        upnp: config.upnp && config.reach == Reach::Public && !config.one_machine,
        bandwidth: config.bandwidth,
        license,
        listen: config.listen.clone(),
        external: config.external.clone(),
        bootstrap: config.bootstrap.clone(),
        dns: config.dns.clone(),
        mdns: config.mdns,
        reach: config.reach,
        dht: config.dht.clone(),
        one_machine: config.one_machine,
        ..dunlin_protocols::Config::new(config.name.clone())
    }
}

/// Writes down where the node listens, for other programs on this machine.
fn publish_address(dir: &DataDir, addresses: &mut Vec<String>, address: &Multiaddr) {
    tracing::info!(%address, "listening for peers");
    addresses.push(address.to_string());
    let text = addresses.join("\n") + "\n";
    if let Err(cause) = dir.publish(NETWORK_ADDRESS_FILE, &text) {
        tracing::warn!(
            cause = format!("{:#}", anyhow::Error::from(cause)),
            "cannot write the address file"
        );
    }
}

/// The user does not want to wait any longer.
fn end_at_once_on_second_interrupt() {
    tokio::spawn(async {
        interrupt::wait().await;
        std::process::exit(interrupt::EXIT_CODE.into());
    });
}
