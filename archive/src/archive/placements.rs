//! Where this node's objects have replicas, as it is written down.

use libp2p_identity::PeerId;
use redb::{ReadableDatabase, ReadableTable, StorageError};

use super::{
    Archive,
    tables::{PLACEMENTS, stored_cid},
};
use crate::{
    PutError, ReadError,
    replication::{Placed, Record},
};

impl Archive {
    /// Writes records down: all of them in one durable commit, or none.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn keep_placements(&self, records: &[Record]) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        {
            let mut placements = transaction.open_table(PLACEMENTS)?;
            for Record { root, peer, state } in records {
                let (root, peer) = (root.to_bytes(), peer.to_bytes());
                let key = (root.as_slice(), peer.as_slice());
                match state {
                    Some(state) => drop(placements.insert(key, state.code())?),
                    None => drop(placements.remove(key)?),
                }
            }
        }
        Ok(transaction.commit()?)
    }

    /// Hands out every record that was written down.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn placements(&self, mut on_record: impl FnMut(Record)) -> Result<(), ReadError> {
        let placements = self.database.begin_read()?.open_table(PLACEMENTS)?;
        for entry in placements.iter()? {
            let (key, code) = entry?;
            let (root, peer) = key.value();
            let damaged = || StorageError::Corrupted("a placement is damaged".to_owned());
            let root = stored_cid(root)?;
            let peer = PeerId::from_bytes(peer).map_err(|_| damaged())?;
            let state = Placed::of_code(code.value()).ok_or_else(damaged)?;
            on_record(Record { root, peer, state: Some(state) });
        }
        Ok(())
    }
}
