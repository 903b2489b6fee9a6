//! A node: opened, started, and ended in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use dunlin_archive::Archive;
use dunlin_client::ADDRESS_FILE;
use dunlin_engine::Engine;
use dunlin_protocols::Network;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    announcer, archiver,
    holds::Holds,
    membership, network_config,
    outside::Outside,
    peers_file, placing, proofs_file,
    publisher::{self, Publisher},
    recovery::{self, Recovery},
    replication::{self, Replicas},
    responder::Responder,
    retention,
    revocation_file::RevocationFile,
    sequence::Sequence,
    shared::{Parts, Shared},
    shares::Shares,
    sharing::Sharing,
    teaching,
    trust_file::TrustFile,
    upkeep,
};
use crate::{
    api,
    config::{Config, EngineConfig},
    data_dir::{DataDir, GATEWAY_ADDRESS_FILE},
    gateway,
};

/// How long requests under way may go on when the node ends.
const REQUESTS_DEADLINE: Duration = Duration::from_secs(5);

/// A running node. Its tasks end together: one that fails ends the node.
pub(super) struct Node {
    shared: Arc<Shared>,
    network: Network,
    tasks: JoinSet<anyhow::Result<()>>,
    /// The responder alone. It ends after the network, whose last words it keeps.
    responder: JoinSet<anyhow::Result<()>>,
    /// Says, when the node ends, that the responder has nothing under way any more.
    responder_idle: oneshot::Receiver<()>,
    stop: CancellationToken,
}

impl Node {
    /// Opens the stores, joins the network and serves the API. The caller holds the folder's lock for as
    /// long as the process lives: work on disks may outlast the node.
    ///
    /// # Errors
    ///
    /// Fails when the folder is in use, a store is damaged, or a port is taken; what was opened is
    /// closed again.
    pub(super) async fn start(dir: DataDir, config: Config) -> anyhow::Result<Self> {
        dir.unpublish();
        let identity = dir.identity()?;
        let listener = listen(config.api.listen, API).await?;
        let api_address = listener.local_addr().context("the API has no address")?;
        let gateway = match config.gateway.listen.0 {
            Some(address) => Some(listen(address, GATEWAY).await?),
            None => None,
        };
        let gateway_address = gateway.as_ref().map(TcpListener::local_addr).transpose();
        let gateway_address = gateway_address.context("the gateway has no address")?;
        let (trust_file, records) = TrustFile::open(&dir)?;
        let sequence = Sequence::load(&dir)?;
        let engine = open_engine(&dir, &config.engine)?;
        let archive = Arc::new(open_archive(&dir, &config)?);
        let me = identity.public().to_peer_id();
        let outside = Outside::open(&dir, &config, me, &archive)?;
        let shares = Shares::load(&dir)?;
        let sharing = Sharing::open(&dir, &config, &identity, &archive)?;
        let replicas = Replicas::open(&archive, &config.archive)?;
        let recovery = Recovery::open(&archive, identity.clone())?;
        let (mut trust, license) = membership::join(&dir, &config.network, &config.trust, records)?;
        let revocations = RevocationFile::open(&dir, &mut trust)?;
        let holds = Holds::load(&dir, &mut trust)?;
        let mut network = network_config(&config, license.clone(), false);
        network.known_peers = peers_file::load(&dir);
        network.proofs = proofs_file::load(&dir);
        let (network, events, running) = Network::start(network, identity.clone(), trust).await?;
        let foreign_revocations = revocations.foreign();
        let (publisher, wishes) = publisher::Handle::new();
        let shared = Shared::new(Parts {
            config,
            dir,
            engine,
            archive,
            outside,
            network,
            sharing,
            replicas,
            recovery,
            shares,
            publisher,
            api_address,
            gateway_address,
            license,
            holds,
        });
        if foreign_revocations > 0 {
            shared.report("revocations", foreign_problem(foreign_revocations));
        }
        let publisher = Publisher::open(Arc::clone(&shared), identity)?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(api::serve(listener, Arc::clone(&shared), stop.clone()));
        if let (Some(gateway), Some(address)) = (gateway, gateway_address) {
            shared.dir.publish(GATEWAY_ADDRESS_FILE, &format!("{address}\n"))?;
            tasks.spawn(gateway::serve(gateway, Arc::clone(&shared), stop.clone()));
        }
        tasks.spawn(archiver::run(Arc::clone(&shared), stop.clone()));
        tasks.spawn(recovery::run(Arc::clone(&shared), stop.clone()));
        tasks.spawn(placing::run(Arc::clone(&shared), stop.clone()));
        tasks.spawn(announcer::run(Arc::clone(&shared), sequence, stop.clone()));
        tasks.spawn(upkeep::run(Arc::clone(&shared), stop.clone()));
        tasks.spawn(teaching::run(Arc::clone(&shared), stop.clone()));
        tasks.spawn(retention::run(Arc::clone(&shared), stop.clone()));
        tasks.spawn(replication::place(Arc::clone(&shared), stop.clone()));
        tasks.spawn(replication::keep(Arc::clone(&shared), stop.clone()));
        tasks.spawn(publisher.run(wishes, stop.clone()));
        let mut responder = JoinSet::new();
        let (idle, responder_idle) = oneshot::channel();
        responder.spawn(Responder::new(Arc::clone(&shared), trust_file, revocations).run(
            events,
            stop.clone(),
            idle,
        ));
        shared.dir.publish(ADDRESS_FILE, &format!("{api_address}\n"))?;
        let peer = shared.network.local_peer();
        tracing::info!(%peer, api = %api_address, data = %shared.dir.path().display(), "node is running");
        Ok(Self { shared, network: running, tasks, responder, responder_idle, stop })
    }

