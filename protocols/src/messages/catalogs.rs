//! Catalogs: two of one operator's nodes find out whether they know the same segments, and the same statements.

use dunlin_wire::Cid;
use serde::{Deserialize, Serialize};

use super::{
    COLLECTION_BYTES_MAX, Message, MessageError, REQUEST_BYTES_MAX, RefusalReason, at_most,
};

/// Most collections in one comparison; they fit into one request.
pub const CATALOGS_MAX: usize = 128;

/// What a peer knows of its collections, and would know of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CatalogsRequest {
    /// Whether the other knows the same.
    Compare {
        /// At most [`CATALOGS_MAX`], of different collections.
        catalogs: Vec<Catalogs>,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CatalogsResponse {
    /// What the other knows of those collections that it has, too.
    Compared {
        /// At most as many as were asked about, of the same collections.
        catalogs: Vec<Catalogs>,
    },
    /// No answer.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

/// What a node knows of a collection: equal nodes have equal roots. The blocks below a root are fetched as those of
/// segments are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogs {
    /// The collection.
    pub collection: String,
    /// The catalog of all segments, if there are any.
    pub segments: Option<CatalogRoot>,
    /// The catalog of all statements about those that conflict, if there are any.
    pub statements: Option<CatalogRoot>,
}

/// The root of a catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogRoot {
    /// Its block.
    pub cid: Cid,
    /// How many entries are below it.
    pub count: u64,
}

fn check(catalogs: &[Catalogs]) -> Result<(), MessageError> {
    at_most("a list of catalogs", catalogs.len(), CATALOGS_MAX)?;
    catalogs
        .iter()
        .try_for_each(|of| at_most("a name with bytes", of.collection.len(), COLLECTION_BYTES_MAX))
}

impl Message for CatalogsRequest {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        let Self::Compare { catalogs } = self;
        check(catalogs)
    }
}

impl Message for CatalogsResponse {
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Compared { catalogs } => check(catalogs),
            Self::Refused { .. } => Ok(()),
        }
    }
}
