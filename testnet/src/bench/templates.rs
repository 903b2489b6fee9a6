//! What templates of others are worth to a node that has just started.
//!
//! Leave one out: each entity in turn is a newcomer that knows the last hours of its train half, and the
//! others release what they learned from their whole train halves. Every observation of the newcomer's test
//! half is scored three times: alone, with the sets that its adoption gate let in, and with all sets, their
//! channels shuffled the same way (the control: how templates are spread without what they say). No score and
//! no release sees a label. Releases go through the ledger and OpenDP, as a node's do.

mod fleet;
mod newcomer;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
    rc::Rc,
};

use anyhow::ensure;
use dunlin_privacy::Unit;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::{
    fleet::{Fleet, Sharing},
    newcomer::Newcomer,
};
use crate::vts1::Series;

/// Own history of a newcomer, in hours, besides all of it.
const HISTORIES_H: [u64; 3] = [6, 24, 168];

/// How many others share, besides all of them.
const PEERS: [usize; 2] = [1, 2];

/// Privacy losses of one release.
const EPSILONS: [f64; 3] = [0.1, 1.0, 10.0];

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of VTS1 data; the built-in data when absent.
    pub data: Option<PathBuf>,
    /// A folder whose entities share instead; the other entities of the newcomer's set when absent.
    pub from: Option<PathBuf>,
    /// How often each case is repeated, with fresh noise and another shuffle.
    pub seeds: u64,
    /// Print the rows as JSON.
    pub json: bool,
}

/// One newcomer in one case.
#[derive(Clone, Debug, Serialize)]
struct Row {
    set: String,
    entity: String,
    history_h: u64,
    peers: usize,
    /// What the releases protect: `none` is plain k-means, which no node releases.
    unit: &'static str,
    /// Absent without noise.
    epsilon: Option<f64>,
    mechanism: &'static str,
    /// Units in the largest release. Of `entity`, they are resampled from the peers' days.
    units: usize,
    seed: u64,
    /// In all sets together, and how many sets the gate let in, of how many.
    templates: usize,
    adopted: usize,
    sets: usize,
    ap_alone: f64,
    ap_with: f64,
    ap_control: f64,
}

/// Measures all cases on all sets and prints the rows.
///
/// # Errors
///
/// Fails when the data cannot be read, or the engine leaves an observation without a score.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let dataset = super::dataset(options.data.as_deref())?;
    let from = options.from.as_deref().map(|folder| super::dataset(Some(folder))).transpose()?;
    let progress = ProgressBar::new_spinner();
    progress.set_style(ProgressStyle::with_template("{spinner} {msg}")?);
    progress.enable_steady_tick(std::time::Duration::from_millis(200));
    let mut rows = Vec::new();
    for set in dataset.sets() {
        let newcomers = dataset.read_set(&set).collect::<Result<Vec<_>, _>>()?;
        let senders = match &from {
            None => None,
            Some(from) => {
                let sets = from.sets();
                let all = sets.iter().flat_map(|set| from.read_set(set));
                Some(all.collect::<Result<Vec<_>, _>>()?)
            }
        };
        let mut bench = Bench { set, options, progress: &progress, fleets: HashMap::new() };
        for at in 0..newcomers.len() {
            rows.extend(bench.measure(&newcomers, senders.as_deref(), at)?);
        }
    }
    progress.finish_and_clear();
    let header = [
        "set",
        "entity",
        "unit",
        "epsilon",
        "units",
        "hours",
        "peers",
        "seed",
        "templates",
        "adopted",
        "AP alone",
        "AP with",
        "AP control",
    ];
    super::print(&rows, options.json, header, |row| {
        [
            row.set.clone(),
            row.entity.clone(),
            row.unit.to_owned(),
            row.epsilon.map_or("-".to_owned(), |epsilon| epsilon.to_string()),
            row.units.to_string(),
            row.history_h.to_string(),
            row.peers.to_string(),
            row.seed.to_string(),
            row.templates.to_string(),
            format!("{}/{}", row.adopted, row.sets),
            format!("{:.3}", row.ap_alone),
            format!("{:.3}", row.ap_with),
            format!("{:.3}", row.ap_control),
        ]
    })?;
    Ok(())
}

/// One set under measurement.
struct Bench<'a> {
    set: String,
    options: &'a Options,
    progress: &'a ProgressBar,
    /// Releases by who shares, how, and seed: they are the same for every newcomer and history.
    fleets: HashMap<(Vec<String>, Sharing, u64), Rc<Fleet>>,
}

impl Bench<'_> {
    /// Measures one newcomer in all cases.
    fn measure(
        &mut self,
        all: &[Series],
        senders: Option<&[Series]>,
        at: usize,
    ) -> anyhow::Result<Vec<Row>> {
        let series = &all[at];
        let others: Vec<&Series> = match senders {
            Some(senders) => senders.iter().filter(|one| one.dims == series.dims).collect(),
            None => all.iter().filter(|one| one.entity != series.entity).collect(),
        };
        ensure!(!others.is_empty(), "nobody shares with {} of {}", series.entity, self.set);
        let full_h = (series.rows_train as u64 * series.step_s).div_ceil(3600);
        let mut rows = Vec::new();
        for history_h in HISTORIES_H.into_iter().filter(|hours| *hours < full_h).chain([full_h]) {
            let newcomer = Newcomer::start(series, history_h)?;
            // Without an incident there is nothing to find.
            let Some(ap_alone) = newcomer.ap_alone()? else { continue };
            for (sharing, peers) in cases(others.len()) {
                for seed in 1..=self.options.seeds {
                    self.progress.set_message(format!(
                        "{} {}: {history_h} h, {peers} peers, {sharing}, seed {seed}",
                        self.set, series.entity
                    ));
                    let fleet = self.fleet(&others[..peers], sharing, seed)?;
                    let measured = newcomer.measure(&fleet, seed)?;
                    rows.push(Row {
                        set: self.set.clone(),
                        entity: series.entity.clone(),
                        history_h,
                        peers,
                        unit: sharing.unit_name(),
                        epsilon: sharing.epsilon(),
                        mechanism: sharing.mechanism_name(),
                        units: fleet.units,
                        seed,
                        templates: fleet.templates(series.dims),
                        adopted: measured.adopted,
                        sets: fleet.sets.len(),
                        ap_alone,
                        ap_with: measured.ap_with,
                        ap_control: measured.ap_control,
                    });
                }
            }
        }
        Ok(rows)
    }

    fn fleet(
        &mut self,
        peers: &[&Series],
        sharing: Sharing,
        seed: u64,
    ) -> anyhow::Result<Rc<Fleet>> {
        let names = peers.iter().map(|series| series.entity.clone()).collect();
        match self.fleets.entry((names, sharing, seed)) {
            Entry::Occupied(known) => Ok(Rc::clone(known.get())),
            Entry::Vacant(new) => {
                Ok(Rc::clone(new.insert(Rc::new(Fleet::release(peers, sharing, seed)?))))
            }
        }
    }
}

/// Returns every way of sharing by all, and the plainest one by few.
fn cases(others: usize) -> Vec<(Sharing, usize)> {
    let noised = |unit| EPSILONS.into_iter().map(move |epsilon| Sharing::noised(unit, epsilon));
    let mut cases = vec![(Sharing::None, others)];
    cases.extend(Unit::ALL.into_iter().flat_map(noised).map(|sharing| (sharing, others)));
    let few = PEERS.into_iter().filter(|peers| *peers < others);
    cases.extend(few.map(|peers| (Sharing::noised(Unit::Observation, 1.0), peers)));
    cases
}
