//! What is remembered about one peer, and persisted by the shell.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use libp2p_identity::PeerId;
use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::evidence::Tally;
use crate::peer_bytes;
use crate::proof::ProofId;
use crate::score::Sums;
use crate::standing::Standing;
use crate::time::UnixMillis;

/// The version of [`Record`]'s encoding.
pub const RECORD_VERSION: u8 = 1;

/// Most proofs that are counted against one peer: enough for the most grave evidence there is.
pub(crate) const PROOFS_MAX: usize = 8;

/// What this node remembers about one peer.
///
/// Its fields are private: a record is made by [`crate::Trust`] alone and goes back into it. The
/// shell encodes it with `dunlin_wire::cbor` under [`Record::peer`] as the key. A clone takes a pointer, until one of
/// the two changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Record(Arc<Fields>);

/// What is in a record, for this crate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    #[serde(deserialize_with = "known_version")]
    version: u8,
    #[serde(with = "peer_bytes")]
    peer: PeerId,
    pub(crate) sums: Sums,
    pub(crate) tally: Tally,
    /// As of `updated`. Kept because of hysteresis: the score alone does not tell.
    pub(crate) standing: Standing,
    /// A flag beside the standing, so that no arithmetic on scores can ever lead out of it.
    pub(crate) revoked: bool,
    pub(crate) first_seen: UnixMillis,
    pub(crate) updated: UnixMillis,
    /// Names of the proofs that were counted, at most [`PROOFS_MAX`]: each counts once, after a restart, too.
    /// Absent while there are none, as in records of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "few_proofs")]
    pub(crate) proofs: Vec<ProofId>,
}

impl Record {
    /// A newcomer.
    pub(crate) fn new(peer: PeerId, now: UnixMillis) -> Self {
        Self(Arc::new(Fields {
            version: RECORD_VERSION,
            peer,
            sums: Sums::default(),
            tally: Tally::default(),
            standing: Standing::Probation,
            revoked: false,
            first_seen: now,
            updated: now,
            proofs: Vec::new(),
        }))
    }

    /// Returns whose record this is.
    #[must_use]
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// Returns whether the peer is revoked, which is forever.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Returns when the peer was first seen.
    #[must_use]
    pub fn first_seen(&self) -> UnixMillis {
        self.first_seen
    }

    /// Returns for how long the peer is known; of a clock that went back, for no time.
    pub(crate) fn known_for(&self, now: UnixMillis) -> Duration {
        Duration::from_millis(now.millis_since(self.first_seen))
    }

    /// Returns the latest time at which evidence about it arrived.
    #[must_use]
    pub fn updated(&self) -> UnixMillis {
        self.updated
    }

    /// Returns how often each kind of evidence was seen.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Deref for Record {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl DerefMut for Record {
    fn deref_mut(&mut self) -> &mut Fields {
        Arc::make_mut(&mut self.0)
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fields::deserialize(deserializer).map(|fields| Self(Arc::new(fields)))
    }
}

fn few_proofs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ProofId>, D::Error> {
    let mut proofs = Vec::deserialize(deserializer)?;
    proofs.truncate(PROOFS_MAX);
    Ok(proofs)
}

fn known_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let version = u8::deserialize(deserializer)?;
    if version == RECORD_VERSION {
        Ok(version)
    } else {
        Err(D::Error::invalid_value(
            Unexpected::Unsigned(u64::from(version)),
            &"a known record version",
        ))
    }
}
