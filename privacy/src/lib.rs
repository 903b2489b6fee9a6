//! What leaves the node: bounded, noised, and paid for before it is drawn.
//!
//! The one road out: observations become a [`Dataset`] (finite, clipped to public [`Bounds`]), the
//! [`Ledger`] writes the cost down and gives a [`Receipt`], [`release()`] spends it on a few noised
//! centroids, and a [`TemplateSet`] carries them in a signed envelope. On the other side
//! [`adoption::judge`] decides whether a foreign set explains this node's own life, and [`doubt`] whether its
//! source stands apart from the others.
//!
//! The unit of privacy is the operator's choice: an observation, an entity's day, an entity.
//! `docs/privacy.md` says what each protects and what none does. This crate is synchronous, reads no
//! clock, and touches one file: the ledger. Noise comes from OpenDP's samplers and the generator behind
//! them, seeded by the operating system.
//!
//! ```
//! use dunlin_privacy::{
//!     Bounds, Ceiling, Dataset, Epsilon, Intent, Ledger, ReleaseConfig, Terms, Unit, release,
//! };
//!
//! let folder = tempfile::tempdir()?;
//! let ceiling = Ceiling::pure(Epsilon::new(10.0)?);
//! let mut ledger = Ledger::open(&folder.path().join("ledger"), ceiling)?;
//! let rows: Vec<f32> = (0..8_000).flat_map(|i| [(i % 2) as f32, 0.5]).collect();
//! let data = Dataset::new(&rows, 2, Bounds::uniform(2, 0.0, 1.0)?)?;
//! let receipt = ledger.reserve(&Intent {
//!     collection: "servers",
//!     data: &data,
//!     terms: Terms::observation(Epsilon::new(1.0)?)?,
//!     now_unix_ms: 1_763_700_000_000,
//!     purpose: "templates",
//! })?;
//! let released = release(&mut ledger, receipt, &data, &ReleaseConfig::default())?;
//! assert!(!released.centroids.is_empty());
//! assert_eq!(ledger.left("servers", Unit::Observation), Epsilon::new(9.0)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod adoption;
mod bounds;
mod codes;
mod dataset;
pub mod doubt;
mod epsilon;
mod ledger;
mod noise;
mod noised_segment;
mod partition;
mod plan;
mod release;
mod rho;
mod template;
mod terms;

pub use bounds::{Bounds, BoundsError};
pub use dataset::{DataDigest, DataError, Dataset, EntityTag, Gather, OBSERVATIONS_MAX, Span};
pub use epsilon::{Epsilon, EpsilonError};
pub use ledger::{
    Ceiling, Eligible, Entry, Intent, LEDGER_BYTES_MAX, Ledger, OpenError, Outcome, Receipt,
    ReserveError, TEXT_BYTES_MAX,
};
pub use noise::NoiseError;
pub use noised_segment::{
    AboutSegment, NoisedSegment, Pseudonym, WINDOW_US_MAX, WINDOW_US_MIN, Window,
};
pub use release::{
    Release, ReleaseConfig, ReleaseError, ReleasedCentroid, ReleasedSegment, TEMPLATES_MAX,
    observations_needed, release, release_segments, units_needed,
};
pub use rho::Rho;
pub use template::{
    About, ChannelsDigest, LIFETIME_MS_MAX, Metric, NoiseStatement, Normalization, Privacy,
    Template, TemplateError, TemplateSet,
};
pub use terms::{
    CELLS_MAX, DELTA_MAX, DELTA_MIN, EPSILON_MIN, GENERATOR, Mechanism, Terms, TermsError, Unit,
};
