//! What came of an attack, counted by the attacker.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::Attack;

/// Counts while it goes on.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    tried: AtomicU64,
    connected: AtomicU64,
    refused: AtomicU64,
    opened: AtomicU64,
    ended: AtomicU64,
    bytes: AtomicU64,
}

/// What came of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was tried.
    pub attack: Attack,
    /// Connections that were tried.
    pub tried: u64,
    /// Of these, how many got as far as the attack needs.
    pub connected: u64,
    /// Connections that the victim refused, or let go before that.
    pub refused: u64,
    /// Streams that were opened, or that the attacker began to.
    pub opened: u64,
    /// Streams and connections that the victim ended.
    pub ended: u64,
    /// Bytes that were sent.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn tried(&self) {
        self.tried.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn report(&self, attack: Attack) -> Report {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Report {
            attack,
            tried: read(&self.tried),
            connected: read(&self.connected),
            refused: read(&self.refused),
            opened: read(&self.opened),
            ended: read(&self.ended),
            bytes: read(&self.bytes),
        }
    }
}
