//! The state of the node, its peers, and the network as it sees it.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use dunlin_client as json;
use dunlin_protocols::{Direction, PeerView};

use super::{error::ApiError, segments::archive_if_readable, trust};
use crate::daemon::{Observed, Shared};

type Answer<T> = Result<Json<T>, ApiError>;

/// Counts over all collections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) collections: u64,
    pub(super) entities: u64,
    pub(super) observations: u64,
    pub(super) segments: u64,
}

impl Totals {
    pub(super) fn of(shared: &Shared) -> Result<Self, ApiError> {
        let mut totals = Self::default();
        for spec in shared.engine.collections()? {
            totals.collections += 1;
            let population = shared.engine.population(&spec.name)?;
            totals.entities += population.entities;
            totals.observations += population.observations;
            totals.segments += population.segments;
        }
        Ok(totals)
    }
}

pub(super) async fn health(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let Observed { problems, .. } = shared.observed();
    if problems.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    // Whoever asks needs no token, so only the parts are named.
    let parts: Vec<_> = problems.into_keys().collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("degraded: {}\n", parts.join(", ")))
}

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Answer<json::NodeStatus> {
    let totals = shared.blocking(Totals::of).await?;
    let archive = archive_if_readable(&shared).await;
    let peers = shared.network.connected().await;
    let reaching = shared.network.reaching().await;
    Ok(Json(json::NodeStatus {
        peer: shared.network.local_peer().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        network: shared.config.network.name.to_string(),
        pid: std::process::id(),
        uptime_s: shared.uptime().as_secs(),
        listen: shared.network.listening().await.iter().map(ToString::to_string).collect(),
        api: shared.api_address.to_string(),
        data_dir: shared.dir.path().display().to_string(),
        collections: totals.collections,
        entities: totals.entities,
        observations: totals.observations,
        segments: totals.segments,
        archived: archive.archived,
        backend: backend_line(&archive.backend),
        reachability: reaching.reachability.as_str().to_owned(),
        external: reaching.external.iter().map(ToString::to_string).collect(),
        relays: reaching.relays.iter().map(ToString::to_string).collect(),
        peers: peers.len() as u64,
        templates_adopted: shared.adopted_count().await as u64,
        resident_bytes: resident_bytes(),
        problems: problems(&shared.observed()),
    }))
}

fn backend_line(backend: &json::BackendStatus) -> String {
    match (&backend.described, backend.reachable) {
        (Some(described), true) => described.clone(),
        (_, true) => backend.kind.clone(),
        (_, false) => format!("{}, which cannot be reached", backend.kind),
    }
}

fn problems(observed: &Observed) -> Vec<String> {
    observed.problems.iter().map(|(part, problem)| format!("{part}: {problem}")).collect()
}

pub(super) async fn peers(State(shared): State<Arc<Shared>>) -> Json<json::Peers> {
    let me = shared.network.local_peer();
    let views = shared.network.peers().await;
    let peers = views.iter().filter(|view| view.peer != me).map(peer_json).collect();
    Json(json::Peers { peers })
}

fn peer_json(view: &PeerView) -> json::Peer {
    let link = view.link.as_ref();
    let connected = link.map(|link| link.address.clone());
    let others = view.addresses.iter().filter(|address| Some(*address) != connected.as_ref());
    json::Peer {
        peer: view.peer.to_string(),
        connected: link.is_some(),
        addresses: connected.iter().chain(others).map(ToString::to_string).collect(),
        transport: link.map(|link| link.transport.as_str().to_owned()),
        relay: link.and_then(|link| link.relay).map(|relay| relay.to_string()),
        bytes_up: link.map(|link| link.traffic.up),
        bytes_down: link.map(|link| link.traffic.down),
        protocols: view.protocols.iter().map(ToString::to_string).collect(),
        direction: link.map(|link| match link.direction {
            Direction::Inbound => "inbound".to_owned(),
            Direction::Outbound => "outbound".to_owned(),
        }),
        connected_s: link.map(|link| link.age.as_secs()),
        rtt_ms: link.and_then(|link| link.rtt).map(|rtt| rtt.as_secs_f64() * 1e3),
        agent: view.agent.clone(),
        standing: trust::standing(view.trust.standing),
        score: view.trust.score,
        evidence: view
            .trust
            .lines
            .iter()
            .map(|line| format!("{}: {}", line.part, line.evidence))
            .collect(),
        own: view.trust.is_own,
    }
}

pub(super) async fn cluster(State(shared): State<Arc<Shared>>) -> Answer<json::ClusterStatus> {
    let observed = shared.observed();
    let totals = shared.blocking(Totals::of).await?;
    let archive = archive_if_readable(&shared).await;
    let me = shared.network.local_peer();
    let mut members = vec![myself(&shared, totals.entities).await];
    let views = shared.network.peers().await;
    members.extend(views.iter().filter(|view| view.peer != me).map(|view| member(view, &observed)));
    let held = shared.sharing.held();
    let is_well = observed.problems.is_empty();
    Ok(Json(json::ClusterStatus {
        cluster_id: shared.config.network.name.to_string(),
        topology: "p2p".to_owned(),
        node_count: members.len() as u64,
        shard_count: 0,
        status: if is_well { "healthy" } else { "degraded" }.to_owned(),
        members,
        replication: json::Replication {
            crdt_types: Vec::new(),
            convergence_status: "none".to_owned(),
        },
        federation: json::Federation {
            connected_clusters: 0,
            shared_templates: held
                .iter()
                .map(|held| held.signed.value.templates().len() as u64)
                .sum(),
            last_sync_ms: observed.last_sync_ms.values().max().copied(),
        },
        ipfs: json::IpfsStatus {
            archived_segments: archive.archived,
            total_cids: archive.blocks,
            pinned_nodes: 1,
            last_archive_ms: archive.last_archive_ms,
        },
        privacy: json::PrivacyStatus {
            differential_privacy_enabled: true,
            shared_segments_noised: archive.noised.iter().map(|of| of.segments).sum(),
        },
    }))
}

async fn myself(shared: &Shared, entities: u64) -> json::Member {
    let me = shared.network.local_peer().to_string();
    json::Member {
        node_id: me.clone(),
        peer_id: me,
        transport: None,
        address: shared.network.listening().await.first().map(ToString::to_string),
        state: json::MemberState::Alive,
        role: "self".to_owned(),
        entities: Some(entities),
        uptime_seconds: Some(shared.uptime().as_secs()),
        last_sync_ms: None,
    }
}

fn member(view: &PeerView, observed: &Observed) -> json::Member {
    let link = view.link.as_ref();
    let remembered = view.addresses.first();
    json::Member {
        node_id: view.peer.to_string(),
        peer_id: view.peer.to_string(),
        transport: link.map(|link| link.transport.as_str().to_owned()),
        address: link.map(|link| &link.address).or(remembered).map(ToString::to_string),
        state: if link.is_some() {
            json::MemberState::Alive
        } else {
            json::MemberState::Unreachable
        },
        role: if view.trust.is_own { "own" } else { "peer" }.to_owned(),
        entities: None,
        uptime_seconds: link.map(|link| link.age.as_secs()),
        last_sync_ms: observed.last_sync_ms.get(&view.peer).copied(),
    }
}

/// Returns the resident memory of this process, where Linux tells.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
