//! Recovery: nodes of one operator that share a collection find out what each lacks, fetch it, and keep all of it.
//!
//! Own segments land first (`landing.rs`): they are entered in the catalog that peers compare, and in the index that
//! finds what contradicts them. Then the catalogs of own peers are compared with it (`comparing.rs`); what they
//! have is taken in from one at a time, so that what several have is fetched once, and by one of those that lack the same
//! (`sides.rs`). What is said about segments that conflict is signed, kept and exchanged in the same way (`statements.rs`). Questions ask `touched.rs` which conflicts their answers touch. Nothing here removes
//! anything.

mod comparing;
mod landing;
mod sides;
mod statements;
mod touched;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use dunlin_archive::Archive;
use dunlin_protocols::{
    CatalogsReply, Keypair, PeerId,
    messages::{CatalogsRequest, CatalogsResponse, RefusalReason},
};
use dunlin_trust::recovery::Conflicts;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    comparing::{Failure, Outcome},
    landing::Landing,
    sides::{FOLLOW, Sides},
};
pub(crate) use self::{
    statements::ResolveError,
    touched::{Standings, Touched, Whose, losers},
};
use super::shared::Shared;
use crate::config::Recover;

/// How often what a peer knows is compared when nothing says that it changed: two digests for each collection.
const EVERY: Duration = Duration::from_secs(30);

/// Shortest time between two comparisons with one peer, however often it has news.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a peer is left alone that did not answer, or answered wrongly.
const RETRY: Duration = Duration::from_secs(5);

/// What the parts of a node share about recovery.
#[derive(Debug)]
pub(crate) struct Recovery {
    identity: Keypair,
    conflicts: Mutex<Conflicts>,
    /// Own peers that have news. The configuration bounds them.
    wishes: Mutex<BTreeSet<PeerId>>,
    /// Wakes the task: there are wishes, or own segments were archived.
    wake: Notify,
    counts: Mutex<Counts>,
    /// Held by who takes in what a peer has, so that what several have comes once.
    taking: tokio::sync::Mutex<()>,
    sides: Mutex<Sides>,
}

/// What recovery did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Comparisons that found a peer to know the same.
    pub(crate) same: u64,
    /// Comparisons that found it to know something else.
    pub(crate) different: u64,
    /// Comparisons that failed.
    pub(crate) failed: u64,
    /// Segments that came from peers.
    pub(crate) recovered: u64,
    /// Bytes of blocks that came with them: catalogs, segments and statements.
    pub(crate) bytes: u64,
    /// Statements about conflicts that were kept.
    pub(crate) statements: u64,
    /// Statements that nobody signed, or that make no sense.
    pub(crate) statements_refused: u64,
    /// Segments of which not all that may contradict them was looked at.
    pub(crate) unseen: u64,
}

impl Recovery {
    /// Opens with the conflicts that the archive keeps.
    pub(super) fn open(archive: &Archive, identity: Keypair) -> anyhow::Result<Self> {
        let me = identity.public().to_peer_id();
        Ok(Self {
            identity,
            conflicts: Mutex::new(restored(archive)?),
            wishes: Mutex::default(),
            wake: Notify::new(),
            counts: Mutex::default(),
            taking: tokio::sync::Mutex::default(),
            sides: Mutex::new(Sides::new(me)),
        })
    }

    /// Notes that an own peer has news.
    pub(super) fn wish(&self, peer: PeerId) {
        lock(&self.wishes).insert(peer);
        self.wake.notify_one();
    }

    /// Notes that own segments were archived.
    pub(super) fn archived(&self) {
        self.wake.notify_one();
    }

    /// Returns what was done since the start.
    pub(crate) fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// Returns the conflicts, for as long as nobody else may change them.
    pub(crate) fn conflicts(&self) -> MutexGuard<'_, Conflicts> {
        lock(&self.conflicts)
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut lock(&self.counts));
    }

    fn sides(&self) -> MutexGuard<'_, Sides> {
        lock(&self.sides)
    }
}

/// Returns the conflicts and decisions that the archive keeps.
fn restored(archive: &Archive) -> anyhow::Result<Conflicts> {
    let mut conflicts = Conflicts::default();
    for record in archive.conflict_records()? {
        conflicts.restore(&record).context(
            "a conflict that the archive keeps is damaged; restore the data folder from a backup",
        )?;
    }
    Ok(conflicts)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // What was not stored is read anew from the disk, and counts are whole after every statement.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When to compare with each own peer next; nothing while that is under way.
#[derive(Debug, Default)]
struct Turns(BTreeMap<PeerId, Option<Turn>>);

#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Not before, whatever news there is.
    earliest: Instant,
    /// Then, without news.
    latest: Instant,
}

