//! Segments, their blocks, the archive, and retrieval from peers.

use std::{collections::BTreeSet, sync::Arc};

use axum::{Json, extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use dunlin_archive::{
    Attempt, AttemptOutcome, Pin,
    backend::{Backend, Pinning, RequestProblem},
};
use dunlin_client as json;
use dunlin_engine::{Segment, SegmentQuery, TimeRange, Timestamp};
use dunlin_privacy::NoisedSegment;
use dunlin_protocols::Search;
use dunlin_wire::{Cid, envelope::Signed};
use tokio::time::Instant;

use super::{Body, Path, convert, error::ApiError, publishing::progress_json, review, shares};
use crate::{
    config::{BackendKind, Mode},
    daemon::{FetchWish, Fetched, FromSealed, GatewayUrl, Shared, Unopened},
};

/// Most segments of one page or one retrieval.
const SEGMENTS_MAX: usize = 1_000;

/// Most gateways of one retrieval.
const GATEWAYS_MAX: usize = 16;

/// Complaints of a pinning service that are shown.
const COMPLAINTS_MAX: usize = 10;

/// Segments of a page when nobody says how many.
const SEGMENTS_DEFAULT: u32 = 100;

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Body(query): Body<json::SegmentsQuery>,
) -> Answer<json::SegmentPage> {
    let question = SegmentQuery {
        collection: convert::collection_name(&query.collection)?,
        entity: query.entity.map(convert::entity_id).transpose()?,
        range: TimeRange { from: query.from_us.map(Timestamp), to: query.to_us.map(Timestamp) },
        after: query.after.unwrap_or(0),
        limit: (query.limit.unwrap_or(SEGMENTS_DEFAULT) as usize).clamp(1, SEGMENTS_MAX),
    };
    let (page, archived, copies) = shared
        .blocking(move |shared| {
            let page = shared.engine.segments(&question)?;
            let position = shared.archive.position()?.unwrap_or(0);
            let own = Pin::own(question.collection.as_str());
            let copies = page.segments.iter().map(|s| shared.archive.copy_of(&own, &s.cid));
            let copies = copies.collect::<Result<Vec<_>, _>>()?;
            Ok::<_, ApiError>((page, position, copies))
        })
        .await?;
    let next = page.segments.last().filter(|_| !page.coverage.complete).map(|stored| stored.number);
    let segment = |(stored, sealed): (&dunlin_engine::Stored, Option<Cid>)| {
        let bytes = stored.segment.encode().len();
        let archived = stored.number <= archived;
        let json = segment_json(&stored.cid, &stored.segment, bytes, archived);
        let conflicts = review::rivals(&shared, &stored.cid);
        json::Segment { sealed: sealed.map(|cid| cid.to_string()), conflicts, ..json }
    };
    let segments = page.segments.iter().zip(copies).map(segment).collect();
    Ok(Json(json::SegmentPage { segments, next }))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(cid): Path<String>,
) -> Answer<json::Segment> {
    let cid = parse_cid(&cid)?;
    let block = shared.blocking(move |shared| find_block(shared, &cid)).await?;
    let segment = Segment::decode(&block).map_err(|problem| {
        ApiError::bad_request("bad_query", format!("{cid} is no segment: {problem}"))
    })?;
    let collection = segment.collection().clone();
    let own = Pin::own(collection.as_str());
    let (is_archived, sealed) = shared
        .blocking(move |shared| {
            let is_archived = shared.archive.is_pinned(&own, &cid)?;
            Ok::<_, ApiError>((is_archived, shared.archive.copy_of(&own, &cid)?))
        })
        .await?;
    let json = segment_json(&cid, &segment, block.len(), is_archived);
    let conflicts = review::rivals(&shared, &cid);
    Ok(Json(json::Segment { sealed: sealed.map(|cid| cid.to_string()), conflicts, ..json }))
}

