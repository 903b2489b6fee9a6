//! Templates and the privacy ledger.

use std::sync::Arc;

use axum::{Json, extract::State};
use dunlin_client as json;
use dunlin_privacy::{ReserveError, Unit};

use super::{Body, convert, error::ApiError};
use crate::daemon::{Held, Shared, SharingError};

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<json::Templates> {
    let sets = shared.sharing.held().iter().map(|held| set_json(&shared, held)).collect();
    Json(json::Templates { sets })
}

pub(super) async fn publish(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::PublishRequest>,
) -> Answer<json::PublishResponse> {
    let name = convert::collection_name(&request.collection)?;
    let epsilon = request.epsilon.unwrap_or(shared.config.privacy.epsilon);
    let release = shared.blocking(move |shared| shared.release_templates(&name, epsilon)).await?;
    Ok(Json(json::PublishResponse {
        set: set_json(&shared, &release.held),
        epsilon_spent: release.spent.as_f64(),
        epsilon_max: release.ceiling.as_f64(),
    }))
}

pub(super) async fn adopt(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::AdoptRequest>,
) -> Answer<json::Templates> {
    let name = convert::collection_name(&request.collection)?;
    shared
        .blocking(move |shared| {
            shared.engine.collection(&name)?;
            shared.judge_templates(&name).map_err(ApiError::internal)
        })
        .await?;
    Ok(list(State(shared)).await)
}

pub(super) async fn ledger(State(shared): State<Arc<Shared>>) -> Json<json::LedgerView> {
    // A release holds the ledger for as long as it takes, so this may have to wait.
    Json(shared.blocking(ledger_json).await)
}

fn ledger_json(shared: &Shared) -> json::LedgerView {
    let ledger = shared.sharing.ledger();
    let entry = |entry: &dunlin_privacy::Entry| json::LedgerEntry {
        collection: entry.collection.clone().unwrap_or_default(),
        unit: entry.unit.map_or_else(String::new, unit_name),
        epsilon: entry.epsilon.as_f64(),
        delta: entry.delta,
        time_ms: entry.unix_ms.unwrap_or_default(),
        purpose: entry.purpose.clone(),
        released: entry.is_released,
    };
    let spent = ledger
        .entries()
        .iter()
        .fold(dunlin_privacy::Epsilon::ZERO, |sum, entry| sum.compose(entry.epsilon));
    json::LedgerView {
        entries: ledger.entries().iter().map(entry).collect(),
        epsilon_spent: spent.as_f64(),
        epsilon_max: ledger.epsilon_max().as_f64(),
    }
}

fn unit_name(unit: Unit) -> String {
    match unit {
        Unit::Observation => "observation".to_owned(),
        _ => format!("{unit:?}").to_lowercase(),
    }
}

fn set_json(shared: &Shared, held: &Held) -> json::TemplateSet {
    let set = &held.signed.value;
    let verdict = |judged: &crate::daemon::Judged| json::GateVerdict {
        adopted: judged.is_adopted,
        own_q90: judged.own_q90,
        foreign_q90: judged.foreign_q90,
        reason: judged.reason.to_owned(),
    };
    json::TemplateSet {
        collection: set.collection().to_owned(),
        signer: held.signed.signer.to_string(),
        source: if shared.sharing.is_own(held) {
            json::TemplateSource::Own
        } else {
            json::TemplateSource::Peer
        },
        templates: set.templates().len() as u64,
        bytes: held.signed.bytes.len() as u64,
        unit: unit_name(set.unit()),
        epsilon: set.epsilon().as_f64(),
        issued_ms: set.issued_unix_ms(),
        expires_ms: set.expires_unix_ms(),
        centroids: set.templates().iter().map(|template| template.centroid(set.bounds())).collect(),
        support: set.templates().iter().map(|template| template.support() as f64).collect(),
        verdict: held.judged.as_ref().map(verdict),
    }
}

impl From<SharingError> for ApiError {
    fn from(error: SharingError) -> Self {
        match error {
            SharingError::Read(cause) => cause.into(),
            SharingError::Reserve(ReserveError::Exhausted { .. }) => {
                Self::conflict("budget_exhausted", error)
            }
            SharingError::Reserve(ReserveError::Unchanged { .. }) => {
                Self::conflict("unchanged", error)
            }
            SharingError::TooFew { .. } => Self::conflict("too_few", error),
            SharingError::NoRange | SharingError::Epsilon(_) | SharingError::Data(_) => {
                Self::bad_request("bad_query", error)
            }
            _ => Self::internal(error),
        }
    }
}
