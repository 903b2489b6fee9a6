//! `dunlin testnet`: a network of peers on this machine that lives until it is stopped.
//!
//! `up` starts the processes and leaves them alone. What it started stands in a state file, written
//! before and after every start, so that `down` finds all of them whenever `up` was interrupted. A
//! process is known by its id *and* the moment it started: an id alone may be another process's by now.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use dunlin_client::{ADDRESS_FILE, Client, TOKEN_FILE};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::{
    interrupt::{self, Belongings, Interrupt},
    peer::{Home, Identity, Program},
    process::{GRACE, POLL, Supervisor, in_words, spawn_free, tail_of},
};

/// File in the folder of a test network that says what runs.
const STATE_FILE: &str = "testnet.json";

/// Version of that file.
const STATE_VERSION: u8 = 1;

/// Peers of one test network; they share this machine.
const PEERS_MAX: u32 = 50;

/// How long a process may take from its start to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The `dunlin` binary.
    pub program: PathBuf,
    /// How many peers: 1 to 50.
    pub peers: u32,
    /// Where their data folders and logs go. Peers that are there already come back with their data.
    pub dir: PathBuf,
    /// Print JSON instead of text.
    pub json: bool,
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct StatusOptions {
    /// The folder that was given to `up`.
    pub dir: PathBuf,
    /// Print JSON instead of text.
    pub json: bool,
}

/// What to stop.
#[derive(Clone, Debug)]
pub struct DownOptions {
    /// The folder that was given to `up`.
    pub dir: PathBuf,
    /// Remove the data folders and logs too.
    pub purge: bool,
    /// Print JSON instead of text.
    pub json: bool,
}

/// Starts a bootstrap node and peers, says how to talk to them, and leaves them running.
///
/// # Errors
///
/// Fails when a network runs in that folder already, a process does not start, or the user interrupts:
/// whatever was started has been stopped by then.
pub fn up(options: &UpOptions) -> anyhow::Result<()> {
    ensure!(
        (1..=PEERS_MAX).contains(&options.peers),
        "a test network has 1 to {PEERS_MAX} peers, not {}",
        options.peers
    );
    fs::create_dir_all(&options.dir)
        .with_context(|| format!("cannot make {}", options.dir.display()))?;
    // Peers are started with these paths, whatever folder they run in.
    let dir = fs::canonicalize(&options.dir)?;
    let mut state = State::load(&dir)?.unwrap_or_else(|| State::new(&dir));
    if let Some(node) = state.nodes.iter().find(|node| node.is_alive()) {
        bail!(
            "a test network runs in {} already (process {}); stop it with `dunlin testnet down`",
            dir.display(),
            node.pid
        );
    }
    let launched = launch(options, &dir, &mut state);
    if launched.is_err() {
        stop(&state.nodes);
        state.forget_running(&dir)?;
    }
    launched?;
    show(&views(&dir, &state), options.json)?;
    if !options.json {
        println!("\nstop it with: dunlin testnet down --dir {}", options.dir.display());
    }
    Ok(())
}

/// Shows each process of a test network.
///
/// # Errors
///
/// Fails when there is no test network in that folder.
pub fn status(options: &StatusOptions) -> anyhow::Result<()> {
    let (dir, state) = existing(&options.dir)?;
    show(&views(&dir, &state), options.json)
}

/// Stops all processes of a test network.
///
/// # Errors
///
/// Fails when there is no test network in that folder, a process cannot be ended, or the folder cannot
/// be removed.
pub fn down(options: &DownOptions) -> anyhow::Result<()> {
    let (dir, mut state) = existing(&options.dir)?;
    let running = state.nodes.iter().filter(|node| node.is_alive()).count();
    let survivors = stop(&state.nodes);
    ensure!(survivors.is_empty(), "these processes did not end: {survivors:?}");
    if options.purge {
        // Only what a test network makes is removed: the folder may hold other things.
        for home in state.nodes.iter().map(|node| Home::new(&dir, &node.name)) {
            removed(&home.log, fs::remove_file(&home.log))?;
            removed(&home.data_dir, fs::remove_dir_all(&home.data_dir))?;
        }
        let state_file = dir.join(STATE_FILE);
        removed(&state_file, fs::remove_file(&state_file))?;
        // Stays when something else is in it.
        fs::remove_dir(&dir).ok();
    } else {
        state.forget_running(&dir)?;
    }
    if options.json {
        println!("{}", serde_json::json!({ "stopped": running, "purged": options.purge }));
    } else {
        println!("{running} processes stopped");
    }
    Ok(())
}

