//! Scenarios through the engine's public API, one family per module.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail by panicking, as tests do")]

mod compacted;
mod compaction;
mod durability;
mod extremes;
mod factors;
mod folder;
mod folders;
mod golden;
mod indexed;
mod ingest;
mod matches;
mod meanwhile;
mod model;
mod preferred;
mod questions;
mod support;
