//! What lets this node into a closed network: its license, and whom it believes.

use std::{fs, io};

use anyhow::Context;
use dunlin_trust::{Authorities, Endorsements, License, LicenseError, Record, Trust};
use dunlin_wire::cbor;
use libp2p_identity::PeerId;

use super::{clock::now, shared::Shared};
use crate::{
    config::{NetworkConfig, TrustConfig},
    data_dir::DataDir,
};

/// The file in the data folder: what authorities signed, as it is presented.
pub(crate) const LICENSE_FILE: &str = "license.cbor";

/// Largest license: 16 signatures, each around the license itself.
const LICENSE_BYTES_MAX: usize = 16 * 1024;

/// Returns the judge of a network's peers, and what this node presents to them.
///
/// # Errors
///
/// Fails when there is a license that cannot be read. One that opens nothing is presented all the same: others
/// may know more than this node.
pub(super) fn join(
    dir: &DataDir,
    config: &NetworkConfig,
    judging: &TrustConfig,
    records: Vec<Record>,
) -> anyhow::Result<(Trust, Option<Endorsements>)> {
    let trust = dunlin_trust::Config {
        own_peers: config.own_peers.iter().copied().collect(),
        authorities: config.authorities(),
        weights: judging.weights,
        half_lives: judging.half_lives,
        thresholds: judging.thresholds,
        peers_max: judging.peers_max,
    };
    Ok((Trust::new(trust, records), read_license(dir)?))
}

fn read_license(dir: &DataDir) -> anyhow::Result<Option<Endorsements>> {
    let path = dir.path().join(LICENSE_FILE);
    let bytes = match fs::read(&path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let license = cbor::decode(&bytes, LICENSE_BYTES_MAX).with_context(|| {
        format!("{} is damaged; run `dunlin network join` again", path.display())
    })?;
    Ok(Some(license))
}

/// Returns the license that lets `peer` into a network now.
///
/// # Errors
///
/// Says why it does not.
pub(crate) fn license_of(
    authorities: &Authorities,
    peer: &PeerId,
    endorsements: &Endorsements,
) -> Result<License, LicenseError> {
    // Which authorities are revoked is for those to say to whom it is presented.
    authorities.license(endorsements, peer, now(), |_| false)
}

impl Shared {
    /// Returns this node's license, and what is wrong with it; nothing in an open network.
    pub(crate) fn license(&self) -> Option<Result<License, String>> {
        let authorities = self.config.network.authorities()?;
        let me = self.network.local_peer();
        Some(match &self.license {
            Some(license) => {
                license_of(&authorities, &me, license).map_err(|cause| cause.to_string())
            }
            None => Err("there is none".to_owned()),
        })
    }

    /// Notes whether this node may be where it is.
    pub(super) async fn check_membership(&self) {
        match self.license() {
            Some(Err(problem)) => self.report(
                "license",
                format!(
                    "{problem}, so no peer lets this node in; have the authorities license {} \
                     and run `dunlin network join`",
                    self.network.local_peer()
                ),
            ),
            _ => self.recovered("license"),
        }
        if self.network.revocations().await.is_own_key_revoked {
            let problem = "this node's key is revoked for ever, and no peer speaks with it; begin \
                           anew with `dunlin init` in another data folder";
            self.report("identity", problem.to_owned());
        }
    }
}
