//! Who may be in the network: its authorities, this node's license, and what is revoked.

use std::sync::Arc;

use axum::{Json, body::Bytes, extract::State};
use dunlin_client as json;
use dunlin_protocols::NetworkError;
use dunlin_trust::Authorities;

use super::error::ApiError;
use crate::{daemon::Shared, statement::Statement};

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Json<json::MembershipStatus> {
    let authorities = shared.config.network.authorities();
    let (license_until_ms, license_problem) = match shared.license() {
        Some(Ok(license)) => (Some(license.expires().0), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    };
    let revocations = shared.network.revocations().await;
    let keys = authorities.iter().flat_map(Authorities::keys).map(ToString::to_string);
    Json(json::MembershipStatus {
        network: shared.config.network.name.to_string(),
        authorities: keys.collect(),
        threshold: authorities.as_ref().map_or(0, Authorities::threshold) as u64,
        license_until_ms,
        license_problem,
        revoked_keys: revocations.keys as u64,
        revocations_digest: revocations.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

pub(super) async fn publish(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Answer<json::RevocationPublished> {
    let statement = Statement::decode(&body).and_then(Statement::into_revocation);
    let revocation =
        statement.map_err(|cause| ApiError::bad_request("bad_file", format!("{cause:#}")))?;
    let revoked = shared.network.revoke(revocation).await.map_err(|cause| match cause {
        NetworkError::Busy => ApiError::unavailable("busy", cause),
        NetworkError::Ended => ApiError::internal(cause),
        cause => ApiError::conflict("revocation_refused", cause),
    })?;
    let keys = shared.network.revocations().await.keys as u64;
    tracing::info!(revoked, keys, "the operator published a revocation");
    Ok(Json(json::RevocationPublished { revoked: revoked as u64, keys }))
}
