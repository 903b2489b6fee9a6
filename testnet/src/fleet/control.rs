//! What commands say to the supervisor, and its answers: one line of JSON each way, over a socket in the network's folder.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::SOCKET_FILE;
use crate::hostile::Assault;

/// Longest line.
pub(super) const LINE_BYTES_MAX: u64 = 1 << 20;

/// What is wanted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Wish {
    /// Every node.
    Status,
    /// Cut groups off each other.
    Partition { groups: String },
    /// Cut one way.
    Cut { from: String, to: String },
    /// Take all cuts away, and let paused nodes go on.
    Heal,
    /// Stop nodes where they are, or let them go on.
    Pause { nodes: String, pause: bool },
    /// Kill nodes.
    Kill { nodes: String },
    /// Start nodes.
    Start { nodes: String },
    /// Attack a node.
    Attack(Assault),
    /// End everything.
    Down,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Done(serde_json::Value),
    Failed(String),
}

/// Says a wish to the supervisor of a folder, and waits for its answer.
pub(super) fn ask(dir: &Path, wish: &Wish) -> anyhow::Result<serde_json::Value> {
    let path = dir.join(SOCKET_FILE);
    let mut stream = UnixStream::connect(&path)
        .with_context(|| format!("the supervisor at {} does not answer", path.display()))?;
    let mut line = serde_json::to_vec(wish)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    match read(&stream)? {
        Answer::Done(value) => Ok(value),
        Answer::Failed(why) => bail!(why),
    }
}

/// Reads one line.
pub(super) fn read<T: for<'de> Deserialize<'de>>(stream: &UnixStream) -> anyhow::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    serde_json::from_str(&line).context("the other side ended in the middle of what it said")
}
