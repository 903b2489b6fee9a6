//! Step 1: all peers replay their history at once, and one of them is killed in the middle.

use std::{collections::BTreeMap, ops::Range, thread, time::Instant};

use anyhow::{Context as _, ensure};
use dunlin_client::{Client, ClientError, HistoryPoint, HistoryQuery, IngestRequest, Observation};
use indicatif::ProgressBar;

use super::{
    COLLECTION, PEERS, past_rows,
    stage::{Peer, Stage},
};
use crate::{
    process::in_words,
    report::{Crash, Report, count},
    vts1::Series,
};

/// Observations in one request.
const BATCH: usize = 500;

/// Points of history in one answer: some 10 MB of JSON at 38 channels.
const HISTORY_PAGE: u32 = 20_000;

/// Which peer is killed, from 0: any of the five would do.
const VICTIM: usize = 2;

/// The victim is killed once this share of its history is acknowledged.
const KILL_AT: f64 = 0.4;

/// Replays everything but the newcomer's test half, kills and restarts the victim meanwhile.
pub(super) fn replay(
    stage: &mut Stage<'_>,
    series: &[Series],
    report: &mut Report,
) -> anyhow::Result<()> {
    let rows = |n: usize| match n {
        n if n == PEERS - 1 => 0..past_rows(&series[n]),
        n => 0..series[n].rows(),
    };
    let total = (0..PEERS).map(|n| rows(n).len() as u64).sum();
    let step = stage.progress.step("ingest", total);
    let started = Instant::now();
    let returned = thread::scope(|scope| {
        let start = |n: usize| {
            let (stage, series, rows) = (&*stage, &series[n], rows(n));
            let title = format!("{} ({})", stage.peers[n].name, series.entity);
            let own = stage.progress.bar(&title, rows.len() as u64);
            let replay = Replay::new(series, rows, [step.bar(), own]);
            scope.spawn(move || replay.play(stage, n))
        };
        // All threads first, then their results: a lazy chain would run one after the other.
        let threads: Vec<_> = (0..PEERS).map(start).collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let (peer, crash) = returned.into_iter().flatten().next().context("no peer was killed")?;
    report.ingest_per_s = total as f64 / started.elapsed().as_secs_f64();
    step.done(&format!(
        "{} observations; {} was killed with {} acknowledged and lost {}",
        count(total),
        crash.peer,
        count(crash.acked),
        crash.lost
    ));
    stage.peers[VICTIM] = peer;
    report.crash = Some(crash);
    Ok(())
}

/// Replays the newcomer's test half.
pub(super) fn replay_test_half(stage: &Stage<'_>, series: &Series) -> anyhow::Result<()> {
    let rows = series.rows_train..series.rows();
    let step = stage.progress.step("the newcomer's test half", rows.len() as u64);
    let found = format!("{} observations", count(rows.len() as u64));
    let mut replay = Replay::new(series, rows, [step.bar(), ProgressBar::hidden()]);
    replay.send_until(&stage.newcomer().client, replay.rows.end, stage)?;
    step.done(&found);
    Ok(())
}

/// Checks every observation that any peer acknowledged, bit for bit.
pub(super) fn check_all(
    stage: &Stage<'_>,
    series: &[Series],
    report: &mut Report,
) -> anyhow::Result<()> {
    let step = stage.progress.step("read everything back", PEERS as u64);
    for (n, (peer, series)) in stage.peers.iter().zip(series).enumerate() {
        stage.interrupt.check()?;
        let rows: Vec<usize> = if n == PEERS - 1 {
            (0..past_rows(series)).chain(series.rows_train..series.rows()).collect()
        } else {
            (0..series.rows()).collect()
        };
        let checked = check(&peer.client, series, &rows).with_context(|| peer.says("history"))?;
        report.observations += rows.len() as u64;
        report.acked_lost += checked.lost;
        report.acked_repeated += checked.repeated;
        step.inc(1);
    }
    step.done(&format!(
        "{} of {} acknowledged observations are there, bit for bit",
        count(report.observations - report.acked_lost),
        count(report.observations)
    ));
    Ok(())
}

/// One peer's history on its way in.
struct Replay<'a> {
    series: &'a Series,
    rows: Range<usize>,
    /// Rows before this one are acknowledged.
    next: usize,
    bars: [ProgressBar; 2],
}

impl<'a> Replay<'a> {
    fn new(series: &'a Series, rows: Range<usize>, bars: [ProgressBar; 2]) -> Self {
        Self { series, next: rows.start, rows, bars }
    }

    /// Replays all of it. Returns the victim as it is after its restart, and what its crash showed.
    fn play(mut self, stage: &Stage<'_>, n: usize) -> anyhow::Result<Option<(Peer, Crash)>> {
        let peer = &stage.peers[n];
        let mut survived = None;
        if n == VICTIM {
            let kill_at = (self.rows.len() as f64 * KILL_AT) as usize;
            self.send_until(&peer.client, self.rows.start + kill_at, stage)?;
            survived = Some(self.crash(stage, peer)?);
        }
        let client = survived.as_ref().map_or(&peer.client, |(peer, _)| &peer.client);
        self.send_until(client, self.rows.end, stage)?;
        self.bars[1].finish_and_clear();
        Ok(survived)
    }

    /// Kills the peer while batches are on their way, restarts it, and checks what it had acknowledged.
    fn crash(&mut self, stage: &Stage<'_>, peer: &Peer) -> anyhow::Result<(Peer, Crash)> {
        let ending = thread::scope(|scope| {
            let killer = scope.spawn(|| stage.supervisor.crash(&peer.process));
            // Whichever batch is on its way when the signal arrives gets no answer.
            let broken = self.send_until(&peer.client, self.rows.end, stage);
            let ending = killer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            broken.or_else(|error| match error.downcast_ref() {
                Some(ClientError::Unreachable { .. } | ClientError::Answer { .. }) => Ok(()),
                _ => Err(error),
            })?;
            anyhow::Ok(ending)
        })?;
        let ending = ending.with_context(|| format!("{} did not die of SIGKILL", peer.name))?;
        stage.interrupt.check()?;
        let killed = Instant::now();
        let ids: Vec<_> = stage.peers.iter().map(|peer| peer.id.clone()).collect();
        let process = stage.spawn_peer(&peer.name, &peer.home, &ids)?;
        let client = stage.await_peer(&peer.home, &process)?;
        let restart_s = killed.elapsed().as_secs_f64();
        let acked: Vec<usize> = (self.rows.start..self.next).collect();
        let checked = check(&client, self.series, &acked).with_context(|| peer.says("history"))?;
        let crash = Crash {
            peer: peer.name.clone(),
            ended: in_words(ending),
            acked: acked.len() as u64,
            lost: checked.lost,
            repeated: checked.repeated,
            restart_s,
        };
        Ok((Peer { process, client, ..peer.clone() }, crash))
    }

    /// Sends rows in batches, until all rows before `end` are acknowledged.
    fn send_until(&mut self, client: &Client, end: usize, stage: &Stage<'_>) -> anyhow::Result<()> {
        while self.next < end {
            stage.interrupt.check()?;
            let batch = self.next..(self.next + BATCH).min(self.rows.end);
            let request = IngestRequest {
                observations: batch.clone().map(|row| self.observation(row)).collect(),
            };
            let ack = client.ingest(COLLECTION, &request)?;
            ensure!(
                ack.accepted + ack.duplicate == batch.len() as u64,
                "of {} observations of {}, {} were taken, {} known and {} too late",
                batch.len(),
                self.series.entity,
                ack.accepted,
                ack.duplicate,
                ack.late
            );
            self.next = batch.end;
            self.bars.iter().for_each(|bar| bar.inc(batch.len() as u64));
        }
        Ok(())
    }

    fn observation(&self, row: usize) -> Observation {
        Observation {
            entity: self.series.entity.clone(),
            timestamp_us: self.series.timestamp_us(row),
            vector: self.series.row(row).to_vec(),
            metadata: None,
        }
    }
}

/// What became of acknowledged observations.
#[derive(Debug, PartialEq, Eq)]
struct Checked {
    /// Not there, or not with the same bits.
    lost: u64,
    /// There more than once: points beyond the first one of their timestamp.
    repeated: u64,
}

/// Compares a peer's history with the rows that it acknowledged.
fn check(client: &Client, series: &Series, rows: &[usize]) -> anyhow::Result<Checked> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(Checked { lost: 0, repeated: 0 });
    };
    let (mut from_us, to_us) = (series.timestamp_us(*first), series.timestamp_us(*last));
    let mut points = Vec::new();
    loop {
        let page = client.history(&HistoryQuery {
            collection: COLLECTION.to_owned(),
            entity: series.entity.clone(),
            from_us: Some(from_us),
            to_us: Some(to_us),
            limit: Some(HISTORY_PAGE),
            matches: None,
        })?;
        let is_full = page.points.len() >= HISTORY_PAGE as usize;
        let last_us = page.points.last().map(|point| point.timestamp_us);
        points.extend(page.points);
        match last_us {
            Some(last_us) if is_full && last_us < to_us => from_us = last_us + 1,
            _ => return Ok(compare(series, rows, &points)),
        }
    }
}

