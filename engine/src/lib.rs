//! From observations to regimes to segments to answers.
//!
//! An [`Engine`] owns one data folder. Observations go to an append log and are acknowledged when it is
//! synced; each entity's open regime takes them in order, and where the entity drifts away from it a
//! [`Segment`] is sealed, named by its CID, and kept in a store behind the log. Questions look at sealed
//! segments and open regimes alike.
//!
//! It is synchronous, reads no clock, draws no random numbers, knows no network, and starts no thread:
//! callers bring those. Files are reached through [`storage::Storage`] alone.
//!
//! ```
//! use std::sync::Arc;
//! use dunlin_engine::{
//!     CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Observation, Timestamp, Units,
//!     storage::Simulated,
//! };
//!
//! let engine = Engine::open_storage(Arc::new(Simulated::new()), Config::default())?;
//! let (name, dim) = (CollectionName::new("pumps")?, Dim::new(2)?);
//! engine.create_collection(CollectionSpec::new(name.clone(), dim, Units::unit_range(dim)))?;
//! let reading = |second: i64| Observation {
//!     entity: EntityId::new("pump-1").unwrap(),
//!     timestamp: Timestamp(second * 1_000_000),
//!     // The pump runs calmly for a while, then faster.
//!     vector: vec![if second < 60 { 0.2 } else { 0.7 }, 0.5],
//!     metadata: None,
//! };
//! let ack = engine.ingest(&name, (0..100).map(reading).collect())?;
//! assert_eq!((ack.accepted, ack.sealed), (100, 1));
//! let sealed = engine.sealed_after(0, 10)?;
//! assert_eq!((sealed[0].segment.count(), sealed[0].segment.mean()), (60, &[0.2, 0.5][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

mod collection;
mod config;
mod error;
mod observation;

mod ahead;
mod batch;
mod commit;
mod engine;
mod entity;
mod hot;
mod log;
mod means;
mod regime;
mod state;
mod store;

mod bytes;
mod codec;
mod compact;
mod compacting;
mod payload;
mod references;
mod rows;
mod scaled;
mod segment;

mod alignment;
mod anomaly;
mod changes;
mod course;
mod distance;
mod history;
pub mod index;
mod interleaved;
mod knn;
mod known;
mod listing;
mod matched;
mod matching;
mod peers;
mod preferred;
mod quality;
mod question;
mod score;
mod timing;
mod trajectory;

mod counters;
mod simd;
pub mod storage;

pub use anomaly::{AnomaliesAnswer, AnomaliesQuery, Anomaly, Level};
pub use changes::{Change, ChangeOrder, ChangesAnswer, ChangesQuery, Move};
pub use collection::{
    COLLECTION_NAME_BYTES_MAX, CollectionName, CollectionNameError, CollectionSpec, DIM_MAX, Dim,
    DimError, ErrorBound, Fidelity, LATENESS_US_MAX, Metric, SEGMENT_OBSERVATIONS_MAX,
    SegmentPolicy, SpecError, Units,
};
pub use compact::{
    Budget, CompactError, Compaction, Flag, OUTLINE_BYTES_MAX, Outline, PIECES_MAX, Piece, compact,
};
pub use compacting::{Compacted, CompactionBudget, CompactionPolicy};
pub use config::Config;
pub use counters::Counters;
pub use distance::distance;
pub use engine::Engine;
pub use error::{
    CompactionError, MaintainError, ObservationError, OpenError, PoisonCause, ReadError,
    StoreError, WriteError,
};
pub use history::{HistoryAnswer, HistoryQuery, ObservationsAnswer};
pub use knn::{Exactness, Include, KnnAnswer, KnnQuery, Neighbor, knn_over};
pub use listing::{
    EntityView, Life, OpenRegime, Population, SegmentBlocks, SegmentPage, SegmentQuery,
};
pub use log::Recovery;
pub use matched::{KEPT_REFERENCES_MAX, Matched, MatchesQuery};
pub use means::IndexStatus;
pub use observation::{
    ENTITY_ID_BYTES_MAX, EntityId, EntityIdError, METADATA_BYTES_MAX, METADATA_PAIRS_MAX, Metadata,
    MetadataError, Observation, Timestamp,
};
pub use payload::{PayloadError, decode as decode_payload};
pub use preferred::Preferred;
pub use quality::{Quality, Window, WindowMissing};
pub use question::{Coverage, Source, TimeRange};
pub use references::Reference;
pub use rows::Rows;
pub use score::{
    Factors, Nearest, REFERENCES_MAX, SCORE_WINDOW_MAX, Score, ScoreUnits, ScoresAnswer,
    ScoresQuery,
};
pub use segment::{DecodeError, PAYLOAD_LINKS_MAX, SEGMENT_BYTES_MAX, SEGMENT_VERSION, Segment};
pub use state::{Ack, Removed};
pub use store::Stored;
pub use timing::Timing;
pub use trajectory::{Course, Match, TRAJECTORY_POINTS_MAX, TrajectoryAnswer, TrajectoryQuery};
