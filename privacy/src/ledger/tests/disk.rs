//! A disk that fails and tears writes, for tests of the ledger.

use std::sync::{Arc, Mutex, MutexGuard};

use super::*;

/// A disk that outlives the ledger: what was written, what of it was synced, and when it fails.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) synced: Vec<u8>,
    /// Changes left before every further one fails.
    pub(super) changes_left: Option<usize>,
    /// How many bytes of the first failing write get through.
    pub(super) torn_bytes: usize,
}

impl Disk {
    /// Whether the next change gets through, and if not, how many bytes of it do.
    pub(super) fn spend_change(&mut self) -> Result<(), usize> {
        match &mut self.changes_left {
            None => Ok(()),
            Some(0) => Err(std::mem::take(&mut self.torn_bytes)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[start..end].copy_from_slice(bytes);
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct SharedDisk(pub(super) Arc<Mutex<Disk>>);

impl SharedDisk {
    pub(super) fn with(bytes: &[u8]) -> Self {
        let disk = Self::default();
        disk.lock().bytes = bytes.to_vec();
        disk.lock().synced = bytes.to_vec();
        disk
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    pub(super) fn fail_after(&self, changes: usize, torn_bytes: usize) {
        self.lock().changes_left = Some(changes);
        self.lock().torn_bytes = torn_bytes;
    }

    pub(super) fn open(&self) -> Result<Ledger, OpenError> {
        self.open_with(Ceiling::pure(eps(CEILING)))
    }

    pub(super) fn open_with(&self, ceiling: Ceiling) -> Result<Ledger, OpenError> {
        Ledger::open_storage(Box::new(self.clone()), ceiling)
    }
}

impl Storage for SharedDisk {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.lock().bytes.len() as u64)
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.lock().bytes.clone())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        let allowed = disk.spend_change();
        let through = allowed.err().map_or(bytes.len(), |torn| torn.min(bytes.len()));
        disk.write(offset, &bytes[..through]);
        allowed.map_err(|_| io::Error::other("disk failed"))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.lock();
        disk.spend_change().map_err(|_| io::Error::other("disk failed"))?;
        disk.bytes.truncate(len as usize);
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.lock();
        disk.spend_change().map_err(|_| io::Error::other("disk failed"))?;
        disk.bytes = bytes.to_vec();
        disk.synced = bytes.to_vec();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.lock();
        disk.spend_change().map_err(|_| io::Error::other("disk failed"))?;
        disk.synced = disk.bytes.clone();
        Ok(())
    }
}
