//! What the rest of a node can ask of the network.

mod statements;

use std::{collections::BTreeSet, sync::Arc};

use dunlin_archive::{
    Outcome,
    bitswap::{self, FetchId, Search},
    ipns::{Name, Record},
};
use dunlin_trust::{
    Evidence, Explanation, Operation, Proof, Refusal, SentObject, Served, WrongObject,
};
use dunlin_wire::{Cid, block::Block, envelope};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

pub use self::statements::StatementsAnswer;
use crate::{
    Counters, Fetch, PeerView, Reachability,
    consoles::TICKET_LIFE,
    fetch::Started,
    messages::{
        CIDS_PER_REQUEST_MAX, Catalogs, CatalogsRequest, CatalogsResponse, ClaimedBlock,
        RefusalReason, ReplicasRequest, ReplicasResponse, Revocation, SegmentAnnouncement,
        SegmentsRequest, SegmentsResponse, TemplateAnnouncement, TemplatesRequest,
        TemplatesResponse, Ticket,
    },
};

/// Questions that may wait for the network's task; who asks more waits.
pub(crate) const COMMANDS_MAX: usize = 256;

/// A cheap handle to the network's task.
///
/// # Cancel safety
///
/// Every method may be dropped at any time: the answer is then thrown away.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) me: PeerId,
    pub(crate) network: Arc<str>,
    pub(crate) commands: mpsc::Sender<Command>,
}

/// What a [`Handle`] asks.
#[derive(Debug)]
pub(crate) enum Command {
    Segments { peer: PeerId, request: SegmentsRequest, reply: Reply<SegmentsResponse> },
    Templates { peer: PeerId, request: TemplatesRequest, reply: Reply<TemplatesResponse> },
    Catalogs { peer: PeerId, request: CatalogsRequest, reply: Reply<CatalogsResponse> },
    Replicas { peer: PeerId, request: ReplicasRequest, reply: Reply<ReplicasResponse> },
    Fetch { wanted: Vec<Cid>, candidates: Vec<PeerId>, search: Search, reply: Reply<Started> },
    FetchMore { fetch: FetchId, wanted: Vec<Cid>, reply: Reply<usize> },
    FetchTaken { fetch: FetchId, blocks: usize },
    FetchFinish { fetch: FetchId, reply: Reply<Vec<Outcome>> },
    Stored(Vec<Cid>),
    AnnounceSegments(SegmentAnnouncement),
    AnnounceTemplates(TemplateAnnouncement),
    Dial { address: Multiaddr, reply: Reply<()> },
    Provide { cid: Cid, reply: Reply<bool> },
    Hold(Vec<Cid>),
    Withdraw(Cid),
    PutName { name: Name, record: Record, reply: Reply<usize> },
    ResolveName { name: Name, reply: Reply<Option<Record>> },
    Records { reply: oneshot::Sender<Records> },
    Providers { cid: Cid, reply: Reply<Vec<PeerId>> },
    Revoke { revocation: Revocation, reply: Reply<usize> },
    Quarantine { peer: PeerId, is_held: bool, reply: Reply<Explanation> },
    Explain { peer: PeerId, reply: oneshot::Sender<PeerView> },
    Revocations { reply: oneshot::Sender<RevocationsView> },
    Judge { peer: PeerId, evidence: Evidence, times: usize },
    Prove { proof: Box<Proof> },
    May { peer: PeerId, operation: Operation, reply: oneshot::Sender<Result<(), Refusal>> },
    ExpectConsole { peer: PeerId, ticket: Ticket, reply: oneshot::Sender<()> },
    Connected { reply: oneshot::Sender<Vec<PeerView>> },
    PeersAfter { after: Option<PeerId>, count: usize, reply: oneshot::Sender<Vec<PeerView>> },
    Peers { reply: oneshot::Sender<Vec<PeerView>> },
    Listening { reply: oneshot::Sender<Vec<Multiaddr>> },
    Reaching { reply: oneshot::Sender<Reaching> },
    Counters { reply: oneshot::Sender<Counters> },
    Received { bytes: u64 },
}

