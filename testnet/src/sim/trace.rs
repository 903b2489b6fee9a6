//! What happened, in order: the same seed makes the same bytes.

use std::{collections::VecDeque, fmt, io};

use sha2::{Digest as _, Sha256};

/// Lines that are kept to be shown when an invariant is broken.
const TAIL_MAX: usize = 64;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) at_ms: u64,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) what: &'static str,
    pub(super) id: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_ms, from, to, what, id } = self;
        write!(f, "{at_ms:>9} {from:>5} -> {to:<5} {what:<16} {id:016x}")
    }
}

/// A trace: a hash over all lines, the last ones, and all of them where somebody wants to read them.
pub(super) struct Trace {
    hash: Sha256,
    tail: VecDeque<Line>,
    lines: u64,
    out: Option<Box<dyn io::Write + Send>>,
    failed: Option<io::Error>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("lines", &self.lines).finish_non_exhaustive()
    }
}

impl Trace {
    pub(super) fn new(out: Option<Box<dyn io::Write + Send>>) -> Self {
        Self { hash: Sha256::new(), tail: VecDeque::new(), lines: 0, out, failed: None }
    }

    pub(super) fn push(&mut self, line: Line) {
        self.lines += 1;
        self.hash.update(line.at_ms.to_be_bytes());
        self.hash.update((line.from as u64).to_be_bytes());
        self.hash.update((line.to as u64).to_be_bytes());
        self.hash.update(line.what.as_bytes());
        self.hash.update(line.id.to_be_bytes());
        if self.tail.len() >= TAIL_MAX {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
        if let Some(out) = &mut self.out
            && let Err(cause) = writeln!(out, "{line}")
        {
            self.failed = Some(cause);
            self.out = None;
        }
    }

    /// Returns the last lines.
    pub(super) fn tail(&self) -> impl Iterator<Item = &Line> {
        self.tail.iter()
    }

    /// Returns how many lines there were, and the sha2-256 over all of them in hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Fails when a line could not be written out.
    pub(super) fn finish(mut self) -> io::Result<(u64, String)> {
        if let Some(cause) = self.failed {
            return Err(cause);
        }
        if let Some(out) = &mut self.out {
            out.flush()?;
        }
        let hash = self.hash.finalize();
        Ok((self.lines, hash.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}
