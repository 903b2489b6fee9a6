//! The default backend: the node's own block store.

use std::{collections::BTreeMap, sync::Arc};

use dunlin_wire::{Cid, block::Block};

use super::{Backend, BackendError};
use crate::{Archive, Object, Pin};

/// The store that is embedded in this process. What the node archived is there already.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Archive>);

impl Embedded {
    /// Returns the backend that keeps blocks in `archive`.
    #[must_use]
    pub fn new(archive: Arc<Archive>) -> Self {
        Self(archive)
    }
}

impl Backend for Embedded {
    fn describe(&self) -> Result<String, BackendError> {
        self.0.stats()?;
        Ok("embedded".to_owned())
    }

    fn put(&self, object: &Object) -> Result<(), BackendError> {
        let links: Vec<_> = object.links.iter().map(|link| *link.cid()).collect();
        if self.0.holds(&object.pin, object.root.cid(), &links)? {
            return Ok(());
        }
        Ok(self.0.put(std::slice::from_ref(object), None)?)
    }

    fn unpin(&self, pin: &Pin, root: &Cid) -> Result<(), BackendError> {
        Ok(self.0.unpin_root(pin, root)?)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, BackendError> {
        Ok(self.0.block(cid)?)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BackendError> {
        Ok(self.0.has(cid)?)
    }

    fn is_pinned(&self, pin: &Pin, root: &Cid) -> Result<bool, BackendError> {
        Ok(self.0.is_pinned(pin, root)?)
    }

    fn pins(&self) -> Result<BTreeMap<Pin, u64>, BackendError> {
        Ok(self.0.pins("")?)
    }

    fn bytes(&self) -> Result<u64, BackendError> {
        Ok(self.0.stats()?.bytes)
    }
}
