//! One block over all catalogs: its CID names everything that a node archived.
//!
//! It lists the root of every catalog, and the roots of graphs that stand for themselves. Two nodes that
//! archived the same have the same; where the blocks differ, the catalogs that differ are compared by
//! [`crate::catalog::compare()`]. `docs/formats/catalog.md` has the bytes.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    cbor::{self, DecodeError},
    limits::BLOCK_BYTES_MAX,
};
use serde::{Deserialize, Serialize};

/// The version of the block.
const VERSION: u8 = 1;

/// Most catalogs that one root lists; those beyond are counted.
pub const CATALOGS_MAX: usize = 2048;

/// Most graphs that one root lists; those beyond are counted.
pub const GRAPHS_MAX: usize = 4096;

/// Longest label, in bytes: names of collections are shorter.
pub const LABEL_BYTES_MAX: usize = 256;

/// What a root lists, in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// The catalogs.
    pub catalogs: Vec<Listed>,
    /// Graphs that no catalog has.
    pub graphs: Vec<Cid>,
    /// Catalogs and graphs for which there was no room.
    pub left_out: u64,
}

/// A catalog in the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listed(
    /// Whose segments they are. Empty in what strangers may read: a name tells, too.
    pub String,
    /// The root of the catalog.
    pub Cid,
    /// How many segments it names.
    pub u64,
);

impl Roots {
    /// Returns the list, sorted and as long as it may be.
    #[must_use]
    pub fn new(mut catalogs: Vec<Listed>, mut graphs: Vec<Cid>) -> Self {
        catalogs.retain(|listed| listed.0.len() <= LABEL_BYTES_MAX);
        catalogs.sort();
        catalogs.dedup();
        graphs.sort();
        graphs.dedup();
        let left_out =
            catalogs.len().saturating_sub(CATALOGS_MAX) + graphs.len().saturating_sub(GRAPHS_MAX);
        catalogs.truncate(CATALOGS_MAX);
        graphs.truncate(GRAPHS_MAX);
        Self { catalogs, graphs, left_out: left_out as u64 }
    }

    /// Returns whether it lists nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.catalogs.is_empty() && self.graphs.is_empty()
    }

    /// Returns everything that the list links to.
    pub fn links(&self) -> impl Iterator<Item = &Cid> {
        self.catalogs.iter().map(|listed| &listed.1).chain(&self.graphs)
    }

    /// Returns the block of the list.
    #[must_use]
    pub fn to_block(&self) -> Block {
        let parts = (VERSION, &self.catalogs, &self.graphs, self.left_out);
        Block::new(Codec::DagCbor, cbor::encode(&parts).expect("plain fields have an encoding"))
    }

    /// Returns the list in a block's bytes.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are no list, or one that is out of order or too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, RootsError> {
        let (version, catalogs, graphs, left_out): (u8, Vec<Listed>, Vec<Cid>, u64) =
            cbor::decode(bytes, BLOCK_BYTES_MAX)?;
        if version != VERSION {
            return Err(RootsError::Version { version });
        }
        let is_orderly = catalogs.is_sorted_by(|a, b| a < b)
            && graphs.is_sorted_by(|a, b| a < b)
            && catalogs.len() <= CATALOGS_MAX
            && graphs.len() <= GRAPHS_MAX
            && catalogs.iter().all(|listed| listed.0.len() <= LABEL_BYTES_MAX);
        if is_orderly { Ok(Self { catalogs, graphs, left_out }) } else { Err(RootsError::Disorder) }
    }
}

/// Why bytes are no list of roots.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// They are something else.
    #[error(transparent)]
    Cbor(#[from] DecodeError),
    /// They are of a newer version.
    #[error("a list of roots of version {version}; this build knows {VERSION}")]
    Version {
        /// The version.
        version: u8,
    },
    /// Lines do not rise, or there are too many.
    #[error("the list of roots is out of order or too long")]
    Disorder,
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::cid_of;
    use proptest::prelude::*;

    use super::*;

    fn cid(number: u64) -> Cid {
        cid_of(Codec::DagCbor, &number.to_be_bytes())
    }

    #[test]
    fn a_root_has_these_bytes() {
        let roots = Roots::new(vec![Listed("servers".to_owned(), cid(1), 300)], vec![cid(2)]);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let link = |cid: Cid| format!("d82a582500{}", hex(&cid.to_bytes()));
        let expected = [
            "84", // a list of four
            "01", // version 1
            "81",
            "83",
            "67",
            &hex(b"servers"),
            &link(cid(1)),
            "19012c", // one catalog of 300
            "81",
            &link(cid(2)), // one graph
            "00",          // and nothing that is not listed
        ]
        .concat();
        assert_eq!(hex(roots.to_block().bytes()), expected);
        assert_eq!(Roots::decode(roots.to_block().bytes()), Ok(roots));
    }

    #[test]
    fn the_order_in_which_they_come_does_not_matter() {
        let listed = |number| Listed(format!("c{number}"), cid(number), number);
        let forth = Roots::new((0..9).map(listed).collect(), (0..9).map(cid).collect());
        let back = Roots::new((0..9).rev().map(listed).collect(), (0..9).rev().map(cid).collect());
        assert_eq!(forth.to_block(), back.to_block());
        assert_eq!(forth.links().count(), 18);
    }

    #[test]
    fn what_has_no_room_is_counted_and_the_block_stays_a_block() {
        let label = "x".repeat(LABEL_BYTES_MAX);
        let count = CATALOGS_MAX as u64 + 7;
        let catalogs = (0..count).map(|number| Listed(label.clone(), cid(number), u64::MAX));
        let graphs = (0..GRAPHS_MAX as u64 + 5).map(cid);
        let roots = Roots::new(catalogs.collect(), graphs.collect());
        assert_eq!(roots.left_out, 12);
        let block = roots.to_block();
        assert!(block.bytes().len() <= BLOCK_BYTES_MAX, "{} bytes", block.bytes().len());
        assert_eq!(Roots::decode(block.bytes()), Ok(roots));
    }

    #[test]
    fn lists_out_of_order_are_refused() {
        let mut roots = Roots::new(Vec::new(), vec![cid(1), cid(2)]);
        roots.graphs.reverse();
        assert_eq!(Roots::decode(roots.to_block().bytes()), Err(RootsError::Disorder));
        let twice = Roots { graphs: vec![cid(1), cid(1)], ..Roots::default() };
        assert_eq!(Roots::decode(twice.to_block().bytes()), Err(RootsError::Disorder));
        let newer = cbor::encode(&(2_u8, [0_u8; 0], [0_u8; 0], 0_u64)).unwrap();
        assert_eq!(Roots::decode(&newer), Err(RootsError::Version { version: 2 }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            Roots::decode(&bytes).ok();
        }
    }
}
