//! Rotations: who a key was before, as both keys say.
//!
//! A key that gives way to another makes one statement with it, which both sign: the old one says who follows it, the new
//! one whom it follows. Neither can say it alone, so that nobody follows a key without its owner's will, and no thief
//! of a key names another's as its follower. The old key withdraws itself with it, for good ([`crate::Withdrawal`]): a
//! statement moves no trust from one key to the other by itself. It is for those who knew the old one.

use dunlin_wire::envelope::{self, Payload, SignError};
use libp2p_identity::{Keypair, PeerId};
use serde::{Deserialize, Serialize};

use crate::{
    authorities::{EndorsementError, Endorsements},
    peer_bytes,
    time::UnixMillis,
};

/// The version of [`Rotation`]'s encoding.
pub const ROTATION_VERSION: u8 = 1;

/// Most rotations in one lineage: a key for each month of five years.
pub const LINEAGE_MAX: usize = 60;

/// A statement that one key follows another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    version: u8,
    #[serde(with = "peer_bytes")]
    old: PeerId,
    #[serde(with = "peer_bytes")]
    new: PeerId,
    issued: UnixMillis,
}

impl Payload for Rotation {
    const TYPE: &'static str = "dunlin/rotation/1";
    /// Two peer ids, a time, and their keys.
    const BYTES_MAX: usize = 256;
}

impl Rotation {
    /// Has both keys sign that the second follows the first.
    ///
    /// # Errors
    ///
    /// Fails when one of them is not an Ed25519 key.
    ///
    /// # Panics
    ///
    /// Never: what two different keys just signed goes together. Equal keys are refused.
    pub fn sign(
        old: &Keypair,
        new: &Keypair,
        issued: UnixMillis,
    ) -> Result<Endorsements, RotationError> {
        let (from, to) = (old.public().to_peer_id(), new.public().to_peer_id());
        let statement = Self { version: ROTATION_VERSION, old: from, new: to, issued };
        let signed = [old, new].map(|key| envelope::sign(key, statement.clone()));
        let [first, second] = signed;
        let endorsements = Endorsements::collect::<Self>(vec![first?.bytes, second?.bytes])?;
        Self::check(&endorsements)?;
        Ok(endorsements)
    }

    /// Returns what both keys say.
    ///
    /// # Errors
    ///
    /// Fails unless the signers are the two keys that it is about, and nobody else.
    pub fn check(endorsements: &Endorsements) -> Result<Self, RotationError> {
        let (said, signers) = endorsements.open::<Self>()?;
        if said.version != ROTATION_VERSION {
            return Err(RotationError::Version { version: said.version });
        }
        let is_meant = signers.len() == 2
            && signers.contains(&said.old)
            && signers.contains(&said.new)
            && said.old != said.new;
        if is_meant { Ok(said) } else { Err(RotationError::Signers) }
    }

    /// Returns all rotations of a lineage, from the first key on.
    ///
    /// # Errors
    ///
    /// Fails when one does not check, they do not follow each other, a key comes back, or there are more than
    /// [`LINEAGE_MAX`].
    pub fn lineage(statements: &[Endorsements]) -> Result<Vec<Self>, RotationError> {
        if statements.len() > LINEAGE_MAX {
            return Err(RotationError::TooMany { count: statements.len() });
        }
        let mut lineage: Vec<Self> = Vec::with_capacity(statements.len());
        for statement in statements {
            let next = Self::check(statement)?;
            let follows = lineage.last().is_none_or(|last| last.new == next.old);
            let returns = lineage.iter().any(|earlier| earlier.old == next.new);
            if !follows || returns {
                return Err(RotationError::Broken);
            }
            lineage.push(next);
        }
        Ok(lineage)
    }

    /// Returns the key that gave way.
    #[must_use]
    pub fn old(&self) -> PeerId {
        self.old
    }

    /// Returns the key that follows it.
    #[must_use]
    pub fn new_key(&self) -> PeerId {
        self.new
    }

    /// Returns when it was signed, by the clock of whoever did.
    #[must_use]
    pub fn issued(&self) -> UnixMillis {
        self.issued
    }
}

