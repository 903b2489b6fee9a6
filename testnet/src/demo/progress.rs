//! What the user sees while the demo runs: one bar a step on a terminal, one line a step elsewhere.
//!
//! All of it goes to stderr: stdout is for the result.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::StepTime;

/// The steps so far.
#[derive(Debug)]
pub(super) struct Progress {
    bars: MultiProgress,
    is_terminal: bool,
    times: Mutex<Vec<StepTime>>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target =
            if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), is_terminal, times: Mutex::default() }
    }

    /// Begins a step of `length` units.
    pub(super) fn step(&self, title: &'static str, length: u64) -> Step<'_> {
        Step { progress: self, title, bar: self.bar(title, length), started: Instant::now() }
    }

    /// Adds a bar below the step's own.
    pub(super) fn bar(&self, title: &str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "  {prefix:28} {bar:24.cyan/blue} {pos:>6}/{len:6} {elapsed:>4}",
        );
        let bar = self.bars.add(ProgressBar::new(length));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Removes the bars; the lines of finished steps stay.
    pub(super) fn clear(&self) {
        // A terminal that is gone needs no clearing.
        self.bars.clear().ok();
        // The last line fills its row to the end: what follows begins on one of its own.
        eprintln!();
    }

    /// Returns how long each step took.
    pub(super) fn take_times(&self) -> Vec<StepTime> {
        std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn line(&self, text: &str) {
        if self.is_terminal {
            // As above: nobody is there to read it.
            self.bars.println(text).ok();
        } else {
            eprintln!("{text}");
        }
    }
}

/// One step on its way.
#[derive(Debug)]
pub(super) struct Step<'a> {
    progress: &'a Progress,
    title: &'static str,
    bar: ProgressBar,
    started: Instant,
}

impl Step<'_> {
    /// Returns the step's bar, for the threads that work on it.
    pub(super) fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    pub(super) fn inc(&self, units: u64) {
        self.bar.inc(units);
    }

    pub(super) fn set(&self, units: u64) {
        self.bar.set_position(units);
    }

    pub(super) fn set_length(&self, units: u64) {
        self.bar.set_length(units);
    }

    /// Ends the step with what it found.
    pub(super) fn done(self, found: &str) {
        let elapsed_s = self.started.elapsed().as_secs_f64();
        self.bar.finish_and_clear();
        self.progress.line(&format!("  ✔ {:28} {found} ({elapsed_s:.1} s)", self.title));
        let time = StepTime { step: self.title.to_owned(), elapsed_s };
        self.progress.times.lock().unwrap_or_else(PoisonError::into_inner).push(time);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
