//! One simulated node: the production cores, and a shell of its own around them.
//!
//! The cores are [`Trust`] with its revocations, reports and proofs, [`Heard`], [`Conflicts`], and the catalog
//! with its comparison. The shell does what the daemon's tasks do, in one thread and in virtual time: it opens what arrives,
//! asks the gate, writes to disk before it lets things count, and passes on. What it may forget in a crash it has in
//! memory; [`Node::restart`] builds the rest from the disk.

mod gossip;
mod reconciling;
mod segments;
mod templates;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use dunlin_archive::catalog::Root;
use dunlin_protocols::{Heard, PeerId};
use dunlin_trust::{
    Evidence, Operation, Pending, Standing, StandingChange, Subject, Trust, UnixMillis,
    recovery::{ChangedRecord, Conflict, Conflicts, Preference},
};
use dunlin_wire::Cid;

use self::{reconciling::Session, segments::Stored, templates::Set};
pub(super) use self::{segments::Body, templates::SETS_MAX};
use super::{
    bug::Bug,
    disk::{Disk, Write},
    fact::Fact,
    message::{Item, Message},
    notary::Notary,
    town::{EPOCH_MS, Town},
};

/// Names of gossip that are remembered, so that it is looked at once. What comes again later is old news to the cores.
pub(super) const SEEN_MAX: usize = 256;

/// Announcements that are remembered, to notice when one contradicts another.
pub(super) const SAID_MAX: usize = 256;

/// Comparisons of catalogs at a time.
pub(super) const SESSIONS_MAX: usize = 8;

/// Attestations, decisions and proofs that are kept.
pub(super) const STATEMENTS_MAX: usize = 4_096;

/// Questions that are waited for.
const ASKED_MAX: usize = 16;

/// How long before the run what a node remembers of others happened, in milliseconds: long enough to be trusted for.
const BEFORE_MS: u64 = 2 * 3_600 * 1_000;

/// After how long a question counts as not answered, in milliseconds.
const TIMEOUT_MS: u64 = 10_000;

/// The hash of what is a part of a hash.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// Where an announcement of the one collection stands: its author and its number.
type Place = (u32, u64);

/// What a node acts with: the time, what it draws from, and where what it does goes.
pub(super) struct Context<'a> {
    pub(super) now_ms: u64,
    /// The zero of the clock that does not jump.
    pub(super) epoch: Instant,
    pub(super) town: &'a Town,
    pub(super) notary: &'a mut Notary,
    pub(super) bug: Option<Bug>,
    pub(super) out: &'a mut Vec<(usize, Message)>,
    pub(super) facts: &'a mut Vec<Fact>,
}

impl Context<'_> {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now_ms)
    }
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) me: usize,
    pub(super) is_up: bool,
    /// How far its clock is ahead, in milliseconds.
    pub(super) skew_ms: i64,
    /// To whom it passes gossip on.
    pub(super) neighbors: Vec<usize>,
    pub(super) disk: Disk,
    pub(super) trust: Trust,
    pub(super) conflicts: Conflicts,
    heard: Heard,
    seen: HashSet<u64, BuildHasherDefault<AsItIs>>,
    seen_order: VecDeque<u64>,
    said: BTreeMap<Place, Arc<Item>>,
    said_order: VecDeque<Place>,
    sequence: u64,
    /// By name, for answers and comparisons.
    pub(super) segments: BTreeMap<Cid, Stored>,
    /// Names by what they are about.
    by_series: BTreeMap<String, Vec<Cid>>,
    pub(super) catalog: Option<Root>,
    blocks: BTreeMap<Cid, Arc<[u8]>>,
    /// Attestations, decisions and proofs, by their short names: many nodes hold thousands.
    pub(super) statements: BTreeMap<u64, Arc<Item>>,
    statements_digest: u64,
    /// Who attests to a segment, by number.
    makers: BTreeMap<Cid, BTreeSet<u32>>,
    sessions: BTreeMap<usize, Session>,
    asked: BTreeMap<usize, u64>,
    /// Who presented a license since the last tick. As when connections end, it is forgotten then, and presented again.
    presented: Vec<u32>,
    /// The own template set.
    released: Option<Arc<Item>>,
    /// Those of others.
    sets: BTreeMap<usize, Set>,
}

impl Node {
    pub(super) fn new(me: usize, skew_ms: i64, neighbors: Vec<usize>, town: &Town) -> Self {
        Self {
            me,
            is_up: true,
            skew_ms,
            neighbors,
            disk: Disk::default(),
            trust: Trust::new(town.config.clone(), Vec::new()),
            conflicts: Conflicts::default(),
            heard: Heard::default(),
            seen: HashSet::default(),
            seen_order: VecDeque::new(),
            said: BTreeMap::new(),
            said_order: VecDeque::new(),
            sequence: 0,
            segments: BTreeMap::new(),
            by_series: BTreeMap::new(),
            catalog: None,
            blocks: BTreeMap::new(),
            statements: BTreeMap::new(),
            statements_digest: 0,
            makers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            asked: BTreeMap::new(),
            presented: Vec::new(),
            released: None,
            sets: BTreeMap::new(),
        }
    }