fn compare(series: &Series, rows: &[usize], points: &[HistoryPoint]) -> Checked {
    let mut found: BTreeMap<i64, &[f32]> = BTreeMap::new();
    let mut repeated = 0;
    for point in points {
        repeated += u64::from(found.insert(point.timestamp_us, &point.vector).is_some());
    }
    let is_lost = |row: &&usize| {
        let point = found.get(&series.timestamp_us(**row));
        point.is_none_or(|vector| !same_bits(vector, series.row(**row)))
    };
    Checked { lost: rows.iter().filter(is_lost).count() as u64, repeated }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vts1::Dataset;

    fn point(series: &Series, row: usize) -> HistoryPoint {
        let (timestamp_us, vector) = (series.timestamp_us(row), series.row(row).to_vec());
        HistoryPoint { timestamp_us, vector, matched: None, peer_segment: None }
    }

    #[test]
    fn a_missing_a_changed_and_a_repeated_observation_are_told_apart() {
        let series = Dataset::embedded().unwrap().read_alike(1).unwrap().remove(0);
        let mut points: Vec<_> = (0..4).map(|row| point(&series, row)).collect();
        let compare = |points: &[_]| compare(&series, &[0, 1, 2, 3], points);
        assert_eq!(compare(&points), Checked { lost: 0, repeated: 0 });
        points.push(point(&series, 3));
        assert_eq!(compare(&points), Checked { lost: 0, repeated: 1 });
        points.truncate(3);
        points[1].vector[7] = f32::from_bits(points[1].vector[7].to_bits() ^ 1);
        assert_eq!(compare(&points), Checked { lost: 2, repeated: 0 });
    }
}
