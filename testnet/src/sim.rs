//! The simulator: many nodes' cores under one virtual clock and one seed.
//!
//! What runs are the cores that the daemon runs: `trust` with revocations, reports, proofs and conflicts, the
//! judgement of announcements, the comparison of catalogs, the adoption of templates. Around each is a shell of the simulator's own, with a disk that
//! loses what was not synced (`node`). Links delay, lose, double and reorder; the network splits; nodes fall over, leave
//! and come again; clocks are off; and a third of the peers lie (`adversary`). While all of that happens, invariants
//! are checked (`invariants`). The same seed makes the same run, byte for byte.
//!
//! That the invariants see anything is shown by [`Bug`]: mistakes that the simulated shell makes on request, each of
//! which must be found. `docs/simulation.md` has the table, and what is simulated and what is not.

mod adversary;
mod bug;
mod disk;
mod fact;
mod faults;
mod invariants;
mod life;
mod message;
mod network;
mod node;
mod notary;
mod queue;
mod rng;
mod town;
mod trace;
mod world;

use std::{fs::File, io, path::PathBuf};

use serde::Serialize;

pub use self::{
    bug::Bug,
    faults::{Fault, Faults, Injected},
};
use self::{trace::Trace, world::World};

/// Fewest and most nodes of a run.
pub const PEERS_MIN: usize = 4;
/// See [`PEERS_MIN`].
pub const PEERS_MAX: usize = 100_000;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything that is random follows from it.
    pub seed: u64,
    /// How many nodes, from [`PEERS_MIN`] to [`PEERS_MAX`].
    pub peers: usize,
    /// How long, in minutes of virtual time. The last 66 seconds, or 22 minutes above 1,000 nodes, are for healing.
    pub minutes: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// A mistake that all nodes make.
    pub bug: Option<Bug>,
}

impl Options {
    /// Returns a run of this seed with all faults, as long as the network of so many nodes needs.
    #[must_use]
    pub fn of_seed(seed: u64, peers: usize) -> Self {
        let minutes = if peers <= 1_000 { 2 } else { 60 };
        Self { seed, peers, minutes, faults: Faults::all(), bug: None }
    }
}

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How many nodes there were.
    pub peers: usize,
    /// How long it went on in virtual time.
    pub virtual_s: u64,
    /// What went wrong, and how often.
    pub faults: Injected,
    /// How often an invariant was held against what a node did or has.
    pub checks: u64,
    /// What was broken: the first one, for the run ends there.
    pub violations: Vec<Violation>,
    /// How long after healing all honest nodes agreed, as far as was looked.
    pub converged_ms: Option<u64>,
    /// How each revocation spread.
    pub revocations: Vec<Spread>,
    /// What became of templates.
    pub templates: Adoption,
    /// How many events there were.
    pub events: u64,
    /// The sha2-256 over all of them.
    pub trace: String,
    /// The last of them, when an invariant was broken.
    pub tail: Vec<String>,
}

/// What became of templates among the honest nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Adoption {
    /// How many sets were released.
    pub released: u64,
    /// How often one of an honest author tells of the life of another honest node.
    pub fitting: u64,
    /// In how many of these that node used it.
    pub used: u64,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// When.
    pub at_ms: u64,
    /// What a node did or has.
    pub what: String,
}

/// How a revocation spread among the honest nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// When it was made.
    pub at_ms: u64,
    /// How many honest nodes there were that were not revoked.
    pub nodes: usize,
    /// How many of them it reached.
    pub reached: usize,
    /// After how many milliseconds it had reached half of those.
    pub half_ms: Option<u64>,
    /// And 99 in 100.
    pub most_ms: Option<u64>,
    /// And all of them.
    pub all_ms: Option<u64>,
}

/// Runs a simulation; `trace` takes a line for each event.
///
/// # Errors
///
/// Fails when the trace cannot be written.
pub fn run(options: &Options, trace: Option<Box<dyn io::Write + Send>>) -> io::Result<Report> {
    let peers = options.peers.clamp(PEERS_MIN, PEERS_MAX);
    let options = Options { peers, minutes: options.minutes.max(1), ..options.clone() };
    World::new(options, Trace::new(trace)).run()
}

/// How `dunlin testnet sim` runs.
#[derive(Clone, Debug)]
pub struct CommandOptions {
    /// What to simulate first.
    pub first: Options,
    /// How many seeds, one after another.
    pub seeds: u64,
    /// Where to write the trace of the last run.
    pub trace: Option<PathBuf>,
    /// Whether to print reports as JSON, one a line.
    pub json: bool,
}

/// Runs simulations and prints what came out; returns whether every invariant held.
///
/// # Errors
///
/// Fails when the trace cannot be written.
pub fn command(options: &CommandOptions) -> anyhow::Result<bool> {
    for number in 0..options.seeds.max(1) {
        let seed = options.first.seed.wrapping_add(number);
        let run_options = Options { seed, ..options.first.clone() };
        let trace = match &options.trace {
            Some(path) => {
                let file = io::BufWriter::new(File::create(path)?);
                Some(Box::new(file) as Box<dyn io::Write + Send>)
            }
            None => None,
        };
        let report = run(&run_options, trace)?;
        if options.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print(&report, &run_options);
        }
        if !report.violations.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn print(report: &Report, options: &Options) {
    let Report { seed, peers, virtual_s, checks, events, .. } = report;
    println!("seed {seed}: {peers} peers, {virtual_s} s, {events} events, {checks} checks");
    for (fault, count) in &report.faults {
        println!("  {fault:<22}{count:>10}");
    }
    if let Some(converged_ms) = report.converged_ms {
        println!("  all agreed {} s after healing", converged_ms / 1_000);
    }
    for spread in &report.revocations {
        let Spread { at_ms, nodes, reached, .. } = spread;
        let all = spread.all_ms.unwrap_or_default();
        println!(
            "  a revocation of second {} reached {reached} of {nodes} in {all} ms",
            at_ms / 1_000
        );
    }
    for Violation { invariant, at_ms, what } in &report.violations {
        println!("  VIOLATION of {invariant} after {at_ms} ms: {what}");
        for line in &report.tail {
            println!("    {line}");
        }
        let bug = options.bug.map(|bug| format!(" --bug {}", bug.as_str())).unwrap_or_default();
        let Options { minutes, faults, .. } = options;
        println!(
            "  again: dunlin testnet sim --seed {seed} --peers {peers} --minutes {minutes} --faults {faults}{bug} \
             --trace FILE"
        );
    }
    println!("  trace {}", report.trace);
}
