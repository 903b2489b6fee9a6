//! Conflicts as JSON: what nodes that were apart say differently about the same time.

use serde::{Deserialize, Serialize};

use crate::{Client, ClientError};

/// Two segments of an entity whose times overlap and that are not the same. Both are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Its name, the same on every node.
    pub id: String,
    /// The collection of both.
    pub collection: String,
    /// The entity of both.
    pub entity: String,
    /// The one with the lesser CID.
    pub first: ConflictVersion,
    /// The other.
    pub second: ConflictVersion,
    /// The CID of the one that answers use.
    pub preferred: String,
    /// Why.
    pub reason: PreferenceReason,
}

/// One of two segments in a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictVersion {
    /// Its CID.
    pub cid: String,
    /// First observation.
    pub start_us: i64,
    /// Last observation.
    pub end_us: i64,
    /// The nodes that signed that they sealed it.
    pub makers: Vec<String>,
    /// Whether this node sealed it.
    pub own: bool,
}

/// Why a segment is preferred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceReason {
    /// A person decided so.
    Decided {
        /// On which node.
        by: String,
        /// When, in milliseconds since the epoch.
        at_ms: u64,
    },
    /// More standing is behind it.
    Standing {
        /// Its points.
        points: u32,
        /// Those of the other one.
        against: u32,
    },
    /// As much is behind either; it has the lesser CID.
    Tie {
        /// The points of each.
        points: u32,
    },
}

/// One page of conflicts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// In the order of their CIDs.
    pub conflicts: Vec<Conflict>,
    /// How many there are in all.
    pub total: u64,
    /// Whether there are more behind the last one.
    pub more: bool,
    /// Conflicts that are not listed, because there was no room for them.
    pub unflagged: u64,
}

/// A person's decision which of two segments answers use. It removes neither.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveConflict {
    /// The CID of the one.
    pub prefer: String,
}

/// A conflict that an answer touches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchedConflict {
    /// Its name: `dunlin review show` has the rest.
    pub id: String,
    /// The entity.
    pub entity: String,
    /// Both segments, the lesser CID first.
    pub segments: [String; 2],
    /// The one that is preferred.
    pub preferred: String,
}

impl Client {
    /// Returns a page of the conflicts between segments of this node and its own peers, behind the one named `after`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when there is none of that name.
    pub fn review(&self, after: Option<&str>) -> Result<Review, ClientError> {
        match after {
            None => self.get("/v1/review"),
            Some(after) => self.get(&format!("/v1/review?after={after}")),
        }
    }

    /// Returns one conflict.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when there is none of that name.
    pub fn conflict(&self, id: &str) -> Result<Conflict, ClientError> {
        self.get(&format!("/v1/review/{id}"))
    }

    /// Decides which of two segments in a conflict answers use.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when there is no such conflict.
    pub fn resolve_conflict(
        &self,
        id: &str,
        decision: &ResolveConflict,
    ) -> Result<Conflict, ClientError> {
        self.post(&format!("/v1/review/{id}/resolve"), decision)
    }
}
