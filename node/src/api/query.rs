//! Questions: near regimes, anomalies, scores, history.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use dunlin_archive::Pin;
use dunlin_client as json;
use dunlin_engine::{
    AnomaliesQuery, ChangeOrder, ChangesQuery, CollectionName, CollectionSpec, Course, Coverage,
    EntityId, Exactness, Factors, HistoryQuery, Include, KnnQuery, Level, MatchesQuery, Preferred,
    Reference, ScoreUnits, ScoresQuery, Segment, Source, TRAJECTORY_POINTS_MAX, TimeRange,
    Timestamp, TrajectoryQuery, distance, knn_over,
};
use dunlin_wire::Cid;

use super::{Body, convert, error::ApiError, review};
use crate::daemon::{Shared, Standings, Touched, Whose, losers};

/// Over how many observations a score is the mean: what FACTS found to work on server telemetry.
const SCORE_WINDOW: usize = 10;

/// Most neighbours or anomalies of one answer.
const K_MAX: u32 = 10_000;

/// Fetched segments that one knn looks at; more make the answer incomplete, and it says so.
const FETCHED_MAX: usize = 100_000;

/// Most points of one history.
const POINTS_MAX: u32 = 100_000;

/// Points of a history when nobody says how many.
const POINTS_DEFAULT: u32 = 1_000;

/// Changes when nobody says how many.
const CHANGES_DEFAULT: u32 = 100;

/// Points of a course when nobody says how many: regimes of one part in five hundred are seen.
const TRAJECTORY_POINTS_DEFAULT: u32 = 512;

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn knn(
    State(shared): State<Arc<Shared>>,
    Body(query): Body<json::KnnQuery>,
) -> Answer<json::KnnAnswer> {
    let collection = convert::collection_name(&query.collection)?;
    let k = checked_k(query.k)?;
    let started = Instant::now();
    let include = match query.scope {
        json::Scope::Local => Some(Include::All),
        json::Scope::Open => Some(Include::Open),
        json::Scope::Sealed => Some(Include::Sealed),
        json::Scope::Fetched | json::Scope::Templates => None,
    };
    if include.is_none() && !query.metadata.is_empty() {
        let problem = "metadata is known of own entities alone; ask with the scope `local`, `open` or `sealed`";
        return Err(ApiError::bad_request("bad_query", problem));
    }
    let (answer, standings) = match (include, query.scope) {
        (Some(include), _) => {
            let question = KnnQuery {
                range: range(query.from_us, query.to_us),
                entity: query.entity.map(convert::entity_id).transpose()?,
                metadata: convert::metadata(query.metadata)?,
                include,
                search: if query.exact { Exactness::Exact } else { Exactness::Approximate },
                ..KnnQuery::new(collection.clone(), query.vector, k)
            };
            let whose = of_one_or_all(question.entity.as_ref());
            let ask = move |shared: &Shared, preferred: &Preferred<'_>| {
                Ok(shared.engine.knn_with(&question, preferred)?)
            };
            asked(&shared, collection, whose, ask).await?
        }
        (None, json::Scope::Templates) => {
            return knn_templates(&shared, &collection, &query, k).await;
        }
        (None, _) => {
            let standings = shared.standings().await;
            let known = standings.clone();
            let ask = move |shared: &Shared| knn_fetched(shared, &collection, &query, k, &known);
            (shared.blocking(ask).await?, standings)
        }
    };
    let hit = |neighbor: dunlin_engine::Neighbor| json::KnnHit {
        cid: sealed_cid(neighbor.source),
        template: None,
        entity: neighbor.entity.to_string(),
        start_us: neighbor.start.0,
        end_us: neighbor.end.0,
        distance: neighbor.distance,
    };
    let mut coverage = coverage(&answer.coverage, started.elapsed());
    let used: Vec<_> = answer.neighbors.iter().filter_map(|one| sealed(one.source)).collect();
    review::note(&mut coverage, &shared.touched(&standings, &used));
    Ok(Json(json::KnnAnswer { hits: answer.neighbors.into_iter().map(hit).collect(), coverage }))
}

