//! What comes in: entities, timestamps, vectors and their metadata, as checked types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Longest entity id, in bytes.
pub const ENTITY_ID_BYTES_MAX: usize = 256;

/// Most key-value pairs that one observation may carry.
pub const METADATA_PAIRS_MAX: usize = 16;

/// Most bytes that the keys and values of one observation's metadata may have together.
pub const METADATA_BYTES_MAX: usize = 1024;

/// One input: what an entity did at one moment.
#[derive(Clone, PartialEq)]
pub struct Observation {
    /// The thing observed.
    pub entity: EntityId,
    /// When, in microseconds since the epoch.
    pub timestamp: Timestamp,
    /// One finite value per channel of the collection.
    pub vector: Vec<f32>,
    /// What else is known; kept by lossless collections only.
    pub metadata: Option<Metadata>,
}

impl std::fmt::Debug for Observation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values are the user's and do not belong in a log.
        f.debug_struct("Observation")
            .field("timestamp", &self.timestamp)
            .field("dim", &self.vector.len())
            .finish_non_exhaustive()
    }
}

/// The name of an entity: UTF-8, 1 to [`ENTITY_ID_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntityId(String);

impl EntityId {
    /// Returns the id when its length is allowed.
    ///
    /// # Errors
    ///
    /// Fails when the name is empty or too long.
    pub fn new(name: impl Into<String>) -> Result<Self, EntityIdError> {
        let name = name.into();
        match name.len() {
            1..=ENTITY_ID_BYTES_MAX => Ok(Self(name)),
            bytes => Err(EntityIdError { bytes }),
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for EntityId {
    type Error = EntityIdError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl std::str::FromStr for EntityId {
    type Err = EntityIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl From<EntityId> for String {
    fn from(id: EntityId) -> Self {
        id.0
    }
}

impl std::fmt::Display for EntityId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An entity id of a length that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entity id of {bytes} bytes; it must have 1 to {ENTITY_ID_BYTES_MAX}")]
pub struct EntityIdError {
    /// How many bytes it has.
    pub bytes: usize,
}

/// Microseconds since the epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} us", self.0)
    }
}

/// A small map of strings that travels with an observation and tells about its entity: at most [`METADATA_PAIRS_MAX`] pairs and
/// [`METADATA_BYTES_MAX`] bytes.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Returns the metadata when it is small enough.
    ///
    /// # Errors
    ///
    /// Fails when there are too many pairs or bytes.
    pub fn new(pairs: BTreeMap<String, String>) -> Result<Self, MetadataError> {
        let bytes = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        if pairs.len() > METADATA_PAIRS_MAX || bytes > METADATA_BYTES_MAX {
            return Err(MetadataError { pairs: pairs.len(), bytes });
        }
        Ok(Self(pairs))
    }

    /// Returns the pairs in the order of their keys.
    #[must_use]
    pub const fn pairs(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Returns whether there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether all pairs of `wanted` are among these.
    #[must_use]
    pub fn has_all(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// Returns how many bytes keys and values have together.
    pub(crate) fn byte_count(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

impl TryFrom<BTreeMap<String, String>> for Metadata {
    type Error = MetadataError;

    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self, Self::Error> {
        Self::new(pairs)
    }
}

impl From<Metadata> for BTreeMap<String, String> {
    fn from(metadata: Metadata) -> Self {
        metadata.0
    }
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metadata").field("pairs", &self.0.len()).finish_non_exhaustive()
    }
}

/// Metadata beyond what an observation may carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "metadata of {pairs} pairs and {bytes} bytes; at most {METADATA_PAIRS_MAX} pairs and {METADATA_BYTES_MAX} bytes are accepted"
)]
pub struct MetadataError {
    /// How many pairs there are.
    pub pairs: usize,
    /// How many bytes keys and values have together.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_ids_have_1_to_256_bytes() {
        assert_eq!(EntityId::new(""), Err(EntityIdError { bytes: 0 }));
        assert!(EntityId::new("é".repeat(128)).is_ok());
        assert_eq!(EntityId::new("é".repeat(129)), Err(EntityIdError { bytes: 258 }));
    }

    #[test]
    fn metadata_is_small() {
        let pair = |bytes: usize| BTreeMap::from([("k".to_owned(), "v".repeat(bytes))]);
        assert!(Metadata::new(pair(METADATA_BYTES_MAX - 1)).is_ok());
        assert!(Metadata::new(pair(METADATA_BYTES_MAX)).is_err());
        let many = (0..17).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(Metadata::new(many), Err(MetadataError { pairs: 17, bytes: 24 }));
    }
}