impl Turn {
    /// Returns the next turn of a peer that answered.
    fn after(now: Instant, every: Duration) -> Self {
        Self { earliest: now + PAUSE, latest: now + every }
    }

    /// Returns a turn that no news brings forward.
    fn at(when: Instant) -> Self {
        Self { earliest: when, latest: when }
    }
}

impl Turns {
    /// Returns a connected peer whose turn has come.
    fn due(&self, connected: &[PeerId], wishes: &BTreeSet<PeerId>, now: Instant) -> Option<PeerId> {
        let is_due = |peer: &&PeerId| match self.0.get(peer) {
            None => true,
            Some(None) => false,
            Some(Some(turn)) => turn.latest <= now || turn.earliest <= now && wishes.contains(peer),
        };
        connected.iter().find(is_due).copied()
    }

    /// Returns when the next turn comes.
    fn next(&self, connected: &[PeerId], wishes: &BTreeSet<PeerId>, now: Instant) -> Instant {
        let next = connected.iter().filter_map(|peer| {
            let turn = (*self.0.get(peer)?)?;
            Some(if wishes.contains(peer) { turn.earliest } else { turn.latest })
        });
        next.min().unwrap_or(now + EVERY).max(now)
    }

    /// Notes that a comparison with a peer is under way.
    fn begin(&mut self, peer: PeerId) {
        self.0.insert(peer, None);
    }

    /// Notes that it ended, and when the next one is.
    fn done(&mut self, peer: PeerId, turn: Turn) {
        self.0.insert(peer, Some(turn));
    }
}

/// Runs until `stop`. A failure is reported and tried again: recovery waits, everything else goes on.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    if shared.recovers() {
        // What is under way may be dropped anywhere: each commit is whole, and the next start goes on.
        stop.run_until_cancelled(recover(&shared)).await;
    } else {
        stop.cancelled().await;
    }
    Ok(())
}