pub(super) async fn block(
    State(shared): State<Arc<Shared>>,
    Path(cid): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let cid = parse_cid(&cid)?;
    let block = shared.blocking(move |shared| find_block(shared, &cid)).await?;
    Ok(([(CONTENT_TYPE, "application/vnd.ipld.raw")], block))
}

/// Returns a block's bytes from the engine or the archive.
fn find_block(shared: &Shared, cid: &Cid) -> Result<Vec<u8>, ApiError> {
    if let Some(block) = shared.engine.block(cid)? {
        return Ok(block.into_bytes());
    }
    let missing = || {
        ApiError::not_found(format!("{cid} is not here; `dunlin segments fetch` asks the network"))
    };
    Ok(shared.stored_block(cid)?.ok_or_else(missing)?.into_bytes())
}

pub(super) async fn fetch(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::FetchRequest>,
) -> Answer<json::FetchResponse> {
    let bad = |problem: String| ApiError::bad_request("bad_query", problem);
    if request.cids.len() > SEGMENTS_MAX {
        return Err(bad(format!("{} CIDs; at most {SEGMENTS_MAX} at once", request.cids.len())));
    }
    let mut seen = BTreeSet::new();
    let mut cids = Vec::with_capacity(request.cids.len());
    for text in &request.cids {
        let cid = parse_cid(text)?;
        if seen.insert(cid) {
            cids.push(cid);
        }
    }
    let peer = |text: &String| text.parse().map_err(|_| bad(format!("{text} is no peer id")));
    let first = request.peers.iter().map(peer).collect::<Result<_, _>>()?;
    if request.gateways.len() > GATEWAYS_MAX {
        let problem = format!("{} gateways; at most {GATEWAYS_MAX}", request.gateways.len());
        return Err(bad(problem));
    }
    if shared.config.network.mode == Mode::AirGapped && !request.gateways.is_empty() {
        let problem = "this node is air-gapped: it asks nobody; import a bundle";
        return Err(ApiError::conflict("air_gapped", problem));
    }
    let gateways = request.gateways.iter().map(|url| url.parse::<GatewayUrl>().map_err(bad));
    let gateways = gateways.collect::<Result<_, _>>()?;
    let started = Instant::now();
    let search = if request.dht { Search::Once } else { Search::Never };
    let wish = FetchWish { cids, first, gateways, payload: request.payload, search };
    let fetched = shared.fetch(wish).await?;
    let elapsed_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Json(json::FetchResponse {
        segments: fetched.iter().map(fetched_json).collect(),
        elapsed_us,
    }))
}

/// Has public objects found on the DHT, because the operator wishes so: strangers learn their CIDs.
pub(super) async fn provide(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::ProvideRequest>,
) -> Answer<json::ProvideResponse> {
    if request.cids.len() > SEGMENTS_MAX {
        let problem = format!("{} CIDs; at most {SEGMENTS_MAX} at once", request.cids.len());
        return Err(ApiError::bad_request("bad_query", problem));
    }
    let cids = request.cids.iter().map(|text| parse_cid(text)).collect::<Result<Vec<_>, _>>()?;
    let provided = cids.len() as u64;
    shared.publisher.provide(cids).await?;
    Ok(Json(json::ProvideResponse { provided }))
}

fn fetched_json(fetched: &Fetched) -> json::FetchedSegment {
    let Fetched { cid, segment, sealed, noised, missing_payload, block_bytes, is_local, attempts } =
        fetched;
    // What was in a sealed one has a CID of its own.
    let json = |segment: &Segment| segment_json(&segment.cid(), segment, *block_bytes, false);
    json::FetchedSegment {
        cid: cid.to_string(),
        segment: segment.as_ref().map(json),
        sealed: sealed.map(sealed_json),
        noised: noised.as_deref().map(noised_json),
        missing_payload: missing_payload.iter().map(ToString::to_string).collect(),
        local: *is_local,
        attempts: attempts.iter().map(attempt_json).collect(),
    }
}