/// Starts everything; `state` says what has been started, whether this succeeds or not.
fn launch(options: &UpOptions, dir: &Path, state: &mut State) -> anyhow::Result<()> {
    let interrupt = Interrupt::default();
    let supervisor = Supervisor::start()?;
    let belongings = Belongings { processes: supervisor.processes(), folder: Arc::default() };
    interrupt::listen(&interrupt, belongings)?;
    let program = Program { path: options.program.clone(), network: state.network.clone() };
    let names: Vec<_> = (1..=options.peers).map(|n| format!("peer-{n}")).collect();
    // What is about to be made is written down first, for `down --purge`.
    names
        .iter()
        .map(String::as_str)
        .chain(["bootstrap"])
        .for_each(|name| state.set(name, 0, String::new()));
    state.save(dir)?;
    let mut ids = Vec::new();
    for name in &names {
        let command = program.init(&Home::new(dir, name));
        let printed = supervisor.run("dunlin init", command, START_TIMEOUT, &interrupt)?;
        let identity: Identity = serde_json::from_str(&printed)
            .with_context(|| format!("dunlin init printed {printed:?}"))?;
        ids.push(identity.peer);
    }
    let home = Home::new(dir, "bootstrap");
    // The address of an earlier run would be taken for the new one.
    let stale = home.network_address_file();
    removed(&stale, fs::remove_file(&stale))?;
    let mut child = state.start(dir, "bootstrap", program.bootstrap(&home))?;
    let address = wait(&mut child, &home, &interrupt, || home.network_address())?;
    for name in &names {
        let home = Home::new(dir, name);
        let command = program.run(&home, &address, ids.iter().map(String::as_str));
        let mut child = state.start(dir, name, command)?;
        let pid = child.id();
        wait(&mut child, &home, &interrupt, || home.client(pid))?;
    }
    Ok(())
}

/// Waits until a child that will be left alone answers.
fn wait<T>(
    child: &mut Child,
    home: &Home,
    interrupt: &Interrupt,
    probe: impl Fn() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + START_TIMEOUT;
    let last_words = || tail_of(&home.log).unwrap_or_else(|cause| format!("(no log: {cause})"));
    loop {
        interrupt.check()?;
        if let Some(ready) = probe() {
            return Ok(ready);
        }
        if let Some(status) = child.try_wait()? {
            bail!(
                "{} ended {}; its last words:\n{}",
                home.data_dir.display(),
                in_words(status),
                last_words()
            );
        }
        ensure!(
            Instant::now() < deadline,
            "{} did not answer within {} s; its last words:\n{}",
            home.data_dir.display(),
            START_TIMEOUT.as_secs(),
            last_words()
        );
        thread::sleep(POLL);
    }
}

/// Stops processes, first politely. Returns the ids of those that are still there.
fn stop(nodes: &[Node]) -> Vec<u32> {
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        for node in nodes.iter().filter(|node| node.is_alive()) {
            if let Some(pid) = node.pid() {
                // The only failure left is that it ended a moment ago.
                rustix::process::kill_process(pid, signal).ok();
            }
        }
        let deadline = Instant::now() + patience;
        while nodes.iter().any(Node::is_alive) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
    nodes.iter().filter(|node| node.is_alive()).map(|node| node.pid).collect()
}

