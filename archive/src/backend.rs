//! Where blocks live and are pinned beside the store of this node, and what each such place can promise.
//!
//! [`Backend`] is thin on purpose: it is what a store in this process and an IPFS node on another machine
//! can both keep. Everything else (which pins hold what, how far archiving has come, catalogs, who may have
//! a block) is the node's own business and stays in [`Archive`](crate::Archive), which also remembers what
//! belongs in a backend and what is there; see `crate::places`.
//!
//! | backend | blocks are | a pin is |
//! | --- | --- | --- |
//! | [`Embedded`] | in the node's own redb file | an entry of its tables |
//! | [`Kubo`] | in the repository of a Kubo node | a pin of that node, with a name that says whose it is |
//! | [`Pinning`] | where the backend that it decorates has them | asked for at a pinning service, too |

mod embedded;
mod http;
mod kubo;
mod pinning;
mod requests;
mod service;

use std::{collections::BTreeMap, fmt::Debug};

use dunlin_wire::{Cid, block::Block};

pub use self::{
    embedded::Embedded,
    http::{Credential, CredentialError, HttpError, ServiceUrl, Timeouts, UrlError},
    kubo::Kubo,
    pinning::{Pinning, Round},
    requests::{Counts, RequestProblem, Requests},
    service::{Service, ServiceError},
};
use crate::{Object, OpenError, Pin, PutError, ReadError};

/// A place for blocks. Calls may wait for a disk or a network, each for a bounded time; all of them may be
/// repeated, and whoever repeats one ends where one call would have ended.
///
/// A root is under one pin at a time: a backend that knows a single name for each pin (Kubo) could not keep
/// another promise. Who holds a root for several reasons counts them himself and calls [`Self::unpin`] for
/// the last one.
pub trait Backend: Debug + Send + Sync {
    /// Returns what and where this is, in a few words, after asking it: whether it is reachable.
    ///
    /// # Errors
    ///
    /// Fails when it does not answer.
    fn describe(&self) -> Result<String, BackendError>;

    /// Keeps an object: when this returns, each of its blocks is there and its root is under its pin, which
    /// holds the blocks, too.
    ///
    /// # Errors
    ///
    /// Fails when the backend does not take all of it. Blocks may be there then, without a pin.
    fn put(&self, object: &Object) -> Result<(), BackendError>;

    /// Lets go of a root. Its blocks may leave at any time afterwards, as far as nothing else holds them. A
    /// root that is not there, or that is pinned by somebody else, is no error and stays as it is.
    ///
    /// # Errors
    ///
    /// Fails when the backend cannot be told.
    fn unpin(&self, pin: &Pin, root: &Cid) -> Result<(), BackendError>;

    /// Returns a block, verified, if it is there. It is not searched for anywhere else.
    ///
    /// # Errors
    ///
    /// Fails when the backend gave bytes that do not hash to `cid`, which are not returned, or did not answer.
    fn block(&self, cid: &Cid) -> Result<Option<Block>, BackendError>;

    /// Returns whether a block is there.
    ///
    /// # Errors
    ///
    /// Fails when the backend does not answer.
    fn has(&self, cid: &Cid) -> Result<bool, BackendError>;

    /// Returns whether a root is under this pin.
    ///
    /// # Errors
    ///
    /// Fails when the backend does not answer.
    fn is_pinned(&self, pin: &Pin, root: &Cid) -> Result<bool, BackendError>;

    /// Returns this node's pins, with how many roots each holds. Takes time linear in all pins there are.
    ///
    /// # Errors
    ///
    /// Fails when the backend does not answer with all of them.
    fn pins(&self) -> Result<BTreeMap<Pin, u64>, BackendError>;

    /// Returns how much room all that the backend holds takes, in bytes, that of others included.
    ///
    /// # Errors
    ///
    /// Fails when the backend does not answer.
    fn bytes(&self) -> Result<u64, BackendError>;
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn describe(&self) -> Result<String, BackendError> {
        (**self).describe()
    }

    fn put(&self, object: &Object) -> Result<(), BackendError> {
        (**self).put(object)
    }

    fn unpin(&self, pin: &Pin, root: &Cid) -> Result<(), BackendError> {
        (**self).unpin(pin, root)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, BackendError> {
        (**self).block(cid)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BackendError> {
        (**self).has(cid)
    }

    fn is_pinned(&self, pin: &Pin, root: &Cid) -> Result<bool, BackendError> {
        (**self).is_pinned(pin, root)
    }

    fn pins(&self) -> Result<BTreeMap<Pin, u64>, BackendError> {
        (**self).pins()
    }

    fn bytes(&self) -> Result<u64, BackendError> {
        (**self).bytes()
    }
}

/// Why a backend did not do what it was asked for. Asking again later may help, unless the variant says
/// otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// It could not be reached, was too slow, or its answer broke off.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It refused.
    #[error("{who} refused {what}: {status} {message}")]
    Refused {
        /// Which backend.
        who: String,
        /// What it was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it said, shortened.
        message: String,
    },
    /// Its answer is none of its protocol: something else listens there, or another version of it.
    #[error("{who} gave no sensible answer to {what}")]
    Answer {
        /// Which backend.
        who: String,
        /// What it was asked for.
        what: String,
    },
    /// Bytes did not hash to their CID; they were not returned. The backend's disk may be damaged.
    #[error("{who} has other bytes under {cid}")]
    Wrong {
        /// Which backend.
        who: String,
        /// The CID.
        cid: Cid,
    },
    /// The object has some of the blocks that its root links to, and not all, so that no pin can hold it.
    /// Asking again helps when it is complete.
    #[error("{root} is here without all of the blocks that it links to")]
    Incomplete {
        /// The root.
        root: Cid,
    },
    /// The local store did not take it.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The local store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file of requests to the pinning service cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl BackendError {
    /// Returns whether every other call would fail now, too: there is no sense in going on with a batch.
    #[must_use]
    pub fn is_general(&self) -> bool {
        match self {
            Self::Http(_) | Self::Answer { .. } => true,
            Self::Refused { status, .. } => matches!(status, 401 | 403 | 404 | 429 | 502..=504),
            Self::Put(cause) => matches!(cause, PutError::Database(_)),
            Self::Read(cause) => matches!(cause, ReadError::Database(_)),
            Self::Wrong { .. } | Self::Incomplete { .. } | Self::Open(_) => false,
        }
    }
}