fn sealed_json(sealed: FromSealed) -> json::FetchedSealed {
    json::FetchedSealed {
        key: sealed.key.to_string(),
        outcome: match sealed.problem {
            None => json::SealedOutcome::Opened,
            Some(Unopened::NoKey) => json::SealedOutcome::NoKey,
            Some(Unopened::Forged) => json::SealedOutcome::Forged,
        },
    }
}

fn noised_json(signed: &Signed<NoisedSegment>) -> json::NoisedSegment {
    let segment = &signed.value;
    let privacy = segment.privacy();
    json::NoisedSegment {
        signer: signed.signer.to_string(),
        collection: segment.collection().to_owned(),
        entity: segment.entity().to_string(),
        start_us: segment.window().start_us(),
        window_us: segment.window().length_us(),
        count: segment.count(),
        mean: segment.mean(),
        epsilon: privacy.epsilon.as_f64(),
        delta: privacy.delta,
        unit: privacy.unit.to_string(),
        mechanism: privacy.noise.as_ref().map_or("", |noise| noise.mechanism.name()).to_owned(),
    }
}

fn attempt_json(attempt: &Attempt<String>) -> json::Attempt {
    json::Attempt {
        peer: attempt.peer.clone(),
        outcome: match attempt.outcome {
            AttemptOutcome::Verified => json::AttemptOutcome::Verified,
            AttemptOutcome::Wrong => json::AttemptOutcome::Corrupt,
            AttemptOutcome::Missing => json::AttemptOutcome::Missing,
            AttemptOutcome::Refused => json::AttemptOutcome::Refused,
            AttemptOutcome::Failed => json::AttemptOutcome::Failed,
        },
    }
}

pub(super) async fn archive(State(shared): State<Arc<Shared>>) -> Answer<json::ArchiveStatus> {
    Ok(Json(archive_status(&shared).await?))
}

/// Returns what the archive holds; nothing, and a problem, when it cannot be read. What asks for more than the
/// archive must be answered all the same.
pub(super) async fn archive_if_readable(shared: &Arc<Shared>) -> json::ArchiveStatus {
    match archive_status(shared).await {
        Ok(status) => {
            shared.recovered("archive-read");
            status
        }
        Err(_) => {
            shared.report(
                "archive-read",
                "cannot be read; restart the node when its disk is well".into(),
            );
            json::ArchiveStatus::default()
        }
    }
}

pub(super) async fn archive_status(shared: &Arc<Shared>) -> Result<json::ArchiveStatus, ApiError> {
    let corrupt_refused = shared.network.counters().await.wrong_cids;
    let last_archive_ms = shared.observed().last_archive_ms;
    let replication = shared.replicas.status().summary;
    let (published, providing) = progress_json(&shared.publisher.progress());
    let count =
        |shared: &Shared, prefix| Ok::<u64, ApiError>(shared.archive.pins(prefix)?.values().sum());
    shared
        .blocking(move |shared| {
            let stats = shared.archive.stats()?;
            let own = shared.archive.pins(Pin::OWN)?;
            let position = shared.archive.position()?.unwrap_or(0);
            Ok(json::ArchiveStatus {
                archived: own.values().sum(),
                // Segments are numbered from 1 in the order in which they are sealed.
                due: shared.engine.last_segment()?.saturating_sub(position),
                fetched: count(shared, "fetched/")?,
                blocks: stats.blocks,
                bytes: stats.bytes,
                corrupt_refused,
                last_archive_ms,
                replicas: replication.replicas as u64,
                replicated: replication.objects.last().copied().unwrap_or(0),
                under_replicated: replication.objects.iter().rev().skip(1).sum(),
                backend: backend(shared)?,
                catalogs: catalogs(shared, own.keys())?,
                sealed: shares::copies(shared, &own)?,
                noised: shares::noised(shared)?,
                root: shared.archive.own_root()?.map(|root| root.to_string()),
                published,
                providing,
                recovery: recovery(shared)?,
            })
        })
        .await
}