/// Asks the engine. Each question about the past goes through here: where another node's version of it is preferred,
/// answers use that one. Returns who stood where when that was decided, too.
async fn asked<T: Send + 'static>(
    shared: &Arc<Shared>,
    collection: CollectionName,
    whose: Whose,
    ask: impl FnOnce(&Shared, &Preferred<'_>) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, Standings), ApiError> {
    let standings = shared.standings().await;
    let known = standings.clone();
    let answer = shared.blocking(move |shared| {
        let spec = shared.engine.collection(&collection)?;
        let preferred = shared.preferred(&known, &spec, &whose)?;
        ask(shared, &preferred)
    });
    Ok((answer.await?, standings))
}

fn of_one_or_all(entity: Option<&EntityId>) -> Whose {
    entity.map_or(Whose::All(None), |entity| Whose::Of(vec![entity.clone()]))
}

/// Searches the segments that came from peers: those that were fetched, and those that recovery brought. Of two that
/// conflict, the preferred one is used.
fn knn_fetched(
    shared: &Shared,
    collection: &CollectionName,
    query: &json::KnnQuery,
    k: usize,
    standings: &Standings,
) -> Result<dunlin_engine::KnnAnswer, ApiError> {
    let spec = shared.engine.collection(collection)?;
    check_vector(&spec, &query.vector)?;
    let name = collection.as_str();
    let mut cids = shared.archive.roots(&Pin::fetched(name), None, FETCHED_MAX)?;
    cids.extend(shared.archive.roots(&Pin::recovered(name), None, FETCHED_MAX - cids.len())?);
    cids.sort_unstable();
    cids.dedup();
    let all: BTreeSet<_> = cids.iter().copied().collect();
    // One that loses against what this node sealed is the peers' word all the same.
    let mut conflicts = shared.touched(standings, &cids);
    conflicts.retain(|touched| all.contains(&touched.preferred));
    let losers = losers(&conflicts);
    let (from, to) = (query.from_us.unwrap_or(i64::MIN), query.to_us.unwrap_or(i64::MAX));
    let mut segments = Vec::with_capacity(cids.len());
    let mut is_complete = all.len() < FETCHED_MAX;
    for cid in cids.iter().filter(|cid| !losers.contains(cid)) {
        let Some(block) = shared.stored_block(cid)? else {
            is_complete = false;
            continue;
        };
        // Only what decodes was stored under this pin.
        if let Ok(segment) = Segment::decode(block.bytes()) {
            let overlaps = segment.start().0 <= to && segment.end().0 >= from;
            let is_of =
                query.entity.as_ref().is_none_or(|entity| entity == segment.entity().as_str());
            if overlaps && is_of {
                segments.push(segment);
            }
        }
    }
    let coverage = Coverage {
        segments_scanned: segments.len() as u64,
        range: range(query.from_us, query.to_us),
        complete: is_complete,
        ..Coverage::default()
    };
    let neighbors = knn_over(spec.metric, &query.vector, k, &segments);
    Ok(dunlin_engine::KnnAnswer { neighbors, coverage })
}

