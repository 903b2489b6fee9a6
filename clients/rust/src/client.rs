//! A blocking client: one call, one request.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    AdoptRequest, AnomaliesAnswer, AnomaliesQuery, ArchiveStatus, BehavioursAnswer, BundleImported,
    BundleMade, BundleRequest, Bundles, ChangesAnswer, ChangesQuery, ClusterStatus, CollectionSpec,
    Collections, CompactRequest, CompactResponse, Entities, ErrorBody, FetchRequest, FetchResponse,
    HistoryAnswer, HistoryQuery, ImportResponse, IngestAck, IngestRequest, KnnAnswer, KnnQuery,
    LedgerView, MembershipStatus, NamedPin, NodeStatus, PeerTrust, Peers, PinRequest, Pins,
    ProvideRequest, ProvideResponse, PublishRequest, PublishResponse, PublishedName, Quality,
    RemoveRequest, RemoveResponse, Replicas, ResolveRequest, ResolvedName, RevocationPublished,
    RollBackRequest, ScoresAnswer, ScoresQuery, SealRequest, SealResponse, Segment, SegmentPage,
    SegmentsQuery, Share, ShareRequest, ShareResponse, Templates, TrajectoryAnswer,
    TrajectoryQuery, TrustPage, UnpinRequest, UnpinResponse,
};

/// File in the data folder that holds the address of a running node's API.
pub const ADDRESS_FILE: &str = "api.address";

/// File in the data folder that holds the bearer token, readable by its owner alone.
pub const TOKEN_FILE: &str = "api.token";

/// Longest wait for an answer. Scoring and fetching may take seconds; nothing takes minutes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Longest wait for a file to be sent and taken in: hundreds of GiB on a slow disk.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Largest answer that is read: a page of 1,000 segments of 4,096 channels stays below it.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What the HTTP library returns for a call.
type Answer = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

/// A node's API, as seen by one who holds its token.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

impl Client {
    /// Returns a client for the API at `address` (`host:port`) with its bearer token.
    #[must_use]
    pub fn new(address: &str, token: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .proxy(None)
            .build()
            .new_agent();
        let base = format!("http://{address}");
        Self { agent, base, authorization: format!("Bearer {}", token.trim()) }
    }

    /// Returns a client for the node that runs on `data_dir`.
    ///
    /// # Errors
    ///
    /// Fails when no node has been started on that folder, or its files cannot be read.
    pub fn for_data_dir(data_dir: &Path) -> Result<Self, ClientError> {
        let read = |name: &str| {
            fs::read_to_string(data_dir.join(name)).map_err(|cause| match cause.kind() {
                io::ErrorKind::NotFound => ClientError::NotRunning { data_dir: data_dir.into() },
                _ => ClientError::DataDir { path: data_dir.join(name), cause },
            })
        };
        Ok(Self::new(read(ADDRESS_FILE)?.trim(), &read(TOKEN_FILE)?))
    }

    /// Returns the node's own state.
    ///
    /// # Errors
    ///
    /// As every method here: see [`ClientError`].
    pub fn status(&self) -> Result<NodeStatus, ClientError> {
        self.get("/v1/status")
    }

