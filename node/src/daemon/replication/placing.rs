//! Replicas of this node's objects: the shell of `archive::replication`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dunlin_archive::{
    Held, Pin, ReadError,
    replication::{
        Action, AskOutcome, Candidate, Conduct, Config, Failure, Fit, Input, LINKS_MAX, Nonce,
        OBJECT_BYTES_MAX, Record, Replication, RequestId, Sample, Verdict, Wanted, proof,
    },
};
use dunlin_protocols::{
    NetworkError, PeerId, PeerView,
    messages::{
        OBJECT_CIDS_MAX, PinOutcome, RefusalReason, ReplicaBlock, ReplicaObject, ReplicasRequest,
        ReplicasResponse,
    },
};
use dunlin_trust::{Evidence, Operation};
use dunlin_wire::Cid;
use serde_bytes::ByteArray;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, interval_at, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{super::shared::Shared, ReplicaStatus, lock};

/// How often it is looked who is there.
const PEERS_EVERY: Duration = Duration::from_secs(2);

/// How often all objects are told anew. New ones are told at once; this finds what was let go of.
const TELL_EVERY: Duration = Duration::from_secs(3_600);

/// Objects that are told together.
const PAGE: usize = 1_024;

/// Longest wait for a proof. A peer reads up to 32 MiB for it; one that had to fetch them takes longer.
const PROOF_DEADLINE: Duration = Duration::from_secs(10);

/// Looking how things stand reads all objects. It takes at most one part in so many of the time.
const LOOKING_SHARE: u32 = 20;

/// The task that places replicas.
struct Placing {
    shared: Arc<Shared>,
    core: Replication,
    started: Instant,
    work: JoinSet<Done>,
    /// Records that could not be written; nothing is asked before they are.
    unwritten: Vec<Record>,
    /// Whether all objects are being told, and whether that is to begin again.
    is_telling: bool,
    is_stale: bool,
    looked: Instant,
    looking_took: Duration,
}

/// Something that was under way.
enum Done {
    Answered(Input),
    Judged,
    /// A part of all objects, and what comes behind it.
    Told(Result<(Vec<Wanted>, Option<Place>), ReadError>),
}

/// Where telling all objects goes on.
#[derive(Clone, Debug)]
struct Place {
    /// Pins that are still to be told; the next one is the last.
    pins: Vec<Pin>,
    after: Option<Cid>,
}

/// Runs until `stop`.
pub(in super::super) async fn run(
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let read = |shared: &Shared| {
        let mut records = Vec::new();
        shared.archive.placements(|record| records.push(record))?;
        Ok::<_, ReadError>(records)
    };
    let records = shared.blocking(read).await?;
    let archive = &shared.config.archive;
    if archive.replicas == 0 && records.is_empty() {
        stop.cancelled().await;
        return Ok(());
    }
    let config = Config {
        replicas: archive.replicas,
        check_every: archive.replica_check,
        away_max: archive.replica_away,
    };
    let core = Replication::new(config, records, rand::random());
    let now = Instant::now();
    let placing = Placing {
        shared: Arc::clone(&shared),
        core,
        started: now,
        work: JoinSet::new(),
        unwritten: Vec::new(),
        is_telling: false,
        is_stale: true,
        looked: now,
        looking_took: Duration::ZERO,
    };
    placing.run(stop).await;
    Ok(())
}