/// Searches the adopted templates of peers, which belong to no entity and no time.
async fn knn_templates(
    shared: &Shared,
    collection: &CollectionName,
    query: &json::KnnQuery,
    k: usize,
) -> Answer<json::KnnAnswer> {
    let started = Instant::now();
    let spec = shared.engine.collection(collection)?;
    check_vector(&spec, &query.vector)?;
    if query.entity.is_some() || query.from_us.is_some() || query.to_us.is_some() {
        let problem = "a template has no entity and no time; ask without them";
        return Err(ApiError::bad_request("bad_query", problem));
    }
    let mut templates = shared.adopted(collection).await;
    templates.retain(|template| !template.is_witness);
    let scanned = templates.len() as u64;
    let hit = |template: Reference| json::KnnHit {
        distance: distance(spec.metric, &query.vector, &template.centroid),
        cid: None,
        template: Some(template.id),
        entity: String::new(),
        start_us: 0,
        end_us: 0,
    };
    let mut hits: Vec<json::KnnHit> = templates.into_iter().map(hit).collect();
    hits.sort_by(|a, b| {
        a.distance.total_cmp(&b.distance).then_with(|| a.template.cmp(&b.template))
    });
    hits.truncate(k);
    let looked_at = Coverage { segments_scanned: scanned, complete: true, ..Coverage::default() };
    Ok(Json(json::KnnAnswer { hits, coverage: coverage(&looked_at, started.elapsed()) }))
}

fn check_vector(spec: &CollectionSpec, vector: &[f32]) -> Result<(), ApiError> {
    let (found, dim) = (vector.len(), spec.dim.get());
    if found != dim {
        let problem = format!("the vector has {found} values, but the collection has {dim}");
        return Err(ApiError::bad_request("bad_query", problem));
    }
    if vector.iter().any(|value| !value.is_finite()) {
        return Err(ApiError::bad_request("bad_query", "a value of the vector is not finite"));
    }
    Ok(())
}

pub(super) async fn anomalies(
    State(shared): State<Arc<Shared>>,
    Body(query): Body<json::AnomaliesQuery>,
) -> Answer<json::AnomaliesAnswer> {
    let collection = convert::collection_name(&query.collection)?;
    let started = Instant::now();
    let question = AnomaliesQuery {
        references: references(&shared, &collection, query.templates, 0).await,
        fade_us: shared.fade_us(),
        collection: collection.clone(),
        entity: query.entity.map(convert::entity_id).transpose()?,
        range: range(query.from_us, query.to_us),
        k: checked_k(query.k)?,
        level: Level::Regimes,
        units: units(query.units),
        known_after_us: query.known_after_us,
    };
    // What other entities did is a factor, too.
    let whose = Whose::All(question.entity.clone());
    let ask = move |shared: &Shared, preferred: &Preferred<'_>| {
        Ok(shared.engine.anomalies_with(&question, preferred)?)
    };
    let (answer, standings) = asked(&shared, collection, whose, ask).await?;
    let anomaly = |anomaly: dunlin_engine::Anomaly| json::Anomaly {
        cid: anomaly.source.and_then(sealed_cid),
        entity: anomaly.entity.to_string(),
        start_us: anomaly.start.0,
        end_us: anomaly.end.0,
        score: anomaly.score,
        factors: factors(anomaly.factors),
    };
    let mut coverage = coverage(&answer.coverage, started.elapsed());
    let used = answer.anomalies.iter().filter_map(|one| one.source.and_then(sealed));
    let used: Vec<_> = used.collect();
    review::note(&mut coverage, &shared.touched(&standings, &used));
    Ok(Json(json::AnomaliesAnswer {
        anomalies: answer.anomalies.into_iter().map(anomaly).collect(),
        coverage,
    }))
}

pub(super) async fn scores(
    State(shared): State<Arc<Shared>>,
    Body(query): Body<json::ScoresQuery>,
) -> Answer<json::ScoresAnswer> {
    let collection = convert::collection_name(&query.collection)?;
    let references = references(&shared, &collection, query.templates, query.seed).await;
    let templates = references.iter().filter(|reference| !reference.is_witness).count() as u64;
    let started = Instant::now();
    let question = ScoresQuery {
        collection,
        entity: convert::entity_id(query.entity)?,
        range: range(Some(query.from_us), Some(query.to_us)),
        known_until: query.known_until_us.map(Timestamp),
        references,
        fade_us: shared.fade_us(),
        window: SCORE_WINDOW,
        units: units(query.units),
        known_after_us: query.known_after_us,
    };
    let about = About::of(&question.collection, Some(&question.entity), question.range);
    // What other entities did is a factor, too.
    let whose = Whose::All(Some(question.entity.clone()));
    let ask = move |shared: &Shared, preferred: &Preferred<'_>| {
        Ok(shared.engine.scores_with(&question, preferred)?)
    };
    let (answer, standings) = asked(&shared, about.collection.clone(), whose, ask).await?;
    let score = |score: dunlin_engine::Score| json::Score {
        timestamp_us: score.timestamp.0,
        score: score.score,
        factors: factors(score.factors),
    };
    let mut coverage = coverage(&answer.coverage, started.elapsed());
    review::note(&mut coverage, &about.touched(&shared, &standings));
    Ok(Json(json::ScoresAnswer {
        scores: answer.scores.into_iter().map(score).collect(),
        templates,
        coverage,
    }))
}

