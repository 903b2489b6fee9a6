//! A network of real processes: its nodes, where they are, and what is done to them.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use dunlin_client::Client;
use dunlin_hostile::Attack;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    interrupt::Interrupt,
    links::{Counts, Links, Profile},
    nat::Mapping,
    peer::{Home, Identity, NETWORK_ADDRESS_FILE, Program},
    process::{POLL, Process, Spawner, Supervisor},
    skew::Skew,
    space::{self, Fabric, Street},
};

/// Peers of one test network; they share this machine.
pub(crate) const PEERS_MAX: u32 = 50;

/// Peers on loopback that keep limits for one address: with the bootstrap node, they stay below 8 connections.
const LIMITED_PEERS_MAX: u32 = 6;

/// How long a process may take from its start to its first answer.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The name of the node that introduces the others.
pub(crate) const BOOTSTRAP: &str = "bootstrap";

/// The port for peers, where a node has an address of its own.
const PORT: u16 = 4601;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The `dunlin` binary.
    pub(crate) program: PathBuf,
    /// The network's name.
    pub(crate) network: String,
    /// How many peers.
    pub(crate) peers: u32,
    /// Where their data folders and logs go.
    pub(crate) dir: PathBuf,
    /// Whether each node gets a network namespace, whose links can be broken.
    pub(crate) netns: bool,
    /// Who is behind a NAT, in namespaces.
    pub(crate) nat: Option<Nat>,
    /// What the links are like, in namespaces.
    pub(crate) profile: Profile,
    /// Decides which packets are lost.
    pub(crate) seed: u64,
    /// Whether clocks of nodes will be set.
    pub(crate) skewed: bool,
}

/// Peers at home, each behind a router of its own. All others are on the open internet then.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nat {
    /// Who is at home, as [`Network::select`] reads it.
    pub(crate) nodes: String,
    /// What their routers are like.
    pub(crate) mapping: Mapping,
    /// What one connection may carry each way through the relay, in KiB; what `relay.circuit_kib_max` says when absent.
    pub(crate) circuit_kib_max: Option<u32>,
}

/// A network that runs.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) plan: Plan,
    pub(crate) nodes: Vec<Node>,
    ids: Vec<String>,
    bootstrap: String,
    /// Who is behind a NAT.
    homes: Vec<usize>,
    fabric: Option<Fabric>,
    stranger: Option<Spawner>,
    skew: Option<Skew>,
    pub(crate) interrupt: Interrupt,
    pub(crate) supervisor: Arc<Supervisor>,
}

/// One node: the bootstrap node comes first, the peers by their numbers.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) home: Home,
    pub(crate) process: Option<Arc<Process>>,
    pub(crate) is_paused: bool,
    /// Whether somebody wanted it to end.
    pub(crate) is_down: bool,
    program: PathBuf,
    spawner: Option<Spawner>,
    /// Where its API listens; on port 0, it takes any.
    api: (Ipv4Addr, u16),
}

impl Network {
    /// Makes data folders that are missing and starts all nodes, the bootstrap node first.
    ///
    /// # Errors
    ///
    /// Fails when a process does not start; what was started has been stopped by then.
    pub(crate) fn start(
        plan: Plan,
        supervisor: Arc<Supervisor>,
        interrupt: Interrupt,
    ) -> anyhow::Result<Self> {
        ensure!(
            (1..=PEERS_MAX).contains(&plan.peers),
            "a test network has 1 to {PEERS_MAX} peers, not {}",
            plan.peers
        );
        ensure!(
            plan.netns || plan.nat.is_none(),
            "a NAT is between network namespaces: set `netns = true`"
        );
        let street = if plan.nat.is_some() { Street::Public } else { Street::Private };
        let fabric = if plan.netns {
            Some(Fabric::start(Links::new(plan.profile, plan.seed), street)?)
        } else {
            None
        };
        let homes = match &plan.nat {
            Some(nat) => select(&nat.nodes, plan.peers as usize + 1)?,
            None => Vec::new(),
        };
        ensure!(!homes.contains(&0), "the bootstrap node is to be reached: it is behind no NAT");
        let skew = if plan.skewed { Some(Skew::build(&plan.dir)?) } else { None };
        let mut network = Self {
            plan,
            nodes: Vec::new(),
            ids: Vec::new(),
            bootstrap: String::new(),
            homes,
            fabric,
            stranger: None,
            skew,
            interrupt,
            supervisor,
        };
        network.populate()?;
        Ok(network)
    }

