//! When to tell the DHT what this node has: what is due, in which order, and how fast.
//!
//! Records of providers fade away, so each is told again in time. What is due is told in the order of its
//! place on the DHT, so that neighboring keys go to peers that have just been met, a few at once and with a
//! pause between them; what was told to nobody is tried again, later each time. Few things are told: roots,
//! never what they link to, and objects that the operator names, up to a limit. So a node with a million
//! segments has as much to do as one with ten.
//!
//! Facts and the time come in, actions go out: nothing here knows a clock, a disk or a network. Times are of
//! the wall clock, because they outlast the process; a clock that goes back makes things due early, never late.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use dunlin_wire::Cid;
use sha2::{Digest, Sha256};

/// Most roots that are told of. Those beyond are left out and counted.
pub const ROOTS_MAX: usize = 8192;

/// What is due within this part of the interval is told with what is due now: so records that were first
/// told at different times end up in one sweep.
const AHEAD_PART: u64 = 8;

/// How and how often to tell.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long after it was told something is told again. Peers of the IPFS DHT keep a record for 48 hours;
    /// default 22 hours, as they do it.
    pub every: Duration,
    /// Questions to the DHT under way at once, default 8.
    pub under_way_max: usize,
    /// Least time between the starts of two, default 100 ms.
    pub pause: Duration,
    /// When what was told to nobody is tried again; it doubles with every failure. Default one minute.
    pub retry_min: Duration,
    /// The longest that it takes until it is tried again, default an hour.
    pub retry_max: Duration,
    /// Most objects that are told of beside the roots, default 1,000.
    pub objects_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(22 * 3600),
            under_way_max: 8,
            pause: Duration::from_millis(100),
            retry_min: Duration::from_secs(60),
            retry_max: Duration::from_secs(3600),
            objects_max: 1000,
        }
    }
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// These are all roots now.
    Roots(BTreeSet<Cid>),
    /// The operator wants these objects to be found, too.
    Objects(Vec<Cid>),
    /// This one must not be told of any more.
    Forget(Cid),
    /// What was to be told was told.
    Told {
        /// Of what.
        cid: Cid,
        /// Whether there was a peer to hear it.
        is_heard: bool,
    },
    /// There are peers to tell: what could be told to nobody may be worth another try.
    Met,
    /// There is nobody to tell, as at the start. Nothing is tried until there is.
    Alone,
    /// The operator wants everything told again now.
    Again,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the DHT, and say how it went with [`Input::Told`].
    Provide(Cid),
    /// Stop to say that this is here.
    Withdraw(Cid),
}

/// What is kept of one thing on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub cid: Cid,
    /// Whether it is a root.
    pub is_root: bool,
    /// Whether the operator named it.
    pub is_object: bool,
    /// When peers were last told, in milliseconds since the epoch.
    pub told_ms: Option<u64>,
    /// When it was last tried.
    pub tried_ms: u64,
    /// How often it has failed since.
    pub failures: u32,
}

/// A row that is to be written, or to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write it.
    Keep(Row),
    /// Remove it.
    Forget(Cid),
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Told, and not yet to be told again.
    pub provided: u64,
    /// To be told as soon as it is their turn; those under way among them.
    pub due: u64,
    /// Told to nobody when it was tried last.
    pub failed: u64,
    /// Left out, because there are too many.
    pub left_out: u64,
}

/// Why an object is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at most {objects_max} objects are provided; raise `archive.provide_max`")]
pub struct TooMany {
    /// How many there may be.
    pub objects_max: usize,
}

/// The place of a key on the DHT, by which its peers are near or far.
type Place = [u8; 32];

/// The schedule.
#[derive(Debug)]
pub struct Providing {
    config: Config,
    rows: BTreeMap<Place, Row>,
    /// When each is due, or was.
    due_ms: BTreeMap<Place, u64>,
    /// The same by time, of those that are neither ready nor under way.
    waiting: BTreeSet<(u64, Place)>,
    /// Due, in the order of their turn.
    ready: BTreeSet<Place>,
    under_way: BTreeSet<Place>,
    is_alone: bool,
    /// Where the sweep is.
    cursor: Place,
    next_start_ms: u64,
    now_ms: u64,
    left_out: u64,
    actions: VecDeque<Action>,
    changes: BTreeMap<Place, Change>,
}

