//! Files that authorities sign one after another, and that travel between them: `docs/formats/statement.md`.

use std::{fs, io::Read, path::Path};

use anyhow::{Context, bail, ensure};
use dunlin_protocols::messages::Revocation;
use dunlin_trust::{
    AUTHORITIES_MAX, Authorities, Draft, EndorsementError, Endorsements, Head, License, Withdrawal,
};
use dunlin_wire::{cbor, envelope};
use libp2p_identity::{Keypair, PeerId};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The version of the file.
const VERSION: u8 = 1;

/// Largest file: a whole log of keys, with its signatures.
pub(crate) const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is said, and the signatures so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Statement {
    /// A peer may join.
    License {
        /// For how long, and which network.
        license: License,
        /// Signed envelopes of it.
        signatures: Vec<ByteBuf>,
    },
    /// Peers are peers no more.
    Revocation {
        /// What continues the log of the network.
        draft: Draft,
        /// The peers that were named, as text. Other keys of the draft are revoked already, in another log.
        peers: Vec<String>,
        /// Signed envelopes of the draft's head.
        signatures: Vec<ByteBuf>,
    },
    /// A key is one no more, by its own word.
    Withdrawal {
        /// The signed envelope.
        signature: ByteBuf,
    },
}

impl Statement {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read, is no statement, or a signature in it is not of what it says.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        let read = fs::File::open(path)
            .and_then(|file| file.take(STATEMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
        read.with_context(|| format!("cannot read {}", path.display()))?;
        Self::decode(&bytes).with_context(|| path.display().to_string())
    }

    /// Returns the statement in the bytes of a file.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub(crate) fn decode(bytes: &[u8]) -> anyhow::Result<Self> {
        let (version, statement): (u8, Self) = cbor::decode(bytes, STATEMENT_BYTES_MAX)
            .context("no license, revocation or withdrawal")?;
        ensure!(version == VERSION, "version {version}, but this build knows {VERSION}");
        if let Self::Revocation { draft, peers, .. } = &statement {
            for peer in peers {
                let named: Option<PeerId> = peer.parse().ok();
                ensure!(named.is_some_and(|peer| draft.adds(&peer)), "it does not revoke {peer}");
            }
        }
        statement.signers()?;
        Ok(statement)
    }

    /// Returns the bytes of a file.
    pub(crate) fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let bytes = cbor::encode(&(VERSION, self))?;
        ensure!(bytes.len() <= STATEMENT_BYTES_MAX, "more keys than one file holds");
        Ok(bytes)
    }

    /// Adds the signature of an authority; one that signed already signs nothing again.
    ///
    /// # Errors
    ///
    /// Fails for a withdrawal, which is of one key alone.
    pub(crate) fn sign(&mut self, authority: &Keypair) -> anyhow::Result<()> {
        if self.signers()?.contains(&authority.public().to_peer_id()) {
            return Ok(());
        }
        let (signature, signatures) = match self {
            Self::License { license, signatures } => {
                (envelope::sign(authority, license.clone())?.bytes, signatures)
            }
            Self::Revocation { draft, signatures, .. } => (draft.sign(authority)?, signatures),
            Self::Withdrawal { .. } => bail!("a key withdraws itself; nobody else signs that"),
        };
        ensure!(signatures.len() < AUTHORITIES_MAX, "it has {AUTHORITIES_MAX} signatures already");
        signatures.push(ByteBuf::from(signature));
        Ok(())
    }

    /// Returns who signed it.
    ///
    /// # Errors
    ///
    /// Fails when a signature is not valid, or of something else.
    pub(crate) fn signers(&self) -> Result<Vec<PeerId>, EndorsementError> {
        let list =
            |signatures: &[ByteBuf]| signatures.iter().map(|s| s.to_vec()).collect::<Vec<_>>();
        match self {
            Self::License { signatures, .. } if signatures.is_empty() => Ok(Vec::new()),
            Self::Revocation { signatures, .. } if signatures.is_empty() => Ok(Vec::new()),
            Self::License { license, signatures } => {
                let signed = Endorsements::collect::<License>(list(signatures))?;
                let (said, signers) = signed.open::<License>()?;
                if said == *license { Ok(signers) } else { Err(EndorsementError::Different) }
            }
            Self::Revocation { draft, signatures, .. } => {
                let signed = Endorsements::collect::<Head>(list(signatures))?;
                let (said, signers) = signed.open::<Head>()?;
                if said == *draft.head() { Ok(signers) } else { Err(EndorsementError::Different) }
            }
            Self::Withdrawal { signature } => {
                Ok(vec![envelope::open::<Withdrawal>(signature)?.signer])
            }
        }
    }

    /// Returns the network that it is of; a withdrawal is of none.
    pub(crate) fn network(&self) -> Option<&str> {
        match self {
            Self::License { license, .. } => Some(license.network()),
            Self::Revocation { draft, .. } => Some(draft.head().network()),
            Self::Withdrawal { .. } => None,
        }
    }

    /// Returns how many signatures of a network's authorities are still to come.
    pub(crate) fn missing(&self, authorities: &Authorities) -> Result<usize, EndorsementError> {
        if let Self::Withdrawal { .. } = self {
            return Ok(0);
        }
        let signers = self.signers()?;
        let counted = authorities.keys().filter(|key| signers.contains(key)).count();
        Ok(authorities.threshold().saturating_sub(counted))
    }

    /// Returns what a peer presents.
    ///
    /// # Errors
    ///
    /// Fails when it is no license.
    pub(crate) fn into_license(self) -> anyhow::Result<Endorsements> {
        let Self::License { signatures, .. } = self else { bail!("it is no license") };
        let signatures = signatures.into_iter().map(ByteBuf::into_vec).collect();
        Ok(Endorsements::collect::<License>(signatures)?)
    }

    /// Returns what is told to the network.
    ///
    /// # Errors
    ///
    /// Fails when it is a license.
    pub(crate) fn into_revocation(self) -> anyhow::Result<Revocation> {
        match self {
            Self::License { .. } => {
                bail!("a license is not published; the peer installs it with `dunlin network join`")
            }
            Self::Revocation { draft, signatures, .. } => {
                let signatures = signatures.into_iter().map(ByteBuf::into_vec).collect();
                Ok(Revocation::Extension(draft.signed(signatures)?))
            }
            Self::Withdrawal { signature } => Ok(Revocation::Withdrawal(signature)),
        }
    }
}