/// Where the answer to a command goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, NetworkError>>;

/// What a peer answered about blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlocksAnswer {
    /// Blocks that hash to their CIDs.
    pub blocks: Vec<Block>,
    /// What it says it does not have.
    pub missing: Vec<Cid>,
    /// CIDs for which it sent other bytes. The bytes are gone, the peer's standing has fallen.
    pub wrong: Vec<Cid>,
}

/// What a node keeps of the DHT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Keys, multihashes as a rule, with a peer who says to have what they name.
    pub providers: Vec<(Vec<u8>, PeerId)>,
    /// Names of which a record is here.
    pub names: Vec<Name>,
}

/// How strangers reach a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaching {
    /// Whether they do, as far as peers have tried.
    pub reachability: Reachability,
    /// Addresses at which they do, those at relays included, as peers are told.
    pub external: Vec<Multiaddr>,
    /// Relays at which this node has a place.
    pub relays: Vec<PeerId>,
    /// Whether this node serves the DHT.
    pub is_dht_server: bool,
}

/// What a node knows of revocations, in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevocationsView {
    /// How many keys are revoked.
    pub keys: usize,
    /// The short name of all that it can prove: equal nodes know the same.
    pub digest: [u8; 32],
    /// Whether its own key is one of them: then nobody speaks with it.
    pub is_own_key_revoked: bool,
}

/// One page of a peer's segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentsPage {
    /// In order of their bytes.
    pub cids: Vec<Cid>,
}

impl Handle {
    /// Returns this node's peer id.
    #[must_use]
    pub fn local_peer(&self) -> PeerId {
        self.me
    }

    /// Asks a peer for blocks, and checks every one that comes against its CID. What is in no list of the
    /// answer did not fit into one message: ask again.
    ///
    /// # Errors
    ///
    /// Fails when the gate or the peer refuses, or no answer comes. Bytes that are not what was asked for
    /// are no error: they are dropped and count against the peer.
    pub async fn blocks(
        &self,
        peer: PeerId,
        mut cids: Vec<Cid>,
    ) -> Result<BlocksAnswer, NetworkError> {
        debug_assert!(cids.len() <= CIDS_PER_REQUEST_MAX, "one message holds the question");
        // Asked twice, an honest peer answers twice, which would look like more than was asked for.
        let mut asked = BTreeSet::new();
        cids.retain(|cid| asked.insert(*cid));
        let response = self.ask_segments(peer, SegmentsRequest::Blocks { cids }).await?;
        let SegmentsResponse::Blocks { blocks, missing, served } = response else {
            self.judge(peer, Evidence::ProtocolViolation, 1).await;
            return Err(NetworkError::Violation { peer });
        };
        let (answer, sent, unasked) = sort_out(&asked, blocks, missing);
        let wrong = WrongObject::first_of(&sent);
        let mut unproven = answer.wrong.len();
        if let Some(served) = served {
            let is_signed = envelope::open::<Served>(&served).is_ok_and(|signed| {
                signed.signer == peer && signed.value.is_about(&self.network, &sent)
            });
            match wrong {
                // What it signed convicts it everywhere; further objects of that answer are this node's word.
                Some(wrong) if is_signed => {
                    let proof = Proof::WrongCid { served, wrong: wrong.into() };
                    self.tell(Command::Prove { proof: proof.into() }).await;
                    unproven = unproven.saturating_sub(1);
                }
                None if !is_signed => {
                    self.judge(peer, Evidence::ProtocolViolation, 1).await;
                    return Err(NetworkError::Violation { peer });
                }
                // It signed that it sent what it did not send.
                _ => {}
            }
        }
        let served = u32::try_from(answer.blocks.len()).unwrap_or(u32::MAX);
        if served > 0 {
            self.judge(peer, Evidence::Served { blocks: served }, 1).await;
            let bytes = answer.blocks.iter().map(|block| block.bytes().len() as u64).sum();
            self.tell(Command::Received { bytes }).await;
        }
        self.judge(peer, Evidence::WrongCid, unproven).await;
        self.judge(peer, Evidence::ProtocolViolation, usize::from(unasked)).await;
        Ok(answer)
    }