/// Fails unless a file was removed or was not there.
fn removed(path: &Path, result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(cause).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn existing(dir: &Path) -> anyhow::Result<(PathBuf, State)> {
    let missing =
        || format!("no test network in {}; start one with `dunlin testnet up`", dir.display());
    let dir = fs::canonicalize(dir).with_context(missing)?;
    let state = State::load(&dir)?.with_context(missing)?;
    Ok((dir, state))
}

/// What runs in a folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u8,
    network: String,
    nodes: Vec<Node>,
}

/// One process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: String,
    pid: u32,
    /// When it started, as the system says; empty when it was stopped.
    stamp: String,
}

impl State {
    fn new(dir: &Path) -> Self {
        // Its own name keeps it apart from every other network on this machine and LAN.
        let hash =
            dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
                (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
            });
        let network = format!("testnet-{}-{hash:016x}", std::process::id());
        Self { version: STATE_VERSION, network, nodes: Vec::new() }
    }

    fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(STATE_FILE);
        let bytes = match fs::read(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let state: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not the state of a test network", path.display()))?;
        ensure!(
            state.version == STATE_VERSION,
            "{} has version {}, this program reads {STATE_VERSION}",
            path.display(),
            state.version
        );
        Ok(Some(state))
    }

    fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let (path, new) = (dir.join(STATE_FILE), dir.join("testnet.json.new"));
        let bytes = serde_json::to_vec_pretty(self)?;
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts a process and writes down that it runs.
    fn start(&mut self, dir: &Path, name: &str, command: Command) -> anyhow::Result<Child> {
        let home = Home::new(dir, name);
        let child =
            spawn_free(command, &home.log).with_context(|| format!("cannot start {name}"))?;
        let pid = child.id();
        // A process that ended at once has no stamp, and needs none.
        let stamp = stamp(pid).unwrap_or_default();
        self.set(name, pid, stamp);
        self.save(dir)?;
        Ok(child)
    }

    fn set(&mut self, name: &str, pid: u32, stamp: String) {
        let node = Node { name: name.to_owned(), pid, stamp };
        match self.nodes.iter_mut().find(|node| node.name == name) {
            Some(old) => *old = node,
            None => self.nodes.push(node),
        }
    }

    /// Writes down that nothing runs any more.
    fn forget_running(&mut self, dir: &Path) -> anyhow::Result<()> {
        self.nodes.iter_mut().for_each(|node| node.stamp.clear());
        self.save(dir)
    }
}

impl Node {
    /// Returns whether this very process runs.
    fn is_alive(&self) -> bool {
        !self.stamp.is_empty() && stamp(self.pid).as_ref() == Some(&self.stamp)
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// Returns when a process started, in whatever words the system has for it; `None` when it has ended.
#[cfg(target_os = "linux")]
fn stamp(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; behind it, the state is the first field of the rest
    // and the start time, in ticks since the boot, the twentieth.
    let mut rest = stat.rsplit_once(") ")?.1.split(' ');
    let state = rest.next()?;
    let ticks = rest.nth(18)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    (state != "Z" && state != "X").then(|| format!("{} {ticks}", boot.trim()))
}

/// Returns when a process started, in whatever words the system has for it; `None` when it has ended.
#[cfg(not(target_os = "linux"))]
fn stamp(pid: u32) -> Option<String> {
    let output = Command::new("ps").args(["-o", "stat=,lstart=", "-p", &pid.to_string()]).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let (state, started) = text.trim().split_once(' ')?;
    (!state.starts_with('Z')).then(|| started.trim().to_owned())
}

/// A process as `status` shows it.
#[derive(Debug, Serialize)]
struct View {
    name: String,
    alive: bool,
    pid: u32,
    data_dir: PathBuf,
    /// Where its API listens; the bootstrap node has none.
    api: Option<String>,
    peer: Option<String>,
    peers: Option<u64>,
    segments: Option<u64>,
}

fn views(dir: &Path, state: &State) -> Vec<View> {
    let view = |node: &Node| {
        let home = Home::new(dir, &node.name);
        let alive = node.is_alive();
        let client = alive.then(|| Client::for_data_dir(&home.data_dir).ok()).flatten();
        let status = client.and_then(|client| client.status().ok()).filter(|s| s.pid == node.pid);
        let address = home.network_address().filter(|_| alive);
        View {
            name: node.name.clone(),
            alive,
            pid: node.pid,
            api: status.as_ref().map(|status| status.api.clone()),
            peer: status
                .as_ref()
                .map(|status| status.peer.clone())
                .or_else(|| address.as_deref().and_then(crate::peer::peer_of).map(str::to_owned)),
            peers: status.as_ref().map(|status| status.peers),
            segments: status.as_ref().map(|status| status.segments),
            data_dir: home.data_dir,
        }
    };
    state.nodes.iter().map(view).collect()
}

fn show(views: &[View], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(views)?);
    } else {
        print!("{}", text(views)?);
    }
    Ok(())
}

