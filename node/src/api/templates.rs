//! Templates and the privacy ledger.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use dunlin_client as json;
use dunlin_engine::CollectionName;
use dunlin_privacy::{EntityTag, Mechanism, Outcome, ReleaseError, ReserveError, Unit};

use dunlin_protocols::PeerId;

use super::{Body, convert, error::ApiError};
use crate::daemon::{Held, ReleaseRequest, Shared, SharingError};

/// Entities that one view of the ledger lists; the rest are cut off, and it says so.
const ENTITIES_MAX: usize = 10_000;

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
    let request = ReleaseRequest {
        epsilon: request.epsilon,
        unit: named(request.unit, Unit::from_name, "observation, entity-day, entity")?,
        mechanism: named(request.mechanism, Mechanism::from_name, "laplace, gaussian")?,
        cells_max: request.cells_max,
        fresh: request.fresh,
    };
    let release = shared.blocking(move |shared| shared.release_templates(&name, &request)).await?;
    Ok(Json(json::PublishResponse {
        set: set_json(&shared, &release.held),
        unchanged: release.is_unchanged,
        epsilon_spent: release.spent.map(dunlin_privacy::Epsilon::as_f64),
        epsilon_max: release.ceiling.as_f64(),
        from_us: release.from_us,
        entities_left_out: release.entities_left_out as u64,
    }))
}

fn named<T>(
    name: Option<String>,
    of: impl Fn(&str) -> Option<T>,
    accepted: &str,
) -> Result<Option<T>, ApiError> {
    let Some(name) = name else { return Ok(None) };
    let problem = || ApiError::bad_request("bad_query", format!("{name:?} is none of {accepted}"));
    of(&name).map(Some).ok_or_else(problem)
}

pub(super) async fn adopt(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::AdoptRequest>,
) -> Answer<json::Templates> {
    let name = convert::collection_name(&request.collection)?;
    let again = name.clone();
    let doubted = shared.blocking(move |shared| {
        shared.engine.collection(&again)?;
        shared.adopt_again(&again).map_err(ApiError::internal)
    });
    let doubted = doubted.await?;
    shared.report_doubts(doubted).await;
    shared.teach(&name).await?;
    Ok(list(State(shared)).await)
}

pub(super) async fn roll_back(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::RollBackRequest>,
) -> Answer<json::Templates> {
    let name = convert::collection_name(&request.collection)?;
    let peer = request.peer.map(|peer| {
        let problem = || ApiError::bad_request("bad_query", format!("{peer:?} is no peer id"));
        peer.parse::<PeerId>().map_err(|_| problem())
    });
    let peer = peer.transpose()?;
    let aside = name.clone();
    let taken_back = shared.blocking(move |shared| {
        shared.engine.collection(&aside)?;
        shared.set_aside(&aside, peer).map_err(ApiError::internal)
    });
    if taken_back.await? == 0 {
        return Err(ApiError::not_found("no such set was received"));
    }
    shared.teach(&name).await?;
    Ok(list(State(shared)).await)
}

pub(super) async fn ledger(State(shared): State<Arc<Shared>>) -> Json<json::LedgerView> {
    // A release holds the ledger for as long as it takes, so this may have to wait.
    Json(shared.blocking(ledger_json).await)
}

pub(super) async fn ledger_of(
    State(shared): State<Arc<Shared>>,
    Path(collection): Path<String>,
) -> Answer<json::LedgerView> {
    let name = convert::collection_name(&collection)?;
    let view = shared.blocking(move |shared| {
        let mut view = ledger_json(shared);
        (view.entities, view.entities_cut) = entities_json(shared, &name)?;
        view.entries.retain(|entry| entry.collection == name.as_str());
        view.accounts.retain(|account| account.collection == name.as_str());
        Ok::<_, ApiError>(view)
    });
    Ok(Json(view.await?))
}

fn ledger_json(shared: &Shared) -> json::LedgerView {
    let ledger = shared.sharing.ledger();
    let spent = ledger
        .entries()
        .iter()
        .fold(dunlin_privacy::Epsilon::ZERO, |sum, entry| sum.compose(entry.epsilon));
    let ceiling = ledger.ceiling();
    json::LedgerView {
        entries: ledger.entries().iter().map(entry_json).collect(),
        epsilon_spent: spent.as_f64(),
        epsilon_max: ceiling.epsilon.as_f64(),
        delta: ceiling.delta,
        accounts: accounts_json(&ledger),
        entities: Vec::new(),
        entities_cut: false,
    }
}

