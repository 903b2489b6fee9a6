//! Which blocks the gateway reads, and which of them may leave.

use std::{collections::BTreeSet, sync::Arc};

use dunlin_archive::{dag, stored_names};
use dunlin_wire::Cid;

use crate::{config::Serve, daemon::Shared};

/// The operator has decided not to serve a block.
#[derive(Debug, thiserror::Error)]
#[error("{cid} is not served here, by decision of the operator")]
pub(super) struct Denied {
    cid: Cid,
}

/// What is not served, by the hashes of the bytes: they are the same under every codec.
#[derive(Clone, Debug, Default)]
pub(super) struct DenyList(Arc<BTreeSet<Vec<u8>>>);

impl DenyList {
    pub(super) fn new(cids: &[Cid]) -> Self {
        Self(Arc::new(cids.iter().map(|cid| cid.hash().to_bytes()).collect()))
    }

    /// # Errors
    ///
    /// Fails when the block is on the list.
    pub(super) fn check(&self, cid: &Cid) -> Result<(), Denied> {
        if self.0.contains(&cid.hash().to_bytes()) { Err(Denied { cid: *cid }) } else { Ok(()) }
    }
}

/// The node's blocks, as far as they may be served.
pub(super) struct Stores {
    shared: Arc<Shared>,
    serve: Serve,
    denied: DenyList,
}

impl Stores {
    pub(super) fn new(shared: Arc<Shared>, serve: Serve, denied: DenyList) -> Self {
        Self { shared, serve, denied }
    }
}

impl dag::Source for Stores {
    type Error = anyhow::Error;

    fn block(&self, cid: &Cid) -> Result<Option<Vec<u8>>, anyhow::Error> {
        // Before the look-up: whether it is here is nobody's business.
        self.denied.check(cid)?;
        for name in stored_names(cid) {
            match self.serve {
                Serve::Public if !self.shared.archive.is_public(&name)? => continue,
                Serve::Public => {}
                Serve::All => {
                    if let Some(block) = self.shared.engine.block(&name)? {
                        return Ok(Some(block.into_bytes()));
                    }
                }
            }
            if let Some(block) = self.shared.stored_block(&name)? {
                return Ok(Some(block.into_bytes()));
            }
        }
        Ok(None)
    }
}
