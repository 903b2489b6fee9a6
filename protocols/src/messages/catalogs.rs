//! Catalogs: two of one operator's nodes find out whether they know the same segments, and the same statements.

use dunlin_trust::{Passed, STATEMENT_BYTES_MAX};
use dunlin_wire::{Cid, envelope::Payload as _, limits::ENVELOPE_OVERHEAD_BYTES_MAX};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    CHECKED_CATALOG_PROTOCOL, COLLECTION_BYTES_MAX, Message, MessageError, REQUEST_BYTES_MAX,
    RefusalReason, at_most,
};

/// Most collections in one comparison; they fit into one request.
pub const CATALOGS_MAX: usize = 128;

/// Most statements in one question: both sides verify each one's signature.
pub const STATEMENTS_PER_REQUEST_MAX: usize = 64;

/// Largest envelope of a statement that is handed on.
const STATEMENT_ENVELOPE_BYTES_MAX: usize = STATEMENT_BYTES_MAX + ENVELOPE_OVERHEAD_BYTES_MAX;

/// Largest envelope around what is said about the statements of an answer.
const PASSED_BYTES_MAX: usize = Passed::BYTES_MAX + ENVELOPE_OVERHEAD_BYTES_MAX;

/// What a peer knows of its collections, and would know of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CatalogsRequest {
    /// Whether the other knows the same.
    Compare {
        /// At most [`CATALOGS_MAX`], of different collections.
        catalogs: Vec<Catalogs>,
    },
    /// For statements that the other has, and has checked.
    Statements {
        /// The CIDs of their envelopes as blocks, at most [`STATEMENTS_PER_REQUEST_MAX`].
        cids: Vec<Cid>,
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
    /// Statements that were asked for and are there.
    Statements {
        /// Their envelopes.
        statements: Vec<ByteBuf>,
        /// The envelope of a [`Passed`] about them, in their order; none where there are none.
        passed: Option<ByteBuf>,
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

    fn check_version(&self, protocol: &str) -> Result<(), MessageError> {
        match self {
            Self::Statements { .. } if protocol != CHECKED_CATALOG_PROTOCOL => {
                Err(MessageError::Version)
            }
            Self::Statements { .. } | Self::Compare { .. } => Ok(()),
        }
    }

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Compare { catalogs } => check(catalogs),
            Self::Statements { cids } => {
                at_most("a list of CIDs", cids.len(), STATEMENTS_PER_REQUEST_MAX)
            }
        }
    }
}

impl Message for CatalogsResponse {
    /// A full answer of the largest statements, with room.
    const BYTES_MAX: usize = (STATEMENTS_PER_REQUEST_MAX + 1) * (STATEMENT_ENVELOPE_BYTES_MAX + 64);

    fn check(&self) -> Result<(), MessageError> {
        match self {
            Self::Compared { catalogs } => check(catalogs),
            Self::Statements { statements, passed } => {
                at_most("a list of statements", statements.len(), STATEMENTS_PER_REQUEST_MAX)?;
                for one in statements {
                    at_most("a statement of bytes", one.len(), STATEMENT_ENVELOPE_BYTES_MAX)?;
                }
                let signed = passed.as_ref().map_or(0, |passed| passed.len());
                at_most("a signature with bytes", signed, PASSED_BYTES_MAX)?;
                let is_due = !statements.is_empty();
                if is_due == passed.is_some() { Ok(()) } else { Err(MessageError::Signature) }
            }
            Self::Refused { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::CATALOG_PROTOCOL, *};

    fn statements(count: usize, bytes: usize, passed: Option<usize>) -> CatalogsResponse {
        let passed = passed.map(|bytes| ByteBuf::from(vec![7; bytes]));
        CatalogsResponse::Statements { statements: vec![vec![7; bytes].into(); count], passed }
    }

    #[test]
    fn the_largest_answer_with_statements_fits_and_nothing_larger() {
        let (count, bytes) = (STATEMENTS_PER_REQUEST_MAX, STATEMENT_ENVELOPE_BYTES_MAX);
        statements(count, bytes, Some(PASSED_BYTES_MAX)).encode().unwrap();
        for (larger, why) in [
            (statements(count + 1, 1, Some(1)), "one more statement"),
            (statements(1, bytes + 1, Some(1)), "a longer statement"),
            (statements(1, 1, Some(PASSED_BYTES_MAX + 1)), "a longer word"),
            (statements(1, 1, None), "nobody vouches for it"),
            (statements(0, 0, Some(1)), "there is nothing to vouch for"),
        ] {
            assert!(larger.encode().is_err(), "{why}");
            assert!(
                CatalogsResponse::decode(&dunlin_wire::cbor::encode(&larger).unwrap()).is_err()
            );
        }
        let cid = dunlin_wire::block::cid_of(dunlin_wire::block::Codec::DagCbor, b"x");
        let request = |count| CatalogsRequest::Statements { cids: vec![cid; count] };
        request(count).encode().unwrap();
        assert!(request(count + 1).encode().is_err());
        let versions = [CATALOG_PROTOCOL, CHECKED_CATALOG_PROTOCOL];
        let of = |request: CatalogsRequest| {
            versions.map(|version| request.check_version(version).is_ok())
        };
        assert_eq!(of(request(1)), [false, true]);
        assert_eq!(of(CatalogsRequest::Compare { catalogs: Vec::new() }), [true, true]);
    }
}
