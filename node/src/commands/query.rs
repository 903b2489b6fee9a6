//! `knn`, `anomalies`, `scores`, `history`, `changes` and `trajectory`: questions and their answers.

use std::time::Duration;

use dunlin_client::{
    AnomaliesQuery, Change, ChangeOrder, ChangesQuery, Client, Course, Coverage, HistoryQuery,
    KnnQuery, Matched, Nearest, Scope, ScoresQuery, TrajectoryQuery,
};

use crate::{
    cli::{AnomaliesArgs, ChangesArgs, HistoryArgs, KnnArgs, ScoresArgs, TrajectoryArgs},
    output::{Output, Table, time},
};

pub(super) fn knn(client: &Client, args: KnnArgs, out: Output) -> anyhow::Result<()> {
    let KnnArgs { vector, collection, k, entity, range, scope, metadata, exact } = args;
    let query = KnnQuery {
        entity,
        from_us: range.from,
        to_us: range.to,
        scope,
        metadata: metadata.into_iter().collect(),
        exact,
        ..KnnQuery::new(collection, vector.0, k)
    };
    out.show(&client.knn(&query)?, |answer| {
        if query.scope == Scope::Templates {
            let mut table = Table::new(["distance", "template"]);
            for hit in &answer.hits {
                let id = hit.template.clone().unwrap_or_default();
                table.row([format!("{:.6}", hit.distance), id]);
            }
            return format!("{table}\n{}", coverage(&answer.coverage));
        }
        let mut table = Table::new(["distance", "entity", "from", "to", "segment"]);
        for hit in &answer.hits {
            table.row([
                format!("{:.6}", hit.distance),
                hit.entity.clone(),
                time(hit.start_us),
                time(hit.end_us),
                hit.cid.clone().unwrap_or_else(|| "(open regime)".to_owned()),
            ]);
        }
        format!("{table}\n{}", coverage(&answer.coverage))
    })
}

pub(super) fn anomalies(client: &Client, args: AnomaliesArgs, out: Output) -> anyhow::Result<()> {
    let AnomaliesArgs { collection, entity, range, k, templates, units, known_after } = args;
    let query = AnomaliesQuery {
        collection,
        entity,
        from_us: range.from,
        to_us: range.to,
        k,
        templates,
        units,
        known_after_us: microseconds(known_after),
    };
    out.show(&client.anomalies(&query)?, |answer| {
        let mut table = Table::new([
            "score", "novelty", "drift", "hour", "weekday", "peers", "entity", "from", "to",
            "nearest", "distance", "margin", "segment",
        ]);
        for anomaly in &answer.anomalies {
            table.row([
                format!("{:.4}", anomaly.score),
                format!("{:.4}", anomaly.factors.novelty),
                format!("{:.4}", anomaly.factors.drift),
                factor(anomaly.factors.timing.map(|timing| timing.hour)),
                factor(anomaly.factors.timing.map(|timing| timing.weekday)),
                factor(anomaly.factors.peers),
                anomaly.entity.clone(),
                time(anomaly.start_us),
                time(anomaly.end_us),
                nearest(anomaly.factors.nearest.as_ref()),
                factor(anomaly.factors.distance),
                factor(anomaly.factors.margin),
                anomaly.cid.clone().unwrap_or_else(|| "(open regime)".to_owned()),
            ]);
        }
        format!("{table}\n{}", coverage(&answer.coverage))
    })
}

pub(super) fn scores(client: &Client, args: ScoresArgs, out: Output) -> anyhow::Result<()> {
    let ScoresArgs { entity, collection, range, known_until, templates, units, known_after } = args;
    let query = ScoresQuery {
        collection,
        entity,
        from_us: range.from.unwrap_or(i64::MIN),
        to_us: range.to.unwrap_or(i64::MAX),
        known_until_us: known_until,
        templates,
        seed: 0,
        units,
        known_after_us: microseconds(known_after),
    };
    out.show(&client.scores(&query)?, |answer| {
        let mut table = Table::new([
            "time", "score", "novelty", "drift", "hour", "weekday", "peers", "nearest", "distance",
            "margin",
        ]);
        for score in &answer.scores {
            table.row([
                time(score.timestamp_us),
                format!("{:.4}", score.score),
                format!("{:.4}", score.factors.novelty),
                format!("{:.4}", score.factors.drift),
                factor(score.factors.timing.map(|timing| timing.hour)),
                factor(score.factors.timing.map(|timing| timing.weekday)),
                factor(score.factors.peers),
                nearest(score.factors.nearest.as_ref()),
                factor(score.factors.distance),
                factor(score.factors.margin),
            ]);
        }
        format!(
            "{table}\n{} templates counted as known; {}",
            answer.templates,
            coverage(&answer.coverage)
        )
    })
}