impl Providing {
    /// Returns the schedule that goes on with what was kept.
    #[must_use]
    pub fn new(config: Config, kept: Vec<Row>, now_ms: u64) -> Self {
        let mut schedule = Self {
            config,
            rows: kept.into_iter().map(|row| (place(&row.cid), row)).collect(),
            due_ms: BTreeMap::new(),
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            under_way: BTreeSet::new(),
            is_alone: true,
            cursor: [0; 32],
            next_start_ms: now_ms,
            now_ms,
            left_out: 0,
            actions: VecDeque::new(),
            changes: BTreeMap::new(),
        };
        schedule.reschedule(now_ms);
        schedule
    }

    /// Takes a fact.
    pub fn handle(&mut self, now_ms: u64, input: Input) {
        match input {
            Input::Roots(roots) => self.on_roots(now_ms, &roots),
            Input::Objects(cids) => {
                let room = self.config.objects_max.saturating_sub(self.objects().count());
                for cid in cids.into_iter().take(room) {
                    self.insert(now_ms, cid, |row| row.is_object = true);
                }
            }
            Input::Forget(cid) => self.remove(&place(&cid)),
            Input::Told { cid, is_heard } => self.on_told(now_ms, &cid, is_heard),
            Input::Met => self.on_met(now_ms),
            Input::Alone => self.is_alone = true,
            Input::Again => {
                self.ready.extend(std::mem::take(&mut self.waiting).into_iter().map(|(_, at)| at));
            }
        }
        self.wake(now_ms);
    }