    /// Returns the network as the node sees it.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn cluster_status(&self) -> Result<ClusterStatus, ClientError> {
        self.get("/v1/cluster/status")
    }

    /// Returns the peers that the node is connected to or remembers.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn peers(&self) -> Result<Peers, ClientError> {
        self.get("/v1/peers")
    }

    /// Returns the collections.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn collections(&self) -> Result<Collections, ClientError> {
        self.get("/v1/collections")
    }

    /// Creates a collection; the same one twice is no error.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `collection_differs` when the name is taken by another one.
    pub fn create_collection(&self, spec: &CollectionSpec) -> Result<CollectionSpec, ClientError> {
        self.post("/v1/collections", spec)
    }

    /// Takes observations in; they are durable when this returns.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; a malformed observation refuses the whole batch.
    pub fn ingest(
        &self,
        collection: &str,
        batch: &IngestRequest,
    ) -> Result<IngestAck, ClientError> {
        self.post(&format!("/v1/collections/{collection}/observations"), batch)
    }

    /// Returns the entities of a collection.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn entities(&self, collection: &str) -> Result<Entities, ClientError> {
        self.get(&format!("/v1/collections/{collection}/entities"))
    }

    /// Seals the open regime of an entity.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn seal(&self, collection: &str, entity: &str) -> Result<SealResponse, ClientError> {
        let request = SealRequest { entity: entity.to_owned() };
        self.post(&format!("/v1/collections/{collection}/seal"), &request)
    }

    /// Takes some steps of compacting a collection; ask again while there is more.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn compact(
        &self,
        collection: &str,
        request: &CompactRequest,
    ) -> Result<CompactResponse, ClientError> {
        self.post(&format!("/v1/collections/{collection}/compact"), request)
    }

    /// Removes an entity and all its segments from the node's store.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when the node does not know it.
    pub fn remove(&self, collection: &str, entity: &str) -> Result<RemoveResponse, ClientError> {
        let request = RemoveRequest { entity: entity.to_owned() };
        self.post(&format!("/v1/collections/{collection}/remove"), &request)
    }

    /// Sets in what form the segments of a collection may leave the node.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `noised` where noise cannot keep what is promised.
    pub fn share(&self, collection: &str, share: Share) -> Result<ShareResponse, ClientError> {
        self.share_with(collection, &ShareRequest { share, ..ShareRequest::default() })
    }

    /// Sets in what form the segments of a collection may leave; see [`Client::share`].
    ///
    /// # Errors
    ///
    /// As [`Client::share`].
    pub fn share_with(
        &self,
        collection: &str,
        request: &ShareRequest,
    ) -> Result<ShareResponse, ClientError> {
        self.post(&format!("/v1/collections/{collection}/share"), request)
    }

    /// Returns how small a collection became, and what that cost.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn quality(&self, collection: &str) -> Result<Quality, ClientError> {
        self.get(&format!("/v1/collections/{collection}/quality"))
    }

    /// Returns what the entities of a collection do again and again, and what they did hardly ever; with what each
    /// behaviour consists of, when `details` is set.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn behaviours(
        &self,
        collection: &str,
        details: bool,
    ) -> Result<BehavioursAnswer, ClientError> {
        self.get(&format!("/v1/collections/{collection}/behaviours?details={details}"))
    }

    /// Returns one page of segments.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn segments(&self, query: &SegmentsQuery) -> Result<SegmentPage, ClientError> {
        self.post("/v1/query/segments", query)
    }

    /// Returns one segment, own or fetched.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when the node does not hold it.
    pub fn segment(&self, cid: &str) -> Result<Segment, ClientError> {
        self.get(&format!("/v1/segments/{cid}"))
    }

    /// Returns the bytes of one block, own or fetched.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when the node does not hold it.
    pub fn block(&self, cid: &str) -> Result<Vec<u8>, ClientError> {
        let url = format!("{}/v1/blocks/{cid}", self.base);
        self.bytes(self.agent.get(&url).header("Authorization", &self.authorization).call())
    }

    /// Returns the node's metrics, as Prometheus reads them.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn metrics(&self) -> Result<String, ClientError> {
        let url = format!("{}/metrics", self.base);
        let text = self.agent.get(&url).header("Authorization", &self.authorization).call();
        Ok(String::from_utf8_lossy(&self.bytes(text)?).into_owned())
    }

    /// Fetches segments from the network, verified.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; a CID that nobody served is not an error of the call.
    pub fn fetch(&self, request: &FetchRequest) -> Result<FetchResponse, ClientError> {
        self.post("/v1/segments/fetch", request)
    }

    /// Has the DHT told that the node has public objects, now and again.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; one that is not public here is an error, and none is provided then.
    pub fn provide(&self, request: &ProvideRequest) -> Result<ProvideResponse, ClientError> {
        self.post("/v1/segments/provide", request)
    }

    /// Returns what the archive holds.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn archive(&self) -> Result<ArchiveStatus, ClientError> {
        self.get("/v1/archive")
    }

    /// Publishes everything public under the node's name, now.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn publish_name(&self) -> Result<PublishedName, ClientError> {
        self.post("/v1/archive/publish", &())
    }

    /// Asks the DHT what a name stands for.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn resolve(&self, name: &str) -> Result<ResolvedName, ClientError> {
        self.post("/v1/archive/resolve", &ResolveRequest { name: name.to_owned() })
    }

    /// Returns where the node's objects have copies, and what it holds for others.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn replicas(&self) -> Result<Replicas, ClientError> {
        self.get("/v1/archive/replicas")
    }

    /// Returns the operator's pins, and with `is_all` what every pin holds: that reads the whole archive.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn pins(&self, is_all: bool) -> Result<Pins, ClientError> {
        self.get(&format!("/v1/archive/pins?all={is_all}"))
    }

    /// Pins a block under a name, with all that it links to or alone; the same again is no error.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when a block is not here, `pin_differs` when the name is taken.
    pub fn pin(&self, request: &PinRequest) -> Result<NamedPin, ClientError> {
        self.post("/v1/archive/pins", request)
    }

    /// Lets go of what a pin holds.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when there is no such pin.
    pub fn unpin(&self, pin: &str) -> Result<UnpinResponse, ClientError> {
        self.post("/v1/archive/pins/remove", &UnpinRequest { pin: pin.to_owned() })
    }

    /// Returns the regimes nearest to a vector.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn knn(&self, query: &KnnQuery) -> Result<KnnAnswer, ClientError> {
        self.post("/v1/query/knn", query)
    }

    /// Returns the most anomalous segments.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn anomalies(&self, query: &AnomaliesQuery) -> Result<AnomaliesAnswer, ClientError> {
        self.post("/v1/query/anomalies", query)
    }

    /// Returns the anomaly score of every observation in a time range.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn scores(&self, query: &ScoresQuery) -> Result<ScoresAnswer, ClientError> {
        self.post("/v1/query/scores", query)
    }

    /// Returns how an entity behaved over time.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn history(&self, query: &HistoryQuery) -> Result<HistoryAnswer, ClientError> {
        self.post("/v1/query/history", query)
    }

    /// Returns the moments at which entities began to behave differently.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn changes(&self, query: &ChangesQuery) -> Result<ChangesAnswer, ClientError> {
        self.post("/v1/query/changes", query)
    }

    /// Returns how alike two courses are.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn trajectory(&self, query: &TrajectoryQuery) -> Result<TrajectoryAnswer, ClientError> {
        self.post("/v1/query/trajectory", query)
    }

    /// Returns the template sets that the node holds.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn templates(&self) -> Result<Templates, ClientError> {
        self.get("/v1/templates")
    }

    /// Releases a collection's templates: spends privacy budget.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `budget_exhausted` when the ceiling does not allow it.
    pub fn publish_templates(
        &self,
        request: &PublishRequest,
    ) -> Result<PublishResponse, ClientError> {
        self.post("/v1/templates/publish", request)
    }

    /// Puts all received sets of a collection before the adoption gate again.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn adopt_templates(&self, request: &AdoptRequest) -> Result<Templates, ClientError> {
        self.post("/v1/templates/adopt", request)
    }

    /// Takes received template sets back: they count no more until they are adopted again.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn roll_back_templates(&self, request: &RollBackRequest) -> Result<Templates, ClientError> {
        self.post("/v1/templates/rollback", request)
    }

    /// Returns the privacy ledger.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn ledger(&self) -> Result<LedgerView, ClientError> {
        self.get("/v1/privacy/ledger")
    }

    /// Returns the privacy ledger, with what each entity of a collection has lost.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn ledger_of(&self, collection: &str) -> Result<LedgerView, ClientError> {
        self.get(&format!("/v1/privacy/ledger/{collection}"))
    }

    /// Takes a CAR file in, block by block, verified. `is_public` says that strangers may have its blocks.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `bad_file` when the file is damaged. What was read before that stays.
    pub fn import(
        &self,
        car: &mut dyn io::Read,
        is_public: bool,
    ) -> Result<ImportResponse, ClientError> {
        self.upload(&format!("/v1/archive/import?public={is_public}"), car)
    }

    /// Returns where the node stands in the chains of bundles.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn bundles(&self) -> Result<Bundles, ClientError> {
        self.get("/v1/bundles")
    }

    /// Makes the node's next bundle, which [`Self::read_bundle`] reads.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `unchanged` when there is nothing new.
    pub fn make_bundle(&self, request: &BundleRequest) -> Result<BundleMade, ClientError> {
        let url = format!("{}/v1/bundles", self.base);
        let call = self.agent.post(&url).config().timeout_global(Some(UPLOAD_TIMEOUT)).build();
        self.read(call.header("Authorization", &self.authorization).send_json(request))
    }

    /// Returns the bytes of the node's bundle with this number, as they come.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `not_found` when the node cannot write it. A bundle that is cut off ends with an
    /// error of the reader.
    pub fn read_bundle(&self, sequence: u64) -> Result<impl io::Read + use<>, ClientError> {
        let url = format!("{}/v1/bundles/{sequence}", self.base);
        let call = self.agent.get(&url).config().timeout_global(Some(UPLOAD_TIMEOUT)).build();
        let answer = call.header("Authorization", &self.authorization).call();
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(answer.into_body().into_reader()),
            refused => Err(self.refusal(refused)),
        }
    }

    /// Takes a bundle in, whole or not at all, that one of these peers has signed, or one of the own peers
    /// when none is named.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `docs/api.md` lists the codes. After an interruption, the same call goes on.
    pub fn import_bundle(
        &self,
        bundle: &mut dyn io::Read,
        from: &[String],
        accept_gap: bool,
    ) -> Result<BundleImported, ClientError> {
        let from = from.join(",");
        self.upload(&format!("/v1/bundles/import?from={from}&accept_gap={accept_gap}"), bundle)
    }

    /// Returns how the node judges its peers: a page of those behind `after`, by peer id.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn trust(&self, after: Option<&str>) -> Result<TrustPage, ClientError> {
        match after {
            Some(after) => self.get(&format!("/v1/trust?after={after}")),
            None => self.get("/v1/trust"),
        }
    }

    /// Returns why a peer stands where it stands.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn peer_trust(&self, peer: &str) -> Result<PeerTrust, ClientError> {
        self.get(&format!("/v1/trust/{peer}"))
    }

    /// Quarantines a peer, until it is released.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn quarantine(&self, peer: &str) -> Result<PeerTrust, ClientError> {
        self.post(&format!("/v1/trust/{peer}/quarantine"), &())
    }

    /// Ends a peer's quarantine, whoever began it.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `revoked` when it is revoked, which nothing ends.
    pub fn release(&self, peer: &str) -> Result<PeerTrust, ClientError> {
        self.post(&format!("/v1/trust/{peer}/release"), &())
    }

    /// Returns who may be in the node's network, and what it knows to be revoked.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn membership(&self) -> Result<MembershipStatus, ClientError> {
        self.get("/v1/network")
    }

    /// Publishes a revocation or withdrawal: the bytes of a file that `dunlin network` made.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `revocation_refused` when it does not count.
    pub fn publish_revocation(
        &self,
        mut statement: &[u8],
    ) -> Result<RevocationPublished, ClientError> {
        self.upload("/v1/network/revocations", &mut statement)
    }

    /// Sends a file, however large.
    fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        mut file: &mut dyn io::Read,
    ) -> Result<T, ClientError> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.post(&url).config().timeout_global(Some(UPLOAD_TIMEOUT)).build();
        let request = request.header("Authorization", &self.authorization);
        self.read(request.send(ureq::SendBody::from_reader(&mut file)))
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let url = format!("{}{path}", self.base);
        let answer = self.agent.get(&url).header("Authorization", &self.authorization).call();
        self.read(answer)
    }

    pub(crate) fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.post(&url).header("Authorization", &self.authorization);
        self.read(request.send_json(body))
    }

    fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, ClientError> {
        serde_json::from_slice(&self.bytes(answer)?).map_err(|cause| ClientError::Answer { cause })
    }

    /// Returns the error that an answer stands for.
    fn refusal(&self, answer: Answer) -> ClientError {
        match self.bytes(answer) {
            Err(cause) => cause,
            Ok(_) => unreachable!("the caller takes successes"),
        }
    }

    /// Returns the body of a success, and the error that any other answer stands for.
    fn bytes(&self, answer: Answer) -> Result<Vec<u8>, ClientError> {
        let unreachable =
            |cause| ClientError::Unreachable { api: self.base.clone(), cause: Box::new(cause) };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        let ErrorBody { code, message } =
            serde_json::from_slice(&body).map_err(|cause| ClientError::Answer { cause })?;
        Err(ClientError::Refused { status: status.as_u16(), code, message })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of every log.
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No node has written its address into the data folder.
    #[error("no node is running on {data_dir}; start one with `dunlin run --data-dir {data_dir}`", data_dir = data_dir.display())]
    NotRunning {
        /// The data folder.
        data_dir: PathBuf,
    },
    /// A file of the data folder cannot be read.
    #[error("cannot read {path}", path = path.display())]
    DataDir {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The node does not answer, or the connection broke. Ingest may be tried again: it is idempotent.
    #[error("the node at {api} does not answer; is it running?")]
    Unreachable {
        /// Where it was expected.
        api: String,
        /// Why.
        #[source]
        cause: Box<ureq::Error>,
    },
    /// The node understood and refused.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code.
        code: String,
        /// What failed and what to do.
        message: String,
    },
    /// The answer is not what this client understands: the versions differ.
    #[error("the node's answer cannot be read; are the node and this program of the same version?")]
    Answer {
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
}

impl ClientError {
    /// Returns whether a node refused with this code.
    #[must_use]
    pub fn is_refusal(&self, expected: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == expected)
    }
}
