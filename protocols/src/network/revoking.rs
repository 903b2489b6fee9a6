//! Revocations: checked, written down by the shell, and only then acted on and told.
//!
//! They come by gossip, from a comparison with a peer, or from the operator, and all take one way, one after
//! the other: a check depends on what counts already. Gossip is for speed alone. What it does not bring is
//! found by comparing digests, with every new peer, and with all of them after every change.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use dunlin_trust::{
    Acquaintance, Authorities, EndorsementError, Evidence, Operation, Pending, RevocationError,
    SyncAnswer, SyncRequest, Withdrawal,
};
use dunlin_wire::envelope::{self, OpenError};
use libp2p::{
    PeerId,
    gossipsub::{self, MessageAcceptance, PublishError},
};
use serde_bytes::ByteArray;
use tokio::sync::oneshot;

use super::{Actor, Reply, membership::Question, refuse, unix_now};
use crate::{
    Event, NetworkError, RevocationsKept,
    behaviour::REVOCATION_GOSSIP_BYTES_MAX,
    handle::RevocationsView,
    messages::{MembershipRequest, MembershipResponse, Message, RESPONSE_BYTES_MAX, Revocation},
    rate::{Bucket, Rate},
    requests::Bounded,
};

/// Pieces of work that wait to be checked. When there are more, what peers tell is dropped: it is found again
/// by the next comparison. The operator is told to try again.
const WORK_MAX: usize = 64;

/// Bytes of revocations in them, beside those of the operator. A full answer always finds room when none waits.
const WORK_BYTES_MAX: usize = 2 * RESPONSE_BYTES_MAX;

/// Withdrawals that are written to disk together.
const BATCH_MAX: usize = 64;

/// Bytes of an answer, so that the signatures in front of each log fit in, too.
const ANSWER_BYTES_MAX: usize = RESPONSE_BYTES_MAX - 192 * 1024;

/// Peers that are asked for a comparison at one moment; the others follow at the next tick.
const COMPARISONS_MAX: usize = 64;

/// How fast one peer may pass on revocations by gossip: each may take a write to disk.
const GOSSIPING: Rate = Rate { burst: 64, every: Duration::from_secs(1) };

/// How often one peer may have us ask for what we lack: each answer may hold 10,000 signatures to verify. A
/// million revocations come in ten answers.
const CATCHING_UP: Rate = Rate { burst: 16, every: Duration::from_secs(5) };

/// Ticks after which something is compared again that could not be.
const TICKS_TO_LATER: u64 = 5;

/// Bytes that are appended before the shell is given a shorter form of everything, at least.
const APPENDED_BYTES_MIN: usize = 1 << 20;

/// Revocations on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Revoking {
    queue: VecDeque<Work>,
    queued_bytes: usize,
    keeping: Option<Keeping>,
    /// Bytes that the shell appended since it was last given everything.
    appended_bytes: usize,
    /// Bytes of everything, at that time.
    whole_bytes: usize,
    /// Whether the queue of the shell was full: the next tick tries again.
    is_waiting: bool,
    gossiping: Bounded<PeerId, Bucket>,
    catching_up: Bounded<PeerId, Bucket>,
}

/// What came from one place.
#[derive(Debug)]
struct Work {
    revocations: VecDeque<Revocation>,
    bytes: usize,
    from: Source,
    /// Keys that are revoked by it.
    new: usize,
}

/// Where revocations came from.
#[derive(Debug)]
enum Source {
    /// A peer, which may have more to tell.
    Peer { peer: PeerId, is_partial: bool },
    /// The operator, who waits until they count.
    Operator(Option<Reply<usize>>),
}

impl Source {
    /// Tells the operator, if it is one and was not told before.
    fn tell_operator(&mut self, outcome: Result<usize, NetworkError>) {
        if let Self::Operator(reply) = self
            && let Some(reply) = reply.take()
        {
            // Whoever asked may have given up.
            reply.send(outcome).ok();
        }
    }
}

