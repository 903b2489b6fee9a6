//! A proof that a peer holds a block at this moment.
//!
//! The challenger draws a nonce; the peer answers with a hash over the nonce, its own id, and the whole
//! block. The nonce comes first, so nothing of the hash can be worked out before it is known, and the id
//! keeps one peer's proof from being another's. It costs 32 bytes on the wire and one reading of the block,
//! and who kept a part of a block alone cannot answer, as it could if ranges were asked for. It doesn't
//! show that the peer holds the block *itself*: one that fetches it, or has another peer that holds it
//! compute the answer, in time, passes.

use dunlin_wire::block::Block;
use libp2p_identity::PeerId;
use sha2::{Digest, Sha256};

/// Length of a nonce.
pub const NONCE_BYTES: usize = 32;

/// A proof: a sha2-256 digest.
pub type Proof = [u8; 32];

/// What keeps this hash apart from every other.
const DOMAIN: &[u8] = b"dunlin replica proof 1";

/// A number used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(pub [u8; NONCE_BYTES]);

/// Returns the proof that `prover` holds `block`, which whoever holds it, too, compares with the answer.
#[must_use]
pub fn proof(nonce: &Nonce, prover: &PeerId, block: &Block) -> Proof {
    let prover = prover.to_bytes();
    let mut hash = Sha256::new();
    // Every part but the last has a length that is fixed or stands before it.
    hash.update(DOMAIN);
    hash.update(nonce.0);
    hash.update((prover.len() as u64).to_be_bytes());
    hash.update(prover);
    hash.update(block.bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::Codec;
    use libp2p_identity::Keypair;

    use super::*;

    fn peer(seed: u8) -> PeerId {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap().public().to_peer_id()
    }

    #[test]
    fn a_proof_is_of_one_block_by_one_peer_at_one_time() {
        let block = |text: &str| Block::new(Codec::Raw, text.as_bytes().to_vec());
        let known = proof(&Nonce([7; 32]), &peer(1), &block("a regime"));
        assert_eq!(known, proof(&Nonce([7; 32]), &peer(1), &block("a regime")));
        for other in [
            proof(&Nonce([8; 32]), &peer(1), &block("a regime")),
            proof(&Nonce([7; 32]), &peer(2), &block("a regime")),
            proof(&Nonce([7; 32]), &peer(1), &block("a regimf")),
            proof(&Nonce([7; 32]), &peer(1), &block("a regim")),
        ] {
            assert_ne!(known, other);
        }
    }
}