impl Placing {
    async fn run(mut self, stop: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        let mut peers = interval(PEERS_EVERY);
        peers.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut telling = interval_at(tokio::time::Instant::now() + TELL_EVERY, TELL_EVERY);
        telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.act().await;
            let deadline = self.core.next_wake().map_or(PEERS_EVERY, |at| {
                (self.started + at).saturating_duration_since(Instant::now()).min(PEERS_EVERY)
            });
            let deadline = tokio::time::Instant::now() + deadline;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.on_done(done),
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                },
                _ = peers.tick() => self.meet().await,
                _ = telling.tick() => self.tell_all(),
                () = shared.replicas.news.notified() => self.take_news(),
                () = sleep_until(deadline) => self.core.wake(self.now()),
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn take(&mut self, input: Input) {
        self.core.handle(self.now(), input);
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Answered(input) => self.take(input),
            Done::Judged => {}
            Done::Told(Ok((wanted, next))) => {
                self.shared.recovered("replicas");
                self.take(Input::Wanted(wanted));
                match next {
                    Some(place) => self.tell_from(place),
                    None => {
                        self.is_telling = false;
                        self.take(Input::Told);
                        if std::mem::take(&mut self.is_stale) {
                            self.tell_all();
                        }
                    }
                }
            }
            // Nothing is given up: it is told anew later.
            Done::Told(Err(cause)) => {
                self.is_telling = false;
                self.shared.report("replicas", format!("{:#}", anyhow::Error::from(cause)));
            }
        }
    }

    /// Looks who is there, and how things stand.
    async fn meet(&mut self) {
        if std::mem::take(&mut self.is_stale) {
            self.tell_all();
        }
        let me = self.shared.network.local_peer();
        let views = self.shared.network.peers().await;
        let candidates = views.iter().filter(|view| view.peer != me).map(candidate).collect();
        self.take(Input::Peers(candidates));
        if self.looked.elapsed() < LOOKING_SHARE * self.looking_took {
            return;
        }
        self.looked = Instant::now();
        let (summary, counters) = (self.core.summary(self.now()), self.core.counters());
        self.looking_took = self.looked.elapsed();
        *lock(&self.shared.replicas.status) = ReplicaStatus { summary, counters };
    }

    fn take_news(&mut self) {
        let fresh = std::mem::take(&mut *lock(&self.shared.replicas.fresh));
        self.take(Input::Wanted(fresh.wanted));
        if fresh.is_stale {
            self.tell_all();
        }
    }

    /// Begins to tell all objects, or to do so once more.
    fn tell_all(&mut self) {
        if self.is_telling {
            self.is_stale = true;
            return;
        }
        self.is_telling = true;
        self.take(Input::Telling);
        let shared = Arc::clone(&self.shared);
        self.work.spawn(async move {
            let first = shared.blocking(|shared| {
                let pins = replicated_pins(shared)?;
                page(shared, Place { pins, after: None })
            });
            Done::Told(first.await)
        });
    }

    fn tell_from(&mut self, place: Place) {
        let shared = Arc::clone(&self.shared);
        self.work.spawn(async move {
            Done::Told(shared.blocking(move |shared| page(shared, place)).await)
        });
    }

    /// Does what the core says: writes down first, then asks.
    async fn act(&mut self) {
        let mut requests = Vec::new();
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Keep(record) => self.unwritten.push(record),
                other => requests.push(other),
            }
        }
        if !self.unwritten.is_empty() {
            self.write_down().await;
        }
        let is_written = self.unwritten.is_empty();
        for action in requests {
            match action {
                Action::Keep(_) => {}
                Action::Judge { peer, conduct } => self.judge(peer, conduct),
                Action::Ask { request, .. } if !is_written => {
                    self.answer_later(Input::Asked(request, Err(Failure::Unsent)));
                }
                Action::Release { request, .. } if !is_written => {
                    self.answer_later(Input::Released(request, Err(Failure::Unsent)));
                }
                Action::Ask { request, peer, roots } => {
                    self.spawn(|shared| async move { ask(&shared, request, peer, roots).await });
                }
                Action::Release { request, peer, roots } => {
                    self.spawn(
                        |shared| async move { release(&shared, request, peer, roots).await },
                    );
                }
                Action::Challenge { request, peer, nonce, samples } => {
                    self.spawn(|shared| async move {
                        challenge(&shared, request, peer, nonce, samples).await
                    });
                }
            }
        }
    }

    async fn write_down(&mut self) {
        let records = std::mem::take(&mut self.unwritten);
        let (records, written) = self
            .shared
            .blocking(move |shared| {
                let written = shared.archive.keep_placements(&records);
                (records, written)
            })
            .await;
        match written {
            Ok(()) => self.shared.recovered("placements"),
            Err(cause) => {
                self.unwritten = records;
                self.shared.report("placements", format!("{:#}", anyhow::Error::from(cause)));
            }
        }
    }

    fn judge(&mut self, peer: PeerId, conduct: Conduct) {
        let evidence = match conduct {
            Conduct::Lost => Evidence::ReplicaLost,
            Conduct::WrongProof => Evidence::WrongProof,
        };
        tracing::info!(%peer, ?conduct, "a peer does not hold what it had confirmed");
        let shared = Arc::clone(&self.shared);
        self.work.spawn(async move {
            shared.network.judge(peer, evidence, 1).await;
            Done::Judged
        });
    }

    fn answer_later(&mut self, input: Input) {
        self.work.spawn(async move { Done::Answered(input) });
    }

    fn spawn<F>(&mut self, request: impl FnOnce(Arc<Shared>) -> F)
    where
        F: Future<Output = Input> + Send + 'static,
    {
        let request = request(Arc::clone(&self.shared));
        self.work.spawn(async move { Done::Answered(request.await) });
    }
}