pub(super) async fn history(
    State(shared): State<Arc<Shared>>,
    Body(query): Body<json::HistoryQuery>,
) -> Answer<json::HistoryAnswer> {
    let started = Instant::now();
    let limit = query.limit.unwrap_or(POINTS_DEFAULT).min(POINTS_MAX) as usize;
    let question = HistoryQuery {
        collection: convert::collection_name(&query.collection)?,
        entity: convert::entity_id(query.entity)?,
        range: range(query.from_us, query.to_us),
        resolution_us: None,
    };
    let about = About::of(&question.collection, Some(&question.entity), question.range);
    let matching = match query.matches {
        None => None,
        Some(templates) => Some(MatchesQuery {
            collection: question.collection.clone(),
            entity: question.entity.clone(),
            references: references(&shared, &question.collection, templates, 0).await,
            fade_us: shared.fade_us(),
        }),
    };
    let whose = of_one_or_all(Some(&question.entity));
    let ask = move |shared: &Shared, preferred: &Preferred<'_>| {
        let mut answer = shared.engine.history_with(&question, preferred)?;
        let count = answer.points.count();
        answer.points.truncate(limit);
        let matched = match matching {
            Some(of) => shared.engine.matches_with(&of, &answer.points, preferred)?,
            None => Vec::new(),
        };
        Ok((answer, count, matched))
    };
    let found = asked(&shared, about.collection.clone(), whose, ask).await?;
    let ((answer, count, matched), standings) = found;
    let mut coverage = coverage(&answer.coverage, started.elapsed());
    review::note(&mut coverage, &about.touched(&shared, &standings));
    if count > limit {
        coverage.complete = false;
        coverage.missing = Some(format!("{} more points", count - limit));
    }
    let matched = matched.into_iter().chain(std::iter::repeat(None));
    let points = answer.points.iter().zip(matched).enumerate();
    let points = points.map(|(index, ((time, vector), matched))| json::HistoryPoint {
        timestamp_us: time.0,
        vector: vector.to_vec(),
        matched: matched.and_then(convert::matched_json),
        peer_segment: answer.foreign.get(&index).map(ToString::to_string),
    });
    let points = points.collect();
    Ok(Json(json::HistoryAnswer {
        points,
        fidelity: convert::fidelity_json(answer.fidelity),
        error_max: answer.error_max,
        coverage,
    }))
}

