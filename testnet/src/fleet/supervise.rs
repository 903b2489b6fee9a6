//! The process that keeps a test network: it starts the nodes, and does to them what commands say.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    SOCKET_FILE, STAY, State,
    control::{Answer, Wish, read},
};
use crate::{
    hostile,
    interrupt::{self, Belongings, Interrupt},
    network::{Network, Plan},
    process::{POLL, Supervisor},
};

/// Commands that are served at once. One more waits.
const COMMANDS_MAX: usize = 16;

/// Keeps the test network of a folder until it is told to end.
///
/// # Errors
///
/// Fails when the network does not start. Nothing is left behind.
pub fn supervise(program: PathBuf, dir: &Path) -> anyhow::Result<()> {
    let state = State::load(dir)?.context("there is no test network in this folder")?;
    let interrupt = Interrupt::default();
    let supervisor = Arc::new(Supervisor::start()?);
    let belongings = Belongings { processes: supervisor.processes(), folder: Arc::default() };
    interrupt::listen(&interrupt, belongings)?;
    watch_lease(interrupt.clone())?;
    let path = dir.join(SOCKET_FILE);
    // One of a supervisor that was killed.
    fs::remove_file(&path).ok();
    let plan = Plan {
        program,
        network: state.network,
        peers: state.peers,
        dir: dir.to_owned(),
        nat: None,
        netns: state.netns,
        profile: state.profile,
        seed: 0,
        skewed: false,
    };
    let network = Network::start(plan, supervisor, interrupt.clone())?;
    let desk = Arc::new(Desk { network: Mutex::new(network), interrupt });
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("no socket at {}; choose a shorter path", path.display()))?;
    serve(&listener, &desk)?;
    desk.lock().shutdown();
    fs::remove_file(&path).ok();
    Ok(())
}

/// Ends the network when `up` ends before it said that all is well.
fn watch_lease(interrupt: Interrupt) -> anyhow::Result<()> {
    thread::Builder::new().name("lease".to_owned()).spawn(move || {
        let mut word = [0; STAY.len()];
        if std::io::stdin().read_exact(&mut word).is_err() || word != STAY {
            interrupt.raise();
        }
    })?;
    Ok(())
}

fn serve(listener: &UnixListener, desk: &Arc<Desk>) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let served = Arc::new(());
    while !desk.interrupt.is_raised() {
        let may_serve = Arc::strong_count(&served) <= COMMANDS_MAX;
        match listener.accept() {
            Ok((stream, _)) if may_serve => {
                stream.set_nonblocking(false)?;
                let (desk, serving) = (Arc::clone(desk), Arc::clone(&served));
                thread::Builder::new().name("command".to_owned()).spawn(move || {
                    // Whoever asked may be gone.
                    desk.answer(&stream).ok();
                    drop(serving);
                })?;
            }
            // Beyond the limit a command is hung up on, and says that the supervisor does not answer.
            Ok(_) => {}
            Err(_) => thread::sleep(POLL),
        }
    }
    Ok(())
}

/// Where commands arrive.
struct Desk {
    network: Mutex<Network>,
    interrupt: Interrupt,
}

impl Desk {
    fn answer(&self, mut stream: &UnixStream) -> anyhow::Result<()> {
        let done = read(stream).and_then(|wish| self.carry_out(wish));
        let answer = match done {
            Ok(value) => Answer::Done(value),
            Err(cause) => Answer::Failed(format!("{cause:#}")),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        Ok(stream.write_all(&line)?)
    }

    fn carry_out(&self, wish: Wish) -> anyhow::Result<serde_json::Value> {
        // An attack takes its time, in which others may be served.
        if let Wish::Attack(assault) = &wish {
            let report = hostile::assault(&self.network, assault)?;
            return Ok(serde_json::to_value(report)?);
        }
        let mut network = self.lock();
        match wish {
            Wish::Status => return Ok(serde_json::to_value(network.views())?),
            Wish::Partition { groups } => {
                let groups = network.groups(&groups)?;
                network.partition(&groups)?;
            }
            Wish::Cut { from, to } => {
                for from in network.select(&from)? {
                    for to in network.select(&to)? {
                        network.cut(from, to)?;
                    }
                }
            }
            Wish::Heal => {
                if network.plan.netns {
                    network.heal()?;
                }
                for place in 0..network.nodes.len() {
                    if network.nodes[place].is_paused {
                        network.pause(place, false)?;
                    }
                }
            }
            Wish::Pause { nodes, pause } => {
                each(&mut network, &nodes, |network, place| network.pause(place, pause))?;
            }
            Wish::Kill { nodes } => each(&mut network, &nodes, Network::kill)?,
            Wish::Start { nodes } => each(&mut network, &nodes, Network::start_node)?,
            Wish::Down => {
                let stopped = network.shutdown();
                self.interrupt.raise();
                return Ok(json!(stopped));
            }
            Wish::Attack(_) => unreachable!("it was served above"),
        }
        Ok(json!({}))
    }

    fn lock(&self) -> MutexGuard<'_, Network> {
        // A command that panicked has done a part of what it should; the rest goes on.
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn each(
    network: &mut Network,
    nodes: &str,
    act: impl Fn(&mut Network, usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let places = network.select(nodes)?;
    ensure!(!places.is_empty(), "no node is named");
    places.into_iter().try_for_each(|place| act(network, place))
}
