//! What templates of others are worth to a node that has just started.
//!
//! Leave one out: each entity in turn is a newcomer that knows the last hours of its train half, and the
//! others release what they learned from their whole train halves. Every observation of the newcomer's cold start, the
//! first days of its test half, in which templates count, is scored: alone, with the sets that its adoption gate let in while the others bear witness, and with
//! all sets, their channels shuffled the same way (the control: how templates are spread without what
//! they say). No score, no gate and no release sees a label. Releases go through the ledger and OpenDP, as a
//! node's do. And some of those who share may lie: `attack.rs` has how.

mod attack;
mod fleet;
mod newcomer;
mod plot;
mod summary;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use dunlin_privacy::{TEMPLATES_MAX, Unit, adoption::permuted};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::{
    attack::{ATTACKS, Attack},
    fleet::{Released, Sharing, release_all},
    newcomer::{Case, Heard, Newcomer},
};
use super::pool::pooled;
use crate::{
    interrupt::{self, Belongings, Interrupt},
    process::Processes,
    vts1::Series,
};

/// Own history of a newcomer, in hours, besides all of it.
const HISTORIES_H: [u64; 3] = [6, 24, 168];

/// How many others share, besides all of them.
const PEERS: [usize; 2] = [1, 2];

/// Most templates that a newcomer hears from all peers together: all of them have the same part of that.
const HEARD_MAX: usize = 32;

/// Privacy losses of one release.
const EPSILONS: [f64; 3] = [0.1, 1.0, 10.0];

/// Entities of fleets that are made large by resampling: every epsilon for the first, the others at 1.
const FLEETS: [usize; 4] = [2_000, 1_000, 500, 250];

/// How many of those who share lie.
const LIARS: [usize; 2] = [1, 2];

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of VTS1 data; the built-in data when absent.
    pub data: Option<PathBuf>,
    /// A folder whose entities share instead; the other entities of the newcomer's set when absent.
    pub from: Option<PathBuf>,
    /// Only this set.
    pub set: Option<String>,
    /// How often each case is repeated, with fresh noise and another shuffle.
    pub seeds: u64,
    /// Only 6 hours and all of the history, and no fleets.
    pub quick: bool,
    /// Draw the means into this file.
    pub plot: Option<PathBuf>,
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
    resampled: bool,
    seed: u64,
    /// How long after its start the newcomer is scored.
    scored_h: f64,
    /// What the liars among the peers do, and how many there are.
    attack: Option<Attack>,
    liars: usize,
    /// In all sets together, and how many sets the gate let in, of how many; bytes of all centroids.
    templates: usize,
    template_bytes: usize,
    adopted: usize,
    sets: usize,
    ap_alone: f64,
    ap_with: f64,
    ap_control: f64,
    /// With liars: the mean score for trust of them, and of the others. It begins at .5.
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_liars: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_others: Option<f64>,
}

/// Measures all cases on all sets and prints the rows as JSON, or their means as a table.
///
/// Takes over Ctrl-C and SIGTERM for the rest of the process's life.
///
/// # Errors
///
/// Fails when the data cannot be read, the engine leaves an observation without a score, the plot cannot be
/// written, or the user wants it to end.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let dataset = super::dataset(options.data.as_deref())?;
    let from = options.from.as_deref().map(|folder| super::dataset(Some(folder))).transpose()?;
    let interrupt = Interrupt::default();
    let belongings = Belongings { processes: Processes::default(), folder: Arc::default() };
    let doomed = Arc::clone(&belongings.folder);
    interrupt::listen(&interrupt, belongings)?;
    let folder = tempfile::Builder::new().prefix("dunlin-bench-").tempdir()?;
    doomed.get_or_init(|| folder.path().to_owned());
    let mut rows = Vec::new();
    for set in dataset.sets() {
        if options.set.as_ref().is_some_and(|wanted| *wanted != set) {
            continue;
        }
        let newcomers = dataset.read_set(&set).collect::<Result<Vec<_>, _>>()?;
        let senders = match &from {
            None => None,
            Some(from) => {
                let sets = from.sets();
                let all = sets.iter().flat_map(|set| from.read_set(set));
                Some(all.collect::<Result<Vec<_>, _>>()?)
            }
        };
        let bench = Bench {
            set,
            options,
            interrupt: &interrupt,
            folder: folder.path(),
            senders: senders.as_deref().unwrap_or(&newcomers),
            newcomers: &newcomers,
            is_leave_one_out: senders.is_none(),
        };
        rows.extend(bench.measure()?);
    }
    ensure!(!rows.is_empty(), "there is nothing to measure: no such set, or none with incidents");
    if let Some(path) = &options.plot {
        let drawn = plot::draw(&summary::of(&rows));
        std::fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        summary::print(&summary::of(&rows))?;
    }
    Ok(())
}

