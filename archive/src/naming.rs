//! When to sign a record of the node's name, and when to tell the DHT of it.
//!
//! A new root is published when nothing changed for a moment, and not more often than a pause allows, for
//! each costs a question to the DHT. A record is renewed at half of its life, and told again well before those
//! who keep it forget it. Sequence numbers only rise: a record is on disk before anybody hears of it.
//!
//! Facts and the time come in, actions go out. Times are of the wall clock, in milliseconds since the epoch.

use std::{collections::VecDeque, time::Duration};

use dunlin_wire::Cid;

/// How and how often to publish.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a record is valid; default 48 hours, for which peers of the IPFS DHT keep one.
    pub lifetime: Duration,
    /// How long a root stays as it is before it is published, default 10 seconds.
    pub settle: Duration,
    /// Least time between two records that nobody asked for, default 10 minutes.
    pub pause: Duration,
    /// How often the DHT is told again of the same record, default 4 hours: peers of it come and go.
    pub put_every: Duration,
    /// When it is told again after nobody heard; it doubles with every failure. Default one minute.
    pub retry_min: Duration,
    /// The longest that this takes, default an hour.
    pub retry_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(48 * 3600),
            settle: Duration::from_secs(10),
            pause: Duration::from_secs(600),
            put_every: Duration::from_secs(4 * 3600),
            retry_min: Duration::from_secs(60),
            retry_max: Duration::from_secs(3600),
        }
    }
}

/// What the newest record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What the name stands for; nothing for a record that was made elsewhere with another value.
    pub root: Option<Cid>,
    /// Its sequence number.
    pub sequence: u64,
    /// When it ends.
    pub eol_ms: u64,
}

/// A fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// This is what the node gives to everybody now; nothing, when it gives nothing.
    Root(Option<Cid>),
    /// The operator wants it published now.
    Now,
    /// The record that was to be signed is signed and on disk.
    Signed {
        /// What it names: what was there to give at that moment.
        root: Cid,
    },
    /// It is not: something failed. It is tried again.
    NotSigned,
    /// So many peers keep the record now; none is a failure.
    Put {
        /// How many.
        peers: usize,
    },
    /// The DHT knows a record that this node does not: of a time that it has forgotten.
    Overtaken {
        /// The number of that record.
        sequence: u64,
    },
    /// There are peers to tell: what nobody could hear may be worth another try.
    Met,
    /// There is nobody to tell, as at the start. Nothing is put until there is.
    Alone,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sign a record of what there is to give, make it durable, and say so.
    Sign {
        /// The sequence number.
        sequence: u64,
        /// When it ends.
        eol_ms: u64,
    },
    /// Tell the DHT of the newest record, and say how it went.
    Put,
}

/// What the node's name is at, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The newest record.
    pub statement: Option<Statement>,
    /// When the DHT was last told of it.
    pub put_ms: Option<u64>,
    /// How many peers took it then, at most 20.
    pub peers: u64,
    /// How often telling has failed since.
    pub failures: u32,
    /// Whether there is something to give.
    pub is_public: bool,
    /// Whether a newer root waits.
    pub is_due: bool,
    /// Whether the DHT is being told.
    pub is_putting: bool,
}

/// The schedule of a name.
#[derive(Debug)]
pub struct Naming {
    config: Config,
    root: Option<Cid>,
    newest: Option<Statement>,
    /// Number and end of what is being signed.
    signing: Option<(u64, u64)>,
    signed_ms: Option<u64>,
    /// When to sign, if a root waits for it.
    sign_at_ms: Option<u64>,
    /// When it may be signed again after that failed.
    rest_until_ms: u64,
    put_at_ms: Option<u64>,
    is_putting: bool,
    is_alone: bool,
    put_ms: Option<u64>,
    peers: u64,
    failures: u32,
    now_ms: u64,
    actions: VecDeque<Action>,
}

impl Naming {
    /// Returns the schedule that goes on from the newest record that there is, here or elsewhere.
    #[must_use]
    pub fn new(config: Config, newest: Option<Statement>, now_ms: u64) -> Self {
        Self {
            config,
            root: None,
            newest,
            signing: None,
            signed_ms: None,
            sign_at_ms: None,
            rest_until_ms: 0,
            put_at_ms: None,
            is_putting: false,
            is_alone: true,
            put_ms: None,
            peers: 0,
            failures: 0,
            now_ms,
            actions: VecDeque::new(),
        }
    }

    /// Takes a fact.
    pub fn handle(&mut self, now_ms: u64, input: Input) {
        match input {
            Input::Root(root) => self.on_root(now_ms, root),
            Input::Now => self.on_now(now_ms),
            Input::Signed { root } => self.on_signed(now_ms, root),
            Input::NotSigned => {
                if self.signing.take().is_some() {
                    self.sign_at_ms = Some(now_ms);
                    self.rest_until_ms = now_ms + millis(self.config.retry_min);
                }
            }
            Input::Put { peers } => self.on_put(now_ms, peers),
            Input::Overtaken { sequence } => self.on_overtaken(now_ms, sequence),
            Input::Met => {
                self.is_alone = false;
                if self.failures > 0 {
                    let soon_ms = now_ms + millis(self.config.retry_min);
                    self.put_at_ms = self.put_at_ms.map(|at_ms| at_ms.min(soon_ms));
                }
            }
            Input::Alone => self.is_alone = true,
        }
        self.wake(now_ms);
    }

