//! What is possible while something else takes long.

use std::{
    fmt::Debug,
    io,
    sync::{Arc, Condvar, Mutex, mpsc::sync_channel},
    thread,
    time::Duration,
};

use dunlin_engine::{
    CollectionSpec, Config, Engine, Fidelity, HistoryQuery, KnnQuery, TimeRange,
    storage::{Simulated, Storage, StorageFile},
};

use crate::support::{course, entity, name, spec};

/// Longer than anything takes here: who waits so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the syncs of one file wait while it is shut.
#[derive(Debug, Default)]
struct Gate {
    /// Whether it is shut, and how many wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, is_shut: bool) {
        self.state.lock().unwrap().0 = is_shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |(is_shut, _)| *is_shut).unwrap();
        state.1 -= 1;
    }

    fn wait_until_somebody_waits(&self) {
        let state = self.state.lock().unwrap();
        let none = |(_, waiting): &mut (bool, usize)| *waiting == 0;
        assert!(!self.changed.wait_timeout_while(state, PATIENCE, none).unwrap().1.timed_out());
    }
}

/// A folder whose store is synced when the gate is open.
#[derive(Debug)]
struct Gated(Simulated, Arc<Gate>);

#[derive(Debug)]
struct GatedFile(Box<dyn StorageFile>, Arc<Gate>);

impl Storage for Gated {
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let file = self.0.open(name)?;
        Ok(match name.ends_with(".redb") {
            true => Box::new(GatedFile(file, Arc::clone(&self.1))),
            false => file,
        })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.0.sync_folder(folder)
    }

    fn lock(&self) -> io::Result<Box<dyn Debug + Send + Sync>> {
        self.0.lock()
    }
}

impl StorageFile for GatedFile {
    fn byte_count(&self) -> io::Result<u64> {
        self.0.byte_count()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_byte_count(&self, bytes: u64) -> io::Result<()> {
        self.0.set_byte_count(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.pass();
        self.0.sync()
    }
}

#[test]
fn questions_are_answered_while_a_checkpoint_is_written() {
    let (disk, gate) = (Simulated::new(), Arc::new(Gate::default()));
    let gated = Gated(disk.clone(), Arc::clone(&gate));
    let engine = Engine::open_storage(Arc::new(gated), Config::default()).unwrap();
    let lossless = CollectionSpec { fidelity: Fidelity::Lossless, ..spec(2) };
    engine.create_collection(lossless).unwrap();
    engine.ingest(&name(), course("a", 0..400, 50)).unwrap();
    gate.set(true);
    thread::scope(|scope| {
        let checkpoint = scope.spawn(|| engine.checkpoint());
        gate.wait_until_somebody_waits();
        let ((answer, answers), engine) = (sync_channel(1), &engine);
        scope.spawn(move || {
            let near = engine.knn(&KnnQuery::new(name(), vec![0.3, 0.5], 3)).unwrap();
            let (collection, entity, range) = (name(), entity("a"), TimeRange::ALL);
            let query = HistoryQuery { collection, entity, range, resolution_us: None };
            let history = engine.history(&query).unwrap();
            answer.send((near.neighbors.len(), history.points.count())).unwrap();
        });
        let answered = answers.recv_timeout(PATIENCE);
        // First, so that a failure does not wait for ever.
        gate.set(false);
        assert_eq!(answered, Ok((3, 400)));
        checkpoint.join().unwrap().unwrap();
    });
    drop(engine);
    let reopened = Engine::open_storage(Arc::new(disk.crash()), Config::default()).unwrap();
    assert_eq!(reopened.recovery().replayed_records, 0, "the checkpoint has everything");
}
