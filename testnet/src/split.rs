//! `dunlin testnet split`: a real network is cut in two, both halves go on, and what becomes of it when it heals.
//!
//! Six nodes in two groups run in network namespaces of their own, each behind a virtual cable on the bridge of its group; one
//! more cable joins both bridges, and setting that down is the split. All of it happens in one more set of
//! namespaces (network, mounts, processes) that the kernel takes down with its first process, so that nothing is left
//! of it however this program ends. It needs root, `unshare`, `mount` and `ip`.

mod links;
mod measure;

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use dunlin_client::{Client, CollectionSpec, Fidelity, IngestRequest, Metric, Observation, Units};
use serde::{Deserialize, Serialize};

use self::{
    links::{Links, NODES},
    measure::{Sealed, known_everywhere, sealed_by, verdicts},
};
use crate::{
    interrupt::{self, Belongings, Interrupt},
    peer::{Home, Identity},
    process::{POLL, Process, Supervisor},
};

/// Says that the program runs in the namespaces that it made.
const INSIDE: &str = "DUNLIN_SPLIT_INSIDE";

/// The collection that all nodes have.
const COLLECTION: &str = "fleet";

/// How long a step may take: a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// Channels of each observation, as server telemetry has them.
const CHANNELS: usize = 38;

/// Observations in one request.
const BATCH: usize = 2_000;

/// Observations of one regime.
const REGIME: u32 = 8;

/// Entities that both sides observe while they are apart.
const CONTESTED: u32 = 4;

/// Regimes of each of them.
const CONTESTED_REGIMES: u32 = 5;

/// What to do.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// The `dunlin` binary.
    pub program: PathBuf,
    /// Segments that each node seals before the split.
    pub common: u32,
    /// Segments that each node seals while the network is split, beside those about what both sides observe.
    pub segments: u32,
    /// How long the network stays split at least, in seconds.
    pub seconds: u64,
    /// Where the nodes' data go; in memory, which goes with everything else, when there is none.
    pub dir: Option<PathBuf>,
    /// Print JSON instead of text.
    pub json: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Nodes, half of them on each side.
    pub nodes: u64,
    /// Different segments that all nodes sealed, before and after.
    pub segments: u64,
    /// Of these, sealed while the network was split.
    pub differing: u64,
    /// For how long it was.
    pub split_s: f64,
    /// From when the link was up again until every node knew the same and said the same.
    pub convergence_s: f64,
    /// Conflicts that were flagged, the same on every node.
    pub conflicts: u64,
    /// Of these, how many of the nodes prefer different segments in.
    pub undecided: u64,
    /// Segments, of all that were sealed, that some node does not have.
    pub lost: u64,
    /// Bytes over the cable between both sides from when it was up again, both directions, until convergence.
    pub link_bytes: u64,
    /// Size of the summaries of those differing segments: what has to cross once in either direction.
    pub difference_bytes: u64,
    /// Bytes of blocks that the node received most of, for recovery, since the heal.
    pub received_bytes_max: u64,
    /// Size of the summaries that a node lacks when the network heals.
    pub lacking_bytes: u64,
}

/// Splits a network and heals it; returns whether it became one without loss.
///
/// # Errors
///
/// Fails without root, or when a step does not come to its end. Nothing is left behind.
pub fn split(options: &SplitOptions) -> anyhow::Result<bool> {
    if std::env::var_os(INSIDE).is_none() {
        return Err(enter(options));
    }
    let report = Scene::run(options)?;
    let holds = report.lost == 0 && report.undecided == 0 && report.conflicts > 0;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", in_words(&report));
    }
    Ok(holds)
}

