//! What leaves the node: bounded, noised, and paid for before it is drawn.
//!
//! The one road out: observations become a [`Dataset`] (finite, clipped to public [`Bounds`]), the
//! [`Ledger`] writes the cost down and gives a [`Receipt`], [`release()`] spends it on a few noised
//! centroids, and a [`TemplateSet`] carries them in a signed envelope. On the other side
//! [`adoption::judge`] decides whether a foreign set explains this node's own life.
//!
//! The unit of privacy is one observation; `docs/privacy.md` says what that protects and what it
//! does not. This crate is synchronous, reads no clock, and touches one file: the ledger. Noise comes
//! from OpenDP's samplers and the generator behind them, seeded by the operating system.
//!
//! ```
//! use dunlin_privacy::{Bounds, Dataset, Epsilon, Intent, Ledger, ReleaseConfig, Unit, release};
//!
//! let folder = tempfile::tempdir()?;
//! let mut ledger = Ledger::open(&folder.path().join("ledger"), Epsilon::new(10.0)?)?;
//! let rows: Vec<f32> = (0..8_000).flat_map(|i| [(i % 2) as f32, 0.5]).collect();
//! let data = Dataset::new(&rows, 2, Bounds::uniform(2, 0.0, 1.0)?)?;
//! let receipt = ledger.reserve(&Intent {
//!     collection: "servers",
//!     data: &data,
//!     unit: Unit::Observation,
//!     epsilon: Epsilon::new(1.0)?,
//!     now_unix_ms: 1_763_700_000_000,
//!     purpose: "templates",
//! })?;
//! let released = release(&mut ledger, receipt, &data, &ReleaseConfig::default())?;
//! assert!(!released.centroids.is_empty());
//! assert_eq!(ledger.left("servers"), Epsilon::new(9.0)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod adoption;
mod bounds;
mod dataset;
mod epsilon;
mod ledger;
mod noise;
mod partition;
mod plan;
mod release;
mod template;

pub use bounds::{Bounds, BoundsError};
pub use dataset::{DataDigest, DataError, Dataset, OBSERVATIONS_MAX};
pub use epsilon::{Epsilon, EpsilonError};
pub use ledger::{
    Entry, Intent, LEDGER_BYTES_MAX, Ledger, OpenError, Receipt, ReserveError, TEXT_BYTES_MAX,
};
pub use noise::NoiseError;
pub use release::{
    EPSILON_MIN, Release, ReleaseConfig, ReleaseError, ReleasedCentroid, TEMPLATES_MAX, Unit,
    release,
};
pub use template::{
    About, ChannelsDigest, LIFETIME_MS_MAX, Metric, Template, TemplateError, TemplateSet,
};
