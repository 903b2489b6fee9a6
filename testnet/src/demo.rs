//! The demo: six peers and a bootstrap node replay real telemetry, and everything is measured.
//!
//! The story, in order. Peers 1 to 5 replay their server's full history, and one of them is killed in
//! the middle. Peer 6, the newcomer, knows six hours of its own server. All seal and archive. Peers 1 to
//! 5 release noised templates, and the newcomer's gate decides by those six hours. Only then does the
//! newcomer see its test half. It fetches others' segments by CID, is lied to once, and scores its test
//! half alone, with the templates, and with shuffled ones.
//!
//! Each step lives in its own file and returns what it found; `run` puts the findings together. Nothing
//! is asked of a peer that its operator could not ask: commands, data folder, HTTP API.

mod archive;
mod fetch;
mod ingest;
mod lie;
mod progress;
mod stage;
mod templates;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use self::{progress::Progress, stage::Stage};
use crate::{
    interrupt::{self, Belongings, Interrupt},
    process::{Ending, Supervisor},
    report::{self, Report, Telemetry},
    vts1::{Dataset, Series},
};

/// Peers of the demo; the last one is the newcomer.
const PEERS: usize = 6;

/// Collection that all peers share.
const COLLECTION: &str = "servers";

/// How much of its own past the newcomer knows.
const NEWCOMER_PAST: Duration = Duration::from_secs(6 * 3600);

/// What to run the demo on.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `dunlin` binary that becomes every process of the demo.
    pub program: PathBuf,
    /// Folder of VTS1 data; the built-in data when absent.
    pub data: Option<PathBuf>,
    /// Folder for `report.html` and `report.json`; made if needed.
    pub out: PathBuf,
    /// Keep the peers' data folders and logs, and say where they are.
    pub keep: bool,
    /// Print the content of `report.json` on stdout instead of the table.
    pub json: bool,
}

/// How the demo ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran to its end. Each problem is a promise that did not hold; none is expected.
    Finished {
        /// What did not hold, in words.
        problems: Vec<String>,
    },
    /// The user stopped it: every process has ended and nothing is left.
    Interrupted,
}

impl Outcome {
    /// Returns the exit code for a shell.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Finished { problems } if problems.is_empty() => 0,
            Self::Finished { .. } => 1,
            Self::Interrupted => 130,
        }
    }
}

/// Runs the demo; blocks until it has ended and all its processes are gone.
///
/// Takes over Ctrl-C and SIGTERM for the rest of the process's life.
///
/// # Errors
///
/// Fails when the data cannot be read, a process does not start or breaks down, or the report cannot be
/// written. All processes have been stopped by then.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let series = read(options.data.as_deref())?;
    let started = Instant::now();
    let interrupt = Interrupt::default();
    let supervisor = Supervisor::start()?;
    let belongings = Belongings { processes: supervisor.processes(), folder: Arc::default() };
    let doomed = Arc::clone(&belongings.folder);
    // From here on nothing is left behind, so nothing is made before.
    interrupt::listen(&interrupt, belongings)?;
    let out = OutFolder::make(&options.out)?;
    let folder = tempfile::Builder::new().prefix("dunlin-demo-").tempdir()?;
    if !options.keep {
        doomed.get_or_init(|| folder.path().to_owned());
    }

    let progress = Progress::new();
    let stage = Stage::new(options, &supervisor, &interrupt, &progress, folder.path());
    let played = play(stage, &series, started);
    progress.clear();
    // On success all have ended already; otherwise this stops whoever is left.
    supervisor.stop();
    drop(supervisor);
    if options.keep {
        eprintln!("data folders and logs are kept in {}", folder.keep().display());
    }
    if interrupt.is_raised() {
        eprintln!("interrupted: all processes were stopped");
        return Ok(Outcome::Interrupted);
    }
    let report = played?;
    report::write(&report, &options.out)?;
    out.keep();
    if options.json {
        println!("{}", report::json(&report)?);
    } else {
        println!("{}", report::table(&report, &options.out));
    }
    for problem in &report.problems {
        eprintln!("problem: {problem}");
    }
    Ok(Outcome::Finished { problems: report.problems })
}

/// The report's folder. A folder that cannot be written is known at once, not a minute later; one that
/// was made for a report that never came is removed.
struct OutFolder<'a> {
    path: &'a Path,
    is_ours: bool,
}

impl<'a> OutFolder<'a> {
    fn make(path: &'a Path) -> anyhow::Result<Self> {
        let is_ours = !path.exists();
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the report's folder {}", path.display()))?;
        Ok(Self { path, is_ours })
    }

    fn keep(mut self) {
        self.is_ours = false;
    }
}

impl Drop for OutFolder<'_> {
    fn drop(&mut self) {
        if self.is_ours {
            // Stays when somebody put something into it meanwhile.
            fs::remove_dir(self.path).ok();
        }
    }
}

/// Reads six entities and checks that the last one can be the newcomer.
fn read(data: Option<&Path>) -> anyhow::Result<Vec<Series>> {
    let dataset = match data {
        None => Dataset::embedded()?,
        Some(folder) => Dataset::open(folder)?,
    };
    let series = dataset.read_alike(PEERS)?;
    let [.., newcomer] = series.as_slice() else { bail!("the data has no entity") };
    let past = past_rows(newcomer);
    ensure!(
        past >= 2 && past <= newcomer.rows_train && !newcomer.labels().is_empty(),
        "{} cannot be the newcomer: it needs two rows in its first six hours of the train half, and a \
         test half; it has {} train rows of {} s and {} test rows",
        newcomer.entity,
        newcomer.rows_train,
        newcomer.step_s,
        newcomer.labels().len(),
    );
    Ok(series)
}

/// Returns how many rows of its past the newcomer knows.
fn past_rows(newcomer: &Series) -> usize {
    // A step is at most a year, so this fits.
    (NEWCOMER_PAST.as_secs() / newcomer.step_s) as usize
}

/// Plays the story and collects what it finds.
fn play(mut stage: Stage<'_>, series: &[Series], started: Instant) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let newcomer = PEERS - 1;
    let own = &series[newcomer];
    report.data = Telemetry::of(series, past_rows(own), NEWCOMER_PAST);

    stage.start(series, &mut report)?;
    ingest::replay(&mut stage, series, &mut report)?;
    archive::seal_and_archive(&stage, "seal and archive", 0..newcomer)?;
    templates::trade(&stage, &mut report)?;
    ingest::replay_test_half(&stage, own)?;
    archive::seal_and_archive(&stage, "seal and archive the rest", newcomer..PEERS)?;
    ingest::check_all(&stage, series, &mut report)?;
    archive::measure(&stage, series, &mut report)?;
    let selection = fetch::select(&stage)?;
    fetch::fetch(&stage, &selection, &mut report)?;
    fetch::ask_nearest(&stage, own, &mut report)?;
    lie::be_lied_to(&mut stage, &selection, &mut report)?;
    templates::score(&stage, own, &mut report)?;
    stage.look_at_network(&mut report)?;

    let endings = stage.stop();
    let unclean = endings.iter().filter(|ending| !ending.is_clean());
    report.problems.extend(unclean.map(Ending::describe));
    report.steps = stage.progress.take_times();
    report.elapsed_s = started.elapsed().as_secs_f64();
    report.check();
    Ok(report)
}