    /// Does what is due.
    pub fn wake(&mut self, now_ms: u64) {
        if now_ms < self.now_ms {
            self.on_clock_back(now_ms);
        }
        self.now_ms = now_ms;
        let is_due = self.sign_at().is_some_and(|at_ms| at_ms <= now_ms);
        if is_due && self.signing.is_none() {
            self.sign(now_ms);
        }
        if self.put_at().is_some_and(|at_ms| at_ms <= now_ms) {
            self.put_at_ms = None;
            self.is_putting = true;
            self.actions.push_back(Action::Put);
        }
    }

    /// Returns when to wake it again.
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        let sign = self.sign_at().filter(|_| self.signing.is_none());
        sign.into_iter().chain(self.put_at()).min()
    }

    /// Returns what to do next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns what the name is at.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            statement: self.newest,
            put_ms: self.put_ms,
            peers: self.peers,
            failures: self.failures,
            is_public: self.root.is_some(),
            is_due: self.sign_at_ms.is_some() || self.signing.is_some(),
            is_putting: self.is_putting,
        }
    }

    fn on_root(&mut self, now_ms: u64, root: Option<Cid>) {
        self.root = root;
        let said = self.newest.and_then(|newest| newest.root);
        if root.is_none() {
            // What was said fades away by itself.
            (self.sign_at_ms, self.put_at_ms) = (None, None);
        } else if root == said {
            self.sign_at_ms = None;
            // A start, or something to say again: those who keep records may have forgotten.
            if self.put_at_ms.is_none() && self.put_ms.is_none() && !self.is_putting {
                self.put_at_ms = Some(now_ms);
            }
        } else if self.sign_at_ms.is_none() {
            let rested = self.signed_ms.map_or(0, |ms| ms + millis(self.config.pause));
            self.sign_at_ms = Some(rested.max(now_ms + millis(self.config.settle)));
        }
    }

    fn on_now(&mut self, now_ms: u64) {
        if self.root.is_none() {
            return;
        }
        if self.sign_at_ms.is_some() {
            self.sign_at_ms = Some(now_ms);
        } else if self.signing.is_none() {
            self.put_at_ms = Some(now_ms);
        }
    }

    fn sign(&mut self, now_ms: u64) {
        let sequence = self.newest.map_or(1, |newest| newest.sequence.saturating_add(1));
        let eol_ms = now_ms + millis(self.config.lifetime);
        self.sign_at_ms = None;
        self.signing = Some((sequence, eol_ms));
        self.actions.push_back(Action::Sign { sequence, eol_ms });
    }

    fn on_signed(&mut self, now_ms: u64, root: Cid) {
        let Some((sequence, eol_ms)) = self.signing.take() else { return };
        self.newest = Some(Statement { root: Some(root), sequence, eol_ms });
        self.signed_ms = Some(now_ms);
        (self.put_ms, self.peers, self.failures) = (None, 0, 0);
        self.put_at_ms = Some(now_ms);
        // What changed meanwhile waits for its turn.
        self.on_root(now_ms, self.root);
    }

    fn on_put(&mut self, now_ms: u64, peers: usize) {
        if !std::mem::take(&mut self.is_putting) {
            return;
        }
        self.peers = peers as u64;
        let pause = if peers > 0 {
            (self.put_ms, self.failures) = (Some(now_ms), 0);
            // A short life is told more often than a long one.
            self.config.put_every.min(self.config.lifetime / 4)
        } else {
            self.failures = self.failures.saturating_add(1);
            let doublings = (self.failures - 1).min(16);
            self.config.retry_min.saturating_mul(1 << doublings).min(self.config.retry_max)
        };
        if self.root.is_some() && self.put_at_ms.is_none() {
            self.put_at_ms = Some(now_ms + millis(pause));
        }
    }

    /// Numbers go on behind those of the record that the DHT knows.
    fn on_overtaken(&mut self, now_ms: u64, sequence: u64) {
        self.is_putting = false;
        if self.newest.is_none_or(|newest| newest.sequence < sequence) {
            self.newest = Some(Statement { root: None, sequence, eol_ms: now_ms });
            self.sign_at_ms = self.root.map(|_| now_ms);
        } else {
            self.put_at_ms = self.root.map(|_| now_ms);
        }
    }

    fn put_at(&self) -> Option<u64> {
        let may_put = !self.is_alone && !self.is_putting && self.signing.is_none();
        self.put_at_ms.filter(|_| may_put)
    }

    /// When the next record is to be signed: because a root waits, or because the newest one is half over.
    fn sign_at(&self) -> Option<u64> {
        self.root?;
        let half = millis(self.config.lifetime) / 2;
        let renewal = self.newest.filter(|newest| newest.root == self.root);
        let renewal = renewal.map(|newest| newest.eol_ms.saturating_sub(half));
        self.sign_at_ms.into_iter().chain(renewal).min().map(|at_ms| at_ms.max(self.rest_until_ms))
    }

    /// What was planned by a clock that was ahead must not wait for that time to come again.
    fn on_clock_back(&mut self, now_ms: u64) {
        let gone_ms = self.now_ms - now_ms;
        let earlier = |at: Option<u64>| at.map(|at_ms| at_ms.saturating_sub(gone_ms));
        self.sign_at_ms = earlier(self.sign_at_ms);
        self.put_at_ms = earlier(self.put_at_ms);
        self.signed_ms = earlier(self.signed_ms);
        self.rest_until_ms = self.rest_until_ms.saturating_sub(gone_ms);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}
