//! How this node judges its peers, and the operator's word about them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
};
use dunlin_client as json;
use dunlin_protocols::{NetworkError, PeerId, PeerView};
use dunlin_trust::Standing;
use serde::Deserialize;

use super::{Path, error::ApiError};
use crate::daemon::Shared;

type Answer<T> = Result<Json<T>, ApiError>;

/// Peers on one page, at most.
const PAGE_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(Page { after, limit }): Query<Page>,
) -> Answer<json::TrustPage> {
    let after = after.map(|text| peer_id(&text)).transpose()?;
    let limit = limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let me = shared.network.local_peer();
    // One of them may be this node itself.
    let views = shared.network.peers_after(after, limit + 2).await;
    let is_other = |view: &&PeerView| view.peer != me;
    let mut next: Vec<_> = views.iter().filter(is_other).take(limit + 1).collect();
    let more = next.len() > limit;
    next.truncate(limit);
    Ok(Json(json::TrustPage { peers: next.into_iter().map(explained).collect(), more }))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
) -> Answer<json::PeerTrust> {
    let view = shared.network.explain(peer_id(&peer)?).await.map_err(ApiError::internal)?;
    Ok(Json(explained(&view)))
}

pub(super) async fn quarantine(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
) -> Answer<json::PeerTrust> {
    set(&shared, peer_id(&peer)?, true).await
}

pub(super) async fn release(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
) -> Answer<json::PeerTrust> {
    set(&shared, peer_id(&peer)?, false).await
}

async fn set(shared: &Arc<Shared>, peer: PeerId, is_held: bool) -> Answer<json::PeerTrust> {
    let kept = shared.blocking(move |shared| shared.holds.set(&shared.dir, peer, is_held)).await;
    kept.map_err(|cause| ApiError::unavailable("store_failed", format!("{cause:#}")))?;
    let trust = shared.network.quarantine(peer, is_held).await.map_err(|cause| match cause {
        NetworkError::Impossible { .. } => ApiError::unavailable("full", cause),
        cause => ApiError::internal(cause),
    })?;
    if !is_held && trust.standing == Standing::Revoked {
        let problem = format!("{peer} is revoked, and nothing takes that back");
        return Err(ApiError::conflict("revoked", problem));
    }
    tracing::info!(%peer, is_held, "the operator judged a peer");
    show(State(Arc::clone(shared)), Path(peer.to_string())).await
}

fn peer_id(text: &str) -> Result<PeerId, ApiError> {
    let no_peer = |_| ApiError::bad_request("bad_query", format!("{text:?} is no peer id"));
    text.parse().map_err(no_peer)
}

pub(super) fn standing(standing: Standing) -> json::Standing {
    match standing {
        Standing::Probation => json::Standing::Probation,
        Standing::Trusted => json::Standing::Trusted,
        Standing::Quarantined => json::Standing::Quarantined,
        Standing::Revoked => json::Standing::Revoked,
    }
}

fn explained(view: &PeerView) -> json::PeerTrust {
    let trust = &view.trust;
    let line = |line: &dunlin_trust::Line| json::TrustLine {
        part: line.part.to_owned(),
        amount: line.amount,
        evidence: line.evidence.clone(),
    };
    json::PeerTrust {
        peer: view.peer.to_string(),
        standing: standing(trust.standing),
        score: trust.score,
        prior: trust.prior,
        own: trust.is_own,
        held: trust.is_held,
        connected: view.link.is_some(),
        updated_ms: trust.updated.map(|updated| updated.0),
        lines: trust.lines.iter().map(line).collect(),
    }
}
