//! `dunlin testnet split`: a real network is cut in two, both halves go on, and what becomes of it when it heals.
//!
//! Nodes in two groups, six of them unless told otherwise, run in network namespaces of their own, each behind a virtual cable on the bridge of its group; one
//! more cable joins both bridges, and setting that down is the split. All of it happens in one more set of
//! namespaces (network, mounts, processes) that the kernel takes down with its first process, so that nothing is left
//! of it however this program ends. It needs root, `unshare`, `mount` and `ip`.

mod links;
mod measure;

use std::{
    ops::Range,
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
    links::{Links, MAX_NODES},
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

/// How long a step may take at least: a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// How many segments a second each node has to take in, and to get from others, for a step not to take too long.
const SLOWEST: u32 = 100;

/// Channels of each observation, as server telemetry has them.
const CHANNELS: usize = 38;

/// Observations in one request.
const BATCH: usize = 2_000;

/// Observations of one regime.
const REGIME: u32 = 8;

/// Entities that each node observes.
const ENTITIES: u32 = 20;

/// Segments that are looked for one by one on every node at the end. Of more than these, all that differed, and of the rest every
/// so many.
const EXAMINED: usize = 50_000;

/// Entities that both sides observe while they are apart.
const CONTESTED: u32 = 4;

/// Regimes of each of them.
const CONTESTED_REGIMES: u32 = 5;

/// What to do.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// The `dunlin` binary.
    pub program: PathBuf,
    /// How many nodes, half of them on each side.
    pub nodes: usize,
    /// Segments that each node seals before the split.
    pub common: u32,
    /// Segments that each node seals while the network is split, beside those about what both sides observe.
    pub segments: u32,
    /// Only the nodes of the first side do that.
    pub is_one_sided: bool,
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
    /// Segments that every node was asked for in the end: all that differed at least.
    pub examined: u64,
    /// Of these, how many some node does not have.
    pub lost: u64,
    /// Bytes over the cable between both sides from when it was up again until convergence: to the first side, and to the second.
    pub link_bytes: [u64; 2],
    /// Size of the summaries that each side lacks when the network heals: what has to cross once in that direction.
    pub lacking_bytes: [u64; 2],
    /// All bytes over the cable, against all that was lacking.
    pub link_ratio: f64,
    /// Bytes of blocks that the node of each side received that received most, for recovery, since the heal.
    pub received_bytes_max: [u64; 2],
}

/// Splits a network and heals it; returns whether it became one without loss.
///
/// # Errors
///
/// Fails without root, with nodes that do not come in two halves, or when a step does not come to its end. Nothing is left behind.
pub fn split(options: &SplitOptions) -> anyhow::Result<bool> {
    let nodes = options.nodes;
    if !(2..=MAX_NODES).contains(&nodes) || !nodes.is_multiple_of(2) {
        bail!("{nodes} nodes cannot be split in halves: give an even number from 2 to {MAX_NODES}");
    }
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
         {} conflicts flagged everywhere, {} with different preferences; {} of {} segments lost\n\
         {} bytes crossed the link for a difference of {}: {:.2} times; {} to the first side, which lacked {}, and {} to \
         the second, which lacked {}\n\
         a node received at most {} bytes of blocks on the first side, and {} on the second",
        report.nodes,
        report.split_s,
        report.differing,
        report.segments,
        report.convergence_s,
        report.conflicts,
        report.undecided,
        report.lost,
        report.examined,
        report.link_bytes.iter().sum::<u64>(),
        report.lacking_bytes.iter().sum::<u64>(),
        report.link_ratio,
        report.link_bytes[0],
        report.lacking_bytes[0],
        report.link_bytes[1],
        report.lacking_bytes[1],
        report.received_bytes_max[0],
        report.received_bytes_max[1],
    )
}

