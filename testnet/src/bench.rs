//! Benchmarks on real telemetry. Each prints a table, or its rows as JSON, with the baselines that it is
//! measured against in the same run.

pub mod anomalies;
pub mod bootstrap;
pub mod compression;
pub mod discovery;
pub mod ingest;
pub mod open;
pub mod templates;

mod baselines;
mod eigen;
mod pool;
mod scored;
mod stored;
mod summary;

use std::{path::Path, sync::Arc};

use dunlin_engine::{
    CollectionSpec, Config, Engine, EntityId, Observation, Timestamp, storage::Simulated,
};
use serde::Serialize;

use crate::vts1::{Dataset, Series, Vts1Error};

/// Observations of one request.
const BATCH: usize = 1000;

/// Opens a folder of VTS1 data, or the data that is built in.
fn dataset(folder: Option<&Path>) -> Result<Dataset, Vts1Error> {
    folder.map_or_else(Dataset::embedded, Dataset::open)
}

/// Returns an engine in memory, with one collection, that has taken in the whole course of an entity.
fn taken_in(series: &Series, spec: CollectionSpec) -> anyhow::Result<(Engine, EntityId)> {
    let name = spec.name.clone();
    let engine = Engine::open_storage(Arc::new(Simulated::new()), Config::default())?;
    engine.create_collection(spec)?;
    let entity = EntityId::new(series.entity.clone())?;
    let observation = |row: usize| Observation {
        entity: entity.clone(),
        timestamp: Timestamp(series.timestamp_us(row)),
        vector: series.row(row).to_vec(),
        metadata: None,
    };
    for start in (0..series.rows()).step_by(BATCH) {
        let batch = start..(start + BATCH).min(series.rows());
        engine.ingest(&name, batch.map(observation).collect())?;
    }
    Ok((engine, entity))
}

/// Prints rows as an array of objects, or as a table of `header` and `cells`.
fn print<R: Serialize, const N: usize>(
    rows: &[R],
    json: bool,
    header: [&str; N],
    cells: impl Fn(&R) -> [String; N],
) -> serde_json::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(());
    }
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(widths)
            .enumerate()
            // Names lean left, numbers right.
            .map(
                |(at, (cell, width))| {
                    if at < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        println!("{}", padded.join("  ").trim_end());
    }
    Ok(())
}
