//! `ingest`: reads a file or standard input and gives it to the running node.
//!
//! Ingest is idempotent by entity and timestamp, so a batch whose answer was lost is sent again, and
//! the same command run again goes on where the last one ended.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use dunlin_client::{
    Client, ClientError, CollectionSpec, ErrorBound, IngestAck, IngestRequest, Observation,
};
use dunlin_engine::ENTITY_ID_BYTES_MAX;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{
    cli::{IngestArgs, InputFormat},
    commands::local::units,
    input::{self, Columns, EntityColumn, Row, Rows},
    interrupt::{self, Interrupt},
    output::Output,
};

/// Bad lines that are printed; the rest is counted.
const BAD_LINES_SHOWN: u64 = 20;

/// First pause before a node that does not answer is asked again; it doubles up to a second.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What became of the input.
#[derive(Debug, Default, Serialize)]
struct Summary {
    collection: String,
    lines: u64,
    accepted: u64,
    duplicate: u64,
    late: u64,
    /// Not sent: the node has the entity up to this time already.
    resumed: u64,
    bad: u64,
    sealed: u64,
    elapsed_s: f64,
    interrupted: bool,
}

pub(super) fn ingest(dir: &Path, args: &IngestArgs, out: Output) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let node = Node { dir, wait: Duration::from_secs(args.wait), interrupt: interrupt.clone() };
    let (input, size) = open(&args.file)?;
    let progress = progress_bar(size);
    let started = Instant::now();
    let mut intake = Intake::new(node, args, progress.clone());
    let ended = intake.take(rows(progress.wrap_read(input), args)?, &interrupt);
    progress.finish_and_clear();
    intake.summary.elapsed_s = started.elapsed().as_secs_f64();
    out.show(&intake.summary, text)?;
    ended?;
    Ok(if intake.summary.interrupted {
        ExitCode::from(interrupt::EXIT_CODE)
    } else {
        ExitCode::SUCCESS
    })
}

fn open(file: &Path) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let input = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let size =
        input.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
    Ok((Box::new(input), size))
}

fn progress_bar(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {bytes}/{total_bytes} {msg} ({eta} left)"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn rows<'a>(input: impl Read + 'a, args: &IngestArgs) -> anyhow::Result<Rows<'a>> {
    let is_json = || args.file.extension().is_some_and(|name| name == "ndjson" || name == "jsonl");
    let guessed = if is_json() { InputFormat::Ndjson } else { InputFormat::Csv };
    match args.format.unwrap_or(guessed) {
        InputFormat::Ndjson => Ok(input::ndjson(input)),
        InputFormat::Csv => {
            let entity = match &args.entity {
                Some(id) => EntityColumn::Fixed(id.clone()),
                None => EntityColumn::Named(args.entity_column.clone()),
            };
            let columns = Columns {
                entity,
                time: args.time_column.clone(),
                unit: args.time_unit,
                channels: args.channels.clone(),
                ignore: args.ignore.clone(),
            };
            Ok(input::csv(input, columns)?)
        }
    }
}

fn text(summary: &Summary) -> String {
    let mut parts = vec![format!("{} taken in", summary.accepted)];
    let mut part = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    };
    part(summary.resumed, "there before");
    part(summary.duplicate, "duplicates");
    part(summary.late, "too late");
    part(summary.bad, "bad lines skipped");
    part(summary.sealed, "segments sealed");
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = summary.accepted as f64 / summary.elapsed_s.max(1e-3);
    let end = if summary.interrupted { "; interrupted: run it again to go on" } else { "" };
    format!(
        "{}: {} of {} lines, {rate:.0} observations/s{end}",
        summary.collection,
        parts.join(", "),
        summary.lines
    )
}

/// The running node, which may go away and come back.
struct Node<'a> {
    dir: &'a Path,
    wait: Duration,
    interrupt: Interrupt,
}

impl Node<'_> {
    /// Asks the node, and again while it does not answer, for as long as the user wants to wait. The
    /// address is read anew each time: a node that restarts may have another port.
    fn ask<T>(&self, call: impl Fn(&Client) -> Result<T, ClientError>) -> anyhow::Result<T> {
        let deadline = Instant::now() + self.wait;
        let mut pause = RETRY_PAUSE;
        loop {
            match Client::for_data_dir(self.dir).and_then(|client| call(&client)) {
                Err(ClientError::Unreachable { .. } | ClientError::NotRunning { .. })
                    if Instant::now() < deadline && !self.interrupt.is_raised() =>
                {
                    thread::sleep(pause);
                    pause = (2 * pause).min(Duration::from_secs(1));
                }
                answer => return Ok(answer?),
            }
        }
    }
}

/// Takes rows, makes batches of them, and counts what became of each.
struct Intake<'a> {
    node: Node<'a>,
    args: &'a IngestArgs,
    progress: ProgressBar,
    summary: Summary,
    batch: Vec<Observation>,
    /// Known once the first row was read.
    target: Option<Target>,
}

