//! Hears what the network tells, and answers what peers ask.

use std::{sync::Arc, time::Duration};

use dunlin_archive::{Pin, ReadError, bitswap::BATCH_BYTES_MAX};
use dunlin_protocols::{
    Audience, BlocksReply, Event, Found, KnownPeer, PeerId, Query, RevocationsKept, SegmentsReply,
    messages::{
        RESPONSE_BYTES_MAX, RefusalReason, SegmentAnnouncement, SegmentsRequest, SegmentsResponse,
        TemplatesResponse,
    },
};
use dunlin_trust::Record;
use dunlin_wire::Cid;
use serde_bytes::ByteBuf;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinSet, block_in_place},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    exchanges::{Exchanges, Wish},
    peers_file, proofs_file, publish_address, replication,
    revocation_file::RevocationFile,
    shared::Shared,
    trust_file::TrustFile,
};
use crate::data_dir::DataDir;

/// Answers and exchanges that may be under way. The network admits 64 requests and 16 batches of wants;
/// the rest is for exchanges that peers' announcements begin. Above, announcements are passed over: they
/// come again.
const UNDER_WAY_MAX: usize = 112;

/// How often the gate looks whether the own history has grown.
const JUDGING_PAUSE: Duration = Duration::from_secs(60);

/// Judging looks at the own history. It takes at most one part in so many of the time, whatever arrives.
const JUDGING_SHARE: u32 = 10;

/// How long work that is under way may go on when the node ends.
const DRAIN: Duration = Duration::from_secs(2);

/// The task that reads the network's events.
pub(super) struct Responder {
    shared: Arc<Shared>,
    trust_file: TrustFile,
    revocations: RevocationFile,
    addresses: Vec<String>,
    work: JoinSet<Done>,
    exchanges: Exchanges,
    is_judging: bool,
    /// Whether something arrived while the gate was judging.
    is_judging_due: bool,
}

/// Something that was under way.
enum Done {
    Answered,
    Exchanged(PeerId),
    Judged,
}

impl Responder {
    pub(super) fn new(
        shared: Arc<Shared>,
        trust_file: TrustFile,
        revocations: RevocationFile,
    ) -> Self {
        Self {
            shared,
            trust_file,
            revocations,
            addresses: Vec::new(),
            work: JoinSet::new(),
            exchanges: Exchanges::default(),
            is_judging: false,
            is_judging_due: false,
        }
    }