#[cfg(test)]
mod tests {
    use dunlin_trust::{Revocations, UnixMillis};
    use sha2::{Digest, Sha256};

    use super::*;

    fn key(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap()
    }

    fn peer(seed: u8) -> PeerId {
        key(seed).public().to_peer_id()
    }

    fn authorities() -> Authorities {
        Authorities::new("plant-7", [1, 2, 3].map(peer), 2).unwrap()
    }

    fn license() -> Statement {
        let license = License::new("plant-7", peer(9), UnixMillis(1_000), UnixMillis(2_000));
        Statement::License { license, signatures: Vec::new() }
    }

    fn revocation() -> Statement {
        let draft = Revocations::new(Some(authorities())).draft(&[peer(9)], UnixMillis(1_000));
        let (draft, peers) = (draft.unwrap(), vec![peer(9).to_string()]);
        Statement::Revocation { draft, peers, signatures: Vec::new() }
    }

    #[test]
    fn authorities_sign_one_after_another_each_once() {
        for mut statement in [license(), revocation()] {
            let mut left = Vec::new();
            for signer in [1, 1, 9, 3] {
                statement.sign(&key(signer)).unwrap();
                statement = Statement::decode(&statement.encode().unwrap()).unwrap();
                left.push(statement.missing(&authorities()).unwrap());
            }
            assert_eq!(left, [1, 1, 1, 0], "strangers do not count, and nobody twice");
        }
    }

    #[test]
    fn a_file_that_says_something_else_than_was_signed_is_refused() {
        let mut signed = license();
        signed.sign(&key(1)).unwrap();
        let Statement::License { signatures, .. } = signed else { panic!("a license") };
        let other = License::new("plant-7", peer(8), UnixMillis(1_000), UnixMillis(2_000));
        let forged = Statement::License { license: other, signatures };
        assert!(Statement::decode(&forged.encode().unwrap()).is_err());
        let Statement::Revocation { draft, signatures, .. } = revocation() else {
            panic!("a revocation")
        };
        let forged = Statement::Revocation { draft, peers: vec![peer(8).to_string()], signatures };
        assert!(Statement::decode(&forged.encode().unwrap()).is_err(), "it revokes somebody else");
    }

    #[test]
    fn golden_bytes() {
        let sha256 = |statement: &Statement| -> String {
            let digest = Sha256::digest(statement.encode().unwrap());
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let (mut license, mut revocation) = (license(), revocation());
        license.sign(&key(1)).unwrap();
        revocation.sign(&key(1)).unwrap();
        let signed = envelope::sign(&key(9), Withdrawal::new(UnixMillis(1_000), None)).unwrap();
        let withdrawal = Statement::Withdrawal { signature: ByteBuf::from(signed.bytes) };
        let golden = [license, revocation, withdrawal].each_ref().map(sha256);
        assert_eq!(golden, GOLDEN);
    }

    const GOLDEN: [&str; 3] = [
        "b07ea7acd4a7982ea5dbebfb69f20334017dc732262755e26178ad6810f4743e",
        "cbc419f4e3911ab1f3d5d2f060dd9f570fa814ab82df107842e6232ce5bb2ce9",
        "c518f5ac9bd67a391ec0d67afd581eb695e95811473d03ce5bb75e43971f1f04",
    ];
}
