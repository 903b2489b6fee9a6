//! Under which CIDs the archive keeps a block that others name differently.
//!
//! A codec says how to read bytes and is part of no hash: blocks of codecs that are not our own (`dag-pb`,
//! `dag-json`, and all of CID version 0) are kept under the `raw` CID of the same hash. So the store knows
//! two kinds of CID, and serves every block under each name that its hash allows.

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};
use multihash::Multihash;

use crate::dag::{self, CheckError};

/// The multihash code and digest length of sha2-256, the one hash of the store.
const SHA2_256: (u64, u8) = (0x12, 32);

/// Returns the CIDs under which a block named `cid` may be in the archive, likeliest first; none, when it
/// cannot be there.
#[must_use]
pub fn stored_names(cid: &Cid) -> Vec<Cid> {
    let hash: &Multihash<64> = cid.hash();
    if (hash.code(), hash.size()) != SHA2_256 {
        return Vec::new();
    }
    let codecs = match cid.codec() {
        codec if codec == Codec::DagCbor.code() => [Codec::DagCbor, Codec::Raw],
        _ => [Codec::Raw, Codec::DagCbor],
    };
    codecs.map(|codec| Cid::new_v1(codec.code(), *hash)).into()
}

/// Returns the block that the archive keeps for bytes that others name `cid`; nothing for one whose CID
/// holds its content.
///
/// # Errors
///
/// Fails when the bytes are not what `cid` names, or it has a hash that is not kept here.
pub fn stored_block(cid: &Cid, bytes: Vec<u8>) -> Result<Option<Block>, CheckError> {
    dag::check(cid, &bytes)?;
    if dag::inline(cid).is_some() {
        return Ok(None);
    }
    let name = stored_names(cid).first().copied();
    let unsupported = CheckError::Unsupported { code: cid.hash().code() };
    let block = Block::verified(name.ok_or(unsupported)?, bytes);
    block.map(Some).map_err(|_| CheckError::Mismatch)
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::cid_of;

    use super::*;

    #[test]
    fn blocks_of_other_codecs_are_kept_as_raw() {
        let raw = cid_of(Codec::Raw, b"node");
        let v0 = Cid::new_v0(*raw.hash()).unwrap();
        for cid in [raw, v0, Cid::new_v1(dag::DAG_PB, *raw.hash())] {
            assert_eq!(stored_names(&cid)[0], raw);
            assert_eq!(stored_block(&cid, b"node".to_vec()).unwrap().unwrap().cid(), &raw);
            assert_eq!(stored_block(&cid, b"nods".to_vec()), Err(CheckError::Mismatch));
        }
        let object = cid_of(Codec::DagCbor, &[0x80]);
        assert_eq!(stored_block(&object, vec![0x80]).unwrap().unwrap().cid(), &object);
    }

    #[test]
    fn other_hashes_are_not_kept() {
        let blake = Cid::new_v1(0x55, Multihash::wrap(0x1e, &[7; 32]).unwrap());
        assert!(stored_names(&blake).is_empty());
        assert!(matches!(
            stored_block(&blake, vec![]),
            Err(CheckError::Unsupported { code: 0x1e })
        ));
        let inline = Cid::new_v1(0x55, Multihash::wrap(0, b"x").unwrap());
        assert_eq!(stored_block(&inline, b"x".to_vec()), Ok(None));
        let short = Cid::new_v1(0x55, Multihash::wrap(0x12, &[7; 16]).unwrap());
        assert!(stored_names(&short).is_empty());
    }
}
