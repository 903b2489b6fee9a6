//! Bitswap in the network's task: the gate, the shell's answers, and the fetches under way.

use std::{collections::BTreeMap, future::Future, pin::Pin};

use dunlin_archive::{
    Outcome,
    bitswap::{BatchId, Conduct, FetchId, Found, Query, Search},
};
use dunlin_trust::{Evidence, Operation};
use dunlin_wire::Cid;
use libp2p::{
    PeerId,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use tokio::sync::{mpsc, oneshot};

use super::{Actor, Asker, QUERIES_MAX, Reply, refuse, unix_now};
use crate::{
    Audience, BlocksReply, Event, NetworkError, bitswap,
    fetch::{NEWS_MAX, News, Started},
};

/// The future of what the shell finds for a batch.
pub(super) type LookingUp = Pin<Box<dyn Future<Output = LookedUp> + Send>>;

/// What the shell found.
pub(super) struct LookedUp {
    batch: BatchId,
    audience: Audience,
    found: Vec<Found>,
}

/// Where the news of each fetch goes. Bounded by the client's limit on fetches.
pub(super) type Fetches = BTreeMap<FetchId, mpsc::Sender<News>>;

impl Actor {
    pub(super) fn on_bitswap_event(&mut self, event: bitswap::Event) {
        use bitswap::Event as E;
        match event {
            E::LookUp { batch, peer, queries } => self.look_up(batch, peer, queries),
            E::Deliver { fetch, from, blocks } => {
                self.tell_fetch(fetch, News::Blocks { from, blocks });
            }
            E::Settled { fetch, wants } => self.tell_fetch(fetch, News::Settled { wants }),
            E::Search { fetch, cid } => {
                if self.queries.len() < QUERIES_MAX {
                    self.ask_dht(&cid, Asker::Fetch(fetch));
                } else {
                    self.swarm.behaviour_mut().bitswap.on_search_done(fetch);
                }
            }
            E::Conduct { peer, conduct } => self.on_conduct(peer, conduct),
            E::Violation { peer } => {
                self.counters.violations += 1;
                self.observe(peer, Evidence::ProtocolViolation);
            }
        }
    }

    /// Has the shell look up what a peer wants: all that is in the archive, when the gate lets it have private
    /// segments, and otherwise what is public. Nobody learns whether another block is here.
    fn look_up(&mut self, batch: BatchId, peer: PeerId, queries: Vec<Query>) {
        let audience = self.audience_of(&peer);
        if audience == Audience::Stranger
            && let Err(refusal) = self.trust.may(unix_now(), &peer, Operation::ServePublicBlocks)
        {
            tracing::debug!(%refusal, "wants refused");
            let found = vec![Found::Absent; queries.len()];
            return self.on_looked_up(LookedUp { batch, audience, found });
        }
        let (reply, found) = oneshot::channel();
        let events = self.events.clone();
        // A shell that is busy is waited for: the server has only so many batches under way.
        self.looking_up.push(Box::pin(async move {
            let count = queries.len();
            let reply = BlocksReply(reply);
            let asked = events.send(Event::BlocksWanted { peer, audience, queries, reply }).await;
            let found = match asked {
                Ok(()) => found.await.ok(),
                Err(_) => None,
            };
            let found = found.unwrap_or_else(|| vec![Found::Absent; count]);
            LookedUp { batch, audience, found }
        }));
    }

    pub(super) fn on_looked_up(&mut self, looked_up: LookedUp) {
        let LookedUp { batch, audience, found } = looked_up;
        let is_nothing = found.iter().all(|found| matches!(found, Found::Absent));
        self.counters.requests_denied += u64::from(audience == Audience::Stranger && is_nothing);
        let bytes = found.iter().map(|found| match found {
            Found::Block(block) => block.bytes().len() as u64,
            Found::Here | Found::Absent | Found::Later => 0,
        });
        let bytes: u64 = bytes.sum();
        self.counters.block_bytes_served += bytes;
        self.counters.requests_served += u64::from(bytes > 0);
        self.swarm.behaviour_mut().bitswap.on_found(batch, found);
    }

    pub(super) fn begin_fetch(
        &mut self,
        wanted: &[Cid],
        mut candidates: Vec<PeerId>,
        search: Search,
        reply: Reply<Started>,
    ) {
        candidates.retain(|peer| self.may_fetch_from(peer));
        match self.swarm.behaviour_mut().bitswap.fetch(wanted, &candidates, search) {
            Ok((id, wants)) => {
                let (tell, news) = mpsc::channel(NEWS_MAX);
                self.fetches.insert(id, tell);
                // Whoever asked may have given up; then the next tick ends the fetch.
                reply.send(Ok(Started { id, wants, news })).ok();
            }
            Err(refusal) => refuse(reply, NetworkError::Fetch(refusal)),
        }
    }

    pub(super) fn finish_fetch(&mut self, fetch: FetchId) -> Vec<Outcome> {
        self.fetches.remove(&fetch);
        self.swarm.behaviour_mut().bitswap.finish(fetch)
    }

    pub(super) fn finish_abandoned_fetches(&mut self) {
        let abandoned = self.fetches.iter().filter(|(_, tell)| tell.is_closed());
        for fetch in abandoned.map(|(fetch, _)| *fetch).collect::<Vec<_>>() {
            self.finish_fetch(fetch);
        }
    }

    /// Adds providers that the DHT found to a fetch. They are dialled here and now, while the DHT knows
    /// where they are.
    pub(super) fn on_fetch_providers(&mut self, fetch: FetchId, found: &[PeerId]) {
        let mut heard: Vec<_> = found.to_vec();
        heard.retain(|peer| self.may_fetch_from(peer));
        for peer in &heard {
            if !self.swarm.is_connected(peer) {
                let everywhere = DialOpts::peer_id(*peer).addresses(Vec::new());
                let everywhere = everywhere.extend_addresses_through_behaviour();
                let opts = everywhere.condition(PeerCondition::DisconnectedAndNotDialing).build();
                if let Err(cause) = self.swarm.dial(opts) {
                    tracing::trace!(%cause, "not dialled");
                }
            }
        }
        self.swarm.behaviour_mut().bitswap.on_providers(fetch, &heard);
    }

    fn may_fetch_from(&mut self, peer: &PeerId) -> bool {
        let may = self.trust.may(unix_now(), peer, Operation::FetchSegments).is_ok();
        self.counters.asks_denied += u64::from(!may);
        may
    }

    fn tell_fetch(&mut self, fetch: FetchId, news: News) {
        let Some(tell) = self.fetches.get(&fetch) else { return };
        // There is room for all that is fetched ahead, so this fails for a caller that is gone.
        if tell.try_send(news).is_err() {
            self.finish_fetch(fetch);
        }
    }

    fn on_conduct(&mut self, peer: PeerId, conduct: Conduct) {
        match conduct {
            Conduct::Served { blocks, bytes } => {
                self.counters.answers_received += 1;
                self.counters.block_bytes_received += bytes;
                self.observe(peer, Evidence::Served { blocks });
            }
            Conduct::Unasked => {
                self.counters.blocks_unasked += 1;
                self.observe(peer, Evidence::ProtocolViolation);
            }
            Conduct::Stalled => {
                self.counters.timeouts += 1;
                self.observe(peer, Evidence::Timeout);
            }
        }
    }
}