/// A batch that the shell writes down.
#[derive(Debug)]
struct Keeping {
    work: Work,
    batch: Vec<Revocation>,
    kept: oneshot::Receiver<bool>,
}

impl Revoking {
    /// Waits until the shell has written down what it was given; says whether it has.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn kept(&mut self) -> bool {
        match &mut self.keeping {
            Some(keeping) => (&mut keeping.kept).await.unwrap_or(false),
            None => std::future::pending().await,
        }
    }

    /// Returns whether there is something to check now.
    pub(super) fn is_ready(&self) -> bool {
        self.keeping.is_none() && !self.queue.is_empty() && !self.is_waiting
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.queue.len() < WORK_MAX
            && (self.queued_bytes == 0 || self.queued_bytes + bytes <= WORK_BYTES_MAX)
    }

    fn push(&mut self, work: Work) {
        self.queued_bytes += work.bytes;
        self.queue.push_back(work);
    }
}

/// Whether somebody is to blame for a revocation that does not count here.
enum Fault {
    /// Nobody: it depends on what one knows, or how one is configured.
    None,
    /// Whoever passed it on did not check it.
    Unchecked { is_forged: bool },
}

impl Fault {
    fn of(cause: &RevocationError) -> Self {
        use RevocationError as E;
        match cause {
            // An authority may be revoked here and not yet there, and another may know newer versions.
            E::NoAuthorities
            | E::OtherNetwork
            | E::Version
            | E::Endorsement(EndorsementError::TooFew { .. })
            | E::Gap
            | E::Logs
            | E::Full { .. } => Self::None,
            E::Envelope(OpenError::Signature)
            | E::Endorsement(EndorsementError::Envelope(OpenError::Signature)) => {
                Self::Unchecked { is_forged: true }
            }
            _ => Self::Unchecked { is_forged: false },
        }
    }
}

impl Actor {
    /// Takes a revocation of the operator's.
    pub(super) fn revoke(&mut self, revocation: Revocation, reply: Reply<usize>) {
        if self.revoking.queue.len() >= WORK_MAX {
            return refuse(reply, NetworkError::Busy);
        }
        let from = Source::Operator(Some(reply));
        self.revoking.push(Work { revocations: [revocation].into(), bytes: 0, from, new: 0 });
        self.keep_revocations();
    }

    pub(super) fn on_revocation_gossip(
        &mut self,
        from: PeerId,
        message: &gossipsub::Message,
    ) -> MessageAcceptance {
        let now = Instant::now();
        let rate = self.revoking.gossiping.get_or_insert(from, || Bucket::full(GOSSIPING, now));
        let may = self.trust.may(unix_now(), &from, Operation::ExchangeRevocations);
        if may.is_err() || !rate.take(GOSSIPING, now) {
            self.counters.announcements_ignored += 1;
            return MessageAcceptance::Ignore;
        }
        let Ok(revocation) = Revocation::decode(&message.data) else {
            return self.reject_revocation(from, false);
        };
        match self.check(&revocation, false) {
            Ok(Some(_)) => {
                self.counters.announcements_accepted += 1;
                self.take_in(from, vec![revocation], message.data.len(), false);
                MessageAcceptance::Accept
            }
            Ok(None) => {
                self.counters.announcements_ignored += 1;
                MessageAcceptance::Ignore
            }
            Err(cause) => match Fault::of(&cause) {
                Fault::Unchecked { is_forged } => self.reject_revocation(from, is_forged),
                Fault::None => {
                    self.counters.announcements_ignored += 1;
                    if cause == RevocationError::Gap {
                        self.catch_up(from);
                    }
                    MessageAcceptance::Ignore
                }
            },
        }
    }

    fn reject_revocation(&mut self, from: PeerId, is_forged: bool) -> MessageAcceptance {
        self.counters.announcements_rejected += 1;
        self.blame(from, is_forged);
        MessageAcceptance::Reject
    }

    fn blame(&mut self, peer: PeerId, is_forged: bool) {
        self.counters.revocations_rejected += 1;
        let evidence = if is_forged { Evidence::BadSignature } else { Evidence::ProtocolViolation };
        self.observe(peer, evidence);
    }

