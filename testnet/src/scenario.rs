//! `dunlin testnet run SCENARIO.toml`: a script of what happens to a network, with checks, and a report.
//!
//! A scenario is a network and steps, one after the other. A step does something or checks something, and a check that does
//! not hold in its time ends the run. `docs/testnet.md` lists the steps.

mod plot;
mod reach;
mod script;
mod soak;
mod steps;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub use self::soak::{Slope, SoakReport};
use self::{script::Script, steps::Stage};
use crate::{
    fleet::name_of,
    hostile::AssaultReport,
    interrupt::{self, Belongings, Interrupt},
    links::Counts,
    network::{Network, Plan},
    process::Supervisor,
};

/// What to play.
#[derive(Clone, Debug)]
pub struct ScenarioOptions {
    /// The `dunlin` binary that nodes begin with.
    pub old: PathBuf,
    /// The one that scenarios upgrade them to.
    pub new: PathBuf,
    /// The scenario.
    pub file: PathBuf,
    /// How many peers, instead of what the scenario says.
    pub peers: Option<u32>,
    /// How many minutes a soak takes, instead of what the scenario says.
    pub minutes: Option<f64>,
    /// Where the report goes as files, with its plots, and the nodes' logs when something did not hold.
    pub out: Option<PathBuf>,
    /// Print JSON instead of text.
    pub json: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// The scenario's name.
    pub name: String,
    /// Whether everything held.
    pub passed: bool,
    /// How many peers there were.
    pub peers: u32,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// Every step that was taken.
    pub steps: Vec<StepReport>,
    /// What became of packets, where they went over links of ours.
    pub packets: Option<Counts>,
    /// Observations that nodes acknowledged.
    pub acknowledged: u64,
    /// The attacks.
    pub attacks: Vec<AssaultReport>,
    /// The soak, if there was one.
    pub soak: Option<SoakReport>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// What was done or checked.
    pub what: String,
    /// How long it took, in seconds.
    pub took_s: f64,
    /// Why it did not hold; absent when it did.
    pub failed: Option<String>,
}

/// Plays a scenario; returns whether everything held.
///
/// # Errors
///
/// Fails when the scenario cannot be read or its network does not start. Nothing is left behind.
pub fn play(options: &ScenarioOptions) -> anyhow::Result<bool> {
    let text = fs::read_to_string(&options.file)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    let mut script: Script = toml::from_str(&text)
        .with_context(|| format!("{} is no scenario", options.file.display()))?;
    script.peers = options.peers.unwrap_or(script.peers);
    script.shorten(options.minutes);
    let report = perform(&script, options)?;
    if let Some(out) = &options.out {
        write_files(&report, out)?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(report.passed)
}

fn perform(script: &Script, options: &ScenarioOptions) -> anyhow::Result<ScenarioReport> {
    let interrupt = Interrupt::default();
    let supervisor = Arc::new(Supervisor::start()?);
    let belongings = Belongings { processes: supervisor.processes(), folder: Arc::default() };
    let doomed = Arc::clone(&belongings.folder);
    interrupt::listen(&interrupt, belongings)?;
    let folder = tempfile::Builder::new().prefix("dunlin-testnet-").tempdir()?;
    doomed.get_or_init(|| folder.path().to_owned());
    let plan = Plan {
        program: options.old.clone(),
        network: name_of(folder.path()),
        peers: script.peers,
        dir: folder.path().to_owned(),
        netns: script.netns,
        nat: script.nat.clone(),
        profile: script.profile,
        seed: script.seed,
        skewed: script.sets_clocks(),
    };
    let began = Instant::now();
    let network = Mutex::new(Network::start(plan, supervisor, interrupt)?);
    let start = StepReport {
        what: format!("start {} peers", script.peers),
        took_s: began.elapsed().as_secs_f64(),
        failed: None,
    };
    let mut stage = Stage::new(&network, options.new.clone());
    let mut steps = vec![start];
    for step in &script.steps {
        let began = Instant::now();
        let what = step.to_string();
        if !options.json {
            eprintln!("{what}");
        }
        let failed = match stage.take(step) {
            Ok(()) => None,
            Err(cause) if interrupt::is_interrupt(&cause) => return Err(cause),
            Err(cause) => Some(format!("{cause:#}")),
        };
        let is_over = failed.is_some();
        steps.push(StepReport { what, took_s: began.elapsed().as_secs_f64(), failed });
        if is_over {
            break;
        }
    }
    if let Some(out) =
        options.out.as_ref().filter(|_| steps.iter().any(|step| step.failed.is_some()))
    {
        keep_logs(folder.path(), out)?;
    }
    let (acknowledged, attacks, soak) = stage.into_findings();
    let mut network = network.into_inner().unwrap_or_else(PoisonError::into_inner);
    let report = ScenarioReport {
        name: script.name.clone(),
        passed: steps.iter().all(|step| step.failed.is_none()),
        peers: script.peers,
        took_s: began.elapsed().as_secs_f64(),
        steps,
        packets: network.packets(),
        acknowledged,
        attacks,
        soak,
    };
    network.shutdown();
    Ok(report)
}

/// Keeps what nodes said in a run that failed: their folders go.
fn keep_logs(from: &Path, out: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot keep logs in {}", out.display());
    fs::create_dir_all(out).with_context(cannot)?;
    for entry in fs::read_dir(from).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if let Some(name) = path.file_name().filter(|_| path.extension() == Some("log".as_ref())) {
            fs::copy(&path, out.join(name)).with_context(cannot)?;
        }
    }
    Ok(())
}

fn write_files(report: &ScenarioReport, out: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write to {}", out.display());
    fs::create_dir_all(out).with_context(cannot)?;
    fs::write(out.join("report.json"), serde_json::to_vec_pretty(report)?).with_context(cannot)?;
    if let Some(soak) = &report.soak {
        fs::write(out.join("soak.svg"), plot::svg(soak)).with_context(cannot)?;
    }
    Ok(())
}

impl std::fmt::Display for ScenarioReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {} peers, {:.1} s", self.name, self.peers, self.took_s)?;
        for step in &self.steps {
            let verdict = if step.failed.is_some() { "FAILED" } else { "ok" };
            writeln!(f, "{verdict:6} {:7.1} s  {}", step.took_s, step.what)?;
            if let Some(why) = &step.failed {
                writeln!(f, "                  {why}")?;
            }
        }
        for attack in &self.attacks {
            writeln!(f, "{attack}")?;
        }
        if let Some(soak) = &self.soak {
            writeln!(f, "{soak}")?;
        }
        if let Some(packets) = self.packets {
            writeln!(
                f,
                "{} packets with {} bytes arrived; {} were lost, {} met a cut, {} a full queue",
                packets.passed, packets.passed_bytes, packets.lost, packets.cut, packets.crowded
            )?;
        }
        writeln!(f, "{}", if self.passed { "everything held" } else { "it did not hold" })
    }
}