    /// Does what is due.
    pub fn wake(&mut self, now_ms: u64) {
        if now_ms < self.now_ms {
            self.reschedule(now_ms);
        }
        self.now_ms = now_ms;
        if self.waiting.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms) {
            self.collect(now_ms);
        }
        while !self.is_alone
            && now_ms >= self.next_start_ms
            && self.under_way.len() < self.config.under_way_max
            && let Some(next) = self.next_in_turn()
        {
            self.ready.remove(&next);
            self.under_way.insert(next);
            self.cursor = next;
            self.next_start_ms = now_ms + millis(self.config.pause);
            self.actions.push_back(Action::Provide(self.rows[&next].cid));
        }
    }

    /// Returns when to wake it again.
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        let has_room = self.under_way.len() < self.config.under_way_max;
        let is_turn = has_room && !self.is_alone && !self.ready.is_empty();
        let start = is_turn.then_some(self.next_start_ms);
        start.into_iter().chain(self.waiting.first().map(|(due_ms, _)| *due_ms)).min()
    }

    /// Returns what to do next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns what changed since this was asked last, to be kept. What is lost is told once more.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes).into_values().collect()
    }

    /// Returns whether so many more objects find room.
    ///
    /// # Errors
    ///
    /// Fails when they do not.
    pub fn has_room(&self, cids: &[Cid]) -> Result<(), TooMany> {
        let known: BTreeSet<_> = self.objects().collect();
        let more = cids.iter().filter(|cid| !known.contains(cid)).collect::<BTreeSet<_>>().len();
        let objects_max = self.config.objects_max;
        if known.len() + more <= objects_max { Ok(()) } else { Err(TooMany { objects_max }) }
    }

    /// Returns everything that is told of.
    pub fn all(&self) -> impl Iterator<Item = &Cid> {
        self.rows.values().map(|row| &row.cid)
    }

    /// Returns how far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut progress = Progress { left_out: self.left_out, ..Progress::default() };
        for (place, row) in &self.rows {
            let is_turn = self.ready.contains(place) || self.under_way.contains(place);
            match row.failures {
                0 if row.told_ms.is_some() && !is_turn => progress.provided += 1,
                0 => progress.due += 1,
                _ => progress.failed += 1,
            }
        }
        progress
    }

    fn objects(&self) -> impl Iterator<Item = &Cid> {
        self.rows.values().filter(|row| row.is_object).map(|row| &row.cid)
    }

    fn on_roots(&mut self, now_ms: u64, roots: &BTreeSet<Cid>) {
        self.left_out = roots.len().saturating_sub(ROOTS_MAX) as u64;
        let wanted: BTreeMap<Place, Cid> =
            roots.iter().take(ROOTS_MAX).map(|cid| (place(cid), *cid)).collect();
        let gone = self.rows.iter().filter(|(at, row)| row.is_root && !wanted.contains_key(*at));
        for at in gone.map(|(at, _)| *at).collect::<Vec<_>>() {
            match self.rows.get_mut(&at) {
                Some(row) if row.is_object => {
                    row.is_root = false;
                    self.changes.insert(at, Change::Keep(*row));
                }
                _ => self.remove(&at),
            }
        }
        for cid in wanted.into_values() {
            self.insert(now_ms, cid, |row| row.is_root = true);
        }
    }

    fn insert(&mut self, now_ms: u64, cid: Cid, mark: impl Fn(&mut Row)) {
        let at = place(&cid);
        let is_new = !self.rows.contains_key(&at);
        let row = self.rows.entry(at).or_insert(Row {
            cid,
            is_root: false,
            is_object: false,
            told_ms: None,
            tried_ms: 0,
            failures: 0,
        });
        let before = *row;
        mark(row);
        if is_new || *row != before {
            self.changes.insert(at, Change::Keep(*row));
        }
        if is_new {
            self.wait(at, now_ms);
        }
    }

    fn wait(&mut self, at: Place, due_ms: u64) {
        self.due_ms.insert(at, due_ms);
        self.waiting.insert((due_ms, at));
    }

    fn remove(&mut self, at: &Place) {
        let Some(row) = self.rows.remove(at) else { return };
        self.ready.remove(at);
        self.under_way.remove(at);
        if let Some(due_ms) = self.due_ms.remove(at) {
            self.waiting.remove(&(due_ms, *at));
        }
        self.actions.retain(|action| *action != Action::Provide(row.cid));
        self.actions.push_back(Action::Withdraw(row.cid));
        self.changes.insert(*at, Change::Forget(row.cid));
    }

    fn on_told(&mut self, now_ms: u64, cid: &Cid, is_heard: bool) {
        let at = place(cid);
        if !self.under_way.remove(&at) {
            return;
        }
        let Some(row) = self.rows.get_mut(&at) else { return };
        row.tried_ms = now_ms;
        if is_heard {
            (row.told_ms, row.failures) = (Some(now_ms), 0);
        } else {
            row.failures = row.failures.saturating_add(1);
        }
        let row = *row;
        self.changes.insert(at, Change::Keep(row));
        self.wait(at, self.config.due_ms(&row, now_ms));
    }

    /// What has failed is tried again, but no sooner than the shortest pause allows: whoever comes and goes
    /// does not set the pace.
    fn on_met(&mut self, now_ms: u64) {
        self.is_alone = false;
        let retry_min = millis(self.config.retry_min);
        for (due_ms, at) in std::mem::take(&mut self.waiting) {
            let row = self.rows[&at];
            let soon_ms = (row.tried_ms + retry_min).max(now_ms);
            self.wait(at, if row.failures > 0 { due_ms.min(soon_ms) } else { due_ms });
        }
    }

    /// Begins a sweep: what is due, and what will be soon.
    fn collect(&mut self, now_ms: u64) {
        let soon_ms = now_ms + millis(self.config.every) / AHEAD_PART;
        let later = self.waiting.split_off(&(soon_ms, [u8::MAX; 32]));
        for (due_ms, at) in std::mem::replace(&mut self.waiting, later) {
            if due_ms <= now_ms || self.rows[&at].failures == 0 {
                self.ready.insert(at);
            } else {
                self.waiting.insert((due_ms, at));
            }
        }
    }

    /// Returns the next place behind the cursor, round and round.
    fn next_in_turn(&self) -> Option<Place> {
        self.ready.range(self.cursor..).next().or_else(|| self.ready.first()).copied()
    }

    /// Makes all times anew, none of which is in the future.
    fn reschedule(&mut self, now_ms: u64) {
        self.waiting.clear();
        for (at, row) in &mut self.rows {
            row.told_ms = row.told_ms.map(|told_ms| told_ms.min(now_ms));
            row.tried_ms = row.tried_ms.min(now_ms);
            if !self.ready.contains(at) && !self.under_way.contains(at) {
                let due_ms = self.config.due_ms(row, now_ms);
                self.due_ms.insert(*at, due_ms);
                self.waiting.insert((due_ms, *at));
            }
        }
        self.next_start_ms = self.next_start_ms.min(now_ms + millis(self.config.pause));
    }
}

impl Config {
    fn due_ms(&self, row: &Row, now_ms: u64) -> u64 {
        match (row.failures, row.told_ms) {
            (0, None) => now_ms,
            (0, Some(told_ms)) => told_ms + millis(self.every),
            (failures, _) => {
                let doublings = (failures - 1).min(16);
                let pause = self.retry_min.saturating_mul(1 << doublings).min(self.retry_max);
                row.tried_ms + millis(pause)
            }
        }
    }
}

fn place(cid: &Cid) -> Place {
    Sha256::digest(cid.hash().to_bytes()).into()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}
