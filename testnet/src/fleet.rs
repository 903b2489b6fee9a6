//! `dunlin testnet up`, `down` and what lies between: a network of peers on this machine that lives until it is stopped.
//!
//! `up` starts one process, the supervisor ([`supervise`]), which starts the nodes and stays. Every other command is a
//! process of its own, finds the supervisor's socket in the network's folder, says one [`Wish`] and reads one answer.
//! Whatever becomes of these processes, nothing is left: the kernel kills the nodes when the supervisor is gone, and
//! namespaces go with the processes in them.

mod control;
mod supervise;

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use dunlin_client::{ADDRESS_FILE, TOKEN_FILE};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

pub(crate) use self::control::Wish;
pub use self::supervise::supervise;
use crate::{
    hostile::{self, Assault, AssaultReport},
    interrupt::{Interrupt, listen_alone},
    links::Profile,
    network::{PEERS_MAX, View},
    peer::Home,
    process::{GRACE, POLL, spawn_free, tail_of},
};

/// File in the folder of a test network that says what runs.
const STATE_FILE: &str = "testnet.json";

/// Its socket.
const SOCKET_FILE: &str = "testnet.sock";

/// What the supervisor says.
const LOG_FILE: &str = "testnet.log";

/// Version of the state.
const STATE_VERSION: u8 = 2;

/// Most lines that `logs` shows of one node.
const LOG_LINES_MAX: usize = 10_000;

/// What to start.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// The `dunlin` binary.
    pub program: PathBuf,
    /// How many peers: 1 to 50.
    pub peers: u32,
    /// Give each node a network namespace of its own, whose links can be broken.
    pub netns: bool,
    /// What the links are like, in namespaces.
    pub profile: Profile,
    /// Where their data folders and logs go. Peers that are there already come back with their data.
    pub dir: PathBuf,
    /// Print JSON instead of text.
    pub json: bool,
}

/// What to do with the network in a folder.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// The folder that was given to `up`.
    pub dir: PathBuf,
    /// Print JSON instead of text.
    pub json: bool,
}

/// What to do to a running network.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Show each process.
    Status,
    /// Cut groups off each other, as `1-3|4-6`.
    Partition(String),
    /// Let nothing of the first reach the second, while the way back stays.
    Cut {
        /// From whom.
        from: String,
        /// To whom.
        to: String,
    },
    /// Take all cuts away, and let paused nodes go on.
    Heal,
    /// Stop nodes where they are.
    Pause(String),
    /// Let them go on.
    Resume(String),
    /// Kill nodes as a crash would.
    Kill(String),
    /// Start nodes that do not run.
    Start(String),
    /// Kill one peer after another and start it again.
    Churn {
        /// How often.
        every: Duration,
        /// For how long.
        during: Duration,
    },
    /// Attack a node.
    Attack(Assault),
    /// Print the newest lines of logs.
    Logs {
        /// Whose.
        nodes: String,
        /// How many lines of each.
        lines: usize,
    },
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