/// Reads which objects come next.
fn page(shared: &Shared, mut place: Place) -> Result<(Vec<Wanted>, Option<Place>), ReadError> {
    let Some(pin) = place.pins.last() else { return Ok((Vec::new(), None)) };
    let roots = shared.archive.roots(pin, place.after.as_ref(), PAGE)?;
    let is_public = pin.is_public();
    let wanted = roots.iter().map(|root| Wanted { root: *root, is_public }).collect();
    place.after = roots.last().copied();
    if roots.len() < PAGE {
        place.pins.pop();
        place.after = None;
    }
    Ok((wanted, (!place.pins.is_empty()).then_some(place)))
}

/// Returns what a peer may hold, as the gate sees it.
fn candidate(view: &PeerView) -> Candidate {
    let standing = view.trust.standing;
    let fit = if view.is_foreign {
        Fit::None
    } else if view.trust.is_own && Operation::ReplicatePrivate.admits(standing) {
        Fit::All
    } else if Operation::ReplicatePublic.admits(standing) {
        Fit::Public
    } else {
        Fit::None
    };
    // One that has not said what it is yet may be of another network.
    let is_here = view.link.is_some() && view.agent.is_some();
    Candidate { peer: view.peer, fit, is_here }
}

/// Asks a peer to hold objects.
async fn ask(shared: &Arc<Shared>, request: RequestId, peer: PeerId, roots: Vec<Cid>) -> Input {
    let wanted = roots.clone();
    let found = shared.blocking(move |shared| objects(shared, &wanted)).await;
    let found = match found {
        Ok(found) => found,
        Err(cause) => {
            shared.report("replicas", format!("{:#}", anyhow::Error::from(cause)));
            return Input::Asked(request, Err(Failure::Unsent));
        }
    };
    let (mut outcomes, mut failure) = (Vec::with_capacity(roots.len()), None);
    let mut rest = found.into_iter().peekable();
    while failure.is_none() && rest.peek().is_some() {
        // Their order is that of the request: what cannot be asked for takes its place among the others.
        let (mut objects, mut places, mut cids) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = rest.next_if(|next| {
            cids += next.as_ref().map_or(0, |object| 1 + object.links.len());
            cids <= OBJECT_CIDS_MAX
        }) {
            places.push(next.is_some());
            objects.extend(next);
        }
        match pin(shared, peer, objects).await {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                outcomes.extend(places.into_iter().map(|is_asked| {
                    let answer = is_asked.then(|| answers.next()).flatten();
                    answer.map_or(AskOutcome::Absent, outcome)
                }));
            }
            Err(cause) => failure = Some(cause),
        }
    }
    match failure {
        Some(cause) if outcomes.is_empty() => Input::Asked(request, Err(cause)),
        _ => Input::Asked(request, Ok(outcomes)),
    }
}

async fn pin(
    shared: &Shared,
    peer: PeerId,
    objects: Vec<ReplicaObject>,
) -> Result<Vec<PinOutcome>, Failure> {
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    match shared.network.replicas(peer, ReplicasRequest::Pin { objects }).await {
        Ok(ReplicasResponse::Pinned { outcomes }) => Ok(outcomes),
        Ok(_) => Err(Failure::Unanswered),
        Err(cause) => Err(failure(&cause)),
    }
}

fn outcome(outcome: PinOutcome) -> AskOutcome {
    match outcome {
        PinOutcome::Held => AskOutcome::Held,
        PinOutcome::Pending => AskOutcome::Pending,
        PinOutcome::Busy => AskOutcome::Busy,
        PinOutcome::Full => AskOutcome::Full,
        PinOutcome::Denied => AskOutcome::Denied,
    }
}

fn failure(cause: &NetworkError) -> Failure {
    tracing::debug!(%cause, "no answer about replicas");
    match cause {
        NetworkError::Gate(_) | NetworkError::Refused { reason: RefusalReason::Denied, .. } => {
            Failure::Denied
        }
        NetworkError::Busy
        | NetworkError::Ended
        | NetworkError::Refused { reason: RefusalReason::Busy, .. } => Failure::Unsent,
        _ => Failure::Unanswered,
    }
}