/// Why a statement says nothing about who follows whom.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// A key cannot sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The signatures do not carry one statement.
    #[error(transparent)]
    Endorsements(#[from] EndorsementError),
    /// A newer program made it.
    #[error("a rotation of version {version}, where {ROTATION_VERSION} is known")]
    Version {
        /// Its version.
        version: u8,
    },
    /// Not exactly the two keys that it is about signed it.
    #[error("a rotation is signed by the old and the new key, and by nobody else")]
    Signers,
    /// The rotations do not follow each other.
    #[error("the rotations do not follow each other")]
    Broken,
    /// There are too many.
    #[error("{count} rotations, of at most {LINEAGE_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Keypair {
        Keypair::ed25519_from_bytes([number; 32]).unwrap()
    }

    fn rotation(old: u8, new: u8) -> Endorsements {
        Rotation::sign(&key(old), &key(new), UnixMillis(7)).unwrap()
    }

    #[test]
    fn both_keys_say_it_or_nobody_does() {
        let said = Rotation::check(&rotation(1, 2)).unwrap();
        assert_eq!(said.old(), key(1).public().to_peer_id());
        assert_eq!(said.new_key(), key(2).public().to_peer_id());
        let statement = |signers: &[u8]| {
            let sign = |signer: &u8| envelope::sign(&key(*signer), said.clone()).unwrap().bytes;
            let signed = signers.iter().map(sign).collect();
            Rotation::check(&Endorsements::collect::<Rotation>(signed).unwrap())
        };
        assert!(statement(&[1, 2]).is_ok());
        for signers in [&[1][..], &[2], &[1, 3], &[1, 2, 3]] {
            assert!(matches!(statement(signers), Err(RotationError::Signers)), "{signers:?}");
        }
    }

    #[test]
    fn a_lineage_is_unbroken_and_no_key_comes_back() {
        let good = [rotation(1, 2), rotation(2, 3), rotation(3, 4)];
        assert_eq!(Rotation::lineage(&good).unwrap().len(), 3);
        let gap = [rotation(1, 2), rotation(3, 4)];
        assert!(matches!(Rotation::lineage(&gap), Err(RotationError::Broken)));
        let back = [rotation(1, 2), rotation(2, 1)];
        assert!(matches!(Rotation::lineage(&back), Err(RotationError::Broken)));
        let many = vec![rotation(1, 2); LINEAGE_MAX + 1];
        assert!(matches!(Rotation::lineage(&many), Err(RotationError::TooMany { .. })));
        assert!(Rotation::sign(&key(1), &key(1), UnixMillis(7)).is_err(), "it follows itself");
    }

    #[test]
    fn a_rotation_has_one_encoding() {
        let bytes = dunlin_wire::cbor::encode(&rotation(1, 2)).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        let read = dunlin_wire::cbor::decode::<Endorsements>(&bytes, bytes.len()).unwrap();
        assert_eq!(Rotation::check(&read).unwrap().issued(), UnixMillis(7));
    }

    /// Key 2 follows key 1, as libsodium signs it.
    const GOLDEN: &str = concat!(
        "8259010fa5636b657958208139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b39467",
        "7061796c6f6164586aa4636e657758260024080112208139770ea87d175f56a35466c34c7ecccb8d8a91b4ee",
        "37a25df60f5b8fc9b394636f6c6458260024080112208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94",
        "121bf3748801b40f6f5c66697373756564076776657273696f6e016776657273696f6e01697369676e617475",
        "72655840c2fac3da8b9bea259d87782ca8e2ecea772795a47b6246ca06e6651e9a76e3d1d90b9d8904eda8e8",
        "2dcc1ac4eb7a60cb1b7cd9a6319687307f1e9fd28cd29f0e6c7061796c6f61645f747970657164756e6c696e",
        "2f726f746174696f6e2f3159010fa5636b657958208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d9412",
        "1bf3748801b40f6f5c677061796c6f6164586aa4636e657758260024080112208139770ea87d175f56a35466",
        "c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394636f6c6458260024080112208a88e3dd7409f195fd52db2d",
        "3cba5d72ca6709bf1d94121bf3748801b40f6f5c66697373756564076776657273696f6e016776657273696f",
        "6e01697369676e61747572655840499fa487e08ef8098e9b506ebb946a058dfb890b9f6124d89a40a38754b5",
        "1a2e42db6a3e2fa4b09a27a04bef99e867416f7a0976c4a4fff486f571816dda740d6c7061796c6f61645f74",
        "7970657164756e6c696e2f726f746174696f6e2f31",
    );
}
