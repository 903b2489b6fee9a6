//! The processes of the demo: started, found, asked and stopped together.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use dunlin_client::{Client, CollectionSpec, Fidelity, Metric, Units};

use super::{COLLECTION, Options, PEERS, progress::Progress};
use crate::{
    interrupt::Interrupt,
    peer::{Home, Identity, LISTEN, Program, peer_of},
    process::{Ending, POLL, Process, Supervisor},
    report::{Connection, NodeReport, Report, Role},
    vts1::Series,
};

/// How long a process may take from its start to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long peers may take to find each other. Seconds are usual; a busy machine needs more.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(90);

/// Everything that the steps share.
pub(super) struct Stage<'a> {
    pub(super) supervisor: &'a Supervisor,
    pub(super) interrupt: &'a Interrupt,
    pub(super) progress: &'a Progress,
    pub(super) folder: PathBuf,
    pub(super) program: Program,
    /// Where the bootstrap node listens.
    pub(super) bootstrap: String,
    /// Peers 1 to 6, in order, once they have started.
    pub(super) peers: Vec<Peer>,
}

/// One running peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// What it is called in the report.
    pub(super) name: String,
    /// Its peer id.
    pub(super) id: String,
    pub(super) home: Home,
    pub(super) process: Arc<Process>,
    pub(super) client: Client,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        options: &Options,
        supervisor: &'a Supervisor,
        interrupt: &'a Interrupt,
        progress: &'a Progress,
        folder: &Path,
    ) -> Self {
        // Two demos on one machine, or on one LAN, must not meet.
        let born = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let network = format!("demo-{}-{born}", std::process::id());
        Self {
            supervisor,
            interrupt,
            progress,
            folder: folder.to_owned(),
            program: Program { path: options.program.clone(), network },
            bootstrap: String::new(),
            peers: Vec::new(),
        }
    }

    /// Starts the bootstrap node and all peers, waits until every peer has met every other, and makes
    /// the collection on each.
    pub(super) fn start(&mut self, series: &[Series], report: &mut Report) -> anyhow::Result<()> {
        let step = self.progress.step("start seven processes", 3 * PEERS as u64 + 1);
        let homes: Vec<_> =
            (1..=PEERS).map(|n| Home::new(&self.folder, &format!("peer-{n}"))).collect();
        let mut ids = Vec::new();
        for home in &homes {
            ids.push(self.init(home)?);
            step.inc(1);
        }
        let bootstrap_id = self.start_bootstrap()?;
        step.inc(1);
        for (index, home) in homes.into_iter().enumerate() {
            let name = format!("peer {}", index + 1);
            let process = self.spawn_peer(&name, &home, &ids)?;
            let client = self.await_peer(&home, &process)?;
            self.peers.push(Peer { name, id: ids[index].clone(), home, process, client });
            step.inc(1);
        }
        for peer in &self.peers {
            let spec = collection(series[0].dims);
            peer.client.create_collection(&spec).with_context(|| peer.says("collection"))?;
        }
        let met = Instant::now();
        self.await_all_connected(|connected| step.set(2 * PEERS as u64 + 1 + connected))?;
        report.discovery_s = met.elapsed().as_secs_f64();
        report.nodes = self.node_reports(bootstrap_id, series);
        let found = format!("{} peers and a bootstrap node, all peers connected", PEERS);
        step.done(&found);
        Ok(())
    }

    /// Returns the newcomer.
    pub(super) fn newcomer(&self) -> &Peer {
        &self.peers[PEERS - 1]
    }

    /// Starts a peer, the first time or again.
    pub(super) fn spawn_peer(
        &self,
        name: &str,
        home: &Home,
        ids: &[String],
    ) -> anyhow::Result<Arc<Process>> {
        let own = ids.iter().map(String::as_str);
        let listen = [LISTEN.to_owned()];
        let mut command = self.program.run(home, &listen, "127.0.0.1:0", &self.bootstrap, own);
        command.arg("--one-machine");
        Ok(self.supervisor.spawn(name, command, &home.log)?)
    }

    /// Waits until a peer that was started answers.
    pub(super) fn await_peer(&self, home: &Home, process: &Process) -> anyhow::Result<Client> {
        let probe = || home.client(process.pid);
        Ok(process.wait_ready("answer", START_TIMEOUT, self.interrupt, probe)?)
    }

    /// Starts a process that has no API and returns the peer id in the address that it announces.
    pub(super) fn await_address(&self, home: &Home, process: &Process) -> anyhow::Result<String> {
        let probe = || home.network_address();
        Ok(process.wait_ready("listen", START_TIMEOUT, self.interrupt, probe)?)
    }

    /// Looks again and again until `probe` returns something. `what` completes "did not".
    pub(super) fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            self.interrupt.check()?;
            if let Some(found) = probe()? {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "{what} within {} s", timeout.as_secs());
            thread::sleep(POLL);
        }
    }

    /// Writes down who is connected to whom, and the memory that each peer takes.
    pub(super) fn look_at_network(&self, report: &mut Report) -> anyhow::Result<()> {
        let mut connections = BTreeSet::new();
        for (index, peer) in self.peers.iter().enumerate() {
            let status = peer.client.status().with_context(|| peer.says("status"))?;
            if let Some(figures) = report.per_peer.get_mut(index) {
                figures.resident_bytes = status.resident_bytes;
            }
            let others = peer.client.peers().with_context(|| peer.says("peers"))?.peers;
            for other in others.iter().filter(|other| other.connected) {
                if let Some(name) = report.node_name(&other.peer) {
                    let (a, b) = (peer.name.clone(), name.to_owned());
                    connections.insert(if a < b { (a, b) } else { (b, a) });
                }
            }
        }
        let connection = |(a, b)| Connection { a, b };
        report.connections = connections.into_iter().map(connection).collect();
        Ok(())
    }

    /// Stops all processes and returns how each ended.
    pub(super) fn stop(&self) -> Vec<Ending> {
        let step = self.progress.step("stop", 1);
        let endings = self.supervisor.stop();
        let clean = endings.iter().filter(|ending| ending.is_clean()).count();
        step.done(&format!("{clean} of {} processes ended cleanly", endings.len()));
        endings
    }

    fn init(&self, home: &Home) -> anyhow::Result<String> {
        let command = self.program.init(home);
        let printed = self.supervisor.run("dunlin init", command, START_TIMEOUT, self.interrupt)?;
        let identity: Identity = serde_json::from_str(&printed)
            .with_context(|| format!("dunlin init printed {printed:?}"))?;
        // What a peer has of others is what it fetched, and the report says from whom.
        home.set("recover = \"summaries\"", "recover = \"off\"")?;
        Ok(identity.peer)
    }

    fn start_bootstrap(&mut self) -> anyhow::Result<String> {
        let home = Home::new(&self.folder, "bootstrap");
        let mut command = self.program.bootstrap(&home, &[LISTEN.to_owned()]);
        command.arg("--one-machine");
        let process = self.supervisor.spawn("the bootstrap node", command, &home.log)?;
        self.bootstrap = self.await_address(&home, &process)?;
        let id = peer_of(&self.bootstrap).context("the bootstrap node's address has no peer id")?;
        Ok(id.to_owned())
    }

    /// Waits until every peer is connected to every other.
    fn await_all_connected(&self, on_progress: impl Fn(u64)) -> anyhow::Result<()> {
        let mut missing = String::new();
        let all = self.wait_for("the peers did not all find each other", DISCOVERY_TIMEOUT, || {
            let mut complete = 0;
            for peer in &self.peers {
                let seen = peer.client.peers().with_context(|| peer.says("peers"))?.peers;
                let met = |id: &str| seen.iter().any(|other| other.connected && other.peer == id);
                let others = self.peers.iter().filter(|other| other.id != peer.id);
                let strangers: Vec<_> =
                    others.filter(|other| !met(&other.id)).map(|o| o.name.as_str()).collect();
                if strangers.is_empty() {
                    complete += 1;
                } else {
                    missing = format!("{} has not met {}", peer.name, strangers.join(", "));
                }
            }
            on_progress(complete);
            Ok((complete == self.peers.len() as u64).then_some(()))
        });
        all.with_context(|| missing)
    }

    fn node_reports(&self, bootstrap_id: String, series: &[Series]) -> Vec<NodeReport> {
        let peers = self.peers.iter().zip(series).map(|(peer, series)| NodeReport {
            name: peer.name.clone(),
            role: Role::Peer,
            peer: peer.id.clone(),
            entity: Some(series.entity.clone()),
        });
        let bootstrap = NodeReport {
            name: "bootstrap".to_owned(),
            role: Role::Bootstrap,
            peer: bootstrap_id,
            entity: None,
        };
        peers.chain([bootstrap]).collect()
    }
}

impl Peer {
    /// Context for an error of its API.
    pub(super) fn says(&self, about: &str) -> String {
        format!("{} was asked for its {about}", self.name)
    }
}

fn collection(dims: usize) -> CollectionSpec {
    CollectionSpec {
        name: COLLECTION.to_owned(),
        // The reader's limit is the collection's.
        dim: dims as u32,
        metric: Metric::Euclidean,
        fidelity: Fidelity::Lossless,
        units: Units::Range { lower: vec![0.0; dims], upper: vec![1.0; dims] },
        threshold: None,
        error_bound: None,
        lateness_us: 0,
        channels: None,
    }
}
