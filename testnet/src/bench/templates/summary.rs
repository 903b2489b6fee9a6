//! Means over the entities of a set and the seeds of a case.

use super::{Row, attack::Attack};

/// One case of a set.
#[derive(Clone, Debug)]
pub(super) struct Mean {
    pub(super) set: String,
    /// Of all of an entity's history, that of the longest.
    pub(super) history_h: u64,
    pub(super) is_full: bool,
    pub(super) peers: usize,
    pub(super) unit: &'static str,
    pub(super) epsilon: Option<f64>,
    pub(super) units: usize,
    pub(super) attack: Option<Attack>,
    pub(super) liars: usize,
    templates: f64,
    bytes: f64,
    adopted: f64,
    sets: f64,
    pub(super) alone: f64,
    pub(super) with: f64,
    /// The standard deviation over seeds of the mean over entities.
    pub(super) spread: f64,
    pub(super) control: f64,
    trust: Option<[f64; 2]>,
}

/// Returns the means of rows, in the order in which their cases first come.
pub(super) fn of(rows: &[Row]) -> Vec<Mean> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        let alike = |group: &&mut Vec<&Row>| case(group[0], rows) == case(row, rows);
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups.iter().map(|group| mean(group, rows)).collect()
}

type CaseKey<'a> =
    (&'a str, Option<u64>, usize, &'a str, Option<u64>, Option<usize>, Option<Attack>, usize);

fn case<'a>(row: &'a Row, rows: &[Row]) -> CaseKey<'a> {
    let hours = Some(row.history_h).filter(|_| !is_full(row, rows));
    // How many observations or days there are differs from entity to entity and makes no other case.
    let fleet = row.resampled.then_some(row.units);
    let epsilon = row.epsilon.map(f64::to_bits);
    (&row.set, hours, row.peers, row.unit, epsilon, fleet, row.attack, row.liars)
}

/// Returns whether a row is about all of its entity's history.
fn is_full(row: &Row, rows: &[Row]) -> bool {
    let of_entity = rows.iter().filter(|other| other.entity == row.entity && other.set == row.set);
    of_entity.map(|other| other.history_h).max() == Some(row.history_h)
}

fn mean(group: &[&Row], rows: &[Row]) -> Mean {
    let first = group[0];
    let average = |of: &dyn Fn(&Row) -> f64| {
        group.iter().map(|row| of(row)).sum::<f64>() / group.len() as f64
    };
    Mean {
        set: first.set.clone(),
        history_h: group.iter().map(|row| row.history_h).max().unwrap_or(0),
        is_full: is_full(first, rows),
        peers: first.peers,
        unit: first.unit,
        epsilon: first.epsilon,
        units: group.iter().map(|row| row.units).max().unwrap_or(0),
        attack: first.attack,
        liars: first.liars,
        templates: average(&|row| row.templates as f64),
        bytes: average(&|row| row.template_bytes as f64),
        adopted: average(&|row| row.adopted as f64),
        sets: average(&|row| row.sets as f64),
        alone: average(&|row| row.ap_alone),
        with: average(&|row| row.ap_with),
        spread: spread(group),
        control: average(&|row| row.ap_control),
        trust: first.attack.map(|_| {
            let liars = average(&|row| row.trust_liars.unwrap_or_default());
            [liars, average(&|row| row.trust_others.unwrap_or_default())]
        }),
    }
}

fn spread(group: &[&Row]) -> f64 {
    let mut seeds: Vec<u64> = group.iter().map(|row| row.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let of_seed = |seed: &u64| {
        let values = group.iter().filter(|row| row.seed == *seed).map(|row| row.ap_with);
        values.clone().sum::<f64>() / values.count().max(1) as f64
    };
    let means: Vec<f64> = seeds.iter().map(of_seed).collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    let squares: f64 = means.iter().map(|value| (value - mean) * (value - mean)).sum();
    (squares / (means.len().saturating_sub(1)).max(1) as f64).sqrt()
}

/// Prints the means as a table.
pub(super) fn print(means: &[Mean]) -> serde_json::Result<()> {
    let header = [
        "set",
        "unit",
        "epsilon",
        "units",
        "hours",
        "peers",
        "liars",
        "templates",
        "bytes",
        "adopted",
        "AP alone",
        "AP with",
        "+-",
        "AP control",
        "trust liars",
        "trust others",
    ];
    let number = |value: f64| format!("{value:.3}");
    let cells: Vec<[String; 16]> = means
        .iter()
        .map(|mean| {
            let trust = |at: usize| mean.trust.map_or("-".to_owned(), |trust| number(trust[at]));
            [
                mean.set.clone(),
                mean.unit.to_owned(),
                mean.epsilon.map_or("-".to_owned(), |epsilon| epsilon.to_string()),
                mean.units.to_string(),
                if mean.is_full { "all".to_owned() } else { mean.history_h.to_string() },
                mean.peers.to_string(),
                mean.attack
                    .map_or("-".to_owned(), |attack| format!("{} {}", mean.liars, attack.name())),
                format!("{:.1}", mean.templates),
                format!("{:.0}", mean.bytes),
                format!("{:.1}/{:.0}", mean.adopted, mean.sets),
                number(mean.alone),
                number(mean.with),
                number(mean.spread),
                number(mean.control),
                trust(0),
                trust(1),
            ]
        })
        .collect();
    super::super::print(&cells, false, header, Clone::clone)
}