fn recovery(shared: &Shared) -> Result<json::RecoveryStatus, ApiError> {
    let counts = shared.recovery.counts();
    let mut known = Vec::new();
    for spec in shared.engine.collections()? {
        if let Some(root) = shared.archive.catalog(&Pin::recovered(spec.name.as_str()))? {
            known.push(json::CatalogRoot {
                collection: spec.name.to_string(),
                root: root.cid.to_string(),
                segments: root.count,
            });
        }
    }
    Ok(json::RecoveryStatus {
        enabled: shared.recovers(),
        known,
        held: shared.archive.pins(Pin::RECOVERED)?.values().sum(),
        conflicts: shared.recovery.conflicts().len() as u64,
        same: counts.same,
        different: counts.different,
        failed: counts.failed,
        recovered: counts.recovered,
        received_bytes: counts.bytes,
        statements: counts.statements,
        statements_refused: counts.statements_refused,
    })
}

fn backend(shared: &Shared) -> Result<json::BackendStatus, ApiError> {
    let kind = match shared.config.archive.backend {
        BackendKind::Embedded => "embedded",
        BackendKind::Kubo => "kubo",
    };
    let Some(outside) = &shared.outside else {
        let kind = kind.to_owned();
        return Ok(json::BackendStatus { kind, reachable: true, ..Default::default() });
    };
    let (seen, placing) = (outside.seen(), shared.archive.placing()?);
    Ok(json::BackendStatus {
        kind: kind.to_owned(),
        described: seen.described,
        reachable: outside.is_reachable(),
        problem: shared.observed().problems.get("backend").cloned().or(seen.problem),
        placed: placing.placed,
        due: placing.due,
        pinning: outside
            .pinning()
            .map(|pinning| service(pinning, seen.service_problem))
            .transpose()?,
    })
}

fn service<B: Backend>(
    pinning: &Pinning<B>,
    problem: Option<String>,
) -> Result<json::PinningStatus, ApiError> {
    let counts = pinning.counts().map_err(ApiError::store_failed)?;
    let complaints = pinning.problems(COMPLAINTS_MAX).map_err(ApiError::store_failed)?;
    let complaint = |told: RequestProblem| json::Complaint {
        root: told.root.to_string(),
        problem: told.problem,
    };
    Ok(json::PinningStatus {
        service: pinning.service().to_string(),
        problem,
        waiting: counts.waiting,
        queued: counts.queued,
        pinning: counts.pinning,
        pinned: counts.pinned,
        failed: counts.failed,
        leaving: counts.leaving,
        complaints: complaints.into_iter().map(complaint).collect(),
    })
}

fn catalogs<'a>(
    shared: &Shared,
    own: impl Iterator<Item = &'a Pin>,
) -> Result<Vec<json::CatalogRoot>, ApiError> {
    let mut catalogs = Vec::new();
    for pin in own {
        if let Some(root) = shared.archive.catalog(pin)? {
            catalogs.push(json::CatalogRoot {
                collection: pin.as_str()[Pin::OWN.len()..].to_owned(),
                root: root.cid.to_string(),
                segments: root.count,
            });
        }
    }
    Ok(catalogs)
}

pub(super) fn parse_cid(text: &str) -> Result<Cid, ApiError> {
    text.parse().map_err(|problem| {
        ApiError::bad_request("bad_query", format!("{text} is no CID: {problem}"))
    })
}

fn segment_json(cid: &Cid, segment: &Segment, block_bytes: usize, archived: bool) -> json::Segment {
    json::Segment {
        cid: cid.to_string(),
        collection: segment.collection().to_string(),
        entity: segment.entity().to_string(),
        start_us: segment.start().0,
        end_us: segment.end().0,
        count: segment.count().into(),
        mean: segment.mean().to_vec(),
        spread: segment.spread(),
        drift_mean: segment.drift_mean().into(),
        drift_max: segment.drift_max().into(),
        anomaly_score: segment.score().into(),
        fidelity: convert::fidelity_json(segment.fidelity()),
        payload: segment.payload().iter().map(ToString::to_string).collect(),
        block_bytes: block_bytes as u64,
        archived,
        sealed: None,
        conflicts: Vec::new(),
    }
}
