//! Which blocks the gateway reads, and which of them may leave.

use std::sync::Arc;

use dunlin_archive::{dag, stored_names};
use dunlin_wire::Cid;

use crate::{config::Serve, daemon::Shared};

/// The node's blocks, as far as they may be served.
pub(super) struct Stores {
    shared: Arc<Shared>,
    serve: Serve,
}

impl Stores {
    pub(super) fn new(shared: Arc<Shared>, serve: Serve) -> Self {
        Self { shared, serve }
    }
}

impl dag::Source for Stores {
    type Error = anyhow::Error;

    fn block(&self, cid: &Cid) -> Result<Option<Vec<u8>>, anyhow::Error> {
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
