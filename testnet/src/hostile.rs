//! An attack on one node of a network, and what the honest ones notice of it.

use std::{
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dunlin_hostile::{Attack, Report};
use serde::{Deserialize, Serialize};

use crate::{
    exchange::{Exchange, Measured},
    network::Network,
    process::Process,
};

/// Longest attack, in seconds: what honest peers exchange meanwhile is made before.
const SECONDS_MAX: u32 = 60;

/// What attackers say, in the network's folder.
pub(crate) const LOG_FILE: &str = "hostile.log";

/// What to try on whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assault {
    /// The attack.
    pub attack: Attack,
    /// The victim: a peer's number or name.
    pub victim: String,
    /// For how long; for as long, peers are left alone before, to compare.
    pub seconds: u32,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssaultReport {
    /// What the attacker counted.
    pub attacker: Report,
    /// What honest peers saw before.
    pub calm: Measured,
    /// What they saw meanwhile.
    pub attacked: Measured,
    /// Whether the victim still runs.
    pub survived: bool,
}

impl AssaultReport {
    /// Returns how many times as long exchanges and questions took, at the median; the larger of both. Below
    /// `floor_ms`, a time counts as that: one cannot be told from another there.
    pub(crate) fn slowdown(&self, floor_ms: f64) -> f64 {
        let ratio = |calm: f64, attacked: f64| attacked.max(floor_ms) / calm.max(floor_ms);
        ratio(self.calm.exchange_p50_ms, self.attacked.exchange_p50_ms)
            .max(ratio(self.calm.question_p50_ms, self.attacked.question_p50_ms))
    }
}

impl std::fmt::Display for AssaultReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { attacker, calm, attacked, survived } = self;
        writeln!(
            f,
            "{}: {} connections tried, {} got through, {} refused; {} streams; {} ended by the victim; {} bytes",
            attacker.attack,
            attacker.tried,
            attacker.connected,
            attacker.refused,
            attacker.opened,
            attacker.ended,
            attacker.bytes
        )?;
        for (name, measured) in [("before", calm), ("meanwhile", attacked)] {
            writeln!(
                f,
                "{name:10} {} exchanges, {} failed; p50 {:.1} ms, p95 {:.1} ms; questions p50 {:.1} ms, p95 {:.1} ms; the victim held {} MiB",
                measured.exchanges,
                measured.failed,
                measured.exchange_p50_ms,
                measured.exchange_p95_ms,
                measured.question_p50_ms,
                measured.question_p95_ms,
                measured.resident_bytes_max >> 20
            )?;
        }
        f.write_str(if *survived { "the victim goes on" } else { "the victim ended" })
    }
}

/// Attacks a node, while honest peers go on.
///
/// # Errors
///
/// Fails when the attack cannot be made, which says nothing about the victim.
pub(crate) fn assault(
    network: &Mutex<Network>,
    assault: &Assault,
) -> anyhow::Result<AssaultReport> {
    let seconds = assault.seconds.clamp(1, SECONDS_MAX);
    let (victim, mut exchange) = {
        let network = lock(network);
        let victims = network.select(&assault.victim)?;
        let [victim] = victims[..] else { anyhow::bail!("an attack has one victim") };
        // Each time, other entities: what was fetched once is not fetched again.
        (victim, Exchange::prepare(&network, victim, seconds * 2 + 2, clock_ms())?)
    };
    let calm = exchange.measure(until(Duration::from_secs(seconds.into())))?;
    let process = begin(&mut lock(network), victim, assault.attack, seconds)?;
    let attacked = exchange.measure(|| Ok(process.exited().is_some()))?;
    ensure!(
        process.exited().as_ref().is_some_and(ExitStatus::success),
        "the attacker failed: {}",
        process.log_tail()
    );
    let said = process.log_tail();
    let line = said.lines().last().context("the attacker said nothing")?;
    let attacker = serde_json::from_str(line).with_context(|| format!("it said {line:?}"))?;
    let survived = lock(network).node(victim)?.is_alive();
    Ok(AssaultReport { attacker, calm, attacked, survived })
}

fn begin(
    network: &mut Network,
    victim: usize,
    attack: Attack,
    seconds: u32,
) -> anyhow::Result<Arc<Process>> {
    let supervisor = Arc::clone(&network.supervisor);
    let log = network.plan.dir.join(LOG_FILE);
    let (mut command, spawner) = network.stranger(victim, attack)?;
    command.args(["--seconds", &seconds.to_string()]);
    let process = match spawner {
        None => supervisor.spawn("the attacker", command, &log)?,
        Some(spawner) => supervisor.spawn_by(spawner, "the attacker", command, &log)?,
    };
    Ok(process)
}

fn until(time: Duration) -> impl FnMut() -> anyhow::Result<bool> {
    let end = Instant::now() + time;
    move || Ok(Instant::now() >= end)
}

/// Returns a number that no earlier attack had.
fn clock_ms() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // The low bits are what differs from one time to the next.
    since.map_or(0, |since| since.as_millis() as u32)
}

fn lock(network: &Mutex<Network>) -> MutexGuard<'_, Network> {
    network.lock().unwrap_or_else(PoisonError::into_inner)
}