    /// Ends the node; of what it had not synced, `lucky` writes are there all the same.
    pub(super) fn crash(&mut self, lucky: usize) {
        self.is_up = false;
        self.disk.crash(lucky);
    }

    /// Starts it again from what is on disk.
    pub(super) fn restart(&mut self, ctx: &mut Context<'_>) {
        let disk = std::mem::take(&mut self.disk);
        let neighbors = std::mem::take(&mut self.neighbors);
        *self = Self::new(self.me, self.skew_ms, neighbors, ctx.town);
        self.disk = disk;
        let contents = self.disk.contents().clone();
        if !ctx.has(Bug::ForgetRecords) {
            self.trust = Trust::new(ctx.town.config.clone(), contents.read_records());
        }
        if !ctx.has(Bug::ForgetRevocations) {
            for record in &contents.revocations {
                self.trust.restore_revocation(record).expect("what was written is whole");
            }
        }
        if !ctx.has(Bug::ForgetFlags) {
            for record in contents.conflicts.values() {
                self.conflicts.restore(record).expect("what was written is whole");
            }
        }
        if !ctx.has(Bug::ForgetSequence) {
            self.sequence = contents.sequence;
        }
        for item in &contents.statements {
            self.recall(ctx, item);
        }
        for (cid, bytes) in &contents.segments {
            self.index(*cid, bytes);
        }
        self.grow_catalog(&contents.segments.keys().copied().collect::<Vec<_>>());
        self.recall_templates(ctx);
        ctx.facts.push(Fact::Restarted { at: self.me });
    }

    /// Takes what a peer sent.
    pub(super) fn on_message(&mut self, ctx: &mut Context<'_>, from: usize, message: &Message) {
        match message {
            Message::Gossip(item) => self.on_gossip(ctx, from, item),
            Message::Hello(summary) => self.on_hello(ctx, from, summary),
            Message::Welcome(summary) => self.on_welcome(ctx, from, summary),
            Message::AskRevocations(request) => self.on_ask_revocations(ctx, from, request),
            Message::Revocations(answer) => self.on_revocations(ctx, from, answer),
            Message::AskNodes(cids) => self.on_ask_nodes(ctx, from, cids),
            Message::Nodes(blocks) => self.on_nodes(ctx, from, blocks),
            Message::AskSegments(cids) => self.on_ask_segments(ctx, from, cids),
            Message::Segments(sent) => self.on_segments(ctx, from, sent),
            Message::AskTemplates => self.on_ask_templates(ctx, from),
            Message::Templates(item) => self.on_templates(ctx, from, item),
            Message::AskStatements(names) => self.on_ask_statements(ctx, from, names),
            Message::Statements(items) => {
                for item in items {
                    self.on_gossip(ctx, from, item);
                }
            }
        }
    }

    /// Does what is done from time to time: syncs, blames who does not answer, and compares with one peer.
    pub(super) fn on_tick(&mut self, ctx: &mut Context<'_>, with: usize) {
        self.disk.sync();
        for peer in std::mem::take(&mut self.presented) {
            self.trust.forget_license(&ctx.town.peers[peer as usize]);
        }
        let late: Vec<_> = self
            .asked
            .iter()
            .filter(|(_, asked_ms)| ctx.now_ms - **asked_ms > TIMEOUT_MS)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in late {
            self.asked.remove(&peer);
            self.observe(ctx, ctx.town.peers[peer], Evidence::Timeout);
        }
        self.sessions.retain(|_, session| ctx.now_ms - session.since_ms <= TIMEOUT_MS);
        self.match_with_templates(ctx);
        if with != self.me && self.may(ctx, with, Operation::FetchSegments) {
            if self.asked.len() < ASKED_MAX {
                self.asked.entry(with).or_insert(ctx.now_ms);
            }
            ctx.out.push((with, Message::Hello(Arc::new(self.summary()))));
        }
    }

    /// Takes in what a peer did.
    pub(super) fn observe(&mut self, ctx: &mut Context<'_>, peer: PeerId, evidence: Evidence) {
        let change = self.trust.observe(self.unix(ctx), peer, evidence);
        self.keep_records(ctx, change);
    }

    /// Takes in what a peer did before the run began.
    pub(super) fn remember_of(&mut self, ctx: &mut Context<'_>, peer: PeerId, evidence: Evidence) {
        let before = self.unix(ctx).0.saturating_sub(BEFORE_MS);
        let change = self.trust.observe(UnixMillis(before), peer, evidence);
        self.keep_records(ctx, change);
    }

