//! What a crowd costs a bootstrap node: clients that come in waves from addresses of their own, leave a record each, and go.
//!
//! The node is a real `dunlin bootstrap` with its usual limits, on loopback, of which every client has an address.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dunlin_hostile::Guest;
use dunlin_protocols::{Multiaddr, PeerId};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    interrupt::{self, Belongings, Interrupt},
    network::{Load, START_TIMEOUT},
    peer::{Home, Program},
    process::{Process, Supervisor},
};

/// Clients that come at the same moment: more than may be half open are turned away.
const AT_ONCE: usize = 32;

/// How often a client that is turned away comes again, and how long it waits before.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// How long a node is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(3);

/// Connections that clients of one wave keep at most: those that a bootstrap node has room for.
pub const LIVE_MAX: u32 = 2_000;

/// The network's name.
const NETWORK: &str = "crowd";

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, to run the node.
    pub program: PathBuf,
    /// How many clients come in all.
    pub clients: u32,
    /// How many of them are connected at once.
    pub live: u32,
    /// Print the rows as JSON.
    pub json: bool,
}

/// The node at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What it is about.
    pub stage: String,
    /// Clients that came so far.
    pub came: u64,
    /// Those that are connected.
    pub connected: u64,
    /// Records of clients, also of those that left, that the node gives to who asks.
    pub records: u64,
    /// Its resident memory, in MiB.
    pub resident_mib: f64,
    /// Its descriptors.
    pub descriptors: u64,
    /// Seconds since it began.
    pub seconds: f64,
}

/// Measures, and prints the rows.
///
/// # Errors
///
/// Fails when the node does not start, ends, or turns clients away.
pub fn run(options: &Options) -> anyhow::Result<()> {
    raise_descriptors(u64::from(options.live))?;
    let interrupt = Interrupt::default();
    let supervisor = Supervisor::start()?;
    let belongings = Belongings { processes: supervisor.processes(), folder: Arc::default() };
    let doomed = Arc::clone(&belongings.folder);
    interrupt::listen(&interrupt, belongings)?;
    let folder = tempfile::Builder::new().prefix("dunlin-bench-").tempdir()?;
    doomed.get_or_init(|| folder.path().to_owned());
    let home = Home::new(folder.path(), "bootstrap");
    let program = Program { path: options.program.clone(), network: NETWORK.to_owned() };
    supervisor.run("dunlin init", program.init(&home), START_TIMEOUT, &interrupt)?;
    home.set_if_any("mdns = true", "mdns = false")?;
    let listen = [format!("/ip4/{}/tcp/0", Ipv4Addr::LOCALHOST)];
    let command = program.bootstrap(&home, &listen);
    let process = supervisor.spawn("the bootstrap node", command, &home.log)?;
    let ready = || home.network_address();
    let address = process.wait_ready("listen", START_TIMEOUT, &interrupt, ready)?;
    let crowd = Crowd::new(address.parse()?, process, interrupt);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let rows = runtime.block_on(crowd.visit(options))?;
    let header =
        ["stage", "clients", "connected", "records", "resident MiB", "descriptors", "seconds"];
    super::print(&rows, options.json, header, |row| {
        [
            row.stage.clone(),
            row.came.to_string(),
            row.connected.to_string(),
            row.records.to_string(),
            format!("{:.1}", row.resident_mib),
            row.descriptors.to_string(),
            format!("{:.0}", row.seconds),
        ]
    })?;
    Ok(())
}

/// Lets this process, and the node with it, have as many descriptors as there will be connections.
fn raise_descriptors(live: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // A handful beside them: files, and clients that come while others leave.
    let wanted = 2 * live + 256;
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let current = limit.maximum.map_or(wanted, |most| most.min(wanted));
    ensure!(current >= wanted, "{wanted} descriptors are needed, and the system allows {current}");
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum })?;
    Ok(())
}

/// Clients, and the node that they come to.
struct Crowd {
    node: Multiaddr,
    process: Arc<Process>,
    interrupt: Interrupt,
    began: Instant,
    came: u32,
    peers: Vec<PeerId>,
    rows: Vec<Row>,
}

impl Crowd {
    fn new(node: Multiaddr, process: Arc<Process>, interrupt: Interrupt) -> Self {
        let (peers, rows) = (Vec::new(), Vec::new());
        Self { node, process, interrupt, began: Instant::now(), came: 0, peers, rows }
    }