/// The collection that the observations go to.
struct Target {
    dim: usize,
    /// Up to which time the node has each entity.
    known: HashMap<String, i64>,
}

impl Target {
    /// Returns what the node would refuse the whole batch for.
    fn problem(&self, observation: &Observation) -> Option<String> {
        let (found, expected) = (observation.vector.len(), self.dim);
        if found != expected {
            return Some(format!("{found} channels, but the collection has {expected}"));
        }
        if observation.vector.iter().any(|value| !value.is_finite()) {
            return Some("a value is not finite".to_owned());
        }
        let bytes = observation.entity.len();
        let accepted = 1..=ENTITY_ID_BYTES_MAX;
        (!accepted.contains(&bytes)).then(|| {
            format!("an entity id of {bytes} bytes; it must have 1 to {ENTITY_ID_BYTES_MAX}")
        })
    }

    fn has(&self, observation: &Observation) -> bool {
        self.known.get(&observation.entity).is_some_and(|&last| observation.timestamp_us <= last)
    }
}

impl<'a> Intake<'a> {
    fn new(node: Node<'a>, args: &'a IngestArgs, progress: ProgressBar) -> Self {
        let summary = Summary { collection: args.collection.clone(), ..Summary::default() };
        Self { node, args, progress, summary, batch: Vec::new(), target: None }
    }

    /// Sends all rows, until the input or the user's patience ends.
    fn take(&mut self, rows: Rows<'_>, interrupt: &Interrupt) -> anyhow::Result<()> {
        for row in rows {
            if interrupt.is_raised() {
                self.summary.interrupted = true;
                break;
            }
            self.summary.lines += 1;
            match row {
                Ok(row) => self.push(row)?,
                Err(bad) => self.refuse(bad)?,
            }
        }
        self.flush()
    }

    fn push(&mut self, Row { line, observation }: Row) -> anyhow::Result<()> {
        let target = match self.target.take() {
            Some(target) => target,
            None => self.prepare(&observation)?,
        };
        let (problem, is_known) = (target.problem(&observation), target.has(&observation));
        self.target = Some(target);
        if let Some(problem) = problem {
            return self.refuse(input::BadLine { line, problem });
        }
        if is_known {
            self.summary.resumed += 1;
            return Ok(());
        }
        self.batch.push(observation);
        if self.batch.len() >= self.args.batch as usize { self.flush() } else { Ok(()) }
    }

    /// Makes sure that the collection exists, and asks where to go on.
    fn prepare(&self, first: &Observation) -> anyhow::Result<Target> {
        let name = &self.args.collection;
        let existing = self.node.ask(Client::collections)?;
        let Some(spec) = existing.collections.into_iter().find(|spec| spec.name == *name) else {
            let dim = u32::try_from(first.vector.len()).context("too many channels")?;
            let spec = CollectionSpec {
                name: name.clone(),
                dim,
                metric: dunlin_client::Metric::Euclidean,
                fidelity: self.args.fidelity,
                error_bound: self.args.error.map(ErrorBound::OfRange),
                units: units(self.args.range, dim),
                threshold: None,
                lateness_us: 0,
                channels: (!self.args.channels.is_empty()).then(|| self.args.channels.clone()),
            };
            self.node.ask(|client| client.create_collection(&spec))?;
            return Ok(Target { dim: first.vector.len(), known: HashMap::new() });
        };
        let entities = self.node.ask(|client| client.entities(name))?;
        let lateness = i64::try_from(spec.lateness_us).unwrap_or(i64::MAX);
        // Inside the lateness window the node itself knows duplicates from news.
        let known = entities.entities.into_iter().map(|entity| {
            let until = entity.last_us.saturating_sub(lateness);
            (entity.entity, until)
        });
        Ok(Target { dim: spec.dim as usize, known: known.collect() })
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let request = IngestRequest { observations: std::mem::take(&mut self.batch) };
        let ack = self.node.ask(|client| client.ingest(&self.args.collection, &request))?;
        self.count(ack);
        Ok(())
    }

    fn count(&mut self, ack: IngestAck) {
        self.summary.accepted += ack.accepted;
        self.summary.duplicate += ack.duplicate;
        self.summary.late += ack.late;
        self.summary.sealed += ack.sealed;
        self.progress.set_message(format!("{} taken in", self.summary.accepted));
    }

    fn refuse(&mut self, bad: input::BadLine) -> anyhow::Result<()> {
        if !self.args.skip_bad {
            // What came before the bad line is good: keep it.
            self.flush()?;
            bail!(
                "{}: {bad}; mend it, or go on behind bad lines with --skip-bad",
                self.args.file.display()
            );
        }
        self.summary.bad += 1;
        if self.summary.bad <= BAD_LINES_SHOWN {
            self.progress.suspend(|| eprintln!("skipped: {bad}"));
        }
        Ok(())
    }
}