/// Runs this program again in new namespaces, in place of this process. Returns why that cannot be.
fn enter(options: &SplitOptions) -> anyhow::Error {
    if !rustix::process::geteuid().is_root() {
        return anyhow::anyhow!("only root may make network namespaces: run it with sudo");
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(&options.program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    anyhow::Error::new(command.exec()).context("cannot run `unshare` of util-linux")
}

fn in_words(report: &SplitReport) -> String {
    format!(
        "{} nodes were split for {:.1} s; {} of {} segments were sealed meanwhile\n\
         after the link was up again, all knew and said the same in {:.1} s\n\
         {} conflicts flagged everywhere, {} with different preferences; {} segments lost\n\
         {} bytes crossed the link for a difference of {}; a node received at most {} for {} that it lacked",
        report.nodes,
        report.split_s,
        report.differing,
        report.segments,
        report.convergence_s,
        report.conflicts,
        report.undecided,
        report.lost,
        report.link_bytes,
        report.difference_bytes,
        report.received_bytes_max,
        report.lacking_bytes,
    )
}

/// A running network.
struct Scene {
    nodes: Vec<Node>,
    links: Links,
    interrupt: Interrupt,
    json: bool,
    // Fields end in their order: first the processes, and then where they are.
    supervisor: Supervisor,
    _folder: tempfile::TempDir,
}

struct Node {
    process: Arc<Process>,
    client: Client,
}

impl Scene {
    fn run(options: &SplitOptions) -> anyhow::Result<SplitReport> {
        let mut scene = Self::start(options)?;
        scene.say("the nodes meet");
        scene.wait("meet", |scene| scene.all_connected())?;
        for index in 0..NODES {
            scene.fill(index, &life(&format!("own-{index}"), 0, options.common, 0.0))?;
        }
        scene.wait_until_known()?;
        let before = sealed_by(&scene.clients())?;
        scene.say("the network is split");
        scene.links.cut()?;
        let cut = Instant::now();
        for index in 0..NODES {
            let from = options.common;
            scene.fill(index, &life(&format!("own-{index}"), from, options.segments, 0.0))?;
        }
        // One node of each side watches the same entities, and sees something else.
        for (index, shift) in [(0, 0.1), (NODES / 2, 0.2)] {
            for contested in 0..CONTESTED {
                let name = format!("contested-{contested}");
                scene.fill(index, &life(&name, 0, CONTESTED_REGIMES, shift))?;
            }
        }
        scene.wait_until_sides_know(&before)?;
        let rest = Duration::from_secs(options.seconds).saturating_sub(cut.elapsed());
        scene.pause(rest)?;
        let after = sealed_by(&scene.clients())?;
        let received = scene.received_bytes()?;
        let crossed = scene.links.crossed_bytes()?;
        let split_s = cut.elapsed().as_secs_f64();
        scene.say("the network is one again");
        scene.links.mend()?;
        let healed = Instant::now();
        let sealed = scene.wait_until_known()?;
        let conflicts = scene.wait_until_agreed()?;
        let convergence_s = healed.elapsed().as_secs_f64();
        let link_bytes = scene.links.crossed_bytes()?.saturating_sub(crossed);
        let now = scene.received_bytes()?;
        let differing = after.iter().filter(|(cid, _)| !before.contains_key(*cid));
        let difference_bytes: u64 = differing.clone().map(|(_, bytes)| bytes).sum();
        Ok(SplitReport {
            nodes: NODES as u64,
            segments: sealed,
            differing: differing.count() as u64,
            split_s,
            convergence_s,
            conflicts: conflicts.0,
            undecided: conflicts.1,
            lost: scene.lost(&after)?,
            link_bytes,
            difference_bytes,
            received_bytes_max: now
                .iter()
                .zip(received)
                .map(|(now, before)| now.saturating_sub(before))
                .max()
                .unwrap_or(0),
            // Both sides seal as much.
            lacking_bytes: difference_bytes / 2,
        })
    }

    /// Starts six nodes that know each other's addresses and are one operator's.
    fn start(options: &SplitOptions) -> anyhow::Result<Self> {
        let links = Links::lay()?;
        let supervisor = Supervisor::start()?;
        let interrupt = Interrupt::default();
        let belongings = Belongings { processes: supervisor.processes(), folder: Arc::default() };
        let doomed = Arc::clone(&belongings.folder);
        interrupt::listen(&interrupt, belongings)?;
        let parent = options.dir.clone().unwrap_or_else(|| Links::FOLDER.into());
        let folder = tempfile::Builder::new().prefix("dunlin-split-").tempdir_in(&parent);
        let folder = folder.with_context(|| format!("no folder in {}", parent.display()))?;
        doomed.get_or_init(|| folder.path().to_owned());
        let homes: Vec<_> =
            (0..NODES).map(|index| Home::new(folder.path(), &format!("n{index}"))).collect();
        let mut ids = Vec::new();
        for home in &homes {
            let mut command = Command::new(&options.program);
            command.args(["init", "--json", "--network", "split", "--data-dir"]);
            command.arg(&home.data_dir);
            let made = supervisor.run("init", command, PATIENCE, &interrupt)?;
            ids.push(serde_json::from_str::<Identity>(&made)?.peer);
            // Who is where is told to them, so that nothing depends on how fast one finds the other.
            home.set("mdns = true", "mdns = false")?;
        }
        let mut nodes = Vec::new();
        for (index, home) in homes.iter().enumerate() {
            let command = run(&options.program, (index, home), &ids);
            let name = format!("n{index}");
            let process = supervisor.spawn(&name, command, &home.log)?;
            let ready = || home.client(process.pid);
            let client = process.wait_ready("answer", PATIENCE, &interrupt, ready)?;
            client.create_collection(&collection())?;
            nodes.push(Node { process, client });
        }
        Ok(Self { nodes, links, interrupt, json: options.json, supervisor, _folder: folder })
    }

    fn say(&self, what: &str) {
        if !self.json {
            eprintln!("{what}");
        }
    }

    fn clients(&self) -> Vec<&Client> {
        self.nodes.iter().map(|node| &node.client).collect()
    }

    /// Gives observations to a node, and has all of them sealed.
    fn fill(&mut self, index: usize, observations: &[Observation]) -> anyhow::Result<()> {
        let Some(first) = observations.first() else { return Ok(()) };
        let client = &self.nodes[index].client;
        for batch in observations.chunks(BATCH) {
            self.interrupt.check()?;
            client.ingest(COLLECTION, &IngestRequest { observations: batch.to_vec() })?;
        }
        client.seal(COLLECTION, &first.entity)?;
        Ok(())
    }

    fn all_connected(&self) -> anyhow::Result<bool> {
        for node in &self.nodes {
            let peers = node.client.peers()?.peers;
            if peers.iter().filter(|peer| peer.connected).count() < NODES - 1 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until every node knows all that any node sealed; returns how much that is.
    fn wait_until_known(&mut self) -> anyhow::Result<u64> {
        let sealed = sealed_by(&self.clients())?.len() as u64;
        self.wait("know the same", |scene| known_everywhere(&scene.clients(), sealed))?;
        Ok(sealed)
    }

    /// Waits until the nodes of each side know all that their side sealed, and not what the other did.
    fn wait_until_sides_know(&mut self, common: &Sealed) -> anyhow::Result<()> {
        let half = NODES / 2;
        let clients = self.clients();
        let with_common = |side: &[&Client]| {
            let mut known = sealed_by(side)?;
            known.extend(common.clone());
            Ok::<_, anyhow::Error>(known.len() as u64)
        };
        let (left, right) = (with_common(&clients[..half])?, with_common(&clients[half..])?);
        self.wait("know what their side sealed", |scene| {
            let clients = scene.clients();
            Ok(known_everywhere(&clients[..half], left)?
                && known_everywhere(&clients[half..], right)?)
        })
    }

    /// Waits until all nodes say the same about conflicts; returns how many there are, and about how many of them
    /// they prefer different segments.
    fn wait_until_agreed(&mut self) -> anyhow::Result<(u64, u64)> {
        let mut found = (0, 0);
        self.wait("say the same", |scene| {
            let verdicts = verdicts(&scene.clients())?;
            let Some((conflicts, undecided)) = verdicts else { return Ok(false) };
            found = (conflicts, undecided);
            Ok(conflicts > 0 && undecided == 0)
        })?;
        Ok(found)
    }

    /// Returns how many of these segments some node does not have.
    fn lost(&self, sealed: &Sealed) -> anyhow::Result<u64> {
        let mut lost = 0;
        for cid in sealed.keys() {
            self.interrupt.check()?;
            let is_everywhere = self.nodes.iter().all(|node| node.client.segment(cid).is_ok());
            lost += u64::from(!is_everywhere);
        }
        Ok(lost)
    }

    fn received_bytes(&self) -> anyhow::Result<Vec<u64>> {
        let received =
            self.nodes.iter().map(|node| Ok(node.client.archive()?.recovery.received_bytes));
        received.collect()
    }

    fn wait(
        &mut self,
        what: &str,
        mut is_done: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(self)? {
            self.interrupt.check()?;
            for node in &self.nodes {
                if node.process.exited().is_some() {
                    bail!("{} ended: {}", node.process.name, node.process.log_tail());
                }
            }
            if Instant::now() >= deadline {
                let tail = self.nodes[0].process.log_tail();
                bail!("the nodes did not {what} within {} s\n{tail}", PATIENCE.as_secs());
            }
            thread::sleep(5 * POLL);
        }
        Ok(())
    }

    fn pause(&self, pause: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            self.interrupt.check()?;
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.supervisor.stop();
    }
}

fn run(program: &Path, (index, home): (usize, &Home), ids: &[String]) -> Command {
    let mut command = Links::command(index, program);
    command.args(["run", "--network", "split", "--data-dir"]).arg(&home.data_dir);
    command.args(["--listen", &format!("/ip4/{}/tcp/4601", Links::address(index))]);
    command.args(["--api", &format!("{}:4600", Links::address(index))]);
    for (other, id) in ids.iter().enumerate().filter(|(other, _)| *other != index) {
        let address = format!("/ip4/{}/tcp/4601/p2p/{id}", Links::address(other));
        command.args(["--own-peer", id, "--bootstrap", &address]);
    }
    command
}

fn collection() -> CollectionSpec {
    CollectionSpec {
        name: COLLECTION.to_owned(),
        dim: u32::try_from(CHANNELS).unwrap_or(u32::MAX),
        metric: Metric::Euclidean,
        fidelity: Fidelity::Summary,
        units: Units::Range { lower: vec![0.0; CHANNELS], upper: vec![1.0; CHANNELS] },
        threshold: None,
        error_bound: None,
        lateness_us: 0,
        channels: None,
    }
}

/// Returns what one channel shows at a level: each follows it in its own way, and trembles a little.
fn channel_of(index: u32, channel: usize, level: f32) -> f32 {
    let slope = 1.0 - 0.02 * f32::from(u8::try_from(channel).unwrap_or(u8::MAX));
    let tremble = f32::from(u8::try_from(index * 7 % 5).unwrap_or(0)) * 0.004;
    level * slope + tremble
}

/// Returns `count` regimes of an entity from number `from` on, one second between observations.
fn life(entity: &str, from: u32, count: u32, shift: f32) -> Vec<Observation> {
    let observation = |index: u32| {
        let level = if (index / REGIME).is_multiple_of(2) { 0.1 } else { 0.7 };
        Observation {
            entity: entity.to_owned(),
            timestamp_us: i64::from(index) * 1_000_000,
            vector: (0..CHANNELS)
                .map(|channel| channel_of(index, channel, level + shift))
                .collect(),
            metadata: None,
        }
    };
    (from * REGIME..(from + count) * REGIME).map(observation).collect()
}
