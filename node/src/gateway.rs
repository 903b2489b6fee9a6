//! The trustless gateway: blocks and CARs over HTTP, for whoever checks what it gets.
//!
//! It follows the trustless gateway specification of IPFS, reads the node's own stores and asks nobody
//! else, and is off unless `gateway.listen` names an address. What it serves is the operator's decision,
//! made once: [`Serve::Public`] gives strangers what was imported as public and nothing else,
//! [`Serve::All`] gives everything that the node holds to whoever reaches the address.
//!
//! [`request`] reads what is asked for and [`answer`] writes the headers, both pure; this file asks the
//! stores. Each request has a deadline, holds one of a limited number of places until its last byte is
//! sent, and never more than a few blocks of memory.

mod answer;
mod listener;
mod request;
mod source;
mod view;

pub(crate) use self::request::is_own_host;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::Context;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, request::Parts},
    response::Response,
};
use dunlin_archive::{
    car,
    dag::{self, Plan, ResolveError, Resolved, Walk},
};
use dunlin_wire::Cid;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::listener::Bounded;
use self::{
    answer::Refusal,
    request::{CarWish, Format, Wish},
    source::{Denied, DenyList, Stores},
};
use crate::{
    config::{GatewayConfig, Serve},
    daemon::Shared,
};

/// Bytes of a CAR that are read from the store at once: as many small blocks as fill it, or one large one.
const CHUNK_BYTES: usize = 256 * 1024;

/// The status that tells a client to come back.
const BUSY: StatusCode = StatusCode::TOO_MANY_REQUESTS;

/// What a gateway did.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Answers that were given, whatever they said.
    pub(crate) answered: AtomicU64,
    /// Answers with something in them.
    pub(crate) served: AtomicU64,
    /// Requests refused because there were too many.
    pub(crate) busy: AtomicU64,
    /// CARs cut off: a block was missing, or a limit was reached.
    pub(crate) cut: AtomicU64,
}

/// What all requests share.
struct Gateway {
    shared: Arc<Shared>,
    config: GatewayConfig,
    denied: DenyList,
    places: Arc<Semaphore>,
}

/// Serves the gateway until `stop`; requests under way are finished.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let config = shared.config.gateway.clone();
    let address = listener.local_addr().context("the gateway has no address")?;
    if config.serve == Serve::All && !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "the gateway serves everything this node holds to whoever reaches it; \
             set `gateway.serve` to \"public\" unless this network is yours"
        );
    }
    tracing::info!(%address, serve = config.serve.name(), "gateway is open");
    let places = Arc::new(Semaphore::new(config.requests_max.get()));
    let denied = DenyList::new(&config.denied);
    let gateway = Arc::new(Gateway { shared, config, denied, places });
    let router = Router::new().fallback(handle).with_state(gateway);
    axum::serve(Bounded::new(listener), router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("the gateway failed")
}

async fn handle(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let is_public = gateway.config.serve == Serve::Public;
    let counters = &gateway.shared.gateway;
    let response = match gateway.answer(&request.into_parts().0).await {
        Ok(response) => {
            counters.served.fetch_add(1, Ordering::Relaxed);
            response
        }
        Err(refusal) => answer::refusal(&refusal),
    };
    counters.answered.fetch_add(1, Ordering::Relaxed);
    answer::finish(response, is_public)
}