    /// Begins to fetch blocks over bitswap, which IPFS nodes speak: from `candidates`, the first ones
    /// first, and with [`Search::Once`] from whom the DHT says has the first of them. Which CIDs a node
    /// searches for tells strangers what it looks at.
    ///
    /// # Errors
    ///
    /// Fails when too much is under way. A candidate that the gate refuses is left out.
    pub async fn fetch(
        &self,
        wanted: Vec<Cid>,
        candidates: Vec<PeerId>,
        search: Search,
    ) -> Result<Fetch, NetworkError> {
        let started =
            self.ask(|reply| Command::Fetch { wanted, candidates, search, reply }).await?;
        Ok(Fetch::new(self.clone(), started))
    }

    /// Tells that blocks were stored: peers that asked for them over bitswap get them now.
    pub async fn stored(&self, cids: Vec<Cid>) {
        self.tell(Command::Stored(cids)).await;
    }

    /// Asks a peer for the CIDs of a collection's segments, in order, behind `after`.
    ///
    /// # Errors
    ///
    /// Fails when the gate or the peer refuses, or no answer comes.
    pub async fn segments(
        &self,
        peer: PeerId,
        collection: &str,
        after: Option<Cid>,
        limit: u16,
    ) -> Result<SegmentsPage, NetworkError> {
        let request = SegmentsRequest::List { collection: collection.to_owned(), after, limit };
        match self.ask_segments(peer, request).await? {
            SegmentsResponse::Page { cids } => Ok(SegmentsPage { cids }),
            _ => {
                self.judge(peer, Evidence::ProtocolViolation, 1).await;
                Err(NetworkError::Violation { peer })
            }
        }
    }

    /// Asks a peer for the templates of a collection; returns signed envelopes that nobody has checked.
    ///
    /// # Errors
    ///
    /// Fails when the gate or the peer refuses, or no answer comes.
    pub async fn templates(
        &self,
        peer: PeerId,
        collection: &str,
    ) -> Result<Vec<Vec<u8>>, NetworkError> {
        let request = TemplatesRequest::new(collection);
        match self.ask(|reply| Command::Templates { peer, request, reply }).await? {
            TemplatesResponse::Envelopes { envelopes } => {
                Ok(envelopes.into_iter().map(serde_bytes::ByteBuf::into_vec).collect())
            }
            TemplatesResponse::Refused { reason } => Err(NetworkError::Refused { peer, reason }),
        }
    }

    /// Tells an own peer what this node knows of collections, and asks what it knows of them. Those that it does not
    /// have are not in the answer. What it says is its word.
    ///
    /// # Errors
    ///
    /// Fails when the gate or the peer refuses, no answer comes, or it is about other collections.
    pub async fn compare_catalogs(
        &self,
        peer: PeerId,
        catalogs: Vec<Catalogs>,
    ) -> Result<Vec<Catalogs>, NetworkError> {
        let mut asked: BTreeSet<_> = catalogs.iter().map(|of| of.collection.clone()).collect();
        let request = CatalogsRequest::Compare { catalogs };
        match self.ask(|reply| Command::Catalogs { peer, request, reply }).await? {
            CatalogsResponse::Compared { catalogs }
                if catalogs.iter().all(|of| asked.remove(&of.collection)) =>
            {
                Ok(catalogs)
            }
            CatalogsResponse::Compared { .. } | CatalogsResponse::Statements { .. } => {
                self.judge(peer, Evidence::ProtocolViolation, 1).await;
                Err(NetworkError::Violation { peer })
            }
            CatalogsResponse::Refused { reason } => Err(NetworkError::Refused { peer, reason }),
        }
    }