fn entry_json(entry: &dunlin_privacy::Entry) -> json::LedgerEntry {
    let is_gaussian = entry.mechanism == Some(Mechanism::Gaussian);
    json::LedgerEntry {
        collection: entry.collection.clone().unwrap_or_default(),
        unit: entry.unit.map_or_else(String::new, |unit| unit.to_string()),
        epsilon: entry.epsilon.as_f64(),
        delta: entry.delta,
        mechanism: entry.mechanism.map_or_else(String::new, |it| it.name().to_owned()),
        rho: is_gaussian.then(|| entry.rho.as_f64()),
        entities: entry.entities.map(|count| count as u64),
        time_ms: entry.unix_ms.unwrap_or_default(),
        purpose: entry.purpose.clone(),
        released: entry.outcome == Outcome::Released,
        units_needed: match entry.outcome {
            Outcome::TooFew { units_needed, .. } => Some(units_needed),
            _ => None,
        },
    }
}

/// Returns what each kind of unit has lost in each collection that was released.
fn accounts_json(ledger: &dunlin_privacy::Ledger) -> Vec<json::LedgerAccount> {
    let collections: std::collections::BTreeSet<&str> =
        ledger.entries().iter().filter_map(|entry| entry.collection.as_deref()).collect();
    let account = |collection: &str, unit: Unit| json::LedgerAccount {
        collection: collection.to_owned(),
        unit: unit.to_string(),
        epsilon_spent: ledger.spent(collection, unit).map(dunlin_privacy::Epsilon::as_f64),
        epsilon_left: ledger.left(collection, unit).as_f64(),
    };
    let of = |collection| Unit::ALL.into_iter().map(move |unit| account(collection, unit));
    collections.into_iter().flat_map(of).collect()
}

/// Returns what the entities of a collection have lost, and whether there are more of them.
fn entities_json(
    shared: &Shared,
    name: &CollectionName,
) -> Result<(Vec<json::LedgerEntity>, bool), ApiError> {
    let mut views = shared.engine.entities(name, None, ENTITIES_MAX + 1)?;
    let is_cut = views.len() > ENTITIES_MAX;
    views.truncate(ENTITIES_MAX);
    let tags: Vec<EntityTag> =
        views.iter().map(|view| EntityTag::of(view.entity.as_str())).collect();
    let spent = shared.sharing.ledger().spent_by(name.as_str(), &tags);
    let entity = |(view, spent): (&dunlin_engine::EntityView, Option<dunlin_privacy::Epsilon>)| {
        json::LedgerEntity {
            entity: view.entity.as_str().to_owned(),
            epsilon_spent: spent.map(dunlin_privacy::Epsilon::as_f64),
        }
    };
    Ok((views.iter().zip(spent).map(entity).collect(), is_cut))
}

fn set_json(shared: &Shared, held: &Held) -> json::TemplateSet {
    let set = &held.signed.value;
    let privacy = set.privacy();
    let noise = privacy.noise.as_ref();
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
        unit: privacy.unit.to_string(),
        epsilon: privacy.epsilon.as_f64(),
        delta: privacy.delta,
        mechanism: noise.map(|noise| noise.mechanism.name().to_owned()),
        cells_max: noise.map(|noise| noise.cells_max),
        generator: noise.map(|noise| noise.generator.clone()),
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
            SharingError::Reserve(
                ReserveError::Exhausted { .. } | ReserveError::FinerBefore { .. },
            ) => Self::conflict("budget_exhausted", error),
            SharingError::Lost => Self::conflict("unchanged", error),
            SharingError::Release(ReleaseError::TooFew { .. })
            | SharingError::Reserve(ReserveError::TooFewBefore { .. })
            | SharingError::Empty => Self::conflict("too_few", error),
            SharingError::NoRange
            | SharingError::Epsilon(_)
            | SharingError::Terms(_)
            | SharingError::Reserve(ReserveError::NoDelta)
            | SharingError::Data(_) => Self::bad_request("bad_query", error),
            _ => Self::internal(error),
        }
    }
}
