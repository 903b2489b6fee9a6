//! A client of the IPFS Pinning Service API, version 1.0
//! (<https://ipfs.github.io/pinning-services-api-spec/>): asks a service to fetch a root and to keep it.
//!
//! It knows single questions alone; when to ask them is decided by `pinning.rs`.

use std::fmt;

use dunlin_wire::Cid;
use serde::{Deserialize, Serialize};

use super::http::{
    Call, Credential, Http, HttpError, Method, Reply, ServiceUrl, Timeouts, shortened,
};

/// Longest answer: a page of ten pins with their origins, delegates and notes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Requests for one root that are looked at, in one page; there are as many only when others made them.
const PAGE: &str = "10";

/// Pages of requests for one root.
const PAGES_MAX: usize = 10;

/// Addresses that the specification allows in one request.
const ORIGINS_MAX: usize = 20;

/// Peers of the service that are passed on.
const DELEGATES_MAX: usize = 20;

/// Longest id of a request that is believed: it becomes part of a path.
const ID_BYTES_MAX: usize = 256;

/// Every status that there is: a list without them is one of `pinned` alone.
const ALL: &str = "queued,pinning,pinned,failed";

/// How far a service is with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Queued,
    Pinning,
    Pinned,
    Failed,
}

/// A request, as the service tells of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    #[serde(rename = "requestid")]
    pub(super) id: String,
    pub(super) status: Status,
    created: String,
    pin: PinOf,
    /// Where the service's own nodes are, which it wants to be connected to.
    #[serde(default)]
    pub(super) delegates: Vec<String>,
    #[serde(default)]
    info: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Answer {
    /// Returns what the service says about a failure.
    pub(super) fn details(&self) -> Option<String> {
        let details = self.info.as_ref()?.get("status_details")?.as_str()?;
        Some(shortened(details))
    }
}

#[derive(Clone, Debug, Deserialize)]
struct PinOf {
    cid: String,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    results: Vec<Answer>,
}

#[derive(Serialize)]
struct Request<'a> {
    cid: &'a str,
    name: &'a str,
    origins: &'a [String],
}

#[derive(Deserialize)]
struct Failure {
    error: FailureReason,
}

#[derive(Deserialize)]
struct FailureReason {
    reason: String,
    #[serde(default)]
    details: Option<String>,
}

/// Why a service did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// It could not be reached, was too slow, or its answer broke off.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It refused, with a status that says why: 401 and 403 for the token, 409 for the quota.
    #[error("the pinning service {url} refused: {status} {message}")]
    Refused {
        /// The service.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said, shortened.
        message: String,
    },
    /// Its answer is none of the API, or is about something else than was asked.
    #[error("the pinning service {url} gave no sensible answer")]
    Answer {
        /// The service.
        url: String,
    },
}

impl ServiceError {
    /// Returns whether every other question would fail now, too.
    pub(super) fn is_general(&self) -> bool {
        match self {
            Self::Http(_) | Self::Answer { .. } => true,
            Self::Refused { status, .. } => matches!(status, 401 | 403 | 404 | 409 | 429 | 500..),
        }
    }
}

/// A pinning service.
#[derive(Clone, Debug)]
pub struct Service {
    http: Http,
    /// What our requests are called: others may use the same account.
    name: String,
}

impl Service {
    /// Returns the service whose API is at `url`, the address before `/pins`. Requests are called
    /// `dunlin/<owner>`. Nothing is asked yet.
    #[must_use]
    pub fn new(url: ServiceUrl, owner: &str, token: Credential, timeouts: Timeouts) -> Self {
        // No more than that: the names of collections are nobody's business.
        let name = format!("dunlin/{owner}");
        Self { http: Http::new(url, Some(token), timeouts), name }
    }

    /// Asks for a root. Twice is two requests, so an answer that got lost is looked for with [`Self::find`].
    pub(super) fn add(&self, root: &Cid, origins: &[String]) -> Result<Answer, ServiceError> {
        let origins = &origins[..origins.len().min(ORIGINS_MAX)];
        let cid = root.to_string();
        let request = Request { cid: &cid, name: &self.name, origins };
        let body = serde_json::to_vec(&request).expect("strings have a JSON form");
        let method = Method::PostBody { content_type: "application/json", bytes: &body };
        let reply = self.ask("/pins", &[], method, false)?;
        self.about(root, self.parse(&reply)?)
    }