/// One set under measurement.
struct Bench<'a> {
    set: String,
    options: &'a Options,
    interrupt: &'a Interrupt,
    folder: &'a Path,
    newcomers: &'a [Series],
    senders: &'a [Series],
    is_leave_one_out: bool,
}

/// What is released and heard in one case.
#[derive(Clone, Copy, Debug)]
struct Setting {
    sharing: Sharing,
    peers: usize,
    attack: Option<(Attack, usize)>,
    seed: u64,
}

/// What is released once: by a sender alone, or by the operator of all that a newcomer hears.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Releaser {
    Sender(usize),
    AllFor(usize),
}

/// Everything that was released, by releaser and seed: the same for every newcomer and history.
struct Releases(Vec<((Releaser, u64), OfSharings)>);

/// What was released in each way of sharing.
type OfSharings = Vec<(Sharing, Released)>;

impl Bench<'_> {
    fn measure(&self) -> anyhow::Result<Vec<Row>> {
        let releases = self.release()?;
        let cells: Vec<(usize, u64)> = (0..self.newcomers.len())
            .flat_map(|at| self.histories_h(at).into_iter().map(move |hours| (at, hours)))
            .collect();
        let progress = self.progress(cells.len(), "newcomers")?;
        let rows = pooled(cells.len(), self.interrupt, |cell| {
            let (at, history_h) = cells[cell];
            let rows = self.measure_cell(at, history_h, &releases)?;
            progress.inc(1);
            Ok(rows)
        });
        progress.finish_and_clear();
        Ok(rows?.concat())
    }

    fn progress(&self, count: usize, what: &str) -> anyhow::Result<ProgressBar> {
        let bar = ProgressBar::new(count as u64);
        let template = "{spinner} {msg} {pos}/{len}, {elapsed} so far";
        bar.set_style(ProgressStyle::with_template(template)?);
        bar.set_message(format!("{}: {what}", self.set));
        bar.enable_steady_tick(std::time::Duration::from_millis(200));
        Ok(bar)
    }

    /// Returns who shares with a newcomer.
    fn others(&self, at: usize) -> Vec<usize> {
        let newcomer = &self.newcomers[at];
        let shares = |sender: &Series| {
            sender.dims == newcomer.dims
                && !(self.is_leave_one_out && sender.entity == newcomer.entity)
        };
        (0..self.senders.len()).filter(|&sender| shares(&self.senders[sender])).collect()
    }

    fn histories_h(&self, at: usize) -> Vec<u64> {
        let series = &self.newcomers[at];
        let full_h = (series.rows_train as u64 * series.step_s).div_ceil(3600);
        let is_wanted = |hours: &u64| *hours < full_h && (!self.options.quick || *hours == 6);
        HISTORIES_H.into_iter().filter(is_wanted).chain([full_h]).collect()
    }

    /// Lets everybody release everything that some newcomer may hear.
    fn release(&self) -> anyhow::Result<Releases> {
        let most_peers = (0..self.newcomers.len()).map(|at| self.others(at).len()).max();
        let each_max = (HEARD_MAX / most_peers.unwrap_or(1).max(1)).clamp(1, TEMPLATES_MAX);
        let mut jobs = Vec::new();
        for seed in 1..=self.options.seeds {
            jobs.extend((0..self.senders.len()).map(|sender| (Releaser::Sender(sender), seed)));
            if !self.options.quick {
                jobs.extend((0..self.newcomers.len()).map(|at| (Releaser::AllFor(at), seed)));
            }
        }
        let progress = self.progress(jobs.len(), "releases")?;
        let released = pooled(jobs.len(), self.interrupt, |job| {
            let (releaser, seed) = jobs[job];
            let (senders, is_per_peer) = match releaser {
                Releaser::Sender(sender) => (vec![sender], true),
                Releaser::AllFor(at) => (self.others(at), false),
            };
            let peers: Vec<&Series> = senders.iter().map(|&at| &self.senders[at]).collect();
            ensure!(!peers.is_empty(), "nobody shares in {}", self.set);
            let sharings: Vec<Sharing> =
                sharings().into_iter().filter(|it| it.is_per_peer() == is_per_peer).collect();
            let templates_max = if is_per_peer { each_max } else { TEMPLATES_MAX };
            let released = release_all(&peers, &sharings, templates_max, seed, self.folder)?;
            progress.inc(1);
            Ok(((releaser, seed), sharings.into_iter().zip(released).collect()))
        });
        progress.finish_and_clear();
        Ok(Releases(released?))
    }

    fn measure_cell(
        &self,
        at: usize,
        history_h: u64,
        releases: &Releases,
    ) -> anyhow::Result<Vec<Row>> {
        let series = &self.newcomers[at];
        let others = self.others(at);
        let newcomer = Newcomer::start(series, history_h)?;
        let settings = self.settings(others.len());
        let mut cases = vec![Case { heard: Heard::new(), is_gated: true }];
        let mut units = Vec::new();
        for setting in &settings {
            let (mut heard, most) = releases.heard(at, &others[..setting.peers], setting);
            units.push(most);
            let shuffle = |set: &Vec<f32>| permuted(set, series.dims, setting.seed);
            let control = heard.iter().map(shuffle).collect();
            if let Some((attack, liars)) = setting.attack {
                attack.replace(&mut heard, liars, series, setting.seed);
            }
            cases.push(Case { heard, is_gated: true });
            cases.push(Case { heard: control, is_gated: false });
        }
        // Without an incident there is nothing to find.
        let Some(aps) = newcomer.average_precisions(&cases)? else { return Ok(Vec::new()) };
        let mut rows = Vec::new();
        let measured = settings.iter().zip(units).zip(cases[1..].chunks(2).zip(aps[1..].chunks(2)));
        for ((setting, units), (cases, ap)) in measured {
            let heard = &cases[0].heard;
            let trust = match setting.attack {
                None => None,
                Some((_, liars)) => {
                    let lies: Vec<bool> = (0..heard.len()).map(|at| at < liars).collect();
                    Some(newcomer.standings(heard, &lies)?)
                }
            };
            let values: usize = heard.iter().map(Vec::len).sum();
            rows.push(Row {
                set: self.set.clone(),
                entity: series.entity.clone(),
                history_h,
                peers: setting.peers,
                unit: setting.sharing.unit_name(),
                epsilon: setting.sharing.epsilon(),
                mechanism: setting.sharing.mechanism_name(),
                units,
                resampled: setting.sharing.unit_name() == Unit::Entity.name(),
                seed: setting.seed,
                scored_h: newcomer.scored_h(),
                attack: setting.attack.map(|(attack, _)| attack),
                liars: setting.attack.map_or(0, |(_, liars)| liars),
                templates: values / series.dims,
                template_bytes: values * size_of::<u16>(),
                adopted: newcomer
                    .adopted(heard)
                    .into_iter()
                    .filter(|is_adopted| *is_adopted)
                    .count(),
                sets: heard.iter().filter(|set| !set.is_empty()).count(),
                ap_alone: aps[0],
                ap_with: ap[0],
                ap_control: ap[1],
                trust_liars: trust.map(|trust| trust[0]),
                trust_others: trust.map(|trust| trust[1]),
            });
        }
        Ok(rows)
    }

    /// Returns every way of sharing by all, the plainest one by few, and that one with liars.
    fn settings(&self, others: usize) -> Vec<Setting> {
        let is_wanted = |it: &Sharing| !self.options.quick || it.is_per_peer();
        let all = sharings().into_iter().filter(is_wanted);
        let mut cases: Vec<_> = all.map(|sharing| (sharing, others, None)).collect();
        let plain = Sharing::noised(Unit::Observation, 1.0, 0);
        let few = PEERS.into_iter().filter(|peers| *peers < others);
        cases.extend(few.map(|peers| (plain, peers, None)));
        for liars in LIARS.into_iter().filter(|liars| 2 * liars < others) {
            cases.extend(ATTACKS.into_iter().map(|attack| (plain, others, Some((attack, liars)))));
        }
        let seeds = 1..=self.options.seeds;
        let with = |(sharing, peers, attack)| {
            seeds.clone().map(move |seed| Setting { sharing, peers, attack, seed })
        };
        cases.into_iter().flat_map(with).collect()
    }
}