    /// Runs until the network ends. From `stop` on it begins nothing new; when nothing is under way any
    /// more, `idle` is dropped, and until the network has ended it keeps what that still tells about peers.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        stop: CancellationToken,
        idle: oneshot::Sender<()>,
    ) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut judging = interval(JUDGING_PAUSE);
        judging.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.work.join_next() => self.on_done(done?),
                _ = judging.tick() => {
                    shared.check_membership().await;
                    self.judge_again();
                }
                () = shared.arrived.notified() => self.judge_again(),
                () = shared.curious.notified() => self.ask_all_peers().await,
                event = events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => break,
                },
            }
        }
        // What peers wait for is still answered; what we wait for from peers may take too long.
        let drained = async { while self.work.join_next().await.is_some() {} };
        if timeout(DRAIN, drained).await.is_err() {
            self.work.shutdown().await;
        }
        drop(idle);
        while let Some(event) = events.recv().await {
            match event {
                Event::TrustChanged { changed, forgotten } => self.keep_trust(changed, &forgotten),
                Event::PeersKnown(known) => self.keep_peers(&known),
                Event::ProofsHeld(held) => self.keep_proofs(&held),
                Event::RevocationsChecked { records, is_everything, reply } => {
                    self.keep_revocations(records, is_everything, reply);
                }
                _ => {}
            }
        }
        self.write_trust(TrustFile::fold);
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Listening(address) => {
                publish_address(&self.shared.dir, &mut self.addresses, &address)
            }
            Event::PeerConnected(peer) => {
                if self.shared.config.network.own_peers.contains(&peer) {
                    self.shared.newcomer.notify_one();
                    self.shared.recovery.wish(peer);
                }
                self.exchange_templates(peer, None);
            }
            Event::SegmentsRequested { audience, request, reply, .. } => {
                let shared = Arc::clone(&self.shared);
                self.work.spawn(async move {
                    answer_segments(&shared, audience, request, reply).await;
                    Done::Answered
                });
            }
            Event::BlocksWanted { audience, queries, reply, .. } => {
                let shared = Arc::clone(&self.shared);
                self.work.spawn(async move {
                    answer_wants(&shared, audience, queries, reply).await;
                    Done::Answered
                });
            }
            Event::CatalogsRequested { peer, request, reply } => {
                let shared = Arc::clone(&self.shared);
                self.work.spawn(async move {
                    shared.answer_catalogs(peer, request, reply).await;
                    Done::Answered
                });
            }
            Event::ReplicasRequested { peer, request, reply } => {
                let shared = Arc::clone(&self.shared);
                self.work.spawn(async move {
                    replication::answer(&shared, peer, request, reply).await;
                    Done::Answered
                });
            }
            Event::ConsoleLooks { reply, .. } => {
                let shared = Arc::clone(&self.shared);
                self.work.spawn(async move {
                    match shared.console_view().await {
                        Ok(view) => {
                            shared.recovered("console");
                            reply.send(view);
                        }
                        Err(cause) => shared.report("console", format!("{cause:#}")),
                    }
                    Done::Answered
                });
            }
            Event::TemplatesRequested { request, reply, .. } => {
                let own = self.shared.sharing.own_envelope(&request.collection);
                let envelopes = own.into_iter().map(ByteBuf::from).collect();
                reply.send(TemplatesResponse::Envelopes { envelopes });
            }
            Event::SegmentsAnnounced { peer, announcement } => {
                let SegmentAnnouncement { collection, count, digest, .. } = announcement;
                if self.shared.heard_of_segments(peer, collection, count, digest)
                    && self.work.len() < UNDER_WAY_MAX
                {
                    let shared = Arc::clone(&self.shared);
                    self.work.spawn(async move {
                        shared.heard_news_of(peer).await;
                        Done::Answered
                    });
                }
            }
            Event::TemplatesAnnounced { peer, announcement }
                if !self.shared.sharing.has(
                    &peer,
                    &announcement.collection,
                    &announcement.digest,
                ) =>
            {
                self.exchange_templates(peer, Some(announcement.collection));
            }
            Event::TrustChanged { changed, forgotten } => {
                self.keep_trust(changed, &forgotten);
                self.shared.taught.notify_one();
            }
            Event::PeersKnown(known) => self.keep_peers(&known),
            Event::ProofsHeld(held) => self.keep_proofs(&held),
            Event::RevocationsChecked { records, is_everything, reply } => {
                self.keep_revocations(records, is_everything, reply);
            }
            _ => {}
        }
    }

    /// Writes revocations down, and only then lets them count.
    fn keep_revocations(
        &mut self,
        records: Vec<Vec<u8>>,
        is_everything: bool,
        reply: RevocationsKept,
    ) {
        let (file, dir) = (&mut self.revocations, &self.shared.dir);
        match block_in_place(|| file.keep(dir, records, is_everything)) {
            Ok(()) => {
                reply.kept();
                tracing::debug!("revocations were written down");
            }
            Err(cause) => self.shared.report("revocations", format!("{cause:#}")),
        }
    }

    fn keep_trust(&mut self, changed: Vec<Record>, forgotten: &[PeerId]) {
        // An fsync: other tasks go on meanwhile.
        self.write_trust(|file, dir| file.update(dir, changed, forgotten));
    }

    fn write_trust(&mut self, write: impl FnOnce(&mut TrustFile, &DataDir) -> anyhow::Result<()>) {
        let (file, dir) = (&mut self.trust_file, &self.shared.dir);
        match block_in_place(|| write(file, dir)) {
            Ok(()) => self.shared.recovered("trust"),
            Err(cause) => self.shared.report("trust", format!("{cause:#}")),
        }
    }

    fn keep_peers(&self, known: &[KnownPeer]) {
        match block_in_place(|| peers_file::keep(&self.shared.dir, known)) {
            Ok(()) => self.shared.recovered("peers"),
            Err(cause) => self.shared.report("peers", format!("{:#}", anyhow::Error::from(cause))),
        }
    }

    fn keep_proofs(&self, held: &[Vec<u8>]) {
        match block_in_place(|| proofs_file::keep(&self.shared.dir, held)) {
            Ok(()) => self.shared.recovered("proofs"),
            Err(cause) => self.shared.report("proofs", format!("{:#}", anyhow::Error::from(cause))),
        }
    }

    /// Puts received templates before the gate that it has not judged, or when the own history has grown.
    fn judge_again(&mut self) {
        if self.is_judging {
            self.is_judging_due = true;
            return;
        }
        self.is_judging = true;
        let shared = Arc::clone(&self.shared);
        self.work.spawn(async move {
            let began = Instant::now();
            match shared.blocking(Shared::judge_again).await {
                Ok(doubted) => {
                    shared.recovered("gate");
                    shared.report_doubts(doubted).await;
                }
                Err(cause) => shared.report("gate", format!("{cause:#}")),
            }
            sleep(JUDGING_SHARE * began.elapsed()).await;
            Done::Judged
        });
    }

    /// Asks every connected peer for templates of all collections.
    async fn ask_all_peers(&mut self) {
        for view in self.shared.network.connected().await {
            self.exchange_templates(view.peer, None);
        }
    }

    /// Fetches a peer's templates, now or when what is under way with it is done.
    fn exchange_templates(&mut self, peer: PeerId, wish: Wish) {
        if !self.shared.config.templates.adopt {
            return;
        }
        if self.work.len() >= UNDER_WAY_MAX || !self.exchanges.begin(peer, &wish) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.work.spawn(async move {
            shared.fetch_templates(peer, wish).await;
            Done::Exchanged(peer)
        });
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Answered => {}
            Done::Judged => {
                self.shared.taught.notify_one();
                self.is_judging = false;
                if std::mem::take(&mut self.is_judging_due) {
                    self.judge_again();
                }
            }
            Done::Exchanged(peer) => {
                if let Some(wish) = self.exchanges.end(&peer) {
                    self.exchange_templates(peer, wish);
                }
            }
        }
    }
}