    async fn visit(mut self, options: &Options) -> anyhow::Result<Vec<Row>> {
        let progress = ProgressBar::new(options.clients.into());
        progress.set_style(ProgressStyle::with_template("{bar:30} {pos} of {len} clients, {eta}")?);
        tokio::time::sleep(SETTLE).await;
        self.look("idle", 0, 0)?;
        let live = options.live.clamp(1, LIVE_MAX).min(options.clients) as usize;
        let mut wave = VecDeque::new();
        while self.came < options.clients {
            // Those of the wave before leave as others come, so that all but a few are there all the time.
            let group = AT_ONCE.min((options.clients - self.came) as usize);
            let leaving = (wave.len() + group).saturating_sub(live);
            wave.drain(..leaving);
            let arrived = self.arrive(group).await?;
            progress.inc(arrived.len() as u64);
            wave.extend(arrived);
            let is_round = self.came as usize % live < AT_ONCE && wave.len() + AT_ONCE > live;
            if is_round && self.came < options.clients {
                self.look("coming and going", wave.len(), 0)?;
            }
        }
        progress.finish_and_clear();
        let records = self.count_records(&wave).await?;
        let gone = wave.iter().filter(|guest| guest.is_gone()).count();
        ensure!(gone == 0, "the node let {gone} of {} clients go", wave.len());
        tokio::time::sleep(SETTLE).await;
        self.look("all came", wave.len(), records)?;
        wave.clear();
        tokio::time::sleep(SETTLE).await;
        self.look("all left", 0, records)?;
        Ok(self.rows)
    }

    /// Has so many more clients come, each from an address of its own, and leave their records.
    async fn arrive(&mut self, count: usize) -> anyhow::Result<Vec<Guest>> {
        self.interrupt.check()?;
        let mut arriving = JoinSet::new();
        for _ in 0..count {
            let [_, _, high, low] = self.came.to_be_bytes();
            let from = Ipv4Addr::new(127, 128, high, low);
            self.came += 1;
            arriving.spawn(come(self.node.clone(), from));
        }
        let mut arrived = Vec::with_capacity(count);
        while let Some(guest) = arriving.join_next().await {
            arrived.push(guest??);
        }
        self.peers.extend(arrived.iter().map(Guest::peer));
        Ok(arrived)
    }

    /// Has one client ask for the records of all others, also of those that left.
    async fn count_records(&self, wave: &VecDeque<Guest>) -> anyhow::Result<u64> {
        let asker = wave.back().context("nobody came")?;
        let mut known = 0;
        for peer in self.peers.iter().filter(|peer| **peer != asker.peer()) {
            self.interrupt.check()?;
            known += u64::from(asker.knows(*peer).await?);
        }
        // What one asks about itself is not answered; another one does.
        let other = wave.front().filter(|other| other.peer() != asker.peer());
        if let Some(other) = other {
            known += u64::from(other.knows(asker.peer()).await?);
        }
        Ok(known)
    }

    fn look(&mut self, stage: &str, connected: usize, records: u64) -> anyhow::Result<()> {
        let ended = || format!("the node ended; its last words:\n{}", self.process.log_tail());
        ensure!(self.process.exited().is_none(), ended());
        let load = Load::of(self.process.pid).context("the system does not tell memory")?;
        self.rows.push(Row {
            stage: stage.to_owned(),
            came: self.came.into(),
            connected: connected as u64,
            records,
            resident_mib: load.resident_bytes as f64 / f64::from(1 << 20),
            descriptors: load.descriptors,
            seconds: self.began.elapsed().as_secs_f64(),
        });
        Ok(())
    }
}

/// Comes, and leaves a record.
async fn come(node: Multiaddr, from: Ipv4Addr) -> anyhow::Result<Guest> {
    let mut tries = 0;
    let guest = loop {
        match Guest::arrive(&node, NETWORK, from).await {
            Ok(guest) => break guest,
            Err(cause) if tries == TRIES => return Err(cause.into()),
            // More than may be half open: those of the last group are not done with.
            Err(_) => tries += 1,
        }
        tokio::time::sleep(PAUSE).await;
    };
    // A record of somebody who has not said yet who it is is passed over; the node asks first thing, and takes a moment to
    // hear the answer.
    while !guest.is_introduced() {
        ensure!(!guest.is_gone(), "the node let a client go that had just come");
        tokio::time::sleep(PAUSE).await;
    }
    tokio::time::sleep(PAUSE).await;
    guest.announce().await?;
    Ok(guest)
}