impl Releases {
    /// Returns what `peers` released, one set of each source, and the units of the largest release.
    fn heard(&self, at: usize, peers: &[usize], setting: &Setting) -> (Heard, usize) {
        let releasers: Vec<Releaser> = if setting.sharing.is_per_peer() {
            peers.iter().copied().map(Releaser::Sender).collect()
        } else {
            vec![Releaser::AllFor(at)]
        };
        let released: Vec<&Released> = releasers
            .into_iter()
            .flat_map(|releaser| self.0.iter().filter(move |(of, _)| of.0 == releaser))
            .filter(|(of, _)| of.1 == setting.seed)
            .flat_map(|(_, released)| released)
            .filter(|(sharing, _)| *sharing == setting.sharing)
            .map(|(_, released)| released)
            .collect();
        let units = released.iter().map(|released| released.units).max().unwrap_or(0);
        (released.into_iter().map(|released| released.centroids.clone()).collect(), units)
    }
}

/// Returns every way of sharing; those with the same data follow one another.
fn sharings() -> Vec<Sharing> {
    let noised = |unit, entities| {
        EPSILONS.into_iter().map(move |epsilon| Sharing::noised(unit, epsilon, entities))
    };
    let mut all = vec![Sharing::None];
    all.extend(noised(Unit::Observation, 0));
    all.extend(noised(Unit::EntityDay, 0));
    all.extend(noised(Unit::Entity, FLEETS[0]));
    all.extend(FLEETS[1..].iter().map(|&fleet| Sharing::noised(Unit::Entity, 1.0, fleet)));
    all
}