pub(super) async fn changes(
    State(shared): State<Arc<Shared>>,
    Body(query): Body<json::ChangesQuery>,
) -> Answer<json::ChangesAnswer> {
    let started = Instant::now();
    let question = ChangesQuery {
        collection: convert::collection_name(&query.collection)?,
        entity: query.entity.map(convert::entity_id).transpose()?,
        range: range(query.from_us, query.to_us),
        limit: checked_k(query.limit.unwrap_or(CHANGES_DEFAULT))?,
        order: match query.order {
            json::ChangeOrder::Newest => ChangeOrder::Newest,
            json::ChangeOrder::Largest => ChangeOrder::Largest,
        },
    };
    let about = About::of(&question.collection, question.entity.as_ref(), question.range);
    let whose = of_one_or_all(question.entity.as_ref());
    let ask = move |shared: &Shared, preferred: &Preferred<'_>| {
        let channels = shared.engine.collection(&question.collection)?.channels.clone();
        Ok((shared.engine.changes_with(&question, preferred)?, channels.unwrap_or_default()))
    };
    let found = asked(&shared, about.collection.clone(), whose, ask).await?;
    let ((answer, channels), standings) = found;
    let change = |change: dunlin_engine::Change| json::Change {
        entity: change.entity.to_string(),
        at_us: change.at.0,
        from_cid: sealed_cid(change.from).unwrap_or_default(),
        to_cid: sealed_cid(change.to),
        distance: change.distance,
        score: change.score,
        gap_us: change.gap_us,
        moves: change.moves.iter().map(|one| channel_move(one, &channels)).collect(),
    };
    let mut coverage = coverage(&answer.coverage, started.elapsed());
    review::note(&mut coverage, &about.touched(&shared, &standings));
    Ok(Json(json::ChangesAnswer {
        changes: answer.changes.into_iter().map(change).collect(),
        coverage,
    }))
}

fn channel_move(one: &dunlin_engine::Move, channels: &[String]) -> json::ChannelMove {
    json::ChannelMove {
        channel: u32::try_from(one.channel).unwrap_or(u32::MAX),
        name: channels.get(one.channel).cloned(),
        from: one.from,
        to: one.to,
    }
}

pub(super) async fn trajectory(
    State(shared): State<Arc<Shared>>,
    Body(query): Body<json::TrajectoryQuery>,
) -> Answer<json::TrajectoryAnswer> {
    let started = Instant::now();
    let course = |course: json::Course| {
        let entity = convert::entity_id(course.entity)?;
        Ok::<_, ApiError>(Course { entity, range: range(course.from_us, course.to_us) })
    };
    let points = query.points.unwrap_or(TRAJECTORY_POINTS_DEFAULT) as usize;
    if !(2..=TRAJECTORY_POINTS_MAX).contains(&points) {
        let problem = format!("{points} points; there may be 2 to {TRAJECTORY_POINTS_MAX}");
        return Err(ApiError::bad_request("bad_query", problem));
    }
    let question = TrajectoryQuery {
        collection: convert::collection_name(&query.collection)?,
        a: course(query.a)?,
        b: course(query.b)?,
        points,
    };
    let about = [&question.a, &question.b]
        .map(|course| About::of(&question.collection, Some(&course.entity), course.range));
    let whose = Whose::Of(vec![question.a.entity.clone(), question.b.entity.clone()]);
    let collection = question.collection.clone();
    let ask = move |shared: &Shared, preferred: &Preferred<'_>| {
        Ok(shared.engine.trajectory_with(&question, preferred)?)
    };
    let (answer, standings) = asked(&shared, collection, whose, ask).await?;
    let (a, b) = (answer.coverage_a, answer.coverage_b);
    let both = Coverage {
        segments_scanned: a.segments_scanned + b.segments_scanned,
        segments_indexed: a.segments_indexed + b.segments_indexed,
        outlines: a.outlines + b.outlines,
        hot_regimes: a.hot_regimes + b.hot_regimes,
        range: a.range,
        complete: a.complete && b.complete,
        is_compacted: false,
        unread: a.unread + b.unread,
    };
    let mut coverage = coverage(&both, started.elapsed());
    let touched = about.map(|about| about.touched(&shared, &standings)).concat();
    review::note(&mut coverage, &touched);
    let matched = |one: &dunlin_engine::Match| json::Match { a_us: one.a.0, b_us: one.b.0 };
    Ok(Json(json::TrajectoryAnswer {
        distance: answer.distance,
        similarity: answer.similarity,
        matches: answer.matches.iter().map(matched).collect(),
        coverage,
    }))
}