    /// Asks a peer something about the objects that it holds for this node, or shall. What the answer says is
    /// the peer's word.
    ///
    /// # Errors
    ///
    /// Fails when the gate or the peer refuses, no answer comes, or it is an answer to something else.
    pub async fn replicas(
        &self,
        peer: PeerId,
        request: ReplicasRequest,
    ) -> Result<ReplicasResponse, NetworkError> {
        let asked = request.clone();
        let response = self.ask(|reply| Command::Replicas { peer, request, reply }).await?;
        let is_fitting = match (&asked, &response) {
            (_, ReplicasResponse::Refused { reason }) => {
                return Err(NetworkError::Refused { peer, reason: *reason });
            }
            (ReplicasRequest::Pin { objects }, ReplicasResponse::Pinned { outcomes }) => {
                objects.len() == outcomes.len()
            }
            (ReplicasRequest::Challenge { blocks, .. }, ReplicasResponse::Proved { proofs }) => {
                blocks.len() == proofs.len()
            }
            (ReplicasRequest::Release { .. }, ReplicasResponse::Released { .. }) => true,
            _ => false,
        };
        if is_fitting {
            return Ok(response);
        }
        self.judge(peer, Evidence::ProtocolViolation, 1).await;
        Err(NetworkError::Violation { peer })
    }

    /// Tells the network about own segments, as far as somebody listens.
    pub async fn announce_segments(&self, announcement: SegmentAnnouncement) {
        self.tell(Command::AnnounceSegments(announcement)).await;
    }

    /// Tells the network about own templates, as far as somebody listens.
    pub async fn announce_templates(&self, announcement: TemplateAnnouncement) {
        self.tell(Command::AnnounceTemplates(announcement)).await;
    }

    /// Begins to dial an address.
    ///
    /// # Errors
    ///
    /// Fails when it cannot even be tried.
    pub async fn dial(&self, address: Multiaddr) -> Result<(), NetworkError> {
        self.ask(|reply| Command::Dial { address, reply }).await
    }

    /// Tells the DHT that this node has `cid`, and whoever asks from now on. Returns whether there was a peer to
    /// hear it. It is not told again by itself.
    ///
    /// # Errors
    ///
    /// Fails when this node provides as many as it may, or too many questions are under way.
    pub async fn provide(&self, cid: Cid) -> Result<bool, NetworkError> {
        self.ask(|reply| Command::Provide { cid, reply }).await
    }

    /// Says to whoever asks from now on that these are here, as the DHT was told before.
    pub async fn hold(&self, cids: Vec<Cid>) {
        self.tell(Command::Hold(cids)).await;
    }

    /// Stops to say that `cid` is here. What others were told fades away.
    pub async fn withdraw(&self, cid: Cid) {
        self.tell(Command::Withdraw(cid)).await;
    }

    /// Gives a record of this node's name to the DHT; returns how many peers keep it, at most 20.
    ///
    /// # Errors
    ///
    /// Fails when the record is of another name, or too many questions are under way.
    pub async fn put_name(&self, record: Record) -> Result<usize, NetworkError> {
        let impossible = || NetworkError::Impossible { cause: "this node has no name".to_owned() };
        let name = Name::of(&self.me).ok_or_else(impossible)?;
        self.ask(|reply| Command::PutName { name, record, reply }).await
    }

    /// Asks the DHT for the newest record of a name.
    ///
    /// # Errors
    ///
    /// Fails when too many such questions are under way.
    pub async fn resolve_name(&self, name: Name) -> Result<Option<Record>, NetworkError> {
        self.ask(|reply| Command::ResolveName { name, reply }).await
    }