/// A running network.
struct Scene {
    nodes: Vec<Node>,
    links: Links,
    interrupt: Interrupt,
    patience: Duration,
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
        let (nodes, half) = (options.nodes, options.nodes / 2);
        let mut scene = Self::start(options)?;
        scene.say("the nodes meet");
        scene.wait("meet", |scene| scene.all_connected())?;
        for index in 0..nodes {
            scene.live(index, 0..options.common)?;
        }
        scene.say("the nodes tell each other what they sealed");
        let before = sealed_by(&scene.clients())?;
        scene.wait_until_known(before.len() as u64)?;
        scene.say("the network is split");
        scene.links.cut()?;
        let cut = Instant::now();
        for index in 0..if options.is_one_sided { half } else { nodes } {
            scene.live(index, options.common..options.common + options.segments)?;
        }
        // One node of each side watches the same entities, and sees something else.
        for (index, shift) in [(0, 0.1), (half, 0.2)] {
            for contested in 0..CONTESTED {
                let name = format!("contested-{contested}");
                scene.fill(index, &name, 0..CONTESTED_REGIMES, shift)?;
            }
        }
        scene.wait_until_sides_know(&before)?;
        let rest = Duration::from_secs(options.seconds).saturating_sub(cut.elapsed());
        scene.pause(rest)?;
        let [mut after, second] = scene.sealed_by_sides()?;
        let sealed_on = [&after, &second].map(|side| size_beside(side, &before));
        after.extend(second);
        let received = scene.received_bytes()?;
        let crossed = scene.links.crossed_bytes()?;
        let split_s = cut.elapsed().as_secs_f64();
        scene.say("the network is one again");
        scene.links.mend()?;
        let healed = Instant::now();
        // What there is was listed before, because that takes its time.
        let sealed = after.len() as u64;
        scene.wait_until_known(sealed)?;
        let conflicts = scene.wait_until_agreed()?;
        let convergence_s = healed.elapsed().as_secs_f64();
        let now = scene.links.crossed_bytes()?;
        let link_bytes = [0, 1].map(|side| now[side].saturating_sub(crossed[side]));
        let received_bytes_max = scene.received_since(&received)?;
        let differing: Sealed =
            after.into_iter().filter(|(cid, _)| !before.contains_key(cid)).collect();
        let lacking_bytes = [sealed_on[1], sealed_on[0]];
        let lacking: u64 = lacking_bytes.iter().sum();
        let (examined, lost) = scene.lost(&differing, &before)?;
        Ok(SplitReport {
            nodes: nodes as u64,
            segments: sealed,
            differing: differing.len() as u64,
            split_s,
            convergence_s,
            conflicts: conflicts.0,
            undecided: conflicts.1,
            examined,
            lost,
            link_bytes,
            lacking_bytes,
            link_ratio: link_bytes.iter().sum::<u64>() as f64 / lacking.max(1) as f64,
            received_bytes_max,
        })
    }

    /// Starts nodes that know each other's addresses and are one operator's.
    fn start(options: &SplitOptions) -> anyhow::Result<Self> {
        let links = Links::lay(options.nodes)?;
        let supervisor = Supervisor::start()?;
        let interrupt = Interrupt::default();
        let belongings = Belongings { processes: supervisor.processes(), folder: Arc::default() };
        let doomed = Arc::clone(&belongings.folder);
        interrupt::listen(&interrupt, belongings)?;
        let parent = options.dir.clone().unwrap_or_else(|| Links::FOLDER.into());
        let folder = tempfile::Builder::new().prefix("dunlin-split-").tempdir_in(&parent);
        let folder = folder.with_context(|| format!("no folder in {}", parent.display()))?;
        doomed.get_or_init(|| folder.path().to_owned());
        let homes: Vec<_> = (0..options.nodes)
            .map(|index| Home::new(folder.path(), &format!("n{index}")))
            .collect();
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
            let command = run(&options.program, &links, (index, home), &ids);
            let name = format!("n{index}");
            let process = supervisor.spawn(&name, command, &home.log)?;
            let ready = || home.client(process.pid);
            let client = process.wait_ready("answer", PATIENCE, &interrupt, ready)?;
            client.create_collection(&collection())?;
            nodes.push(Node { process, client });
        }
        let per_node = options.common.saturating_add(options.segments);
        let all = per_node.saturating_mul(u32::try_from(options.nodes).unwrap_or(u32::MAX));
        Ok(Self {
            nodes,
            links,
            interrupt,
            patience: PATIENCE + Duration::from_secs(u64::from(all / SLOWEST)),
            json: options.json,
            supervisor,
            _folder: folder,
        })
    }

    fn say(&self, what: &str) {
        if !self.json {
            eprintln!("{what}");
        }
    }

    fn clients(&self) -> Vec<&Client> {
        self.nodes.iter().map(|node| &node.client).collect()
    }

    /// Has a node observe its own entities, so that it seals these of its regimes: each entity has as many, one more or less.
    fn live(&mut self, index: usize, regimes: Range<u32>) -> anyhow::Result<()> {
        for entity in 0..ENTITIES {
            // Of the regimes 0, 1, 2, … every entity has each twentieth.
            let before = |number: u32| (number + ENTITIES - 1 - entity) / ENTITIES;
            let own = before(regimes.start)..before(regimes.end);
            self.fill(index, &format!("own-{index}-{entity}"), own, 0.0)?;
        }
        Ok(())
    }

    /// Gives the observations of an entity's regimes to a node, and has all of them sealed.
    fn fill(
        &mut self,
        index: usize,
        entity: &str,
        regimes: Range<u32>,
        shift: f32,
    ) -> anyhow::Result<()> {
        if regimes.is_empty() {
            return Ok(());
        }
        let client = &self.nodes[index].client;
        let mut observations = life(entity, regimes, shift).peekable();
        while observations.peek().is_some() {
            self.interrupt.check()?;
            let batch = observations.by_ref().take(BATCH).collect();
            client.ingest(COLLECTION, &IngestRequest { observations: batch })?;
        }
        client.seal(COLLECTION, entity)?;
        Ok(())
    }

    fn all_connected(&self) -> anyhow::Result<bool> {
        for node in &self.nodes {
            let peers = node.client.peers()?.peers;
            if peers.iter().filter(|peer| peer.connected).count() < self.nodes.len() - 1 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until every node knows so many segments, and the same.
    fn wait_until_known(&mut self, sealed: u64) -> anyhow::Result<()> {
        self.wait("know the same", |scene| known_everywhere(&scene.clients(), sealed))
    }

    /// Waits until the nodes of each side know all that their side sealed, and not what the other did.
    fn wait_until_sides_know(&mut self, common: &Sealed) -> anyhow::Result<()> {
        let half = self.nodes.len() / 2;
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

    /// Asks every node for what differed and for the rest, or enough of it. Returns for how many segments it asked, and how
    /// many of them some node does not have.
    fn lost(&self, differing: &Sealed, common: &Sealed) -> anyhow::Result<(u64, u64)> {
        let step = common.len() / EXAMINED.saturating_sub(differing.len()).max(1) + 1;
        let cids: Vec<_> = differing.keys().chain(common.keys().step_by(step)).collect();
        let mut lost = 0;
        for cid in &cids {
            self.interrupt.check()?;
            let is_everywhere = self.nodes.iter().all(|node| node.client.segment(cid).is_ok());
            lost += u64::from(!is_everywhere);
        }
        Ok((cids.len() as u64, lost))
    }

    fn sealed_by_sides(&self) -> anyhow::Result<[Sealed; 2]> {
        let clients = self.clients();
        let (first, second) = clients.split_at(self.nodes.len() / 2);
        Ok([sealed_by(first)?, sealed_by(second)?])
    }

    fn received_bytes(&self) -> anyhow::Result<Vec<u64>> {
        let received =
            self.nodes.iter().map(|node| Ok(node.client.archive()?.recovery.received_bytes));
        received.collect()
    }

    /// Returns how much the node of each side received that received most.
    fn received_since(&self, before: &[u64]) -> anyhow::Result<[u64; 2]> {
        let now = self.received_bytes()?;
        let since = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before));
        let since: Vec<u64> = since.collect();
        let (first, second) = since.split_at(self.nodes.len() / 2);
        Ok([first, second].map(|side| side.iter().copied().max().unwrap_or(0)))
    }

    fn wait(
        &mut self,
        what: &str,
        mut is_done: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.patience;
        while !is_done(self)? {
            self.interrupt.check()?;
            for node in &self.nodes {
                if node.process.exited().is_some() {
                    bail!("{} ended: {}", node.process.name, node.process.log_tail());
                }
            }
            if Instant::now() >= deadline {
                let tail = self.nodes[0].process.log_tail();
                bail!("the nodes did not {what} within {} s\n{tail}", self.patience.as_secs());
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

/// Returns the size of what was sealed and was not there before.
fn size_beside(sealed: &Sealed, before: &Sealed) -> u64 {
    sealed.iter().filter(|(cid, _)| !before.contains_key(*cid)).map(|(_, bytes)| bytes).sum()
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.supervisor.stop();
    }
}

fn run(program: &Path, links: &Links, (index, home): (usize, &Home), ids: &[String]) -> Command {
    let mut command = Links::command(index, program);
    command.args(["run", "--network", "split", "--data-dir"]).arg(&home.data_dir);
    command.args(["--listen", &format!("/ip4/{}/tcp/4601", links.address(index))]);
    command.args(["--api", &format!("{}:4600", links.address(index))]);
    for (other, id) in ids.iter().enumerate().filter(|(other, _)| *other != index) {
        let address = format!("/ip4/{}/tcp/4601/p2p/{id}", links.address(other));
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

/// Returns these regimes of an entity, one second between observations.
fn life(entity: &str, regimes: Range<u32>, shift: f32) -> impl Iterator<Item = Observation> {
    let observation = move |index: u32| {
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
    (regimes.start * REGIME..regimes.end * REGIME).map(observation)
}