async fn references(
    shared: &Shared,
    collection: &CollectionName,
    templates: json::TemplateUse,
    seed: u64,
) -> Vec<Reference> {
    match templates {
        json::TemplateUse::None => Vec::new(),
        json::TemplateUse::Adopted => shared.adopted(collection).await,
        json::TemplateUse::Control => shared.control(collection, seed).await,
    }
}

fn checked_k(k: u32) -> Result<usize, ApiError> {
    match k {
        1..=K_MAX => Ok(k as usize),
        _ => Err(ApiError::bad_request(
            "bad_query",
            format!("{k} results; there may be 1 to {K_MAX}"),
        )),
    }
}

fn range(from_us: Option<i64>, to_us: Option<i64>) -> TimeRange {
    TimeRange { from: from_us.map(Timestamp), to: to_us.map(Timestamp) }
}

fn sealed_cid(source: Source) -> Option<String> {
    sealed(source).map(|cid| cid.to_string())
}

fn sealed(source: Source) -> Option<Cid> {
    match source {
        Source::Sealed(cid) | Source::Outlined(cid) => Some(cid),
        Source::Open => None,
    }
}

fn bounds(range: TimeRange) -> (i64, i64) {
    let bound = |at: Option<Timestamp>, none| at.map_or(none, |at| at.0);
    (bound(range.from, i64::MIN), bound(range.to, i64::MAX))
}

/// What an answer is about that reads an entity's course: the conflicts in it are those of that time.
struct About {
    collection: CollectionName,
    entity: Option<String>,
    time: (i64, i64),
}

impl About {
    fn of(collection: &CollectionName, entity: Option<&EntityId>, range: TimeRange) -> Self {
        Self {
            collection: collection.clone(),
            entity: entity.map(ToString::to_string),
            time: bounds(range),
        }
    }

    fn touched(&self, shared: &Shared, standings: &Standings) -> Vec<Touched> {
        let of = (self.collection.as_str(), self.entity.as_deref());
        shared.touched_in(standings, of, self.time)
    }
}

fn units(units: json::ScoreUnits) -> ScoreUnits {
    match units {
        json::ScoreUnits::Blended => ScoreUnits::Blended,
        json::ScoreUnits::Range => ScoreUnits::Range,
        json::ScoreUnits::Z => ScoreUnits::Z,
        json::ScoreUnits::Noise => ScoreUnits::Noise,
    }
}

fn factors(factors: Factors) -> json::Factors {
    json::Factors {
        novelty: factors.novelty,
        drift: factors.drift,
        timing: factors
            .timing
            .map(|timing| json::Timing { hour: timing.hour, weekday: timing.weekday }),
        peers: factors.peers,
        distance: factors.distance,
        margin: factors.margin,
        nearest: convert::nearest_json(factors.nearest),
    }
}

/// Says what an answer lacks, and what to do about it.
fn missing(coverage: &Coverage) -> Option<String> {
    let unread = format!(
        "of {} segments of peers, which are preferred, only the summary is here; `dunlin segments fetch \
         --payload` brings the rest",
        coverage.unread
    );
    let cut = "a limit or a damaged block cut it off; `dunlin status` tells of damage, a shorter \
               range avoids limits";
    let compacted = "older regimes were compacted into outlines; history, changes and trajectory \
                     look at these, and the archive has the segments";
    let is_cut = !coverage.complete && coverage.unread == 0;
    let all = [
        (coverage.unread > 0).then_some(unread.as_str()),
        is_cut.then_some(cut),
        coverage.is_compacted.then_some(compacted),
    ];
    let all: Vec<_> = all.into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn coverage(coverage: &Coverage, elapsed: Duration) -> json::Coverage {
    json::Coverage {
        segments: coverage.segments_scanned,
        indexed_segments: coverage.segments_indexed,
        outlines: coverage.outlines,
        open_regimes: coverage.hot_regimes,
        complete: coverage.complete && !coverage.is_compacted,
        missing: missing(coverage),
        conflicts: Vec::new(),
        conflicts_total: 0,
        elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
    }
}
