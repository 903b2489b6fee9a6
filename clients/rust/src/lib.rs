//! The local HTTP API of a Dunlin node: its JSON shapes, and a small blocking client.
//!
//! The node answers with these types, its command line and the testnet ask with them, and a program
//! of yours may do the same. Times are microseconds since the Unix epoch (`_us`), sizes are bytes,
//! CIDs and peer ids are their usual text forms.
//!
//! ```no_run
//! use dunlin_client::Client;
//!
//! let client = Client::for_data_dir("/var/lib/dunlin".as_ref())?;
//! println!("{} segments", client.status()?.segments);
//! # Ok::<(), dunlin_client::ClientError>(())
//! ```

#![forbid(unsafe_code)]

mod archive;
mod behaviours;
mod bundle;
mod client;
mod console;
mod engine;
mod membership;
mod peers;
mod query;
mod review;
mod status;
mod templates;

pub use archive::{
    ArchiveStatus, Attempt, AttemptOutcome, BackendStatus, CatalogRoot, Complaint, FetchRequest,
    FetchResponse, FetchedSealed, FetchedSegment, ImportResponse, KeptFor, NamedPin,
    NoisedReleases, NoisedSegment, PinRequest, PinUsage, PinningStatus, Pins, ProvideRequest,
    ProvideResponse, Providing, PublishedName, RecoveryStatus, ReplicaPeer, Replicas,
    ResolveRequest, ResolvedName, SealedCopies, SealedOutcome, UnpinRequest, UnpinResponse,
};
pub use behaviours::{Behaviour, BehaviourDetail, BehavioursAnswer, NearestBehaviour, Outlier};
pub use bundle::{
    Bundle, BundleImported, BundleLink, BundleMade, BundleRequest, Bundles, UnfinishedBundle,
};
pub use client::{ADDRESS_FILE, Client, ClientError, TOKEN_FILE};
pub use console::{ConsolePass, ConsoleTicket, ConsoleTicketRequest};
pub use engine::{
    CollectionSpec, Collections, CompactRequest, CompactResponse, Entities, Entity, ErrorBound,
    Fidelity, IngestAck, IngestRequest, Metric, NoisedTerms, Observation, Quality, RemoveRequest,
    RemoveResponse, SealRequest, SealResponse, Segment, SegmentPage, SegmentsQuery, Share,
    ShareRequest, ShareResponse, Units,
};
pub use membership::{MembershipStatus, RevocationPublished};
pub use peers::{Peer, PeerTrust, Peers, Standing, TrustLine, TrustPage};
pub use query::{
    AnomaliesAnswer, AnomaliesQuery, Anomaly, Change, ChangeOrder, ChangesAnswer, ChangesQuery,
    ChannelMove, Course, Coverage, Factors, HistoryAnswer, HistoryPoint, HistoryQuery, KnnAnswer,
    KnnHit, KnnQuery, Match, Matched, Nearest, Scope, Score, ScoreUnits, ScoresAnswer, ScoresQuery,
    TemplateUse, Timing, TrajectoryAnswer, TrajectoryQuery,
};
pub use review::{
    Conflict, ConflictVersion, PreferenceReason, ResolveConflict, Review, TouchedConflict,
};
pub use status::{
    ClusterStatus, Federation, IpfsStatus, Member, MemberState, NodeStatus, PrivacyStatus,
    Replication,
};
pub use templates::{
    AdoptRequest, GateVerdict, LedgerAccount, LedgerEntity, LedgerEntry, LedgerView,
    PublishRequest, PublishResponse, RollBackRequest, TemplateSet, TemplateSource, Templates,
};

use serde::{Deserialize, Serialize};

/// What every answer with a failure status carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable, in snake case: programs match on it.
    pub code: String,
    /// What failed, with which value, against which limit; and what to do.
    pub message: String,
}
