//! Licenses: who may join a closed network, as its authorities said.

use dunlin_wire::envelope::Payload;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::{
    authorities::{Authorities, EndorsementError, Endorsements, NETWORK_BYTES_MAX},
    peer_bytes,
    time::UnixMillis,
};

/// The version of [`License`]'s encoding.
pub const LICENSE_VERSION: u8 = 1;

/// How wrong a clock may be before it keeps a peer with a valid license out, in milliseconds: a day and two
/// hours, so that neither a wrong date nor a wrong time zone does.
pub const CLOCK_SLACK_MS: u64 = 26 * 60 * 60 * 1_000;

/// A statement that a peer may join a network for some time.
///
/// ```
/// use dunlin_trust::{Authorities, Endorsements, License, UnixMillis};
/// use dunlin_wire::envelope;
/// use libp2p_identity::Keypair;
///
/// let authority = Keypair::generate_ed25519();
/// let peer = Keypair::generate_ed25519().public().to_peer_id();
/// let network = Authorities::new("plant-7", [authority.public().to_peer_id()], 1)?;
/// let license = License::new("plant-7", peer, UnixMillis(0), UnixMillis(31_536_000_000));
/// let signed = envelope::sign(&authority, license)?;
/// let endorsements = Endorsements::collect::<License>(vec![signed.bytes])?;
/// assert!(network.license(&endorsements, &peer, UnixMillis(1_000), |_| false).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct License {
    version: u8,
    network: String,
    #[serde(with = "peer_bytes")]
    peer: PeerId,
    issued: UnixMillis,
    expires: UnixMillis,
}

impl License {
    /// Returns a license that nobody has signed yet.
    #[must_use]
    pub fn new(network: &str, peer: PeerId, issued: UnixMillis, expires: UnixMillis) -> Self {
        Self { version: LICENSE_VERSION, network: network.to_owned(), peer, issued, expires }
    }

    /// Returns the network that it is for.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Returns who may join.
    #[must_use]
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// Returns when it was issued, by the clock of whoever did.
    #[must_use]
    pub fn issued(&self) -> UnixMillis {
        self.issued
    }

    /// Returns when it ends.
    #[must_use]
    pub fn expires(&self) -> UnixMillis {
        self.expires
    }

    /// Returns whether it has ended, for a clock that may be wrong by [`CLOCK_SLACK_MS`].
    #[must_use]
    pub fn has_expired(&self, now: UnixMillis) -> bool {
        has_ended(self.expires, now)
    }
}

/// Returns whether a license that ends at `expires` has ended, for a clock that may be wrong by [`CLOCK_SLACK_MS`].
pub(crate) fn has_ended(expires: UnixMillis, now: UnixMillis) -> bool {
    now.0 > expires.0.saturating_add(CLOCK_SLACK_MS)
}

impl Payload for License {
    const TYPE: &'static str = "dunlin/license/1";
    /// A name, a peer id, two times, and their keys.
    const BYTES_MAX: usize = 256 + NETWORK_BYTES_MAX;
}

impl Authorities {
    /// Returns the license that `peer` presents, when it opens this network to it at `now`.
    ///
    /// The signature of an authority for whom `is_revoked` is true counts no more: a license tells no order
    /// of events, so one that was signed before cannot be told from one that was signed after.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it. Only another license helps.
    pub fn license(
        &self,
        endorsements: &Endorsements,
        peer: &PeerId,
        now: UnixMillis,
        is_revoked: impl Fn(&PeerId) -> bool,
    ) -> Result<License, LicenseError> {
        let (license, signers) = endorsements.open::<License>().map_err(LicenseError::from)?;
        self.check(license, &signers, (peer, now), is_revoked)
    }

    /// As [`Self::license`], of endorsements that were opened.
    pub(crate) fn check(
        &self,
        license: License,
        signers: &[PeerId],
        (peer, now): (&PeerId, UnixMillis),
        is_revoked: impl Fn(&PeerId) -> bool,
    ) -> Result<License, LicenseError> {
        self.agree(signers, |signer| !is_revoked(signer))?;
        if license.version != LICENSE_VERSION {
            return Err(LicenseError::Version { version: license.version });
        }
        if license.network != self.network() {
            return Err(LicenseError::Network { network: license.network });
        }
        if license.peer != *peer {
            return Err(LicenseError::OtherPeer { licensed: license.peer });
        }
        if license.has_expired(now) {
            return Err(LicenseError::Expired { expires: license.expires });
        }
        if license.issued.0 > now.0.saturating_add(CLOCK_SLACK_MS) {
            return Err(LicenseError::NotYet { issued: license.issued });
        }
        Ok(license)
    }
}

/// Why a license does not open the network.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LicenseError {
    /// The authorities did not say so.
    #[error(transparent)]
    Endorsement(#[from] EndorsementError),
    /// A version that this build does not know.
    #[error("license version {version}, but only {LICENSE_VERSION} is known")]
    Version {
        /// The version it claims.
        version: u8,
    },
    /// It is for another network.
    #[error("it is for the network {network:?}")]
    Network {
        /// Which.
        network: String,
    },
    /// It is for another peer.
    #[error("it is for {licensed}")]
    OtherPeer {
        /// Whose it is.
        licensed: PeerId,
    },
    /// It has ended.
    #[error("it ended at {expires}")]
    Expired {
        /// When.
        expires: UnixMillis,
    },
    /// It begins in a future that no wrong clock explains.
    #[error("it begins at {issued}")]
    NotYet {
        /// When.
        issued: UnixMillis,
    },
}