    /// Checks a revocation. The operator's own need no acquaintance with the key.
    fn check(
        &self,
        revocation: &Revocation,
        is_operator: bool,
    ) -> Result<Option<Pending>, RevocationError> {
        let known = self.trust.revocations();
        match revocation {
            Revocation::Extension(extension) => known.check_extension(extension.clone()),
            Revocation::Withdrawal(bytes) => {
                match known.check_withdrawal(bytes, Acquaintance::Unknown) {
                    Err(RevocationError::Full { .. })
                        if is_operator || self.knows_signer(bytes) =>
                    {
                        known.check_withdrawal(bytes, Acquaintance::Known)
                    }
                    checked => checked,
                }
            }
        }
    }

    fn knows_signer(&self, withdrawal: &[u8]) -> bool {
        let signed = envelope::open::<Withdrawal>(withdrawal);
        signed.is_ok_and(|signed| self.trust.acquaintance(&signed.signer) == Acquaintance::Known)
    }

    /// Takes what a peer told into the queue, when there is room.
    fn take_in(
        &mut self,
        peer: PeerId,
        revocations: Vec<Revocation>,
        bytes: usize,
        is_partial: bool,
    ) {
        if !self.revoking.has_room(bytes) {
            self.counters.revocations_passed_over += revocations.len() as u64;
            return self.compare_later(&peer);
        }
        let from = Source::Peer { peer, is_partial };
        self.revoking.push(Work { revocations: revocations.into(), bytes, from, new: 0 });
        self.keep_revocations();
    }

    /// Checks the next batch and gives the shell what is right to write down. There may be more to check then:
    /// thousands of signatures at once would keep the network waiting.
    pub(super) fn keep_revocations(&mut self) {
        if self.revoking.keeping.is_some() {
            return;
        }
        let Some(mut work) = self.revoking.queue.pop_front() else { return };
        let Ok(room) = self.events.clone().try_reserve_owned() else {
            self.revoking.is_waiting = true;
            return self.revoking.queue.push_front(work);
        };
        self.revoking.is_waiting = false;
        let (batch, pending) = self.next_batch(&mut work);
        if !pending.is_empty() {
            let (records, is_everything) = self.records_to_keep(&pending);
            let (tell, kept) = oneshot::channel();
            let reply = RevocationsKept(tell);
            room.send(Event::RevocationsChecked { records, is_everything, reply });
            self.revoking.keeping = Some(Keeping { work, batch, kept });
        } else if work.revocations.is_empty() {
            self.finish_revoking(work);
        } else {
            self.revoking.queue.push_front(work);
        }
    }

    /// Takes from `work` what can be checked together; returns what is right and new.
    fn next_batch(&mut self, work: &mut Work) -> (Vec<Revocation>, Vec<Pending>) {
        let mut taken = Vec::new();
        while taken.len() < BATCH_MAX {
            // What a log is judged by changes with every other one.
            let is_alone = matches!(work.revocations.front(), Some(Revocation::Extension(_)));
            if is_alone && !taken.is_empty() {
                break;
            }
            let Some(revocation) = work.revocations.pop_front() else { break };
            taken.push(revocation);
            if is_alone {
                break;
            }
        }
        let is_operator = matches!(work.from, Source::Operator(_));
        let (mut batch, mut pending) = (Vec::new(), Vec::new());
        for revocation in taken {
            match self.check(&revocation, is_operator) {
                Ok(None) => {}
                Ok(Some(right)) => {
                    batch.push(revocation);
                    pending.push(right);
                }
                Err(cause) => self.on_wrong_revocation(work, &cause),
            }
        }
        (batch, pending)
    }

    fn on_wrong_revocation(&mut self, work: &mut Work, cause: &RevocationError) {
        match &mut work.from {
            Source::Peer { peer, .. } => {
                tracing::debug!(%peer, %cause, "a revocation does not count");
                if let Fault::Unchecked { is_forged } = Fault::of(cause) {
                    let peer = *peer;
                    self.blame(peer, is_forged);
                    // Nothing else that it says is worth the time.
                    work.revocations.clear();
                }
            }
            operator => {
                operator.tell_operator(Err(NetworkError::Impossible { cause: cause.to_string() }));
            }
        }
    }