#[tracing::instrument(skip_all)]
async fn answer_segments(
    shared: &Arc<Shared>,
    audience: Audience,
    request: SegmentsRequest,
    reply: SegmentsReply,
) {
    match shared.blocking(move |shared| look_up(shared, audience, request)).await {
        Ok(response) => {
            shared.recovered("serving");
            reply.send(response);
        }
        Err(cause) => {
            shared.report("serving", format!("{:#}", anyhow::Error::from(cause)));
            reply.refuse(RefusalReason::Failed);
        }
    }
}

/// Looks up a batch of what a peer wants over bitswap. A store that fails answers nothing, which counts as
/// not here.
async fn answer_wants(
    shared: &Arc<Shared>,
    audience: Audience,
    queries: Vec<Query>,
    reply: BlocksReply,
) {
    match shared.blocking(move |shared| look_up_wants(shared, audience, &queries)).await {
        Ok(found) => {
            shared.recovered("serving");
            reply.send(found);
        }
        Err(cause) => {
            shared.report("serving", format!("{:#}", anyhow::Error::from(cause)));
        }
    }
}

/// Returns whether a block may leave for somebody. For a stranger, one that may not is one that is not here.
fn may_leave(shared: &Shared, audience: Audience, cid: &Cid) -> Result<bool, ReadError> {
    match audience {
        Audience::OwnPeer => Ok(true),
        Audience::Stranger => shared.archive.is_public(cid),
    }
}

fn look_up_wants(
    shared: &Shared,
    audience: Audience,
    queries: &[Query],
) -> Result<Vec<Found>, ReadError> {
    let (mut found, mut bytes) = (Vec::with_capacity(queries.len()), 0);
    for query in queries {
        if bytes > BATCH_BYTES_MAX {
            // The rest is put again, when this has left.
            break;
        }
        found.push(if !may_leave(shared, audience, &query.cid)? {
            Found::Absent
        } else if query.is_for_block {
            let block = shared.stored_block(&query.cid)?;
            bytes += block.as_ref().map_or(0, |block| block.bytes().len());
            block.map_or(Found::Absent, Found::Block)
        } else if shared.archive.has(&query.cid)? {
            Found::Here
        } else {
            Found::Absent
        });
    }
    Ok(found)
}

fn look_up(
    shared: &Shared,
    audience: Audience,
    request: SegmentsRequest,
) -> Result<SegmentsResponse, ReadError> {
    match request {
        SegmentsRequest::Blocks { cids } => {
            let (mut found, mut missing, mut bytes) = (Vec::new(), Vec::new(), 0);
            for cid in cids {
                let may_leave = may_leave(shared, audience, &cid)?;
                match may_leave.then(|| shared.stored_block(&cid)).transpose()?.flatten() {
                    Some(block) => {
                        bytes += block.bytes().len();
                        found.push(block);
                    }
                    None => missing.push(cid),
                }
                if bytes > RESPONSE_BYTES_MAX {
                    // No more would fit, so no more is read; the rest is asked for again.
                    break;
                }
            }
            if found.is_empty() && audience == Audience::Stranger {
                return Ok(SegmentsResponse::Refused { reason: RefusalReason::Denied });
            }
            Ok(SegmentsResponse::fitting(found, missing))
        }
        SegmentsRequest::List { collection, after, limit } => {
            let cids =
                shared.archive.roots(&Pin::own(&collection), after.as_ref(), limit.into())?;
            Ok(SegmentsResponse::Page { cids })
        }
    }
}