/// Returns where a test network is when nobody says: in the user's cache folder.
#[must_use]
pub fn default_dir() -> PathBuf {
    let home = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    let cache = match (home("XDG_CACHE_HOME"), home("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => PathBuf::from(home).join(".cache"),
        (None, None) => std::env::temp_dir(),
    };
    cache.join("dunlin/testnet")
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
    let network = match State::load(&dir)? {
        Some(state) if state.is_running() => bail!(
            "a test network runs in {} already (process {}); stop it with `dunlin testnet down`",
            dir.display(),
            state.pid
        ),
        Some(state) => state.network,
        None => name_of(&dir),
    };
    let interrupt = Interrupt::default();
    listen_alone(&interrupt)?;
    let mut state = State {
        version: STATE_VERSION,
        network,
        peers: options.peers,
        netns: options.netns,
        profile: options.profile,
        pid: 0,
        stamp: String::new(),
    };
    // What is about to be made is written down first, for `down --purge`.
    state.save(&dir)?;
    let log = dir.join(LOG_FILE);
    let command = supervisor(&options.program, &dir, options.netns);
    let mut child = spawn_free(command, &log).context("cannot start the supervisor")?;
    let mut lease = child.stdin.take();
    state.pid = child.id();
    state.stamp = stamp(state.pid).unwrap_or_default();
    state.save(&dir)?;
    let ready = || control::ask(&dir, &Wish::Status).ok();
    let views = loop {
        if interrupt.is_raised() {
            // Without the lease it ends, and its nodes with it.
            drop(lease.take());
            child.wait()?;
            interrupt.check()?;
            break Vec::new();
        }
        if let Some(views) = ready() {
            break serde_json::from_value::<Vec<View>>(views)?;
        }
        if child.try_wait()?.is_some() {
            state.forget_running(&dir)?;
            bail!("the test network did not start:\n{}", tail_of(&log).unwrap_or_default());
        }
        thread::sleep(POLL);
    };
    // It stays when this process ends.
    lease.context("the supervisor has no input")?.write_all(STAY)?;
    show(&views, options.json)?;
    if !options.json {
        println!("\nstop it with: dunlin testnet down --dir {}", options.dir.display());
    }
    Ok(())
}

/// What `up` tells the supervisor when all is well. One that reads its end first has nobody left to serve.
const STAY: &[u8] = b"stay\n";

fn supervisor(program: &Path, dir: &Path, netns: bool) -> Command {
    // Whoever is not root may make namespaces inside a user namespace of their own, where the kernel lets them.
    let needs_root = netns && !rustix::process::geteuid().is_root();
    let mut command = if needs_root {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(["testnet", "supervise", "--dir"]).arg(dir);
    command
}

/// Does something to a running network, and says what came of it.
///
/// # Errors
///
/// Fails when no network runs in that folder, or the supervisor refuses.
pub fn tell(options: &FleetOptions, deed: &Deed) -> anyhow::Result<()> {
    let (dir, state) = existing(&options.dir)?;
    match deed {
        Deed::Logs { nodes, lines } => return logs(&dir, &state, nodes, *lines, options.json),
        Deed::Status if !state.is_running() => return show(&stopped(&dir, &state), options.json),
        _ => {}
    }
    let ask = |wish: &Wish| {
        ensure!(
            state.is_running(),
            "the test network in {} does not run; start it with `dunlin testnet up`",
            dir.display()
        );
        control::ask(&dir, wish)
    };
    let answer = match deed {
        Deed::Status | Deed::Logs { .. } => {
            return show(&views(ask(&Wish::Status)?)?, options.json);
        }
        Deed::Partition(groups) => ask(&Wish::Partition { groups: groups.clone() })?,
        Deed::Cut { from, to } => ask(&Wish::Cut { from: from.clone(), to: to.clone() })?,
        Deed::Heal => ask(&Wish::Heal)?,
        Deed::Pause(nodes) => ask(&Wish::Pause { nodes: nodes.clone(), pause: true })?,
        Deed::Resume(nodes) => ask(&Wish::Pause { nodes: nodes.clone(), pause: false })?,
        Deed::Kill(nodes) => ask(&Wish::Kill { nodes: nodes.clone() })?,
        Deed::Start(nodes) => ask(&Wish::Start { nodes: nodes.clone() })?,
        Deed::Churn { every, during } => churn(state.peers, *every, *during, ask)?,
        Deed::Attack(assault) => {
            let report = ask(&Wish::Attack(assault.clone()))?;
            if !options.json {
                let report: AssaultReport = serde_json::from_value(report)?;
                println!("{report}");
                return Ok(());
            }
            report
        }
    };
    if options.json {
        println!("{answer}");
    } else {
        println!("done");
    }
    Ok(())
}

/// Kills the peers in turn, each for half of the time until the next one.
fn churn(
    peers: u32,
    every: Duration,
    during: Duration,
    ask: impl Fn(&Wish) -> anyhow::Result<serde_json::Value>,
) -> anyhow::Result<serde_json::Value> {
    let end = Instant::now() + during;
    let mut killed = 0;
    while Instant::now() < end {
        let nodes = (killed % peers + 1).to_string();
        ask(&Wish::Kill { nodes: nodes.clone() })?;
        thread::sleep(every / 2);
        ask(&Wish::Start { nodes })?;
        killed += 1;
        thread::sleep(every / 2);
    }
    Ok(serde_json::json!({ "killed": killed }))
}

/// Stops all processes of a test network.
///
/// # Errors
///
/// Fails when there is no test network in that folder, a process cannot be ended, or the folder cannot
/// be removed.
pub fn down(options: &DownOptions) -> anyhow::Result<()> {
    let (dir, mut state) = existing(&options.dir)?;
    let mut stopped = 0;
    if state.is_running() {
        let answer = control::ask(&dir, &Wish::Down);
        stopped = answer.ok().and_then(|answer| answer.as_u64()).unwrap_or(0);
        // One that does not answer is killed, and the kernel kills its nodes.
        state.end();
        ensure!(!state.is_running(), "the supervisor, process {}, does not end", state.pid);
    }
    if options.purge {
        // Only what a test network makes is removed: the folder may hold other things.
        for name in state.names() {
            let home = Home::new(&dir, &name);
            removed(&home.log, fs::remove_file(&home.log))?;
            removed(&home.data_dir, fs::remove_dir_all(&home.data_dir))?;
        }
        for file in [hostile::LOG_FILE, SOCKET_FILE, LOG_FILE, STATE_FILE] {
            let file = dir.join(file);
            removed(&file, fs::remove_file(&file))?;
        }
        // Stays when something else is in it.
        fs::remove_dir(&dir).ok();
    } else {
        state.forget_running(&dir)?;
    }
    if options.json {
        println!("{}", serde_json::json!({ "stopped": stopped, "purged": options.purge }));
    } else {
        println!("{stopped} processes stopped");
    }
    Ok(())
}

fn logs(dir: &Path, state: &State, nodes: &str, lines: usize, json: bool) -> anyhow::Result<()> {
    let names = state.names();
    let mut wanted = Vec::new();
    for part in nodes.split(',').map(str::trim) {
        let is_meant = |name: &&String| {
            part == "all" || *name == part || name.strip_prefix("peer-") == Some(part)
        };
        let meant: Vec<_> = names.iter().filter(is_meant).collect();
        ensure!(!meant.is_empty(), "{part:?} is no node of this network: {}", names.join(", "));
        wanted.extend(meant);
    }
    for name in wanted {
        let path = Home::new(dir, name).log;
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let all: Vec<_> = text.lines().collect();
        let newest = &all[all.len().saturating_sub(lines.min(LOG_LINES_MAX))..];
        if json {
            println!("{}", serde_json::json!({ "name": name, "lines": newest }));
        } else {
            newest.iter().for_each(|line| println!("{name:10} {line}"));
        }
    }
    Ok(())
}

fn views(answer: serde_json::Value) -> anyhow::Result<Vec<View>> {
    Ok(serde_json::from_value(answer)?)
}

/// Returns the nodes of a network that does not run.
fn stopped(dir: &Path, state: &State) -> Vec<View> {
    let view = |name: String| View {
        alive: false,
        paused: false,
        pid: 0,
        data_dir: Home::new(dir, &name).data_dir,
        name,
        api: None,
        peer: None,
        peers: None,
        segments: None,
        resident_bytes: None,
        descriptors: None,
    };
    state.names().into_iter().map(view).collect()
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

/// Returns a name that keeps a network apart from every other one on this machine.
pub(crate) fn name_of(dir: &Path) -> String {
    format!("testnet-{}-{:016x}", std::process::id(), hash_of(dir.as_os_str().as_encoded_bytes()))
}

/// Hashes bytes (FNV-1a, 64 bits): for names, not for secrets.
pub(crate) fn hash_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What is in a folder, and who runs it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u8,
    network: String,
    peers: u32,
    netns: bool,
    profile: Profile,
    /// The supervisor.
    pid: u32,
    /// When it started, as the system says; empty when it was stopped. An id alone may be another process's by now.
    stamp: String,
}

impl State {
    fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(STATE_FILE);
        let bytes = match fs::read(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let state: Self = serde_json::from_slice(&bytes).with_context(|| {
            format!("{} is not the state of a test network of this version", path.display())
        })?;
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

    /// Writes down that nothing runs any more.
    fn forget_running(&mut self, dir: &Path) -> anyhow::Result<()> {
        self.stamp.clear();
        self.save(dir)
    }

    /// Returns the names of all nodes.
    fn names(&self) -> Vec<String> {
        let peers = (1..=self.peers).map(|number| format!("peer-{number}"));
        [crate::network::BOOTSTRAP.to_owned()].into_iter().chain(peers).collect()
    }

    /// Returns whether this very process runs.
    fn is_running(&self) -> bool {
        !self.stamp.is_empty() && stamp(self.pid).as_ref() == Some(&self.stamp)
    }

    /// Waits until the supervisor has ended, and hastens it in the end.
    fn end(&self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        for (patience, next) in
            [(2 * GRACE, Some(Signal::TERM)), (GRACE, Some(Signal::KILL)), (GRACE, None)]
        {
            let deadline = Instant::now() + patience;
            while self.is_running() && Instant::now() < deadline {
                thread::sleep(POLL);
            }
            if let (true, Some(pid), Some(signal)) = (self.is_running(), pid, next) {
                // The only failure left is that it ended a moment ago.
                rustix::process::kill_process(pid, signal).ok();
            }
        }
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
        "{:10} {:8} {:>8} {:>6} {:>9} {:>7}  peer id",
        "name", "state", "process", "peers", "segments", "MiB"
    )?;
    for view in views {
        let state = match (view.alive, view.paused) {
            (true, false) => "running",
            (true, true) => "paused",
            (false, _) => "stopped",
        };
        let (peers, segments) = (number(view.peers), number(view.segments));
        let mib = number(view.resident_bytes.map(|bytes| bytes >> 20));
        let peer = view.peer.as_deref().unwrap_or("-");
        writeln!(
            text,
            "{:10} {state:8} {:>8} {peers:>6} {segments:>9} {mib:>7}  {peer}",
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

    fn state(pid: u32, stamp: String) -> State {
        State {
            version: STATE_VERSION,
            network: "test".to_owned(),
            peers: 1,
            netns: false,
            profile: Profile::Lan,
            pid,
            stamp,
        }
    }

    #[test]
    fn a_process_that_got_the_id_of_an_old_one_is_left_alone() {
        let own = std::process::id();
        let now = stamp(own).unwrap();
        assert!(state(own, now.clone()).is_running());
        assert!(!state(own, now + "0").is_running());
        assert!(!state(own, String::new()).is_running(), "it was stopped");
    }

    #[test]
    fn down_with_purge_leaves_nothing_of_its_own_and_everything_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net");
        fs::create_dir_all(dir.join("peer-1")).unwrap();
        state(0, String::new()).save(&dir).unwrap();
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        let options = DownOptions { dir: dir.clone(), purge: true, json: true };
        down(&options).unwrap();
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        let error = down(&options).unwrap_err().to_string();
        assert!(error.starts_with("no test network in"), "{error}");
    }
}