    /// Waits until a part of the node fails.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.tasks.join_next() => ended,
            Some(ended) = self.responder.join_next() => ended,
            () = self.network.ended() => return anyhow::anyhow!("the network ended by itself"),
        };
        match ended {
            Ok(Ok(())) => anyhow::anyhow!("a task of the node ended by itself"),
            Ok(Err(cause)) => cause,
            Err(panic) => anyhow::Error::from(panic).context("a task of the node failed"),
        }
    }

    /// Ends the node: no more requests, goodbye to peers, stores closed. What does not end within
    /// `deadline` is cut off, which loses nothing that was acknowledged. Whatever fails on the way, the
    /// rest is still ended; the first failure is returned.
    pub(super) async fn shutdown(self, deadline: Duration) -> anyhow::Result<()> {
        tracing::info!("shutting down");
        let Self { shared, network, mut tasks, mut responder, responder_idle, stop } = self;
        stop.cancel();
        let orderly = async {
            // A request that waits for a peer or a body must not take the time that the rest needs.
            let mut first = timeout(REQUESTS_DEADLINE, join(&mut tasks)).await.unwrap_or(Ok(()));
            tasks.shutdown().await;
            // A responder that failed is idle, too.
            responder_idle.await.ok();
            tracing::info!("requests are done");
            network.shutdown().await;
            first = first.and(join(&mut responder).await);
            tracing::info!("peers know that we leave");
            let closed = shared.blocking(|shared| shared.engine.close()).await;
            first.and(closed.context("cannot close the engine's store"))
        };
        let ended = timeout(deadline, orderly).await;
        shared.dir.unpublish();
        match ended {
            Ok(done) => done.inspect(|()| tracing::info!("stores are closed")),
            Err(_) => {
                tracing::warn!(
                    "cut off after {} s; the next start replays the log",
                    deadline.as_secs()
                );
                Ok(())
            }
        }
    }
}

/// Waits for all tasks; returns the first failure.
async fn join(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        first = first.and(ended.context("a task failed while it ended").and_then(|done| done));
    }
    first
}

fn foreign_problem(records: usize) -> String {
    format!(
        "{records} revocations on disk were signed by authorities that the configuration does not name, \
         and do not count; name them again in `network.authorities`, or have the present ones revoke \
         those keys"
    )
}

/// Who listens, and how to make it listen elsewhere.
const API: (&str, &str) = ("API", "--api or `api.listen`");
const GATEWAY: (&str, &str) = ("gateway", "--gateway or `gateway.listen`");

async fn listen(address: SocketAddr, (who, how): (&str, &str)) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("the {who} cannot listen on {address}; choose another one with {how}")
    })
}

fn open_engine(dir: &DataDir, config: &EngineConfig) -> anyhow::Result<Engine> {
    let path = dir.room("engine")?;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let memory = dunlin_engine::Config {
        index_memory_bytes: config.index_bytes,
        store_cache_bytes: bytes(config.store_cache_bytes),
        baseline_cache_bytes: bytes(config.baseline_cache_bytes),
        ..dunlin_engine::Config::default()
    };
    let engine =
        Engine::open(&path, memory).with_context(|| format!("cannot open {}", path.display()))?;
    let recovery = engine.recovery();
    if recovery.torn_bytes > 0 || recovery.replayed_records > 0 {
        let (replayed, torn_bytes) = (recovery.replayed_records, recovery.torn_bytes);
        tracing::info!(replayed, torn_bytes, "recovered from the log");
    }
    Ok(engine)
}

fn open_archive(dir: &DataDir, config: &Config) -> anyhow::Result<Archive> {
    let path = dir.room("archive")?.join("blocks.redb");
    let limits =
        dunlin_archive::Config { bytes_max: config.archive.bytes_max, ..Default::default() };
    Ok(Archive::open(&path, limits)?)
}
