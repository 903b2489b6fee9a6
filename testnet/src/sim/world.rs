//! The world: one clock, one queue of events, one generator, and all nodes.
//!
//! A run has two parts. In the first, nodes seal segments, authorities revoke, and everything goes wrong that
//! was asked for. Then all of it heals, but for malice, and the rest of the run is for the nodes to agree again.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use dunlin_protocols::PeerId;
use dunlin_trust::{Evidence, Extension, UnixMillis, Withdrawal, recovery::Decision};
use dunlin_wire::cbor;

use super::{
    Adoption, Options, Report, Spread, Violation,
    adversary::{self, CAPTURED_MAX, Scene},
    fact::Fact,
    faults::{Fault, Injected},
    invariants::{self, Invariant, View},
    life,
    message::{Item, Kind, Message},
    network::{self, Network},
    node::{Body, Context, Node},
    notary::Notary,
    queue::Queue,
    rng::{self, Chance, below, between, per_mille},
    town::{self, EPOCH_MS, Role, Town, Truth},
    trace::{Line, Trace},
};

/// Above so many nodes each meets another less often, and malice is rationed.
const SMALL_MAX: usize = 1_000;

/// Others that a node knows well at the beginning.
const ACQUAINTANCES: usize = 6;

/// Blocks that an acquaintance has served: enough to be trusted.
const SERVED_BEFORE: u32 = 400;

/// Rounds of meeting others within which nodes must agree after everything healed.
const CONVERGE_TICKS: u64 = 20;

/// Segments that are sealed in a run.
const SEALED: u64 = 16;

/// Template sets that are released in a run.
const RELEASED: u64 = 8;

/// How often authorities revoke in a run, and how often a key withdraws itself.
const REVOKED: u64 = 3;
const WITHDRAWN: u64 = 2;

/// How often a node meets another, in milliseconds.
fn tick_ms(nodes: usize) -> u64 {
    if nodes <= SMALL_MAX { 3_000 } else { 60_000 }
}

/// Within how many milliseconds after everything healed nodes must agree.
pub(super) fn converge_ms_max(nodes: usize) -> u64 {
    CONVERGE_TICKS * tick_ms(nodes)
}

/// Something that happens.
#[derive(Debug)]
enum What {
    Deliver { from: u32, to: u32, message: Message },
    Tick(usize),
    Seal,
    Release,
    Crash,
    Leave,
    Start(usize),
    Split,
    Mend,
    Revoke,
    Withdraw,
    Decide,
    Malice,
    Heal,
    Check,
}

/// A revocation on its way.
#[derive(Debug)]
struct Spreading {
    at_ms: u64,
    peer: PeerId,
    reached: Vec<Option<u64>>,
}

/// Everything there is.
#[derive(Debug)]
pub(super) struct World {
    options: Options,
    epoch: Instant,
    now_ms: u64,
    end_ms: u64,
    heal_ms: u64,
    is_healed: bool,
    converged_ms: Option<u64>,
    queue: Queue<What>,
    rng: Chance,
    network: Network,
    town: Town,
    truth: Truth,
    notary: Notary,
    nodes: Vec<Node>,
    /// Pairs of nodes of which the second used a template set of the first.
    used: BTreeSet<(usize, usize)>,
    /// Nodes that released one.
    releasing: BTreeSet<usize>,
    malicious: Vec<usize>,
    captured: Vec<Arc<Item>>,
    invariants: Vec<Box<dyn Invariant + Send>>,
    trace: Trace,
    injected: Injected,
    checks: u64,
    violation: Option<Violation>,
    spreading: Vec<Spreading>,
    facts: Vec<Fact>,
    out: Vec<(usize, Message)>,
}

