//! Scenarios through the engine's public API, one family per module.

mod durability;
mod folder;
mod golden;
mod ingest;
mod questions;
mod support;