    /// Returns this node's requests for a root.
    pub(super) fn find(&self, root: &Cid) -> Result<Vec<Answer>, ServiceError> {
        let cid = root.to_string();
        let mut found: Vec<Answer> = Vec::new();
        let mut before: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query = vec![
                ("cid", cid.as_str()),
                ("name", self.name.as_str()),
                ("match", "exact"),
                ("status", ALL),
                ("limit", PAGE),
            ];
            query.extend(before.as_deref().map(|before| ("before", before)));
            let page: Page = self.parse(&self.ask("/pins", &query, Method::Get, true)?)?;
            let Some(last) = page.results.last() else { break };
            before = Some(last.created.clone());
            let is_last = page.results.len() < PAGE.parse().unwrap_or(usize::MAX);
            for answer in page.results {
                // A service may not know the filters; what is another's is not ours to take over.
                if answer.pin.name.as_deref() == Some(&self.name) {
                    found.push(self.about(root, answer)?);
                }
            }
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    /// Returns how far a request is; nothing, when the service does not know it.
    pub(super) fn check(&self, root: &Cid, id: &str) -> Result<Option<Answer>, ServiceError> {
        match self.ask(&format!("/pins/{}", self.safe(id)?), &[], Method::Get, true) {
            Err(ServiceError::Refused { status: 404, .. }) => Ok(None),
            reply => self.about(root, self.parse(&reply?)?).map(Some),
        }
    }

    /// Takes a request back; one that is not there is no error.
    pub(super) fn remove(&self, id: &str) -> Result<(), ServiceError> {
        match self.ask(&format!("/pins/{}", self.safe(id)?), &[], Method::Delete, true) {
            Err(ServiceError::Refused { status: 404, .. }) => Ok(()),
            reply => reply.map(drop),
        }
    }

    fn ask(
        &self,
        path: &str,
        query: &[(&str, &str)],
        method: Method<'_>,
        is_repeatable: bool,
    ) -> Result<Reply, ServiceError> {
        let answer_bytes_max = ANSWER_BYTES_MAX;
        let call = Call { path, query, method, is_repeatable, answer_bytes_max };
        let reply = self.http.call(&call)?;
        if matches!(reply.status, 200 | 202) {
            return Ok(reply);
        }
        let said: Option<Failure> = serde_json::from_slice(&reply.body).ok();
        let message = said.map(|Failure { error: FailureReason { reason, details } }| {
            shortened(&details.map_or(reason.clone(), |details| format!("{reason}: {details}")))
        });
        let message = message.unwrap_or_else(|| reply.message());
        Err(ServiceError::Refused { url: self.url(), status: reply.status, message })
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self, reply: &Reply) -> Result<T, ServiceError> {
        serde_json::from_slice(&reply.body).map_err(|_| self.no_sense())
    }

    /// Returns an answer that is about `root` indeed, with no more delegates than are wanted.
    fn about(&self, root: &Cid, mut answer: Answer) -> Result<Answer, ServiceError> {
        answer.delegates.truncate(DELEGATES_MAX);
        let cid = answer.pin.cid.parse::<Cid>();
        // The codec is part of no hash, and a service may name the CID in another way.
        let is_same = cid.is_ok_and(|cid| cid.hash() == root.hash());
        if is_same { Ok(answer) } else { Err(self.no_sense()) }
    }

    /// Returns an id that can stand in a path.
    fn safe<'a>(&self, id: &'a str) -> Result<&'a str, ServiceError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:=+".contains(&byte);
        let is_safe = !id.is_empty()
            && id.len() <= ID_BYTES_MAX
            && id.bytes().all(is_plain)
            && !id.bytes().all(|byte| byte == b'.');
        if is_safe { Ok(id) } else { Err(self.no_sense()) }
    }

    fn no_sense(&self) -> ServiceError {
        ServiceError::Answer { url: self.url() }
    }

    fn url(&self) -> String {
        self.http.url().to_string()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.http.url().fmt(f)
    }
}
