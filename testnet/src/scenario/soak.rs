//! A long time of ingest, questions and churn, in which nothing may grow.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::{
    script::Soak,
    steps::{Stage, ask},
};
use crate::network::Load;

/// How often nodes are looked at.
const SAMPLE: Duration = Duration::from_secs(2);

/// Segments that a node seals at a time.
const SEGMENTS: u32 = 2;

/// The share of the time that is not counted: caches and pools fill in the beginning.
const WARM_UP: f64 = 0.25;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoakReport {
    /// How long it took.
    pub minutes: f64,
    /// Observations that were acknowledged meanwhile.
    pub observations: u64,
    /// Questions that were answered.
    pub questions: u64,
    /// Of all, how many failed of nodes that ran.
    pub questions_failed: u64,
    /// How often a peer was killed and started again.
    pub restarts: u64,
    /// What may grow in an hour: memory in MiB, and descriptors.
    pub limits: (f64, f64),
    /// Every node that ran all the time.
    pub nodes: Vec<Slope>,
}

/// How a node's load went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slope {
    /// Its name.
    pub name: String,
    /// Resident memory at the end.
    pub resident_bytes: u64,
    /// How much it grew in an hour, by least squares without the first quarter of the time, in MiB.
    pub resident_mib_per_hour: f64,
    /// Descriptors at the end.
    pub descriptors: u64,
    /// How many came in an hour, likewise.
    pub descriptors_per_hour: f64,
    /// Seconds since the start, resident bytes and descriptors.
    pub samples: Vec<(f64, u64, u64)>,
}

impl SoakReport {
    /// Returns what grew too much.
    pub(super) fn verdict(&self) -> Option<String> {
        let (mib, descriptors) = self.limits;
        let grew = self.nodes.iter().find(|node| {
            node.resident_mib_per_hour > mib || node.descriptors_per_hour > descriptors
        })?;
        Some(format!(
            "{} grows by {:.1} MiB and {:.1} descriptors an hour, of at most {mib} and {descriptors}",
            grew.name, grew.resident_mib_per_hour, grew.descriptors_per_hour
        ))
    }
}

impl fmt::Display for SoakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.1} minutes: {} observations, {} questions of which {} failed, {} restarts",
            self.minutes, self.observations, self.questions, self.questions_failed, self.restarts
        )?;
        for node in &self.nodes {
            writeln!(
                f,
                "{:10} {:5} MiB, {:+7.1} MiB/h; {:4} descriptors, {:+6.1}/h",
                node.name,
                node.resident_bytes >> 20,
                node.resident_mib_per_hour,
                node.descriptors,
                node.descriptors_per_hour
            )?;
        }
        Ok(())
    }
}

/// Soaks the network. The first half of the peers runs all the time; the others are killed in turn.
///
/// # Errors
///
/// Fails when a node ends by itself, or does not start again.
pub(super) fn run(stage: &mut Stage<'_>, script: &Soak) -> anyhow::Result<SoakReport> {
    let peers = stage.network().nodes.len().saturating_sub(1);
    ensure!(peers >= 2, "a soak takes two peers");
    let steady = peers.div_ceil(2);
    let began = Instant::now();
    let length = Duration::from_secs_f64(script.minutes * 60.0);
    let mut report = SoakReport {
        minutes: script.minutes,
        observations: 0,
        questions: 0,
        questions_failed: 0,
        restarts: 0,
        limits: (script.resident_mib_per_hour_max, script.descriptors_per_hour_max),
        nodes: Vec::new(),
    };
    let mut series = vec![Vec::new(); steady + 1];
    let mut churn = Churn::new(script.churn_every_s, steady, peers);
    for turn in 0_usize.. {
        if began.elapsed() >= length {
            break;
        }
        let place = turn % peers + 1;
        let before = stage.ledger.get(&place).map_or(0, |(_, acknowledged)| *acknowledged);
        if churn.down != Some(place) {
            stage.ingest_one(place, SEGMENTS)?;
            report.questions += 1;
            let client = stage.network().node(place)?.client()?;
            report.questions_failed += u64::from(ask(&client).is_err());
        }
        let after = stage.ledger.get(&place).map_or(0, |(_, acknowledged)| *acknowledged);
        report.observations += after - before;
        report.restarts += u64::from(churn.turn(stage)?);
        sample(stage, began, &mut series)?;
        stage.sleep(SAMPLE / 2)?;
    }
    churn.finish(stage)?;
    let network = stage.network();
    let named = network.nodes.iter().zip(series);
    report.nodes =
        named.map(|(node, samples)| slope(&node.name, samples, length.as_secs_f64())).collect();
    Ok(report)
}