impl Gateway {
    async fn answer(self: &Arc<Self>, request: &Parts) -> Result<Response, Refusal> {
        if let Some(response) = answer::without_content(&request.method)? {
            return Ok(response);
        }
        let host = request.headers.get("host").and_then(|host| host.to_str().ok());
        if self.config.serve == Serve::All && !request::is_own_host(host) {
            return Err(Refusal::ForeignHost);
        }
        let wish = Wish::read(&request.method, &request.uri, &request.headers)?;
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.shared.gateway.busy.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::Busy);
        };
        let deadline = Instant::now() + self.config.request_timeout;
        let look_up = self.resolve(wish.root, wish.path.clone());
        let resolved = tokio::time::timeout_at(deadline, look_up).await;
        let resolved = match resolved.map_err(|_| Refusal::Timeout)? {
            Err(Refusal::NotFound(problem)) if wish.only_if_cached => {
                return Err(Refusal::NotCached(problem));
            }
            other => other?,
        };
        let tag = answer::etag(&wish, &resolved.last);
        if wish.has(&tag) {
            return Ok(answer::not_modified(&tag));
        }
        match &wish.format {
            Format::Car(car) => Ok(self.car(&wish, car, resolved, &tag, deadline, place)),
            _ => {
                let load = self.load(resolved.last);
                let bytes = tokio::time::timeout_at(deadline, load).await;
                let bytes = bytes.map_err(|_| Refusal::Timeout)??;
                answer::block(&wish, &resolved, bytes, &tag, host.unwrap_or("localhost"))
            }
        }
    }

    async fn resolve(&self, root: Cid, path: Vec<String>) -> Result<Resolved, Refusal> {
        let stores = self.stores();
        let found = self.shared.blocking(move |_| dag::resolve(&stores, &root, &path)).await;
        found.map_err(|problem| match problem {
            ResolveError::Source(cause) => failed(&cause),
            ResolveError::TooLong { .. } | ResolveError::TooFar { .. } => {
                Refusal::BadRequest(problem.to_string())
            }
            other => Refusal::NotFound(other.to_string()),
        })
    }

    async fn load(&self, cid: Cid) -> Result<Vec<u8>, Refusal> {
        if let Some(bytes) = dag::inline(&cid) {
            return Ok(bytes.to_vec());
        }
        let stores = self.stores();
        let found = self.shared.blocking(move |_| dag::Source::block(&stores, &cid)).await;
        let missing = || Refusal::NotFound(format!("the block {cid} is not here"));
        found.map_err(|cause| failed(&cause))?.ok_or_else(missing)
    }

    fn car(
        self: &Arc<Self>,
        wish: &Wish,
        car: &CarWish,
        resolved: Resolved,
        tag: &str,
        deadline: Instant,
        place: OwnedSemaphorePermit,
    ) -> Response {
        let head = answer::car(wish, car, &resolved, tag);
        if wish.is_head {
            // A body of unknown length: nobody counts the blocks of a graph, and an empty one would say 0.
            let nothing = futures::stream::empty::<Result<Bytes, Cut>>();
            return head.map(|_| Body::from_stream(nothing));
        }
        let plan = Plan {
            trail: resolved.trail,
            last: resolved.last,
            scope: car.scope,
            with_duplicates: car.with_duplicates,
        };
        let stream = CarStream {
            gateway: Arc::clone(self),
            first: Some(car::header(&[plan.last])),
            walk: Walk::new(self.stores(), &plan),
            sent: 0,
            cut: None,
            deadline,
            _place: place,
        };
        let body = futures::stream::try_unfold(Some(stream), |stream| async move {
            match stream {
                Some(stream) => stream.next().await,
                None => Ok(None),
            }
        });
        head.map(|_| Body::from_stream(body))
    }

    fn stores(&self) -> Stores {
        Stores::new(Arc::clone(&self.shared), self.config.serve, self.denied.clone())
    }
}

/// A CAR under way. Nothing is read before the client has taken what came before.
struct CarStream {
    gateway: Arc<Gateway>,
    first: Option<Vec<u8>>,
    walk: Walk<Stores>,
    sent: u64,
    /// Why there is no more, when what was read before it has to go out first.
    cut: Option<Cut>,
    deadline: Instant,
    _place: OwnedSemaphorePermit,
}

/// Why a CAR ends before its end: the connection is cut, so that nobody takes it for whole.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cut(String);

impl CarStream {
    async fn next(self) -> Result<Option<(Bytes, Option<Self>)>, Cut> {
        let gateway = Arc::clone(&self.gateway);
        let deadline = self.deadline;
        let work = gateway.shared.blocking(move |_| self.chunk());
        let chunk = match tokio::time::timeout_at(deadline, work).await {
            Ok(chunk) => chunk,
            Err(_) => Err(Cut("the request took too long".to_owned())),
        };
        if let Err(cut) = &chunk {
            gateway.shared.gateway.cut.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%cut, "a CAR was cut off");
            // A failed body ends its connection with whatever is not flushed, and a body that waits is what
            // makes the server flush. So a client has the head, and what came before, also when all of this
            // was faster than the first write.
            tokio::task::yield_now().await;
        }
        chunk
    }

    fn chunk(mut self) -> Result<Option<(Bytes, Option<Self>)>, Cut> {
        if let Some(cut) = self.cut.take() {
            return Err(cut);
        }
        let mut bytes = self.first.take().unwrap_or_default();
        let mut is_over = false;
        while bytes.len() < CHUNK_BYTES {
            match self.walk.next_block() {
                Ok(Some(block)) => car::section(&mut bytes, &block.cid, &block.bytes),
                Ok(None) => {
                    is_over = true;
                    break;
                }
                Err(problem) => {
                    self.cut = Some(Cut(problem.to_string()));
                    break;
                }
            }
        }
        self.sent += bytes.len() as u64;
        let bytes_max = self.gateway.config.car_bytes_max;
        if self.sent > bytes_max {
            return Err(Cut(format!("larger than {bytes_max} bytes")));
        }
        if bytes.is_empty() {
            return self.cut.map_or(Ok(None), Err);
        }
        Ok(Some((bytes.into(), (!is_over).then_some(self))))
    }
}

/// Returns what an error of the stores means to a client.
fn failed(cause: &anyhow::Error) -> Refusal {
    if let Some(denied) = cause.downcast_ref::<Denied>() {
        return Refusal::Gone(denied.to_string());
    }
    tracing::error!(cause = format!("{cause:#}"), "the gateway cannot read a store");
    Refusal::Failed
}

impl Serve {
    fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::All => "all",
        }
    }
}