/// Returns each object as it is asked for; nothing in the place of one that is not here whole, or too large.
fn objects(shared: &Shared, roots: &[Cid]) -> Result<Vec<Option<ReplicaObject>>, ReadError> {
    let pins = replicated_pins(shared)?;
    let mut objects = Vec::with_capacity(roots.len());
    for root in roots {
        let held = find(shared, &pins, root)?;
        let held = held.filter(|held| held.links.len() <= LINKS_MAX);
        let held = held.filter(|held| held.bytes <= OBJECT_BYTES_MAX);
        objects.push(held.map(|Held { links, bytes }| ReplicaObject { root: *root, links, bytes }));
    }
    Ok(objects)
}

/// Returns the pins whose objects have replicas.
fn replicated_pins(shared: &Shared) -> Result<Vec<Pin>, ReadError> {
    let (own, public) = (shared.archive.pins(Pin::OWN)?, shared.archive.pins(Pin::PUBLIC)?);
    Ok(own.into_keys().chain(public.into_keys()).collect())
}

fn find(shared: &Shared, pins: &[Pin], root: &Cid) -> Result<Option<Held>, ReadError> {
    for pin in pins {
        if let Some(held) = shared.archive.held(pin, root)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// Tells a peer that it need not hold objects.
async fn release(shared: &Shared, request: RequestId, peer: PeerId, roots: Vec<Cid>) -> Input {
    let answer = match shared.network.replicas(peer, ReplicasRequest::Release { roots }).await {
        Ok(ReplicasResponse::Released { .. }) => Ok(()),
        Ok(_) => Err(Failure::Unanswered),
        Err(cause) => Err(failure(&cause)),
    };
    Input::Released(request, answer)
}

/// Has a peer prove that it holds blocks, and compares with what this node holds.
async fn challenge(
    shared: &Arc<Shared>,
    request: RequestId,
    peer: PeerId,
    nonce: Nonce,
    samples: Vec<Sample>,
) -> Input {
    let expected = shared.blocking(move |shared| expect(shared, &peer, &nonce, &samples)).await;
    let expected = match expected {
        Ok(expected) => expected,
        Err(cause) => {
            shared.report("replicas", format!("{:#}", anyhow::Error::from(cause)));
            return Input::Challenged(request, Err(Failure::Unsent));
        }
    };
    let blocks: Vec<_> = expected.iter().flatten().map(|(block, _)| *block).collect();
    if blocks.is_empty() {
        return Input::Challenged(request, Ok(vec![Verdict::Unknown; expected.len()]));
    }
    let question = ReplicasRequest::Challenge { nonce: ByteArray::new(nonce.0), blocks };
    let answer = timeout(PROOF_DEADLINE, shared.network.replicas(peer, question)).await;
    let proofs = match answer {
        Ok(Ok(ReplicasResponse::Proved { proofs })) => proofs,
        Ok(Err(cause)) => return Input::Challenged(request, Err(failure(&cause))),
        Ok(Ok(_)) | Err(_) => return Input::Challenged(request, Err(Failure::Unanswered)),
    };
    let mut proofs = proofs.into_iter();
    let verdict = |expected: &Option<(ReplicaBlock, [u8; 32])>| match expected {
        None => Verdict::Unknown,
        Some((_, expected)) => match proofs.next().flatten() {
            None => Verdict::Missing,
            Some(given) if given.into_array() == *expected => Verdict::Right,
            Some(_) => Verdict::Wrong,
        },
    };
    let verdicts = expected.iter().map(verdict).collect();
    Input::Challenged(request, Ok(verdicts))
}

/// A block that a peer is to prove, and the proof.
type Expected = (ReplicaBlock, [u8; 32]);

/// Returns the block that each sample picks, with the proof that holding it gives; nothing where this node
/// cannot tell.
fn expect(
    shared: &Shared,
    peer: &PeerId,
    nonce: &Nonce,
    samples: &[Sample],
) -> Result<Vec<Option<Expected>>, ReadError> {
    let pins = replicated_pins(shared)?;
    let mut expected = Vec::with_capacity(samples.len());
    for Sample { root, pick } in samples {
        let held = find(shared, &pins, root)?;
        let cid = held.and_then(|held| {
            let count = 1 + held.links.len() as u64;
            let place = usize::try_from(pick % count).ok()?;
            place.checked_sub(1).map_or(Some(*root), |link| held.links.get(link).copied())
        });
        let block = match cid {
            Some(cid) => shared.stored_block(&cid)?,
            None => None,
        };
        expected.push(block.map(|block| {
            let asked = ReplicaBlock { cid: *block.cid(), root: *root };
            (asked, proof(nonce, peer, &block))
        }));
    }
    Ok(expected)
}