    fn populate(&mut self) -> anyhow::Result<()> {
        let names = [BOOTSTRAP.to_owned()]
            .into_iter()
            .chain((1..=self.plan.peers).map(|number| format!("peer-{number}")));
        for (place, name) in names.enumerate() {
            let node = self.prepare(place, name)?;
            self.nodes.push(node);
        }
        for place in 0..self.nodes.len() {
            self.start_node(place)?;
        }
        Ok(())
    }

    /// Makes a node's folder and its place.
    fn prepare(&mut self, place: usize, name: String) -> anyhow::Result<Node> {
        let home = Home::new(&self.plan.dir, &name);
        let program =
            Program { path: self.plan.program.clone(), network: self.plan.network.clone() };
        let made = self.supervisor.run(
            "dunlin init",
            program.init(&home),
            START_TIMEOUT,
            &self.interrupt,
        )?;
        let identity: Identity =
            serde_json::from_str(&made).with_context(|| format!("dunlin init printed {made:?}"))?;
        // Nodes on loopback would look for others on the real network. Their bootstrap node introduces them.
        home.set_if_any("mdns = true", "mdns = false")?;
        if let Some(nat) = &self.plan.nat {
            home.set("reach = \"local\"", "reach = \"public\"")?;
            if let Some(kib) = nat.circuit_kib_max.filter(|_| place == 0) {
                home.set("circuit_kib_max = 4096", &format!("circuit_kib_max = {kib}"))?;
            }
        }
        if place > 0 {
            self.ids.push(identity.peer);
        }
        let (spawner, api) = match &self.fabric {
            None => (None, (Ipv4Addr::LOCALHOST, 0)),
            Some(fabric) => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let port = listener.local_addr()?.port();
                let spawner = match &self.plan.nat {
                    Some(nat) if self.homes.contains(&place) => {
                        fabric.home(place, nat.mapping, Some(listener))
                    }
                    _ => fabric.space(place, Some(listener)),
                };
                let spawner = spawner.context(
                    "cannot make a network namespace; it takes Linux, /dev/net/tun, `ip`, and root or `unshare --user`",
                )?;
                (Some(spawner), (Ipv4Addr::LOCALHOST, port))
            }
        };
        Ok(Node {
            name,
            home,
            process: None,
            is_paused: false,
            is_down: false,
            program: self.plan.program.clone(),
            spawner,
            api,
        })
    }

    /// Starts a node that does not run, and waits until it answers.
    ///
    /// # Errors
    ///
    /// Fails when it runs, or does not answer in time.
    pub(crate) fn start_node(&mut self, place: usize) -> anyhow::Result<()> {
        let node = self.node(place)?;
        ensure!(!node.is_alive(), "{} runs already", node.name);
        // The address of an earlier run would be taken for the new one.
        absent_is_fine(fs::remove_file(node.home.network_address_file()))?;
        let command = self.command(place)?;
        let node = self.node(place)?;
        let process = match &node.spawner {
            None => self.supervisor.spawn(&node.name, command, &node.home.log)?,
            Some(spawner) => {
                self.supervisor.spawn_by(spawner, &node.name, command, &node.home.log)?
            }
        };
        let home = node.home.clone();
        if place == 0 {
            // Routers let QUIC through more readily, and where there is no NAT, any will do.
            let wanted = if self.plan.nat.is_some() { "/quic-v1/" } else { "/p2p/" };
            let ready = || home.network_address_with(wanted);
            let address = process.wait_ready("listen", START_TIMEOUT, &self.interrupt, ready)?;
            self.bootstrap = address;
        } else {
            let ready = || home.client(process.pid).map(drop);
            process.wait_ready("answer", START_TIMEOUT, &self.interrupt, ready)?;
        }
        let node = self.node_mut(place)?;
        (node.process, node.is_paused, node.is_down) = (Some(process), false, false);
        Ok(())
    }

    fn command(&self, place: usize) -> anyhow::Result<Command> {
        let node = self.node(place)?;
        let program = Program { path: node.program.clone(), network: self.plan.network.clone() };
        let mut command = if place == 0 {
            program.bootstrap(&node.home, &self.listen(place))
        } else {
            let (address, port) = node.api;
            let own = self.ids.iter().map(String::as_str);
            program.run(
                &node.home,
                &self.listen(place),
                &format!("{address}:{port}"),
                &self.bootstrap,
                own,
            )
        };
        if self.is_crowded() {
            command.arg("--one-machine");
        }
        if let Some(skew) = &self.skew {
            skew.prepare(&mut command, &node.name)?;
        }
        Ok(command)
    }

    /// Returns whether connections of more nodes come from one address than that may hold: on loopback, wherever nodes
    /// listen, all dial from 127.0.0.1. Few enough keep the limits, so that attacks meet them there, too.
    fn is_crowded(&self) -> bool {
        self.fabric.is_none() && self.plan.peers > LIMITED_PEERS_MAX
    }

    fn listen(&self, place: usize) -> Vec<String> {
        if let Some(fabric) = &self.fabric {
            let is_home = self.homes.contains(&place);
            let address = if is_home { space::HOME } else { fabric.address(place) };
            return vec![
                format!("/ip4/{address}/tcp/{PORT}"),
                format!("/ip4/{address}/udp/{PORT}/quic-v1"),
            ];
        }
        // Elsewhere, loopback has one address.
        if cfg!(target_os = "linux") {
            let [a, b] = self.subnet();
            return vec![format!("/ip4/127.{a}.{b}.{}/tcp/{PORT}", place + 1)];
        }
        vec!["/ip4/127.0.0.1/tcp/0".to_owned()]
    }

    /// Returns a part of loopback that other test networks on this machine hardly have.
    fn subnet(&self) -> [u8; 2] {
        let hash = crate::fleet::hash_of(self.plan.network.as_bytes()).to_le_bytes();
        [64 + hash[0] % 64, hash[1]]
    }

    /// Kills nodes as a crash would.
    pub(crate) fn kill(&mut self, place: usize) -> anyhow::Result<()> {
        let supervisor = Arc::clone(&self.supervisor);
        let node = self.node_mut(place)?;
        if let Some(process) = node.process.take() {
            supervisor.crash(&process);
        }
        (node.is_paused, node.is_down) = (false, true);
        Ok(())
    }

    /// Asks a node to end.
    pub(crate) fn end(&mut self, place: usize) -> anyhow::Result<()> {
        let supervisor = Arc::clone(&self.supervisor);
        let node = self.node_mut(place)?;
        if let Some(process) = node.process.take() {
            supervisor.end(&process);
        }
        (node.is_paused, node.is_down) = (false, true);
        Ok(())
    }

    /// Starts a node with another program from now on.
    pub(crate) fn set_program(&mut self, place: usize, program: &Path) -> anyhow::Result<()> {
        program.clone_into(&mut self.node_mut(place)?.program);
        Ok(())
    }

    /// Stops a node where it is, as the lid of a laptop does, or lets it go on.
    pub(crate) fn pause(&mut self, place: usize, pause: bool) -> anyhow::Result<()> {
        let node = self.node_mut(place)?;
        let process =
            node.process.as_ref().with_context(|| format!("{} does not run", node.name))?;
        process.signal(if pause { Signal::STOP } else { Signal::CONT });
        node.is_paused = pause;
        Ok(())
    }

    /// Cuts groups of nodes off each other. Nodes in no group are reached by all.
    pub(crate) fn partition(&mut self, groups: &[Vec<usize>]) -> anyhow::Result<()> {
        for (index, group) in groups.iter().enumerate() {
            for (_, other) in groups.iter().enumerate().filter(|(other, _)| *other != index) {
                for from in group {
                    for to in other {
                        self.cut(*from, *to)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets nothing of one node reach another; the way back stays.
    pub(crate) fn cut(&self, from: usize, to: usize) -> anyhow::Result<()> {
        self.fabric()?.links(|links| links.cut(from, to));
        Ok(())
    }

    /// Takes all cuts away.
    pub(crate) fn heal(&self) -> anyhow::Result<()> {
        self.fabric()?.links(Links::heal);
        Ok(())
    }

    fn fabric(&self) -> anyhow::Result<&Fabric> {
        self.fabric.as_ref().context(
            "nodes on loopback talk to each other directly; start the network with --netns to break its links",
        )
    }

    /// Returns what became of all packets.
    pub(crate) fn packets(&self) -> Option<Counts> {
        self.fabric.as_ref().map(|fabric| fabric.links(|links| links.counts()))
    }

    /// Sets a node's clock off by so many seconds.
    pub(crate) fn set_clock(&self, place: usize, by_s: i64) -> anyhow::Result<()> {
        let skew = self.skew.as_ref().context("this network was started with true clocks")?;
        skew.set(&self.node(place)?.name, by_s)
    }

    /// Returns the command of a stranger beside the network, which attacks a node; where it starts, when that is not
    /// here, and from which address on it has its own.
    pub(crate) fn stranger(
        &mut self,
        victim: usize,
        attack: Attack,
    ) -> anyhow::Result<(Command, Option<&Spawner>)> {
        let node = self.node(victim)?;
        let way = if attack.is_over_quic() { "/quic-v1/" } else { "/tcp/" };
        let target = node.home.network_address_with(way);
        let target = target.with_context(|| {
            format!("{} does not listen on {way}; nodes do on QUIC with --netns", node.name)
        })?;
        let mut command = Command::new(&self.plan.program);
        command.args(["testnet", "hostile", "--network", &self.plan.network, "--json"]);
        command.args(["--attack", attack.name(), "--target", &target]);
        let first = match &self.fabric {
            None => {
                let [a, b] = self.subnet();
                Ipv4Addr::new(127, a, b, 128)
            }
            Some(fabric) => {
                if self.stranger.is_none() {
                    self.stranger = Some(fabric.space(space::STRANGER, None)?);
                }
                fabric.address(space::STRANGER)
            }
        };
        command.args(["--from", &first.to_string()]);
        command.args(["--addresses", &space::STRANGER_ADDRESSES.to_string()]);
        Ok((command, self.stranger.as_ref()))
    }

    /// Returns the node at a place.
    pub(crate) fn node(&self, place: usize) -> anyhow::Result<&Node> {
        self.nodes.get(place).with_context(|| format!("there is no node {place}"))
    }

    fn node_mut(&mut self, place: usize) -> anyhow::Result<&mut Node> {
        self.nodes.get_mut(place).with_context(|| format!("there is no node {place}"))
    }

    /// Returns the id of a peer.
    pub(crate) fn id(&self, place: usize) -> Option<&str> {
        self.ids.get(place.checked_sub(1)?).map(String::as_str)
    }

    /// Returns the nodes that a text names: `all` peers, `bootstrap`, numbers, names and ranges like `1-3`, with
    /// commas between them.
    pub(crate) fn select(&self, text: &str) -> anyhow::Result<Vec<usize>> {
        select(text, self.nodes.len())
    }

    /// Returns the groups that a text names, with `|` between them.
    pub(crate) fn groups(&self, text: &str) -> anyhow::Result<Vec<Vec<usize>>> {
        let groups: Vec<_> =
            text.split('|').map(|group| self.select(group)).collect::<Result<_, _>>()?;
        ensure!(groups.len() > 1, "{text:?} names one group; write two, as in 1-3|4-6");
        let mut seen = vec![false; self.nodes.len()];
        for place in groups.iter().flatten() {
            ensure!(!std::mem::replace(&mut seen[*place], true), "{text:?} names a node twice");
        }
        Ok(groups)
    }

    /// Fails when a node ended that nobody ended.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.interrupt.check()?;
        for node in self.nodes.iter().filter(|node| !node.is_down) {
            if let Some(process) = &node.process
                && process.exited().is_some()
            {
                bail!("{} ended by itself; its last words:\n{}", node.name, process.log_tail());
            }
        }
        Ok(())
    }

    /// Waits until something holds.
    ///
    /// # Errors
    ///
    /// Fails when it does not in time, when a node ends, or when the user interrupts.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        within: Duration,
        mut probe: impl FnMut(&Self) -> anyhow::Result<Result<T, String>>,
    ) -> anyhow::Result<T> {
        let deadline = std::time::Instant::now() + within;
        loop {
            self.check()?;
            // A node that does not answer now may do so later.
            let lacks = match probe(self) {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(lacks)) => lacks,
                Err(cause) => format!("{cause:#}"),
            };
            ensure!(
                std::time::Instant::now() < deadline,
                "{what} did not come within {} s: {lacks}",
                within.as_secs()
            );
            std::thread::sleep(5 * POLL);
        }
    }

    /// Ends all nodes in order.
    pub(crate) fn shutdown(&mut self) -> usize {
        let running = self.nodes.iter().filter(|node| node.is_alive()).count();
        self.supervisor.stop();
        if let Some(fabric) = &self.fabric {
            fabric.end();
        }
        running
    }

    /// Returns every node as `status` shows it.
    pub(crate) fn views(&self) -> Vec<View> {
        self.nodes.iter().map(Node::view).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Node {
    /// Returns whether its process runs, paused or not.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.exited().is_none())
    }

    /// Returns a client for its API.
    ///
    /// # Errors
    ///
    /// Fails when it does not run, or has no API, as the bootstrap node.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        ensure!(self.is_alive() && !self.is_paused, "{} does not run", self.name);
        Client::for_data_dir(&self.home.data_dir).with_context(|| self.name.clone())
    }

    fn view(&self) -> View {
        let alive = self.is_alive();
        let pid = self.process.as_ref().map_or(0, |process| process.pid);
        let status = self.client().ok().and_then(|client| client.status().ok());
        let address = self.home.network_address().filter(|_| alive);
        let known = address.as_deref().and_then(crate::peer::peer_of).map(str::to_owned);
        let load = alive.then(|| Load::of(pid)).flatten();
        View {
            name: self.name.clone(),
            alive,
            paused: alive && self.is_paused,
            pid,
            api: status.as_ref().map(|status| status.api.clone()),
            peer: status.as_ref().map(|status| status.peer.clone()).or(known),
            peers: status.as_ref().map(|status| status.peers),
            segments: status.as_ref().map(|status| status.segments),
            resident_bytes: load.map(|load| load.resident_bytes),
            descriptors: load.map(|load| load.descriptors),
            data_dir: self.home.data_dir.clone(),
        }
    }
}

/// A node as `status` shows it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) alive: bool,
    pub(crate) paused: bool,
    pub(crate) pid: u32,
    pub(crate) data_dir: PathBuf,
    /// Where its API listens; the bootstrap node has none.
    pub(crate) api: Option<String>,
    pub(crate) peer: Option<String>,
    pub(crate) peers: Option<u64>,
    pub(crate) segments: Option<u64>,
    /// Absent where the system does not tell.
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) descriptors: Option<u64>,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) resident_bytes: u64,
    pub(crate) descriptors: u64,
}

