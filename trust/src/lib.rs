//! From what peers did to what peers may do: evidence, score, standing, and the gate.
//!
//! Every federated operation asks [`Trust::may`] before it acts. What a peer did reaches
//! [`Trust::observe`] as [`Evidence`]; it moves three decaying sums, they make one published score
//! between 0 and 1, and the score makes the [`Standing`]. The formula, every weight and every
//! threshold stand in `docs/trust.md`; a test reads its table of operations and compares it with
//! the code.
//!
//! This crate is pure: it takes the time as an argument and reads no clock, no file and no
//! generator, so the same inputs make the same state. It keeps nothing on disk; the shell stores
//! what [`Trust::next_dirty`] hands out and gives it back to [`Trust::new`].
//!
//! It judges by what this node saw itself, and by what is proven to it ([`Proof`]). What other peers report
//! about third ones ([`Report`]) is heard of trusted ones alone and can withhold trust, and no more.
//!
//! ```
//! use dunlin_trust::{Config, Evidence, Operation, Standing, Trust, UnixMillis};
//! use libp2p_identity::Keypair;
//!
//! let stranger = Keypair::generate_ed25519().public().to_peer_id();
//! let mut trust = Trust::new(Config::default(), Vec::new());
//! let now = UnixMillis(1_763_700_000_000);
//! assert_eq!(trust.standing(now, &stranger), Standing::Probation);
//! assert!(trust.may(now, &stranger, Operation::FetchTemplates).is_ok());
//!
//! trust.observe(now, stranger, Evidence::WrongCid);
//! assert_eq!(trust.standing(now, &stranger), Standing::Quarantined);
//! assert!(trust.may(now, &stranger, Operation::FetchTemplates).is_err());
//! ```

#![forbid(unsafe_code)]

mod authorities;
mod config;
mod evidence;
mod explanation;
mod hearsay;
mod license;
mod operation;
mod passed;
mod peer_bytes;
mod proof;
mod proofs;
mod record;
pub mod recovery;
mod report;
mod revocation;
mod revocations;
mod rotation;
mod score;
mod served;
mod standing;
mod table;
mod time;
mod trust;

pub use authorities::{
    AUTHORITIES_MAX, Authorities, AuthoritiesError, EndorsementError, Endorsements,
    NETWORK_BYTES_MAX,
};
pub use config::{
    Config, ConfigError, HALF_LIFE_MAX, HALF_LIFE_MIN, HalfLives, PEERS_MAX, PRIOR_MIN, Thresholds,
    WEIGHT_MAX, Weights,
};
pub use evidence::{Evidence, Tally};
pub use explanation::{Explanation, Line};
pub use hearsay::{REPORTERS_MAX, REPORTS_OF_ONE_MAX, SUBJECTS_MAX};
pub use license::{CLOCK_SLACK_MS, LICENSE_VERSION, License, LicenseError};
pub use operation::{Operation, Refusal};
pub use passed::{ForgedStatement, Passed, is_forged};
pub use proof::{
    Exclusive, Kind, PROOF_BYTES_MAX, PROOF_VERSION, Proof, ProofError, Proven, STATEMENT_BYTES_MAX,
};
pub use proofs::{
    PROOF_NAME_BYTES, PROOFS_HELD_MAX, Proofs, ProofsError, decode_proofs, encode_proofs,
};
pub use record::{RECORD_VERSION, Record};
pub use report::{Claim, REPORT_AGE_MAX_MS, REPORT_VERSION, Report, ReportError};
pub use revocation::{
    Chain, Extension, Head, LOG_KEYS_MAX, REVOCATION_VERSION, Subject, Withdrawal,
    sync::{LOGS_MAX, SyncAnswer, SyncRequest},
};
pub use revocations::{
    Acquaintance, Draft, Pending, RevocationError, Revocations, UNKNOWN_WITHDRAWALS_MAX,
    WITHDRAWALS_MAX,
};
pub use rotation::{LINEAGE_MAX, ROTATION_VERSION, Rotation, RotationError};
pub use served::{SERVED_OBJECTS_MAX, SentObject, Served, WrongObject};
pub use standing::{Standing, StandingChange};
pub use time::UnixMillis;
pub use trust::{HELD_MAX, HeldError, Trust};