    /// Returns what this node keeps of the DHT, for itself and for others.
    pub async fn records(&self) -> Records {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Records { reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Returns the peers who told the DHT that they have `cid`.
    ///
    /// # Errors
    ///
    /// Fails when too many such questions are under way.
    pub async fn providers(&self, cid: Cid) -> Result<Vec<PeerId>, NetworkError> {
        self.ask(|reply| Command::Providers { cid, reply }).await
    }

    /// Takes a revocation that the operator brings, and tells it to the network; returns how many keys are revoked
    /// by it that were not before.
    ///
    /// # Errors
    ///
    /// Fails when it does not count, cannot be written down, or too many are under way.
    ///
    /// # Durability
    ///
    /// It is on disk when this returns.
    pub async fn revoke(&self, revocation: Revocation) -> Result<usize, NetworkError> {
        self.ask(|reply| Command::Revoke { revocation, reply }).await
    }

    /// Quarantines a peer by the operator's word, or ends its quarantine, whoever began it. The shell has kept
    /// that already.
    ///
    /// # Errors
    ///
    /// Fails when as many are held as can be.
    pub async fn quarantine(
        &self,
        peer: PeerId,
        is_held: bool,
    ) -> Result<Explanation, NetworkError> {
        self.ask(|reply| Command::Quarantine { peer, is_held, reply }).await
    }

    /// Returns what is known of a peer, which may be nothing.
    ///
    /// # Errors
    ///
    /// Fails when the network has ended.
    pub async fn explain(&self, peer: PeerId) -> Result<PeerView, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Explain { peer, reply }).await;
        answer.await.map_err(|_| NetworkError::Ended)
    }

    /// Returns what this node knows of revocations, in short.
    pub async fn revocations(&self) -> RevocationsView {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Revocations { reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Takes evidence that the shell found, such as a badly signed template, as often as it was seen.
    pub async fn judge(&self, peer: PeerId, evidence: Evidence, times: usize) {
        if times > 0 {
            self.tell(Command::Judge { peer, evidence, times }).await;
        }
    }

    /// Asks the gate.
    ///
    /// # Errors
    ///
    /// Fails with the gate's refusal, or when the network has ended.
    pub async fn may(&self, peer: PeerId, operation: Operation) -> Result<(), NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::May { peer, operation, reply }).await;
        answer.await.map_err(|_| NetworkError::Ended)?.map_err(NetworkError::Gate)
    }

