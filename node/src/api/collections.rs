//! Collections: create them, give them observations, ask what they hold.

use std::sync::Arc;

use axum::{Json, extract::State};
use dunlin_client as json;
use dunlin_engine::{CollectionName, CompactionBudget, Engine, EntityView, ReadError};

use super::{Body, Path, convert, error::ApiError, shares};
use crate::daemon::{CompactionWish, Shared};

type Answer<T> = Result<Json<T>, ApiError>;

/// Entities that are taken from the engine at a time.
const ENTITIES_PAGE: usize = 1_000;

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Answer<json::Collections> {
    let specs = shared.blocking(|shared| shared.engine.collections()).await?;
    let collections = specs.iter().map(|spec| convert::collection_json(spec)).collect();
    Ok(Json(json::Collections { collections, shares: shares::shares(&shared) }))
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Body(spec): Body<json::CollectionSpec>,
) -> Answer<json::CollectionSpec> {
    let spec = convert::collection_spec(spec)?;
    let made = convert::collection_json(&spec);
    shared.blocking(move |shared| shared.engine.create_collection(spec)).await?;
    shared.curious.notify_one();
    Ok(Json(made))
}

pub(super) async fn ingest(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Body(batch): Body<json::IngestRequest>,
) -> Answer<json::IngestAck> {
    let name = convert::collection_name(&name)?;
    let observations = convert::observations(batch.observations)?;
    let taken = shared.blocking(move |shared| shared.engine.ingest(&name, observations)).await;
    let ack = watch_store(&shared, taken)?;
    if ack.sealed > 0 {
        shared.sealed.notify_one();
    }
    Ok(Json(json::IngestAck {
        accepted: ack.accepted,
        duplicate: ack.duplicate,
        late: ack.late,
        sealed: ack.sealed,
    }))
}

pub(super) async fn seal(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Body(request): Body<json::SealRequest>,
) -> Answer<json::SealResponse> {
    let name = convert::collection_name(&name)?;
    let entity = convert::entity_id(request.entity)?;
    let sealed = shared.blocking(move |shared| shared.engine.seal(&name, &entity)).await;
    let cid = watch_store(&shared, sealed)?;
    shared.sealed.notify_one();
    Ok(Json(json::SealResponse { cid: cid.map(|cid| cid.to_string()) }))
}

pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Body(request): Body<json::RemoveRequest>,
) -> Answer<json::RemoveResponse> {
    let name = convert::collection_name(&name)?;
    let entity = convert::entity_id(request.entity)?;
    let removed = shared.blocking(move |shared| shared.engine.remove(&name, &entity)).await;
    let removed = watch_store(&shared, removed)?;
    let dunlin_engine::Removed { observations, segments, .. } = removed;
    Ok(Json(json::RemoveResponse { observations, segments }))
}

pub(super) async fn compact(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Body(request): Body<json::CompactRequest>,
) -> Answer<json::CompactResponse> {
    let name = convert::collection_name(&name)?;
    let entity = request.entity.map(convert::entity_id).transpose()?;
    let before = dunlin_engine::Timestamp(request.before_us);
    let budget = match (request.nrmse, request.share) {
        (Some(_), Some(_)) => {
            let problem = "compaction goes as far as `nrmse` or `share` says, not both";
            return Err(ApiError::bad_request("bad_query", problem));
        }
        (None, Some(share)) => CompactionBudget::Share(share),
        (nrmse, None) => {
            CompactionBudget::Nrmse(nrmse.unwrap_or(shared.config.engine.compact_nrmse))
        }
    };
    let from = request.from.map(convert::entity_id).transpose()?;
    let wish = CompactionWish { name, entity, from, before, budget };
    let compacted = shared.blocking(move |shared| shared.compact(&wish)).await?;
    Ok(Json(json::CompactResponse {
        segments: compacted.segments,
        outlines: compacted.outlines,
        bytes_before: compacted.bytes_before,
        bytes_after: compacted.bytes_after,
        next: compacted.next.map(|entity| entity.to_string()),
    }))
}

/// A store that refuses writes stays so until a restart: the node says so wherever it is asked.
fn watch_store<T>(
    shared: &Shared,
    written: Result<T, dunlin_engine::WriteError>,
) -> Result<T, ApiError> {
    written.map_err(|error| {
        if let dunlin_engine::WriteError::Poisoned { .. } = error {
            shared.report("engine", error.to_string());
        }
        error.into()
    })
}

/// Returns all entities of a collection, page by page, so that nobody waits long for them.
fn all_entities(engine: &Engine, name: &CollectionName) -> Result<Vec<EntityView>, ReadError> {
    let mut views: Vec<EntityView> = Vec::new();
    loop {
        let after = views.last().map(|view| view.entity.clone());
        let page = engine.entities(name, after.as_ref(), ENTITIES_PAGE)?;
        let is_last = page.len() < ENTITIES_PAGE;
        views.extend(page);
        if is_last {
            return Ok(views);
        }
    }
}

pub(super) async fn entities(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Answer<json::Entities> {
    let name = convert::collection_name(&name)?;
    let views = shared.blocking(move |shared| all_entities(&shared.engine, &name)).await?;
    let entity = |view: EntityView| json::Entity {
        entity: view.entity.to_string(),
        first_us: view.first.0,
        last_us: view.last.0,
        observations: view.observations,
        segments: view.segments,
        open_observations: view.open.as_ref().map_or(0, |open| open.count),
        drift: view.open.as_ref().map_or(0.0, |open| open.drift),
        metadata: view.metadata.into(),
        matched: view.matched.and_then(convert::matched_json),
    };
    Ok(Json(json::Entities { entities: views.into_iter().map(entity).collect() }))
}

pub(super) async fn quality(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Answer<json::Quality> {
    let name = convert::collection_name(&name)?;
    let quality = shared.blocking(move |shared| shared.engine.quality(&name, None)).await?;
    Ok(Json(json::Quality {
        observations: quality.observations,
        segments: quality.segments,
        raw_bytes: quality.raw_bytes,
        stored_bytes: quality.stored_bytes,
        ratio: quality.ratio,
        nrmse: quality.nrmse,
        r2: quality.r2,
        window_ratio: quality.window.ok().map(|window| window.ratio),
        window_observations: quality.window.ok().map(|window| window.observations),
    }))
}
