//! Conflicts: what there is to decide, and a person's decision; and which of them an answer touches.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
};
use dunlin_archive::{Pin, ReadError};
use dunlin_client as json;
use dunlin_trust::recovery::{Conflict, Conflicts, Reason, Version};
use dunlin_wire::Cid;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Body, Path, error::ApiError, segments::parse_cid};
use crate::daemon::{ResolveError, Shared, Standings, Touched};

type Answer<T> = Result<Json<T>, ApiError>;

/// Conflicts on one page, at most.
const PAGE_MAX: usize = 1_000;

/// Conflicts that one answer lists; it counts the others.
const TOUCHED_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(Page { after, limit }): Query<Page>,
) -> Answer<json::Review> {
    let limit = limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let standings = shared.standings().await;
    let page = shared
        .blocking(move |shared| {
            let (found, total, unflagged) = {
                let conflicts = shared.recovery.conflicts();
                let after = after.map(|id| find(&conflicts, &id)).transpose()?;
                let behind = |one: &&Conflict| after.is_none_or(|after| one.pair() > after);
                let found = conflicts.iter().filter(behind).take(limit + 1);
                let found: Vec<_> =
                    found.map(|one| described(&conflicts, one, &standings)).collect();
                (found, conflicts.len() as u64, conflicts.unflagged())
            };
            let mut page =
                json::Review { total, more: found.len() > limit, unflagged, ..Default::default() };
            for one in found.into_iter().take(limit) {
                page.conflicts.push(with_own(shared, one)?);
            }
            page.unflagged += shared.recovery.counts().unseen;
            Ok::<_, ApiError>(page)
        })
        .await?;
    Ok(Json(page))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Answer<json::Conflict> {
    let standings = shared.standings().await;
    let shown = shared
        .blocking(move |shared| {
            let found = {
                let conflicts = shared.recovery.conflicts();
                let pair = find(&conflicts, &id)?;
                conflicts.get(&pair).map(|one| described(&conflicts, one, &standings))
            };
            let found = found.ok_or_else(|| no_conflict(&id))?;
            Ok::<_, ApiError>(with_own(shared, found)?)
        })
        .await?;
    Ok(Json(shown))
}

pub(super) async fn resolve(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Body(request): Body<json::ResolveConflict>,
) -> Answer<json::Conflict> {
    let prefer = parse_cid(&request.prefer)?;
    let pair = find(&shared.recovery.conflicts(), &id)?;
    shared.resolve(pair, prefer).await.map_err(|cause| match cause {
        ResolveError::NotOfConflict { .. } => ApiError::bad_request("bad_query", cause),
        ResolveError::Conflict(cause) => ApiError::unavailable("full", cause),
        ResolveError::Store(cause) => ApiError::store_failed(cause),
        cause => ApiError::internal(cause),
    })?;
    tracing::info!(conflict = id, segment = %prefer, "the operator decided about a conflict");
    show(State(shared), Path(id)).await
}

/// Returns what contradicts a segment.
pub(super) fn rivals(shared: &Shared, cid: &Cid) -> Vec<String> {
    let conflicts = shared.recovery.conflicts();
    let rivals = conflicts.of(cid).map(|conflict| {
        let (first, second) = conflict.pair();
        if first == *cid { second } else { first }
    });
    rivals.take(TOUCHED_MAX).map(|rival| rival.to_string()).collect()
}

/// Adds to an answer's coverage which conflicts it touches.
pub(super) fn note(coverage: &mut json::Coverage, touched: &[Touched]) {
    coverage.conflicts_total = touched.len() as u64;
    coverage.conflicts = touched.iter().take(TOUCHED_MAX).map(touched_json).collect();
}

fn touched_json(touched: &Touched) -> json::TouchedConflict {
    let (first, second) = touched.pair;
    json::TouchedConflict {
        id: id_of(&touched.pair),
        entity: touched.entity.clone(),
        segments: [first.to_string(), second.to_string()],
        preferred: touched.preferred.to_string(),
    }
}

/// Returns the short name of a conflict: 8 bytes of the sha2-256 of both CIDs. A node that holds the most conflicts
/// has two of one name with a chance of one in ten thousand million.
fn id_of((first, second): &(Cid, Cid)) -> String {
    let digest = Sha256::digest([first.to_bytes(), second.to_bytes()].concat());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn find(conflicts: &Conflicts, id: &str) -> Result<(Cid, Cid), ApiError> {
    let mut pairs = conflicts.iter().map(Conflict::pair);
    pairs.find(|pair| id_of(pair) == id).ok_or_else(|| no_conflict(id))
}

fn no_conflict(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no conflict {id}; `dunlin review ls` lists them"))
}

/// Returns a conflict as it is shown, but for which of both this node sealed.
fn described(
    conflicts: &Conflicts,
    conflict: &Conflict,
    standings: &Standings,
) -> (json::Conflict, (Cid, Cid)) {
    let pair = conflict.pair();
    let preference = standings.preference(conflicts, conflict);
    let shown = json::Conflict {
        id: id_of(&pair),
        collection: conflict.series.collection.clone(),
        entity: conflict.series.entity.clone(),
        first: version(&conflict.first),
        second: version(&conflict.second),
        preferred: preference.cid.to_string(),
        reason: match preference.reason {
            Reason::Decided { by } => json::PreferenceReason::Decided {
                by: by.to_string(),
                at_ms: conflicts.decided(&pair).map_or(0, |at| at.0),
            },
            Reason::Standing { points, against } => {
                json::PreferenceReason::Standing { points, against }
            }
            Reason::Tie { points } => json::PreferenceReason::Tie { points },
        },
    };
    (shown, pair)
}

fn version(version: &Version) -> json::ConflictVersion {
    json::ConflictVersion {
        cid: version.cid.to_string(),
        start_us: version.start,
        end_us: version.end,
        makers: version.makers().map(ToString::to_string).collect(),
        own: false,
    }
}

fn with_own(
    shared: &Shared,
    (mut conflict, (first, second)): (json::Conflict, (Cid, Cid)),
) -> Result<json::Conflict, ReadError> {
    let own = Pin::own(&conflict.collection);
    conflict.first.own = shared.archive.is_pinned(&own, &first)?;
    conflict.second.own = shared.archive.is_pinned(&own, &second)?;
    Ok(conflict)
}