    /// Expects the operator's console, a browser with this peer id, to come with this ticket within a minute; returns
    /// for how many seconds.
    ///
    /// # Errors
    ///
    /// Fails when the network has ended.
    pub async fn expect_console(&self, peer: PeerId, ticket: Ticket) -> Result<u64, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::ExpectConsole { peer, ticket, reply }).await;
        answer.await.map_err(|_| NetworkError::Ended)?;
        Ok(TICKET_LIFE.as_secs())
    }

    /// Returns the peers that are connected: a few hundred at most.
    pub async fn connected(&self) -> Vec<PeerView> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Connected { reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Returns so many peers that are connected or remembered, in the order of their keys, from behind one on.
    pub async fn peers_after(&self, after: Option<PeerId>, count: usize) -> Vec<PeerView> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::PeersAfter { after, count, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Returns every peer that is connected, and of those that are remembered the thousand with most on record; none
    /// after the network has ended.
    pub async fn peers(&self) -> Vec<PeerView> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Peers { reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Returns the addresses that the node listens on, each with its peer id.
    pub async fn listening(&self) -> Vec<Multiaddr> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Listening { reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Returns whether strangers reach this node, and how.
    pub async fn reaching(&self) -> Reaching {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Reaching { reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Returns what the network did so far.
    pub async fn counters(&self) -> Counters {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Counters { reply }).await;
        answer.await.unwrap_or_default()
    }

    async fn ask_segments(
        &self,
        peer: PeerId,
        request: SegmentsRequest,
    ) -> Result<SegmentsResponse, NetworkError> {
        match self.ask(|reply| Command::Segments { peer, request, reply }).await? {
            SegmentsResponse::Refused { reason } => Err(NetworkError::Refused { peer, reason }),
            response => Ok(response),
        }
    }

    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await;
        answer.await.unwrap_or(Err(NetworkError::Ended))
    }

    pub(crate) async fn tell(&self, command: Command) {
        // A network that has ended answers nobody: the questions above see that by themselves.
        self.commands.send(command).await.ok();
    }
}

/// Checks what a peer sent for the CIDs it was asked for; returns what it is in the words of a signed answer, too, and
/// whether the answer breaks the protocol: it holds something else, or nothing at all, which would have us ask for ever.
fn sort_out(
    asked: &BTreeSet<Cid>,
    blocks: Vec<ClaimedBlock>,
    missing: Vec<Cid>,
) -> (BlocksAnswer, Vec<SentObject>, bool) {
    let (mut answer, mut sent) = (BlocksAnswer::default(), Vec::with_capacity(blocks.len()));
    let mut left = asked.clone();
    let mut unasked = blocks.is_empty() && missing.is_empty() && !asked.is_empty();
    for ClaimedBlock { cid, bytes } in blocks {
        let is_asked_for = left.remove(&cid);
        unasked |= !is_asked_for;
        match Block::verified_or_bytes(cid, bytes) {
            Ok(block) => {
                sent.push(SentObject::whole(cid, block.bytes()));
                answer.blocks.extend(is_asked_for.then_some(block));
            }
            Err(bytes) => {
                sent.push(SentObject::new(cid, &bytes));
                answer.wrong.extend(is_asked_for.then_some(cid));
            }
        }
    }
    for cid in missing {
        if left.remove(&cid) {
            answer.missing.push(cid);
        } else {
            unasked = true;
        }
    }
    (answer, sent, unasked)
}

/// Why the network did not do what was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Our own gate does not allow it.
    #[error(transparent)]
    Gate(Refusal),
    /// The peer does not serve us, now or ever.
    #[error("{peer} refused: {reason:?}")]
    Refused {
        /// The peer.
        peer: PeerId,
        /// Its reason.
        reason: RefusalReason,
    },
    /// No answer in time; asking again may help.
    #[error("{peer} did not answer in time")]
    Timeout {
        /// The peer.
        peer: PeerId,
    },
    /// The answer was no message of ours.
    #[error("{peer} broke the protocol")]
    Violation {
        /// The peer.
        peer: PeerId,
    },
    /// The connection failed; asking again may help.
    #[error("asking {peer} failed: {cause}")]
    Failed {
        /// The peer.
        peer: PeerId,
        /// Why.
        cause: String,
    },
    /// Too many requests of this kind are under way.
    #[error("too many requests are under way; try again later")]
    Busy,
    /// More blocks are wanted at once than one fetch may have.
    #[error(transparent)]
    Fetch(bitswap::Refusal),
    /// The address cannot be dialled, the record not be stored, or the revocation does not count.
    #[error("{cause}")]
    Impossible {
        /// Why.
        cause: String,
    },
    /// The network has ended.
    #[error("the network has ended")]
    Ended,
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::Codec;

    use super::*;

    #[test]
    fn blocks_are_sorted_into_right_wrong_missing_and_unasked() {
        let block = |text: &str| Block::new(Codec::Raw, text.as_bytes().to_vec());
        let (right, wrong, missing, other) = (block("a"), block("b"), block("c"), block("d"));
        let asked = [&right, &wrong, &missing].map(|block| *block.cid()).into();
        let claimed =
            |block: &Block, bytes: &[u8]| ClaimedBlock { cid: *block.cid(), bytes: bytes.to_vec() };
        let sent = vec![claimed(&right, b"a"), claimed(&wrong, b"x")];
        let (answer, objects, unasked) = sort_out(&asked, sent.clone(), vec![*missing.cid()]);
        assert_eq!(
            objects,
            [SentObject::new(*right.cid(), b"a"), SentObject::new(*wrong.cid(), b"x")]
        );
        assert_eq!(answer.blocks, std::slice::from_ref(&right));
        assert_eq!((answer.wrong, answer.missing), (vec![*wrong.cid()], vec![*missing.cid()]));
        assert!(!unasked);
        for extra in [claimed(&other, b"d"), claimed(&right, b"a")] {
            let (answer, objects, unasked) =
                sort_out(&asked, [sent.clone(), vec![extra]].concat(), Vec::new());
            assert!(unasked);
            assert_eq!((answer.blocks.len(), objects.len()), (1, 3), "it was signed for, too");
        }
        assert!(sort_out(&asked, Vec::new(), vec![*other.cid()]).2);
    }
}