impl Load {
    /// Returns what a process holds now; `None` when it has ended, or the system does not tell.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
        Some(Self { resident_bytes: kib * 1024, descriptors })
    }
}

fn absent_is_fine(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(cause).context(format!("cannot remove the old {NETWORK_ADDRESS_FILE}"))
        }
        _ => Ok(()),
    }
}

/// Returns the places that a text names, of `count` nodes of which the first is the bootstrap node.
fn select(text: &str, count: usize) -> anyhow::Result<Vec<usize>> {
    let mut places = Vec::new();
    for part in text.split(',').map(str::trim) {
        let plain = part.strip_prefix("peer-").unwrap_or(part);
        let range = match (plain, plain.split_once('-')) {
            ("all", _) => 1..=count.saturating_sub(1),
            (BOOTSTRAP, _) => 0..=0,
            (_, Some((first, last))) => number(part, first)?..=number(part, last)?,
            (number_only, None) => {
                let number = number(part, number_only)?;
                number..=number
            }
        };
        ensure!(
            *range.end() < count && range.start() <= range.end(),
            "{part:?} is no node of this network: its peers are 1 to {}",
            count.saturating_sub(1)
        );
        places.extend(range);
    }
    Ok(places)
}

fn number(part: &str, text: &str) -> anyhow::Result<usize> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.with_context(|| {
        format!("{part:?} names no node; write all, bootstrap, a peer's number or name, or a range like 1-3")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_in_many_ways() {
        assert_eq!(select("all", 4).unwrap(), [1, 2, 3]);
        assert_eq!(select("bootstrap, 2,peer-3", 4).unwrap(), [0, 2, 3]);
        assert_eq!(select("1-3", 4).unwrap(), [1, 2, 3]);
        for bad in ["", "0", "4", "3-2", "1-9", "x", "peer-"] {
            assert!(select(bad, 4).is_err(), "{bad}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_holds_memory_and_descriptors() {
        let load = Load::of(std::process::id()).unwrap();
        assert!(load.resident_bytes > 1 << 20 && load.descriptors >= 3, "{load:?}");
    }
}
