//! One peer as the client sees it: what it was asked, and what has yet to be told to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dunlin_wire::{Cid, block::Block};

use super::{CONNECT, FetchId, RETRIES_MAX, RETRY, Received, STALL};
use crate::bitswap::{
    Instant,
    message::{Ask, Named, Presence, Want},
};

/// Wants that one peer is asked for at a time, for all fetches together: a quarter of what every
/// implementation keeps of us.
const ASKED_MAX: usize = 256;

/// Blocks that were asked for and are not wanted any more, which a peer may send all the same: it may have
/// had them under way. They are remembered, so that it is not blamed.
const PAST_MAX: usize = 2_048;

/// Blocks in one message of a peer that gathers what it sends.
const GATHERED_MIN: u32 = 8;

/// How a peer can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    /// Nobody tried.
    #[default]
    Off,
    /// It went, and is dialled again then.
    Waiting { until: Instant },
    /// It is being dialled.
    Connecting { until: Instant },
    /// It is connected.
    On,
}

/// One peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    link: Link,
    /// Whether it was connected since anything was asked of it.
    was_on: bool,
    /// How often it was dialled since it last gave anything.
    retries: u32,
    asked: BTreeMap<Cid, Asked>,
    /// How many of `asked` are for blocks.
    owed: usize,
    past: Past,
    /// What it has yet to be told.
    changes: Vec<Want>,
    /// Whether a message is on its way; the next one waits for it, and takes all changes until then.
    pub(super) is_sending: bool,
    /// Whether the next message says all that is wanted: it may remember wants of an earlier connection.
    is_fresh: bool,
    /// When it last gave something, or began to owe it.
    progress: Instant,
    /// Whether it sent many blocks in one message.
    batches: bool,
    /// How often it was asked. Priorities fall with it, so that what was wanted first comes first.
    asked_ever: i32,
}

#[derive(Debug)]
struct Asked {
    ask: Ask,
    priority: i32,
    fetches: BTreeSet<FetchId>,
}

/// The last CIDs that a peer was asked for and is not asked for any more.
#[derive(Debug, Default)]
struct Past {
    order: VecDeque<Cid>,
    cids: BTreeSet<Cid>,
}

impl Past {
    fn insert(&mut self, cid: Cid) {
        if self.cids.insert(cid) {
            self.order.push_back(cid);
        }
        if self.order.len() > PAST_MAX {
            self.order.pop_front().map(|oldest| self.cids.remove(&oldest));
        }
    }
}

impl Peer {
    pub(super) fn link(&self) -> Link {
        self.link
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link == Link::On
    }

    /// Returns whether it is connected, or may be before long.
    pub(super) fn may_come(&self) -> bool {
        self.link != Link::Off
    }

    /// Returns how many more wants it may be asked for.
    pub(super) fn room(&self) -> usize {
        ASKED_MAX.saturating_sub(self.asked.len())
    }

    /// Returns whether it gathers many blocks in one message. One that does not may have a short queue of
    /// messages, as Helia does, and forgets what finds no room there.
    pub(super) fn batches(&self) -> bool {
        self.batches
    }

    /// Notes how many blocks of ours were in one message of it.
    pub(super) fn served(&mut self, blocks: u32) {
        self.batches |= blocks >= GATHERED_MIN;
    }

