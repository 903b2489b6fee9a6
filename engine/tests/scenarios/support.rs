//! Small helpers that the scenarios share.

use std::sync::Arc;

use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Fidelity, Observation,
    SegmentQuery, Stored, TimeRange, Timestamp, Units, storage::Simulated,
};

pub(crate) fn name() -> CollectionName {
    CollectionName::new("c").unwrap()
}

pub(crate) fn entity(id: &str) -> EntityId {
    EntityId::new(id).unwrap()
}

/// A lossless collection of `dim` channels in the range 0 to 1.
pub(crate) fn spec(dim: u16) -> CollectionSpec {
    let dim = Dim::new(dim).unwrap();
    let spec = CollectionSpec::new(name(), dim, Units::unit_range(dim));
    CollectionSpec { fidelity: Fidelity::Lossless, ..spec }
}

#[track_caller]
pub(crate) fn open(disk: &Simulated) -> Engine {
    Engine::open_storage(Arc::new(disk.clone()), Config::default()).unwrap()
}

/// An engine in memory with one collection.
#[track_caller]
pub(crate) fn engine_with(spec: &CollectionSpec) -> Engine {
    let engine = open(&Simulated::new());
    engine.create_collection(spec.clone()).unwrap();
    engine
}

pub(crate) fn observation(id: &str, second: i64, vector: &[f32]) -> Observation {
    let timestamp = Timestamp(second * 1_000_000);
    Observation { entity: entity(id), timestamp, vector: vector.to_vec(), metadata: None }
}

/// Observations of two channels, one a second, that change their level every `dwell`.
pub(crate) fn course(id: &str, seconds: std::ops::Range<i64>, dwell: i64) -> Vec<Observation> {
    let level = |second: i64| ((second / dwell) * 37 % 100) as f32 / 100.0;
    let noise = |second: i64| (second * 7919 % 17) as f32 / 1000.0;
    seconds.map(|s| observation(id, s, &[level(s) + noise(s), 0.5 - noise(s * 3)])).collect()
}

#[track_caller]
pub(crate) fn sealed(engine: &Engine) -> Vec<Stored> {
    engine.sealed_after(0, usize::MAX).unwrap()
}

/// The CIDs of an entity's segments in order.
#[track_caller]
pub(crate) fn cids(engine: &Engine, id: &str) -> Vec<String> {
    let query = SegmentQuery {
        collection: name(),
        entity: Some(entity(id)),
        range: TimeRange::ALL,
        after: 0,
        limit: usize::MAX,
    };
    let page = engine.segments(&query).unwrap();
    assert!(page.coverage.complete);
    page.segments.iter().map(|stored| stored.cid.to_string()).collect()
}