/// Looks at the bootstrap node and the steady peers.
fn sample(
    stage: &Stage<'_>,
    began: Instant,
    series: &mut [Vec<(f64, u64, u64)>],
) -> anyhow::Result<()> {
    let now = began.elapsed().as_secs_f64();
    let network = stage.network();
    for (place, samples) in series.iter_mut().enumerate() {
        let is_due = samples.last().is_none_or(|(last, ..)| now - last >= SAMPLE.as_secs_f64());
        let process = network.node(place)?.process.as_ref();
        if let Some(load) = process.filter(|_| is_due).and_then(|process| Load::of(process.pid)) {
            samples.push((now, load.resident_bytes, load.descriptors));
        }
    }
    Ok(())
}

/// Who is down, and who comes next.
struct Churn {
    half: Duration,
    due: Instant,
    down: Option<usize>,
    next: usize,
    first: usize,
    last: usize,
}

impl Churn {
    fn new(every_s: f64, steady: usize, peers: usize) -> Self {
        let half = Duration::from_secs_f64(every_s / 2.0);
        let first = steady + 1;
        Self { half, due: Instant::now() + half, down: None, next: first, first, last: peers }
    }

    /// Kills or starts a peer when it is time; returns whether one was started.
    fn turn(&mut self, stage: &Stage<'_>) -> anyhow::Result<bool> {
        if Instant::now() < self.due || self.first > self.last {
            return Ok(false);
        }
        self.due = Instant::now() + self.half;
        if let Some(down) = self.down.take() {
            stage.network().start_node(down)?;
            return Ok(true);
        }
        stage.network().kill(self.next)?;
        self.down = Some(self.next);
        self.next = if self.next >= self.last { self.first } else { self.next + 1 };
        Ok(false)
    }

    fn finish(&mut self, stage: &Stage<'_>) -> anyhow::Result<()> {
        match self.down.take() {
            Some(down) => stage.network().start_node(down),
            None => Ok(()),
        }
    }
}

fn slope(name: &str, samples: Vec<(f64, u64, u64)>, length_s: f64) -> Slope {
    let warm: Vec<_> =
        samples.iter().filter(|(at, ..)| *at >= length_s * WARM_UP).copied().collect();
    let hourly = |value: fn(&(f64, u64, u64)) -> f64| {
        3_600.0 * least_squares(warm.iter().map(|sample| (sample.0, value(sample))))
    };
    let last = samples.last().copied().unwrap_or_default();
    Slope {
        name: name.to_owned(),
        resident_bytes: last.1,
        resident_mib_per_hour: hourly(|sample| sample.1 as f64 / f64::from(1 << 20)),
        descriptors: last.2,
        descriptors_per_hour: hourly(|sample| sample.2 as f64),
        samples,
    }
}

/// Returns the slope of the line with the least squared distance to these points; 0 where there is none.
fn least_squares(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count() as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (x, y) = (x / count, y / count);
    let (above, below) = points.fold((0.0, 0.0), |(above, below), point| {
        (above + (point.0 - x) * (point.1 - y), below + (point.0 - x).powi(2))
    });
    if below > 0.0 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_the_line_after_the_beginning() {
        // It takes 50 MiB in the beginning, and then a mebibyte a minute.
        let samples = (0..600_u32).map(|second| {
            let mib = if second < 150 { second / 3 } else { 50 + (second - 150) / 60 };
            (f64::from(second), u64::from(mib) << 20, 30)
        });
        let slope = slope("n", samples.collect(), 600.0);
        assert!((55.0..65.0).contains(&slope.resident_mib_per_hour), "{slope:?}");
        assert!(slope.descriptors_per_hour.abs() < 1e-9);
    }

    #[test]
    fn few_samples_have_no_slope() {
        assert_eq!(slope("n", vec![(0.0, 1, 1)], 1.0).resident_mib_per_hour, 0.0);
        assert_eq!(slope("n", Vec::new(), 1.0).descriptors_per_hour, 0.0);
    }
}