    /// Returns what the shell is to write, and whether that takes the place of all that it has.
    fn records_to_keep(&mut self, pending: &[Pending]) -> (Vec<Vec<u8>>, bool) {
        let mut records: Vec<_> = pending.iter().map(Pending::record).collect();
        let bytes = |records: &[Vec<u8>]| records.iter().map(Vec::len).sum::<usize>();
        self.revoking.appended_bytes += bytes(&records);
        let is_everything =
            self.revoking.appended_bytes > APPENDED_BYTES_MIN.max(self.revoking.whole_bytes);
        if is_everything {
            let mut everything: Vec<_> = self.trust.revocations().snapshot().collect();
            everything.append(&mut records);
            records = everything;
            self.revoking.whole_bytes = bytes(&records);
            self.revoking.appended_bytes = 0;
        }
        (records, is_everything)
    }

    /// The shell has written a batch down, or failed to.
    pub(super) fn on_revocations_kept(&mut self, is_kept: bool) {
        let Some(Keeping { mut work, batch, .. }) = self.revoking.keeping.take() else { return };
        let is_operator = matches!(work.from, Source::Operator(_));
        if is_kept {
            for revocation in &batch {
                // One of the same batch may have taken the last room, or said the same.
                if let Ok(Some(pending)) = self.check(revocation, is_operator) {
                    work.new += self.apply_revocation(pending);
                }
            }
            if is_operator {
                batch.iter().for_each(|revocation| self.gossip_revocation(revocation));
            }
        } else {
            work.revocations.clear();
            let cause = "it cannot be written down, so it does not count".to_owned();
            work.from.tell_operator(Err(NetworkError::Impossible { cause }));
        }
        if work.revocations.is_empty() {
            return self.finish_revoking(work);
        }
        self.revoking.queue.push_front(work);
        self.keep_revocations();
    }

    fn finish_revoking(&mut self, mut work: Work) {
        self.revoking.queued_bytes -= work.bytes;
        work.from.tell_operator(Ok(work.new));
        if work.new > 0 {
            if let Source::Peer { peer, is_partial: true } = work.from {
                self.catch_up(peer);
            }
            self.compare_revocations();
        }
    }

    /// Makes a revocation count that is on disk, and shuts out whom it is about.
    fn apply_revocation(&mut self, pending: Pending) -> usize {
        let authorities_before = self.revoked_authorities();
        let new = self.trust.apply_revocation(pending);
        if new == 0 {
            return 0;
        }
        self.counters.keys_revoked += new as u64;
        // A license tells no order of events, so those that a revoked authority signed count no more. All are
        // presented again.
        let is_about_authorities = self.revoked_authorities() != authorities_before;
        let now = unix_now();
        for peer in self.peers.ids().copied().collect::<Vec<_>>() {
            if self.trust.may(now, &peer, Operation::Connect).is_err() {
                self.shut_out(peer);
            } else if is_about_authorities {
                self.trust.forget_license(&peer);
                self.close(peer);
            }
        }
        new
    }

    fn revoked_authorities(&self) -> usize {
        let known = self.trust.revocations();
        let authorities = known.authorities().into_iter().flat_map(Authorities::keys);
        authorities.filter(|authority| known.is_revoked(authority)).count()
    }

    /// Ends everything with a peer that may not even be connected.
    pub(super) fn shut_out(&mut self, peer: PeerId) {
        self.stop_hearing(peer);
        self.close(peer);
    }

    fn gossip_revocation(&mut self, revocation: &Revocation) {
        let bytes = match revocation.encode() {
            Ok(bytes) if bytes.len() <= REVOCATION_GOSSIP_BYTES_MAX => bytes,
            // A comparison brings it, a moment later.
            _ => return,
        };
        let topic = self.config.network.revocations_topic();
        match self.swarm.behaviour_mut().gossip.publish(topic, bytes) {
            Ok(_) | Err(PublishError::NoPeersSubscribedToTopic) => {}
            Err(cause) => tracing::debug!(%cause, "revocation not gossiped"),
        }
    }