impl World {
    pub(super) fn new(options: Options, trace: Trace) -> Self {
        let mut rng = rng::of_seed(options.seed);
        let notary = Notary::default();
        let count = options.peers;
        let roles = town::roles(&mut rng, count, options.faults.has(Fault::Malice));
        let malicious = (0..count).filter(|node| roles[*node] != Role::Honest).collect();
        let town = Town::new(roles);
        let has_skew = options.faults.has(Fault::Skew);
        let nodes: Vec<_> = network::mesh(&mut rng, count)
            .into_iter()
            .enumerate()
            .map(|(me, neighbors)| {
                let day_ms = 24 * 3_600_000;
                let is_off = has_skew && per_mille(&mut rng, 300);
                let skew = between(&mut rng, 0, 2 * day_ms).cast_signed() - day_ms.cast_signed();
                Node::new(me, if is_off { skew } else { 0 }, neighbors, &town)
            })
            .collect();
        let end_ms = options.minutes * 60_000;
        let heal_ms = end_ms.saturating_sub(converge_ms_max(count) + 2 * tick_ms(count)).max(1);
        let mut injected = Injected::new();
        injected.insert("clocks off", nodes.iter().filter(|node| node.skew_ms != 0).count() as u64);
        injected.insert(
            "malicious peers",
            town.roles.iter().filter(|role| **role != Role::Honest).count() as u64,
        );
        Self {
            network: Network::new(options.faults.clone()),
            invariants: invariants::all(count),
            options,
            epoch: Instant::now(),
            now_ms: 0,
            end_ms,
            heal_ms,
            is_healed: false,
            converged_ms: None,
            queue: Queue::default(),
            rng,
            town,
            truth: Truth::default(),
            notary,
            nodes,
            used: BTreeSet::new(),
            releasing: BTreeSet::new(),
            malicious,
            captured: Vec::new(),
            trace,
            injected,
            checks: 0,
            violation: None,
            spreading: Vec::new(),
            facts: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Runs to the end, or to the first violation.
    pub(super) fn run(mut self) -> std::io::Result<Report> {
        self.introduce();
        self.plan();
        while self.violation.is_none()
            && let Some((at_ms, what)) = self.queue.pop()
            && at_ms <= self.end_ms
        {
            self.now_ms = at_ms;
            self.happen(what);
            self.look_at_facts();
        }
        self.now_ms = self.now_ms.min(self.end_ms);
        if self.violation.is_none() {
            self.check();
        }
        self.report()
    }

    /// Lets nodes know some of the others well, as in a network that has been there for a while.
    fn introduce(&mut self) {
        for node in 0..self.nodes.len() {
            let mut known = self.nodes[node].neighbors.clone();
            for _ in 0..ACQUAINTANCES {
                known.push(below(&mut self.rng, self.nodes.len()));
            }
            known.retain(|peer| *peer != node);
            self.with(node, |node, ctx| {
                for peer in known {
                    let served = Evidence::Served { blocks: SERVED_BEFORE };
                    node.remember_of(ctx, ctx.town.peers[peer], served);
                }
                node.disk.sync();
            });
        }
        self.facts.clear();
    }

    /// Puts into the queue what is to happen.
    fn plan(&mut self) {
        let (count, window) = (self.nodes.len() as u64, self.heal_ms);
        let tick = tick_ms(self.nodes.len());
        for node in 0..self.nodes.len() {
            let first = between(&mut self.rng, 0, tick);
            self.schedule(first, What::Tick(node));
        }
        let some = |count: u64, small: u64, large: u64| (count / small).clamp(1, large);
        let has = |world: &Self, fault| world.options.faults.has(fault);
        self.scatter(SEALED, || What::Seal);
        self.scatter(RELEASED, || What::Release);
        self.scatter(REVOKED, || What::Revoke);
        self.scatter(WITHDRAWN, || What::Withdraw);
        self.scatter(2, || What::Decide);
        if has(self, Fault::Crash) {
            self.scatter(some(count, 3, 200), || What::Crash);
        }
        if has(self, Fault::Churn) {
            self.scatter(some(count, 8, 100), || What::Leave);
        }
        if has(self, Fault::Partition) {
            for _ in 0..2 {
                let from = between(&mut self.rng, 0, window / 2);
                let to = between(&mut self.rng, from, window);
                self.schedule(from, What::Split);
                self.schedule(to, What::Mend);
            }
        }
        if !self.malicious.is_empty() {
            self.schedule(1_000, What::Malice);
        }
        self.schedule(window, What::Heal);
        self.schedule(tick, What::Check);
    }

    fn scatter(&mut self, count: u64, what: impl Fn() -> What) {
        for _ in 0..count {
            let at = between(&mut self.rng, 500, self.heal_ms.max(1_000));
            self.schedule(at, what());
        }
    }

    fn schedule(&mut self, at_ms: u64, what: What) {
        self.queue.push(at_ms, what);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Deliver { from, to, message } => {
                self.deliver(from as usize, to as usize, &message);
            }
            What::Tick(node) => self.tick(node),
            What::Seal => self.seal(),
            What::Release => self.release(),
            What::Crash => self.stop(true),
            What::Leave => self.stop(false),
            What::Start(node) => self.start(node),
            What::Split => {
                self.note(0, 0, "split", 0);
                *self.injected.entry("partitions").or_default() += 1;
                self.network.split(&mut self.rng, self.nodes.len(), self.now_ms);
            }
            What::Mend => {
                self.note(0, 0, "mend", 0);
                self.network.mend();
            }
            What::Revoke => self.revoke(),
            What::Withdraw => self.withdraw(),
            What::Decide => self.decide(),
            What::Malice => self.malice(),
            What::Heal => {
                self.note(0, 0, "heal", 0);
                self.network.heal();
                self.is_healed = true;
            }
            What::Check => {
                self.check();
                self.schedule(self.now_ms + tick_ms(self.nodes.len()), What::Check);
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, message: &Message) {
        if !self.nodes[to].is_up {
            return;
        }
        self.note(from, to, message.as_str(), message.id());
        let role = self.town.roles[to];
        if role != Role::Honest
            && let Message::Gossip(item) = message
        {
            self.overhear(item);
        }
        match role {
            Role::Withholder => *self.injected.entry("withheld messages").or_default() += 1,
            Role::Forger if matches!(message, Message::AskSegments(_) | Message::AskTemplates) => {
                *self.injected.entry("lies").or_default() += 1;
                self.with_scene(to, |node, scene| adversary::lie(node, from, message, scene));
            }
            _ => self.with(to, |node, ctx| node.on_message(ctx, from, message)),
        }
    }

    fn overhear(&mut self, item: &Arc<Item>) {
        if self.captured.len() < CAPTURED_MAX {
            self.captured.push(item.clone());
        } else if per_mille(&mut self.rng, 20) {
            let at = below(&mut self.rng, CAPTURED_MAX);
            self.captured[at] = item.clone();
        }
    }

    fn tick(&mut self, node: usize) {
        let tick = tick_ms(self.nodes.len());
        let next = self.now_ms + between(&mut self.rng, tick / 2, tick * 3 / 2);
        self.schedule(next, What::Tick(node));
        let with = below(&mut self.rng, self.nodes.len());
        if self.nodes[node].is_up {
            self.note(node, with, "tick", 0);
            self.with(node, |node, ctx| node.on_tick(ctx, with));
        }
    }

    fn seal(&mut self) {
        let Some(node) = self
            .pick(|world, node| matches!(world.town.roles[node], Role::Honest | Role::Colluder))
        else {
            return;
        };
        let start = between(&mut self.rng, 0, 24) as i64 * 600;
        let body = if self.town.is_honest(node) {
            Body {
                entity: format!("entity {}", below(&mut self.rng, 3)),
                start,
                end: start + between(&mut self.rng, 1, 12) as i64 * 600,
                content: between(&mut self.rng, 0, u64::MAX),
            }
        } else {
            Body { entity: "entity 0".to_owned(), start: 0, end: 3_600, content: 666 }
        };
        self.note(node, node, "seal", body.content);
        self.with(node, |node, ctx| node.seal(ctx, &body));
    }

    /// A node releases a template set: of what its entities do, or, of those who agreed on it, of what nobody does.
    fn release(&mut self) {
        let is_source = |world: &Self, node: usize| {
            let may = world.is_honest_member(node) || !world.town.is_honest(node);
            may && world.town.roles[node] != Role::Withholder
        };
        let Some(node) = self.pick(is_source) else { return };
        let is_junk = self.town.roles[node] == Role::Colluder;
        let kind = (!is_junk).then(|| self.town.lives[node]);
        let issued = self.nodes[node].unix_at(self.now_ms);
        let set = life::template_set(kind, issued.0, &mut self.rng);
        self.note(node, node, "release", u64::from(is_junk));
        let mut released = None;
        self.with(node, |node, ctx| released = Some(node.release(ctx, set)));
        self.truth.sets.extend(released.map(|item| (item.hash, kind)));
        self.releasing.insert(node);
    }

    /// A node ends: at once, or after it wrote down all that it had.
    fn stop(&mut self, is_crash: bool) {
        let Some(node) = self.pick(|_, _| true) else { return };
        let (fault, away_ms) =
            if is_crash { ("crashes", (500, 20_000)) } else { ("departures", (5_000, 60_000)) };
        *self.injected.entry(fault).or_default() += 1;
        self.note(node, node, if is_crash { "crash" } else { "leave" }, 0);
        let unsynced = self.nodes[node].disk.unsynced();
        let lucky = if is_crash { below(&mut self.rng, unsynced + 1) } else { unsynced };
        self.nodes[node].crash(lucky);
        let back = self.now_ms + between(&mut self.rng, away_ms.0, away_ms.1);
        self.schedule(back.min(self.heal_ms.max(self.now_ms + 1)), What::Start(node));
    }

    fn start(&mut self, node: usize) {
        self.note(node, node, "start", 0);
        self.with(node, |node, ctx| node.restart(ctx));
    }

    /// Authorities revoke a peer or two, by what the node knows to which they bring it.
    fn revoke(&mut self) {
        let Some(entry) = self.pick(|world, node| world.is_honest_member(node)) else { return };
        let mut peers = Vec::new();
        for _ in 0..=below(&mut self.rng, 2) {
            peers.extend(self.next_revoked());
        }
        let issued = UnixMillis(EPOCH_MS + self.now_ms);
        let draft = self.nodes[entry].trust.revocations().draft(&peers, issued);
        let draft = draft.expect("a network with authorities has logs");
        if draft.added() == 0 {
            return;
        }
        let sign = |key: &_| draft.sign(key).expect("authorities have Ed25519 keys");
        let signatures = self.town.authorities[..2].iter().map(sign).collect();
        let extension: Extension = draft.signed(signatures).expect("they signed this draft");
        let bytes = cbor::encode(&extension).expect("keys and signatures have an encoding");
        self.notary.vouch(&bytes);
        self.note(entry, entry, "revoke", peers.len() as u64);
        for peer in peers {
            self.truth.revoked.insert(peer);
            self.spread(peer);
        }
        let item = Item::new(Kind::Extension, bytes);
        self.hand_in(entry, &item);
    }

    /// A key withdraws itself, at a node that still hears it.
    fn withdraw(&mut self) {
        let Some(entry) = self.pick(|world, node| world.is_honest_member(node)) else { return };
        let Some(peer) = self.next_revoked() else { return };
        let key = self.town.keys[self.town.index[&peer]].clone();
        let issued = UnixMillis(EPOCH_MS + self.now_ms);
        let bytes = self.notary.sign(&key, Withdrawal::new(issued, None));
        self.note(entry, entry, "withdraw", 0);
        self.truth.revoked.insert(peer);
        self.spread(peer);
        self.hand_in(entry, &Item::new(Kind::Withdrawal, bytes));
    }

    /// Brings an item to a node from within, as its operator does.
    fn hand_in(&mut self, node: usize, item: &Arc<Item>) {
        self.with(node, |node, ctx| node.hand_in(ctx, item));
    }

    /// Returns a peer to revoke: one in two is honest, and lost its key. Nine in ten stay.
    fn next_revoked(&mut self) -> Option<PeerId> {
        if self.truth.revoked.len() * 10 >= self.nodes.len() {
            return None;
        }
        let node = below(&mut self.rng, self.nodes.len());
        let peer = self.town.peers[node];
        (!self.truth.revoked.contains(&peer)).then_some(peer)
    }

    fn spread(&mut self, peer: PeerId) {
        let reached = vec![None; self.nodes.len()];
        self.spreading.push(Spreading { at_ms: self.now_ms, peer, reached });
    }

    /// A person looks at a conflict, and prefers one version.
    fn decide(&mut self) {
        let has_conflict = |world: &Self, node: usize| {
            world.is_honest_member(node) && !world.nodes[node].conflicts.is_empty()
        };
        let Some(node) = self.pick(has_conflict) else { return };
        let conflicts: Vec<_> =
            self.nodes[node].conflicts.iter().map(|conflict| conflict.pair()).collect();
        let (first, second) = conflicts[below(&mut self.rng, conflicts.len())];
        let issued = UnixMillis(EPOCH_MS + self.now_ms);
        let decision = Decision::new(second, first, issued);
        let bytes = self.notary.sign(&self.town.operator, decision);
        self.note(node, node, "decide", 0);
        self.hand_in(node, &Item::new(Kind::Decision, bytes));
    }

    fn malice(&mut self) {
        let pause = if self.nodes.len() <= SMALL_MAX {
            20_000 / self.malicious.len() as u64
        } else {
            6_000
        };
        self.schedule(self.now_ms + pause.max(200), What::Malice);
        let node = self.malicious[below(&mut self.rng, self.malicious.len())];
        if self.nodes[node].is_up {
            self.note(node, node, "malice", 0);
            *self.injected.entry("malicious acts").or_default() += 1;
            self.with_scene(node, adversary::act);
        }
    }

    fn is_honest_member(&self, node: usize) -> bool {
        self.town.is_honest(node) && !self.truth.revoked.contains(&self.town.peers[node])
    }

    /// Returns a node that is up and fits.
    fn pick(&mut self, fits: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let count = self.nodes.len();
        let from = below(&mut self.rng, count);
        let mut nodes = (0..count).map(|step| (from + step) % count);
        nodes.find(|node| self.nodes[*node].is_up && fits(self, *node))
    }

    fn with(&mut self, node: usize, act: impl FnOnce(&mut Node, &mut Context<'_>)) {
        let Self { nodes, town, notary, out, facts, .. } = self;
        let mut ctx = Context {
            now_ms: self.now_ms,
            epoch: self.epoch,
            town,
            notary,
            bug: self.options.bug,
            out,
            facts,
        };
        act(&mut nodes[node], &mut ctx);
        self.send_from(node);
    }

    fn with_scene(&mut self, node: usize, act: impl FnOnce(&mut Node, &mut Scene<'_>)) {
        let Self { nodes, town, notary, rng, out, captured, .. } = self;
        let mut scene = Scene {
            now_ms: self.now_ms,
            town,
            notary,
            rng,
            captured,
            may_write: !self.is_healed,
            out,
        };
        act(&mut nodes[node], &mut scene);
        self.send_from(node);
    }

    fn send_from(&mut self, from: usize) {
        let short = |node: usize| u32::try_from(node).expect("so many nodes fit no memory");
        let mut out = std::mem::take(&mut self.out);
        for (to, message) in out.drain(..) {
            let arrivals =
                self.network.arrivals(&mut self.rng, (from, to), self.now_ms, &mut self.injected);
            for delay_ms in arrivals.into_iter().flatten() {
                let (from, to, message) = (short(from), short(to), message.clone());
                self.schedule(self.now_ms + delay_ms, What::Deliver { from, to, message });
            }
        }
        self.out = out;
    }

    fn note(&mut self, from: usize, to: usize, what: &'static str, id: u64) {
        self.trace.push(Line { at_ms: self.now_ms, from, to, what, id });
    }

    fn look_at_facts(&mut self) {
        let mut facts = std::mem::take(&mut self.facts);
        for fact in facts.drain(..) {
            let at = fact.at();
            match &fact {
                Fact::Revoked { at } => self.note_spread(*at),
                Fact::Used { at, author, .. } => drop(self.used.insert((*author, *at))),
                _ => {}
            }
            // What malicious nodes believe is their own affair.
            if self.town.is_honest(at) {
                self.ask(|invariant, view| invariant.on_fact(view, &fact));
            }
        }
        self.facts = facts;
    }

    fn note_spread(&mut self, node: usize) {
        let known = self.nodes[node].trust.revocations();
        for spreading in &mut self.spreading {
            let reached = &mut spreading.reached[node];
            if reached.is_none() && known.is_revoked(&spreading.peer) {
                *reached = Some(self.now_ms - spreading.at_ms);
            }
        }
    }

    fn check(&mut self) {
        self.ask(|invariant, view| invariant.check(view));
        if self.is_healed && self.converged_ms.is_none() {
            let agrees = invariants::agree(&self.view()).is_ok();
            self.converged_ms = agrees.then_some(self.now_ms - self.heal_ms);
        }
    }

    fn ask(&mut self, mut ask: impl FnMut(&mut dyn Invariant, &View<'_>) -> invariants::Checked) {
        if self.violation.is_some() {
            return;
        }
        let mut invariants = std::mem::take(&mut self.invariants);
        for invariant in &mut invariants {
            match ask(invariant.as_mut(), &self.view()) {
                Ok(checks) => self.checks += checks,
                Err(what) => {
                    let invariant = invariant.name();
                    self.violation = Some(Violation { invariant, at_ms: self.now_ms, what });
                    break;
                }
            }
        }
        self.invariants = invariants;
    }

    fn view(&self) -> View<'_> {
        View {
            now_ms: self.now_ms,
            town: &self.town,
            truth: &self.truth,
            notary: &self.notary,
            nodes: &self.nodes,
            healed_ms: self.is_healed.then_some(self.heal_ms),
        }
    }

    fn adoption(&self) -> Adoption {
        let mut adoption =
            Adoption { released: self.truth.sets.len() as u64, ..Adoption::default() };
        for author in self.releasing.iter().filter(|node| self.is_honest_member(**node)) {
            for node in (0..self.nodes.len()).filter(|node| node != author) {
                let is_alike = self.town.lives[node] == self.town.lives[*author];
                if is_alike && self.is_honest_member(node) {
                    adoption.fitting += 1;
                    adoption.used += u64::from(self.used.contains(&(*author, node)));
                }
            }
        }
        adoption
    }

    fn report(self) -> std::io::Result<Report> {
        let is_counted = |node: usize| self.is_honest_member(node);
        let spread = |spreading: &Spreading| {
            let nodes = (0..self.nodes.len()).filter(|node| is_counted(*node));
            let mut times: Vec<_> =
                nodes.clone().filter_map(|node| spreading.reached[node]).collect();
            times.sort_unstable();
            let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied();
            Spread {
                at_ms: spreading.at_ms,
                nodes: nodes.count(),
                reached: times.len(),
                half_ms: at(0.5),
                most_ms: at(0.99),
                all_ms: times.last().copied(),
            }
        };
        let revocations = self.spreading.iter().map(spread).collect();
        let templates = self.adoption();
        let tail = match &self.violation {
            Some(_) => self.trace.tail().map(ToString::to_string).collect(),
            None => Vec::new(),
        };
        let (events, trace) = self.trace.finish()?;
        Ok(Report {
            seed: self.options.seed,
            peers: self.options.peers,
            virtual_s: self.now_ms / 1_000,
            faults: self.injected,
            checks: self.checks,
            violations: self.violation.into_iter().collect(),
            converged_ms: self.converged_ms,
            revocations,
            templates,
            events,
            trace,
            tail,
        })
    }
}
