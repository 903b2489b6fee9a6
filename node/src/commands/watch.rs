//! `status --watch`: the state of a node as it changes, until the user has seen enough.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::Context;
use console::Term;
use dunlin_client::{Client, ClientError, NodeStatus, Peer, Peers};
use serde::Serialize;

use crate::{
    interrupt::Interrupt,
    output::{Table, size},
};

/// How often a raised interrupt is looked for.
const BLINK: Duration = Duration::from_millis(50);

/// What is shown each time.
#[derive(Debug, Serialize)]
struct Frame {
    status: NodeStatus,
    peers: Vec<Peer>,
}

/// The state before, from which rates are computed.
struct Before {
    at: Instant,
    status: NodeStatus,
}

/// Shows the node's state every `pause` until Ctrl-C: a screen that is drawn again, frames one after the other where
/// the output is no terminal, or one JSON object a line. A node that does not answer is asked again.
///
/// # Errors
///
/// Fails when nothing can be printed, and when not even the first question is answered.
pub(super) fn watch(client: &Client, pause: Duration, is_json: bool) -> anyhow::Result<()> {
    let interrupt = Interrupt::listen()?;
    let mut screen = Screen::open(is_json);
    let mut before: Option<Before> = None;
    while !interrupt.is_raised() {
        let at = Instant::now();
        let frame = match look(client) {
            Ok(frame) => frame,
            Err(cause) if before.is_none() => return Err(cause.into()),
            Err(cause) => {
                let last = before.as_ref().map_or(0, |before| before.at.elapsed().as_secs());
                if !screen
                    .show_problem(&format!("no answer for {last} s: {cause}; asking again"))?
                {
                    break;
                }
                wait(pause, &interrupt);
                continue;
            }
        };
        if !screen.show(&frame, at, before.as_ref())? {
            break;
        }
        before = Some(Before { at, status: frame.status });
        wait(pause, &interrupt);
    }
    Ok(())
}

fn look(client: &Client) -> Result<Frame, ClientError> {
    let Peers { peers } = client.peers()?;
    Ok(Frame { status: client.status()?, peers })
}

fn wait(pause: Duration, interrupt: &Interrupt) {
    let end = Instant::now() + pause;
    while !interrupt.is_raised() && Instant::now() < end {
        std::thread::sleep(BLINK.min(end.saturating_duration_since(Instant::now())));
    }
}

/// Where frames go.
enum Screen {
    /// Drawn again in place; the cursor comes back when this is dropped.
    Terminal(Term),
    Text,
    Json,
}

impl Screen {
    fn open(is_json: bool) -> Self {
        if is_json {
            return Self::Json;
        }
        if !io::stdout().is_terminal() {
            return Self::Text;
        }
        let terminal = Term::buffered_stdout();
        terminal.hide_cursor().ok();
        Self::Terminal(terminal)
    }

    /// Returns false when the reader has seen enough (`| head`).
    fn show(&self, frame: &Frame, at: Instant, before: Option<&Before>) -> anyhow::Result<bool> {
        let shown = match self {
            Self::Terminal(terminal) => {
                let (height, width) = terminal.size();
                draw(terminal, &text(frame, at, before), height.into(), width.into())
            }
            Self::Text => writeln!(io::stdout(), "{}", text(frame, at, before)),
            Self::Json => {
                let line = serde_json::to_string(frame).context("the answer has no JSON form")?;
                writeln!(io::stdout(), "{line}")
            }
        };
        went_well(shown)
    }

    /// Like [`Self::show`].
    fn show_problem(&mut self, problem: &str) -> anyhow::Result<bool> {
        went_well(match self {
            Self::Terminal(terminal) => {
                let (height, width) = terminal.size();
                draw(terminal, problem, height.into(), width.into())
            }
            Self::Text => writeln!(io::stdout(), "{problem}\n"),
            // A program that reads the lines sees that none come.
            Self::Json => writeln!(io::stderr(), "{problem}"),
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Self::Terminal(terminal) = self {
            terminal.show_cursor().ok();
            terminal.flush().ok();
        }
    }
}

fn went_well(shown: io::Result<()>) -> anyhow::Result<bool> {
    match shown {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(cause) => Err(cause).context("cannot print"),
    }
}

/// Draws the lines that the terminal has room for.
fn draw(terminal: &Term, text: &str, height: usize, width: usize) -> io::Result<()> {
    terminal.clear_screen()?;
    let room = height.saturating_sub(1);
    let lines: Vec<_> = text.lines().collect();
    let is_cut = lines.len() > room;
    for line in lines.iter().take(if is_cut { room.saturating_sub(1) } else { room }) {
        terminal.write_line(&console::truncate_str(line, width, "…"))?;
    }
    if is_cut {
        terminal.write_line("…")?;
    }
    terminal.flush()
}

fn text(frame: &Frame, at: Instant, before: Option<&Before>) -> String {
    let Frame { status, peers } = frame;
    let up = humantime::format_duration(Duration::from_secs(status.uptime_s));
    let memory = status.resident_bytes.map_or_else(|| "-".to_owned(), size);
    let mut text = format!(
        "{}  network {}  up {up}  memory {memory}  archive {}\n\n",
        status.peer, status.network, status.backend
    );
    let mut table = Table::new(["", "count", "a second"]);
    for (name, count) in COUNTS {
        let rate = before.and_then(|before| rate(count, before, status, at));
        table.row([
            name.to_owned(),
            count(status).to_string(),
            rate.map_or_else(String::new, |rate| format!("{rate:+.1}")),
        ]);
    }
    text.push_str(&table.to_string());
    for problem in &status.problems {
        text.push_str(&format!("\nproblem  {problem}"));
    }
    text.push('\n');
    text.push_str(&peers_text(peers));
    text
}

/// How a count is read.
type Count = fn(&NodeStatus) -> u64;

/// What of a node is counted.
const COUNTS: [(&str, Count); 6] = [
    ("entities", |status| status.entities),
    ("observations", |status| status.observations),
    ("segments", |status| status.segments),
    ("archived", |status| status.archived),
    ("template sets", |status| status.templates_adopted),
    ("peers", |status| status.peers),
];

/// Returns by how much a count changed in a second; nothing where it did not.
fn rate(count: Count, before: &Before, now: &NodeStatus, at: Instant) -> Option<f64> {
    let seconds = at.saturating_duration_since(before.at).as_secs_f64();
    let (then, now) = (count(&before.status), count(now));
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let change = now as f64 - then as f64;
    (seconds > 0.0 && now != then).then_some(change / seconds)
}

fn peers_text(peers: &[Peer]) -> String {
    let mut table = Table::new(["peer", "standing", "score", "link", "rtt ms", "for", "address"]);
    let connected = peers.iter().filter(|peer| peer.connected);
    for peer in connected.clone() {
        let link = [&peer.transport, &peer.direction].map(|part| part.clone().unwrap_or_default());
        let age = peer.connected_s.map(|age| humantime::format_duration(Duration::from_secs(age)));
        table.row([
            peer.peer.clone(),
            format!("{:?}{}", peer.standing, if peer.own { ", own" } else { "" }).to_lowercase(),
            format!("{:.2}", peer.score),
            link.join(" "),
            peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1}")),
            age.map_or_else(|| "-".to_owned(), |age| age.to_string()),
            peer.addresses.first().cloned().unwrap_or_default(),
        ]);
    }
    let away = peers.len() - connected.count();
    if away == 0 {
        table.to_string()
    } else {
        format!("{table}and {away} that are known, but away\n")
    }
}