    /// Returns what is known of revocations, in short.
    pub(super) fn revocations(&self) -> RevocationsView {
        let known = self.trust.revocations();
        RevocationsView {
            keys: known.len(),
            digest: known.digest(),
            is_own_key_revoked: known.is_revoked(self.swarm.local_peer_id()),
        }
    }

    /// Tells those peers the digest of our revocations who were told another one, or none.
    pub(super) fn compare_revocations(&mut self) {
        let digest = self.trust.revocations().digest();
        let (now, ticks) = (unix_now(), self.ticks);
        let trust = &self.trust;
        let mut due = Vec::new();
        for (peer, member) in self.members.welcome() {
            let comparison = &mut member.comparison;
            let is_due = comparison.told != Some(digest)
                && !comparison.is_asked
                && ticks >= comparison.due
                && due.len() < COMPARISONS_MAX
                && trust.may(now, &peer, Operation::ExchangeRevocations).is_ok();
            if is_due {
                comparison.told = Some(digest);
                comparison.is_asked = true;
                due.push(peer);
            }
        }
        for peer in due {
            let request = MembershipRequest::Compare { digest: ByteArray::new(digest) };
            self.ask_member(peer, Question::Compare, request);
        }
    }

    /// A peer tells its digest.
    pub(super) fn on_comparison(&mut self, peer: PeerId, theirs: [u8; 32]) -> MembershipResponse {
        let ours = self.trust.revocations().digest();
        if let Some(member) = self.members.get_mut(&peer) {
            // It learns from the answer how ours stands to its own.
            member.comparison.told = Some(ours);
        }
        if theirs != ours {
            self.catch_up(peer);
        }
        MembershipResponse::Compared { same: theirs == ours }
    }

    /// Compares with a peer in some time, whatever it was told.
    pub(super) fn compare_later(&mut self, peer: &PeerId) {
        let due = self.ticks + TICKS_TO_LATER;
        if let Some(member) = self.members.get_mut(peer) {
            member.comparison.told = None;
            member.comparison.due = due;
        }
    }

    /// Asks a peer for what it knows and we do not.
    pub(super) fn catch_up(&mut self, peer: PeerId) {
        if self.trust.may(unix_now(), &peer, Operation::ExchangeRevocations).is_err() {
            return;
        }
        let now = Instant::now();
        let rate = self.revoking.catching_up.get_or_insert(peer, || Bucket::full(CATCHING_UP, now));
        if !rate.take(CATCHING_UP, now) {
            return self.compare_later(&peer);
        }
        let known = self.trust.revocations().sync_request();
        let Some(member) = self.members.get_mut(&peer) else { return };
        if !member.comparison.is_asked {
            member.comparison.is_asked = true;
            self.ask_member(peer, Question::CatchUp, MembershipRequest::CatchUp { known });
        }
    }

    /// Returns what an asking peer lacks.
    pub(super) fn missing(&self, known: &SyncRequest) -> MembershipResponse {
        let answer = self.trust.revocations().sync_answer(known, ANSWER_BYTES_MAX);
        MembershipResponse::Missing { answer }
    }

    /// A peer told what we lacked.
    pub(super) fn on_missing(&mut self, peer: PeerId, answer: SyncAnswer) {
        let SyncAnswer { extensions, withdrawals, is_partial } = answer;
        let extensions = extensions.into_iter().map(Revocation::Extension);
        let withdrawals = withdrawals.into_iter().map(Revocation::Withdrawal);
        let revocations: Vec<_> = extensions.chain(withdrawals).collect();
        if !revocations.is_empty() {
            // They came in one message, so they have no more bytes than one may have.
            self.take_in(peer, revocations, RESPONSE_BYTES_MAX, is_partial);
        }
    }
}