async fn recover(shared: &Arc<Shared>) {
    let mut landing = Landing::default();
    let mut turns = Turns::default();
    // One for each own peer at most.
    let mut under_way = JoinSet::new();
    loop {
        landing = shared.land_own(landing).await;
        let connected = shared.connected_own_peers().await;
        let next = loop {
            let wishes = lock(&shared.recovery.wishes).clone();
            let now = Instant::now();
            let Some(peer) = turns.due(&connected, &wishes, now) else {
                break turns.next(&connected, &wishes, now);
            };
            // Before the question: news that come meanwhile are asked about again.
            lock(&shared.recovery.wishes).remove(&peer);
            turns.begin(peer);
            let (shared, connected) = (Arc::clone(shared), connected.clone());
            under_way.spawn(async move { (peer, shared.reconcile(peer, &connected).await) });
        };
        tokio::select! {
            Some(done) = under_way.join_next() => {
                let (peer, done) = done.expect("a comparison does not panic, unless a store did");
                turns.done(peer, shared.turn_after(&peer, &done));
                shared.on_reconciled(peer, done, &connected);
            }
            // News come in bursts, and one comparison is enough for a burst.
            () = shared.recovery.wake.notified() => tokio::time::sleep(PAUSE / 10).await,
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

impl Shared {
    /// Returns when a peer is asked again that was just asked.
    fn turn_after(&self, peer: &PeerId, done: &Result<Outcome, Failure>) -> Turn {
        let now = Instant::now();
        match done {
            Ok(Outcome { again: Some(when), .. }) => Turn::at(*when),
            Ok(_) if self.recovery.sides().follows(peer) => Turn::after(now, FOLLOW),
            Ok(_) => Turn::after(now, EVERY),
            // After a failure nothing is known of what it has.
            Err(Failure::Peer(_)) => Turn::at(now + RETRY),
            // A disk that is full is so for a while.
            Err(Failure::Store(_)) => Turn::at(now + EVERY),
        }
    }

    fn on_reconciled(&self, peer: PeerId, done: Result<Outcome, Failure>, connected: &[PeerId]) {
        match done {
            Ok(Outcome { gained, again }) => {
                self.recovered("recovery");
                // What came is news for the others, who may not be connected with whom it came from, and that peer learns that both
                // have the same. Whoever waits has to know what the others have.
                if gained > 0 || again.is_some() {
                    connected.iter().for_each(|other| self.recovery.wish(*other));
                }
            }
            Err(failure) => {
                self.recovery.count(|counts| counts.failed += 1);
                match failure {
                    Failure::Peer(cause) => tracing::debug!(%peer, %cause, "not reconciled"),
                    Failure::Store(cause) => self.report("recovery", format!("{cause:#}")),
                }
            }
        }
    }

    /// Returns whether this node compares catalogs with its own peers.
    pub(crate) fn recovers(&self) -> bool {
        self.config.archive.recover != Recover::Off && !self.config.network.own_peers.is_empty()
    }

    /// Returns the own peers that are connected and nodes of our network, in order.
    async fn connected_own_peers(&self) -> Vec<PeerId> {
        let mut connected = Vec::new();
        for peer in &self.config.network.own_peers {
            if let Ok(view) = self.network.explain(*peer).await
                && view.link.is_some()
                && view.agent.is_some()
                && !view.is_foreign
            {
                connected.push(view.peer);
            }
        }
        connected.sort_unstable();
        connected.dedup();
        connected
    }

    /// Notes that an own peer is here, or said that it has new segments. One that is not connected said so through
    /// others, who may have them by now.
    pub(super) async fn heard_news_of(self: &Arc<Self>, peer: PeerId) {
        if !self.recovers() || !self.config.network.own_peers.contains(&peer) {
            return;
        }
        let connected = self.connected_own_peers().await;
        if connected.contains(&peer) {
            self.recovery.wish(peer);
        } else {
            connected.into_iter().for_each(|other| self.recovery.wish(other));
        }
    }

    /// Answers what this node knows, and looks into what the asker knows if that is something else.
    pub(super) async fn answer_catalogs(
        self: &Arc<Self>,
        peer: PeerId,
        request: CatalogsRequest,
        reply: CatalogsReply,
    ) {
        if !self.recovers() {
            return reply.refuse(RefusalReason::Denied);
        }
        let theirs = match request {
            CatalogsRequest::Compare { catalogs } => catalogs,
            CatalogsRequest::Statements { cids } => {
                return match self.blocking(move |shared| shared.vouched_statements(&cids)).await {
                    Ok(vouched) => reply.send(vouched),
                    Err(cause) => {
                        self.report("serving", format!("{cause:#}"));
                        reply.refuse(RefusalReason::Failed);
                    }
                };
            }
        };
        let names: BTreeSet<_> = theirs.iter().map(|of| of.collection.clone()).collect();
        match self.blocking(move |shared| shared.catalogs(|name| names.contains(name))).await {
            Ok(ours) => {
                if ours.iter().any(|of| !theirs.contains(of)) {
                    self.recovery.wish(peer);
                }
                self.heard_catalogs(peer, &ours, &theirs);
                reply.send(CatalogsResponse::Compared { catalogs: ours });
            }
            Err(cause) => {
                self.report("serving", format!("{cause:#}"));
                reply.refuse(RefusalReason::Failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_with_news_all_the_time_is_asked_at_a_pace_and_the_others_have_their_turn() {
        let (loud, calm) = (PeerId::random(), PeerId::random());
        let connected = [loud, calm];
        let wishes = BTreeSet::from([loud]);
        let mut turns = Turns::default();
        let start = Instant::now();
        assert_eq!(turns.due(&connected, &wishes, start), Some(loud));
        turns.done(loud, Turn::after(start, EVERY));
        assert_eq!(turns.due(&connected, &wishes, start), Some(calm), "a new peer has its turn");
        turns.done(calm, Turn::after(start, EVERY));
        assert_eq!(turns.due(&connected, &wishes, start), None);
        assert_eq!(turns.next(&connected, &wishes, start), start + PAUSE);
        assert_eq!(turns.due(&connected, &wishes, start + PAUSE), Some(loud));
        turns.begin(loud);
        assert_eq!(turns.due(&connected, &wishes, start + EVERY / 2), None, "it is under way");
        turns.done(loud, Turn::at(start + PAUSE + RETRY));
        assert_eq!(turns.due(&connected, &wishes, start + 2 * PAUSE), None, "it failed");
        assert_eq!(turns.due(&connected, &BTreeSet::new(), start + RETRY + PAUSE), Some(loud));
        assert_eq!(turns.due(&[calm], &BTreeSet::new(), start + EVERY), Some(calm));
    }
}