    /// Returns when something has to be done about it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.link {
            Link::Off => None,
            Link::Waiting { until } | Link::Connecting { until } => Some(until),
            // One that speaks an older version never says whether it has a block.
            Link::On if self.owed == 0 => None,
            Link::On => Some(self.progress + STALL),
        }
    }

    pub(super) fn dialled(&mut self, now: Instant) {
        self.link = Link::Connecting { until: now + CONNECT };
    }

    pub(super) fn connected(&mut self, now: Instant) {
        if self.link != Link::On {
            self.link = Link::On;
            self.was_on = true;
            self.progress = now;
            self.start_over();
        }
    }

    /// Nothing that was sent counts any more: the next message says all that is wanted.
    pub(super) fn start_over(&mut self) {
        self.is_fresh = true;
        self.is_sending = false;
        self.changes.clear();
    }

    /// Notes that the peer went, or did not come; returns whether it is worth another attempt.
    pub(super) fn disconnected(&mut self, now: Instant) -> bool {
        self.owed = 0;
        for cid in std::mem::take(&mut self.asked).into_keys() {
            self.past.insert(cid);
        }
        self.start_over();
        let retries = self.was_on && self.retries < RETRIES_MAX;
        self.link = if retries {
            let pause = RETRY * 2_u32.pow(self.retries);
            self.retries += 1;
            Link::Waiting { until: now + pause }
        } else {
            self.was_on = false;
            self.retries = 0;
            Link::Off
        };
        retries
    }

    pub(super) fn ask(&mut self, now: Instant, fetch: FetchId, cid: Cid, ask: Ask) {
        if self.owed == 0 {
            self.progress = now;
        }
        let asked = self.asked.get(&cid).map(|asked| asked.ask);
        if asked.is_none() {
            self.asked_ever = self.asked_ever.saturating_add(1);
        }
        let priority = i32::MAX - self.asked_ever;
        let new = || Asked { ask, priority, fetches: BTreeSet::new() };
        let entry = self.asked.entry(cid).or_insert_with(new);
        entry.fetches.insert(fetch);
        let is_more = asked == Some(Ask::Have) && ask == Ask::Block;
        if is_more {
            entry.ask = Ask::Block;
        }
        let priority = entry.priority;
        if asked.is_none() || is_more {
            self.owed += usize::from(ask == Ask::Block);
            self.changes.push(Want { cid, ask, priority, send_dont_have: true });
        }
    }

    /// Ends what it was asked for; it may still send it.
    fn settle(&mut self, cid: &Cid) -> Option<Asked> {
        let asked = self.asked.remove(cid)?;
        self.owed -= usize::from(asked.ask == Ask::Block);
        self.past.insert(*cid);
        Some(asked)
    }

    pub(super) fn withdraw(&mut self, fetch: FetchId, cid: &Cid) {
        let Some(asked) = self.asked.get_mut(cid) else { return };
        asked.fetches.remove(&fetch);
        if asked.fetches.is_empty() {
            self.settle(cid);
            self.cancel(*cid);
        }
    }

    pub(super) fn withdraw_all(&mut self) {
        for cid in self.asked.keys().copied().collect::<Vec<_>>() {
            self.settle(&cid);
            self.cancel(cid);
        }
    }

    fn cancel(&mut self, cid: Cid) {
        self.changes.push(Want { cid, ask: Ask::Cancel, priority: 0, send_dont_have: false });
    }

    /// Takes a block that came from it.
    pub(super) fn take_block(&mut self, now: Instant, named: Named) -> Received {
        let block = match named {
            Named::Block(block) => block,
            Named::Either { raw, dag_cbor } => {
                let known = |block: &Block| {
                    let cid = block.cid();
                    self.asked.contains_key(cid) || self.past.cids.contains(cid)
                };
                if known(&dag_cbor) { dag_cbor } else { raw }
            }
            Named::Foreign => return Received::Unasked,
        };
        if self.settle(block.cid()).is_some() {
            self.progressed(now);
            Received::Asked(block)
        } else if self.past.cids.contains(block.cid()) {
            Received::Late
        } else {
            Received::Unasked
        }
    }

    /// Takes what it says about a block; returns the fetches that asked.
    pub(super) fn take_presence(&mut self, now: Instant, presence: &Presence) -> BTreeSet<FetchId> {
        let Some(asked) = self.asked.get(&presence.cid) else { return BTreeSet::new() };
        let fetches = asked.fetches.clone();
        if !presence.is_here || asked.ask == Ask::Have {
            self.settle(&presence.cid);
            if !presence.is_here {
                // It would send the block should it ever come.
                self.cancel(presence.cid);
            }
            self.progressed(now);
        }
        fetches
    }

    fn progressed(&mut self, now: Instant) {
        self.progress = now;
        self.retries = 0;
    }

    /// Returns what it has to be told now.
    pub(super) fn next_message(&mut self) -> Option<(Vec<Want>, bool)> {
        if self.is_sending || self.link != Link::On {
            return None;
        }
        let is_full = self.is_fresh && !self.asked.is_empty();
        let wants = if is_full {
            self.changes.clear();
            let want = |(cid, asked): (&Cid, &Asked)| Want {
                cid: *cid,
                ask: asked.ask,
                priority: asked.priority,
                send_dont_have: true,
            };
            self.asked.iter().map(want).collect()
        } else {
            std::mem::take(&mut self.changes)
        };
        if wants.is_empty() {
            return None;
        }
        self.is_fresh = false;
        self.is_sending = true;
        Some((wants, is_full))
    }
}