pub(super) fn history(client: &Client, args: HistoryArgs, out: Output) -> anyhow::Result<()> {
    let HistoryArgs { entity, collection, range, limit, templates } = args;
    let query = HistoryQuery {
        collection,
        entity,
        from_us: range.from,
        to_us: range.to,
        limit: Some(limit),
        matches: Some(templates),
    };
    out.show(&client.history(&query)?, |answer| {
        let mut table = Table::new(["time", "nearest known", "distance", "margin", "vector"]);
        for point in &answer.points {
            let vector: Vec<_> = point.vector.iter().map(|value| format!("{value:.4}")).collect();
            let [name, distance, margin] = matched(point.matched.as_ref());
            table.row([time(point.timestamp_us), name, distance, margin, vector.join(" ")]);
        }
        format!("{table}\n{}", coverage(&answer.coverage))
    })
}

pub(super) fn changes(client: &Client, args: ChangesArgs, out: Output) -> anyhow::Result<()> {
    let ChangesArgs { collection, entity, range, limit, largest } = args;
    let query = ChangesQuery {
        collection,
        entity,
        from_us: range.from,
        to_us: range.to,
        limit: Some(limit),
        order: if largest { ChangeOrder::Largest } else { ChangeOrder::Newest },
    };
    out.show(&client.changes(&query)?, |answer| {
        let mut table = Table::new(["time", "entity", "score", "what moved most", "new regime"]);
        for change in &answer.changes {
            table.row([
                time(change.at_us),
                change.entity.clone(),
                format!("{:.4}", change.score),
                moves(change),
                change.to_cid.clone().unwrap_or_else(|| "(open regime)".to_owned()),
            ]);
        }
        format!("{table}\n{}", coverage(&answer.coverage))
    })
}

fn moves(change: &Change) -> String {
    let moves = change.moves.iter().map(|one| {
        let name = one.name.clone().unwrap_or_else(|| format!("channel {}", one.channel));
        format!("{name} {:.3} to {:.3}", one.from, one.to)
    });
    moves.collect::<Vec<_>>().join(", ")
}

pub(super) fn trajectory(client: &Client, args: TrajectoryArgs, out: Output) -> anyhow::Result<()> {
    let TrajectoryArgs { a, b, collection, a_from, a_to, b_from, b_to, points } = args;
    let query = TrajectoryQuery {
        collection,
        a: Course { entity: a, from_us: a_from, to_us: a_to },
        b: Course { entity: b, from_us: b_from, to_us: b_to },
        points: Some(points),
    };
    out.show(&client.trajectory(&query)?, |answer| {
        let mut table = Table::new(["at this moment of the first", "the second is here"]);
        for matched in &answer.matches {
            table.row([time(matched.a_us), time(matched.b_us)]);
        }
        format!(
            "similarity {:.4}, distance {:.4}\n\n{table}\n{}",
            answer.similarity,
            answer.distance,
            coverage(&answer.coverage)
        )
    })
}

fn microseconds(seconds: u32) -> u64 {
    u64::from(seconds) * 1_000_000
}

/// Prints a factor that may be unknown.
fn factor(factor: Option<f64>) -> String {
    factor.map_or_else(|| "-".to_owned(), |factor| format!("{factor:.4}"))
}

/// Prints what something is nearest to, how far that is and how much farther the next.
pub(super) fn matched(matched: Option<&Matched>) -> [String; 3] {
    let name = nearest(matched.map(|matched| &matched.nearest));
    let distance = factor(matched.map(|matched| matched.distance));
    [name, distance, factor(matched.and_then(|matched| matched.margin))]
}

fn nearest(nearest: Option<&Nearest>) -> String {
    match nearest {
        None => "nothing known yet".to_owned(),
        Some(Nearest::OpenRegime) => "the open regime".to_owned(),
        Some(Nearest::Segment(cid)) => format!("…{}", tail(cid)),
        Some(Nearest::Template(id)) => match id.split_once('/') {
            Some((peer, place)) => format!("template {place} of …{}", tail(peer)),
            None => format!("template …{}", tail(id)),
        },
    }
}

/// Returns the end of an id: its beginning is the same for all.
fn tail(id: &str) -> &str {
    let start = id.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    &id[start..]
}

fn coverage(coverage: &Coverage) -> String {
    let missing = match (&coverage.missing, coverage.complete) {
        (Some(missing), _) => format!("; incomplete: {missing}"),
        (None, false) => "; incomplete".to_owned(),
        (None, true) => String::new(),
    };
    let indexed = match coverage.indexed_segments {
        0 => String::new(),
        count => format!(", {count} more by the index,"),
    };
    format!(
        "looked at {} segments{indexed} and {} open regimes in {:.1} ms{missing}{}",
        coverage.segments,
        coverage.open_regimes,
        Duration::from_micros(coverage.elapsed_us).as_secs_f64() * 1e3,
        conflicts(coverage),
    )
}

/// Conflicts that are named in an answer for people.
const CONFLICTS_SHOWN: usize = 5;

fn conflicts(coverage: &Coverage) -> String {
    if coverage.conflicts_total == 0 {
        return String::new();
    }
    let shown = coverage.conflicts.iter().take(CONFLICTS_SHOWN).map(|one| {
        format!("\n  {} about {}: …{} is preferred", one.id, one.entity, tail(&one.preferred))
    });
    format!(
        "\nyour nodes contradict each other about this in {} places; `dunlin review` has them{}",
        coverage.conflicts_total,
        shown.collect::<String>()
    )
}