fn text(views: &[View]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
    writeln!(
        text,
        "{:10} {:8} {:>8} {:>6} {:>9}  peer id",
        "name", "state", "process", "peers", "segments"
    )?;
    for view in views {
        let state = if view.alive { "running" } else { "stopped" };
        let (peers, segments) = (number(view.peers), number(view.segments));
        let peer = view.peer.as_deref().unwrap_or("-");
        writeln!(
            text,
            "{:10} {state:8} {:>8} {peers:>6} {segments:>9}  {peer}",
            view.name, view.pid
        )?;
    }
    if let Some(view) = views.iter().find(|view| view.api.is_some()) {
        let dir = view.data_dir.display();
        writeln!(text, "\ntalk to {}:", view.name)?;
        writeln!(text, "  dunlin status --data-dir {dir}")?;
        writeln!(
            text,
            "  curl -H \"Authorization: Bearer $(cat {dir}/{TOKEN_FILE})\" http://$(cat {dir}/{ADDRESS_FILE})/v1/status"
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path, state: &mut State, name: &str, script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        state.start(dir, name, command).unwrap()
    }

    #[test]
    fn another_process_finds_and_stops_what_was_started() {
        let folder = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(folder.path()).unwrap();
        let mut state = State::new(&dir);
        let mut polite = sleeper(&dir, &mut state, "polite", "exec sleep 1000");
        let mut stubborn = sleeper(
            &dir,
            &mut state,
            "stubborn",
            "trap '' TERM; echo up; while :; do sleep 1; done",
        );
        let log = Home::new(&dir, "stubborn").log;
        let deadline = Instant::now() + START_TIMEOUT;
        while !fs::read_to_string(&log).unwrap().contains("up") {
            assert!(Instant::now() < deadline, "the child does not speak");
            thread::sleep(POLL);
        }
        // What another process would read.
        let state = State::load(&dir).unwrap().unwrap();
        assert!(state.nodes.iter().all(Node::is_alive));
        assert_eq!(stop(&state.nodes), Vec::<u32>::new());
        assert!(state.nodes.iter().all(|node| !node.is_alive()));
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(polite.wait().unwrap().signal(), Some(15));
        assert_eq!(stubborn.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_process_that_got_the_id_of_an_old_one_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::new(folder.path());
        let mut child = sleeper(folder.path(), &mut state, "child", "exec sleep 1000");
        state.nodes[0].stamp.push('0');
        assert!(!state.nodes[0].is_alive());
        assert_eq!(stop(&state.nodes), Vec::<u32>::new());
        assert!(child.try_wait().unwrap().is_none(), "it was not signalled");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn down_with_purge_leaves_nothing_of_its_own_and_everything_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net");
        fs::create_dir(&dir).unwrap();
        let dir = fs::canonicalize(&dir).unwrap();
        let mut state = State::new(&dir);
        let mut child = sleeper(&dir, &mut state, "peer-1", "exec sleep 1000");
        fs::create_dir(dir.join("peer-1")).unwrap();
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        let options = DownOptions { dir: dir.clone(), purge: true, json: true };
        down(&options).unwrap();
        child.wait().unwrap();
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        let error = down(&options).unwrap_err().to_string();
        assert!(error.starts_with("no test network in"), "{error}");
    }
}