    /// Returns the time by this node's wall clock.
    pub(super) fn unix(&self, ctx: &Context<'_>) -> UnixMillis {
        self.unix_at(ctx.now_ms)
    }

    pub(super) fn unix_at(&self, now_ms: u64) -> UnixMillis {
        UnixMillis((EPOCH_MS + now_ms).saturating_add_signed(self.skew_ms))
    }

    /// Returns which version of a conflict this node uses.
    pub(super) fn preference(&self, now: UnixMillis, conflict: &Conflict) -> Preference {
        self.conflicts.preference(conflict, |peer| self.trust.standing(now, peer))
    }

    pub(super) fn makers<'a>(&self, town: &'a Town, cid: &Cid) -> impl Iterator<Item = &'a PeerId> {
        self.makers.get(cid).into_iter().flatten().map(|maker| &town.peers[*maker as usize])
    }

    /// Returns how much is held in memory of what has a limit: seen, said, sessions, statements, questions, template sets.
    pub(super) fn held(&self) -> [usize; 6] {
        [
            self.seen.len(),
            self.said.len(),
            self.sessions.len(),
            self.statements.len(),
            self.asked.len(),
            self.sets.len(),
        ]
    }

    /// Asks the gate, after the peer has presented its license, as it does when it connects.
    fn may(&mut self, ctx: &mut Context<'_>, peer: usize, operation: Operation) -> bool {
        self.present(ctx, peer);
        self.trust.may(self.unix(ctx), &ctx.town.peers[peer], operation).is_ok()
    }

    /// As [`Self::may`], of an author that may be no peer of this network.
    fn may_author(&mut self, ctx: &mut Context<'_>, author: &PeerId, operation: Operation) -> bool {
        let node = ctx.town.index.get(author).copied();
        node.is_some_and(|node| self.may(ctx, node, operation))
    }

    fn present(&mut self, ctx: &mut Context<'_>, peer: usize) {
        let (now, id) = (self.unix(ctx), ctx.town.peers[peer]);
        if self.trust.is_licensed(now, &id) {
            return;
        }
        if let Some((license, signers)) = ctx.notary.license(peer, &ctx.town.licenses[peer]) {
            // Whoever is not let in for it is refused by the gate.
            self.trust.present_opened_license(now, id, license.clone(), signers).ok();
            self.presented.push(peer as u32);
        }
    }

    fn serves(&mut self, ctx: &mut Context<'_>, to: usize) -> bool {
        self.serves_with(ctx, to, Operation::ServePublicBlocks)
    }

    fn serves_with(&mut self, ctx: &mut Context<'_>, to: usize, operation: Operation) -> bool {
        let serves = ctx.has(Bug::ServeAnyone) || self.may(ctx, to, operation);
        if serves {
            ctx.facts.push(Fact::Served { by: self.me, to });
        }
        serves
    }

    /// Returns whether what a peer sends may have an effect.
    fn hears(&mut self, ctx: &mut Context<'_>, from: usize, operation: Operation) -> bool {
        ctx.has(Bug::HearAnyone) || self.may(ctx, from, operation)
    }

    /// Writes a revocation down, and then lets it count.
    fn revoke(&mut self, ctx: &mut Context<'_>, pending: Pending) {
        if !ctx.has(Bug::SkipPersist) {
            self.disk.write(Write::Revocation(ctx.notary.shared(pending.record())));
        }
        if !ctx.has(Bug::PersistLate) {
            self.disk.sync();
        }
        self.trust.apply_revocation(pending);
        self.keep_records(ctx, None);
        ctx.facts.push(Fact::Revoked { at: self.me });
    }

    /// Writes records of peers down. A quarantine is on disk before anything else happens.
    fn keep_records(&mut self, ctx: &mut Context<'_>, change: Option<StandingChange>) {
        while let Some(record) = self.trust.next_dirty() {
            self.disk.write(Write::Record(Subject::of(record.peer()), record));
        }
        while let Some(peer) = self.trust.next_forgotten() {
            self.disk.write(Write::Forget(Subject::of(&peer)));
        }
        if let Some(StandingChange { peer, to, .. }) = change {
            if to == Standing::Quarantined {
                self.disk.sync();
            }
            ctx.facts.push(Fact::Moved { at: self.me, peer, to });
        }
    }

    fn keep_conflicts(&mut self, ctx: &mut Context<'_>) {
        while let Some(ChangedRecord { name, record }) = self.conflicts.next_changed() {
            let (name, record) = (ctx.notary.shared(name), ctx.notary.shared(record));
            self.disk.write(Write::Conflict(name, record));
        }
    }
}
