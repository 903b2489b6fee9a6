//! The node's name, what it stands for, and what the DHT is told.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{Json, extract::State};
use dunlin_archive::ipns::Name;
use dunlin_client as json;

use super::{Body, error::ApiError};
use crate::daemon::{PublishError, PublishProgress, Published, Shared};

type Answer<T> = Result<Json<T>, ApiError>;

/// Longest wait for the DHT to take a record.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) async fn publish(State(shared): State<Arc<Shared>>) -> Answer<json::PublishedName> {
    let published = tokio::time::timeout(PUBLISH_TIMEOUT, shared.publisher.publish()).await;
    let timeout = |_| ApiError::unavailable("timeout", "the DHT takes long; it goes on meanwhile");
    Ok(Json(published_json(&published.map_err(timeout)??)))
}

pub(super) async fn resolve(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::ResolveRequest>,
) -> Answer<json::ResolvedName> {
    let name: Name = request.name.parse().map_err(|problem| {
        ApiError::bad_request("bad_query", format!("{}: {problem}", request.name))
    })?;
    let found = shared.network.resolve_name(name).await;
    let record = found.map_err(|cause| ApiError::unavailable("full", cause))?.ok_or_else(|| {
        ApiError::not_found(format!("nobody on the DHT has a valid record of {name}"))
    })?;
    let eol = record.eol().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Json(json::ResolvedName {
        name: name.to_string(),
        peer: name.peer().to_string(),
        value: String::from_utf8_lossy(record.value()).into_owned(),
        root: record.cid().map(|cid| cid.to_string()),
        sequence: record.sequence(),
        eol_ms: u64::try_from(eol.as_millis()).unwrap_or(u64::MAX),
    }))
}

/// Returns what the publisher is at.
pub(super) fn progress_json(
    progress: &PublishProgress,
) -> (Option<json::PublishedName>, json::Providing) {
    let providing = json::Providing {
        provided: progress.providing.provided,
        due: progress.providing.due,
        failed: progress.providing.failed,
        left_out: progress.providing.left_out,
    };
    (progress.published.as_ref().map(published_json), providing)
}

fn published_json(published: &Published) -> json::PublishedName {
    let Published { name, statement, standing } = published;
    json::PublishedName {
        name: name.to_string(),
        root: statement.root.map(|root| root.to_string()),
        sequence: statement.sequence,
        eol_ms: statement.eol_ms,
        told_ms: standing.put_ms,
        peers: standing.peers,
        failures: standing.failures,
        due: standing.is_due,
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Off => Self::conflict("publishing_off", error),
            PublishError::NothingPublic => Self::conflict("nothing_public", error),
            PublishError::Private { .. } => Self::conflict("private", error),
            PublishError::Full(_) | PublishError::Busy => Self::unavailable("full", error),
            PublishError::Store => Self::store_failed(error),
            PublishError::Ended => Self::internal(error),
        }
    }
}
