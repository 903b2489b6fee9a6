//! The local HTTP API: `docs/api.md` lists the calls, `dunlin-client` has the shapes.

mod auth;
mod behaviours;
mod bundles;
mod collections;
mod console;
mod convert;
mod error;
mod metrics;
mod network;
mod pins;
mod publishing;
mod query;
mod replicas;
mod review;
mod segments;
mod shares;
mod status;
mod templates;
mod trust;
mod upload;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, MatchedPath, Request,
        rejection::{JsonRejection, PathRejection},
    },
    http::{StatusCode, request::Parts},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field};

use self::{auth::Token, error::ApiError};
pub(crate) use self::{
    bundles::bundle_json,
    metrics::{OPEN_METRICS, Sample},
};
use crate::daemon::Shared;

/// Largest request body: 10,000 observations of 128 channels as JSON fit.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Serves the API until `stop`; requests under way are finished.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let token = Token::new(&shared.dir.token()?);
    axum::serve(listener, router(shared, token))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("the API failed")
}

fn router(shared: Arc<Shared>, token: Token) -> Router {
    let private = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(status::status))
        .route("/v1/cluster/status", get(status::cluster))
        .route("/v1/peers", get(status::peers))
        .route("/v1/console/passes", post(console::pass))
        .route("/v1/network", get(network::status))
        .route("/v1/network/revocations", post(network::publish))
        .route("/v1/trust", get(trust::list))
        .route("/v1/trust/{peer}", get(trust::show))
        .route("/v1/trust/{peer}/quarantine", post(trust::quarantine))
        .route("/v1/trust/{peer}/release", post(trust::release))
        .route("/v1/review", get(review::list))
        .route("/v1/review/{id}", get(review::show))
        .route("/v1/review/{id}/resolve", post(review::resolve))
        .route("/v1/collections", get(collections::list).post(collections::create))
        .route("/v1/collections/{name}/observations", post(collections::ingest))
        .route("/v1/collections/{name}/entities", get(collections::entities))
        .route("/v1/collections/{name}/seal", post(collections::seal))
        .route("/v1/collections/{name}/remove", post(collections::remove))
        .route("/v1/collections/{name}/compact", post(collections::compact))
        .route("/v1/collections/{name}/share", post(shares::share))
        .route("/v1/collections/{name}/quality", get(collections::quality))
        .route("/v1/collections/{name}/behaviours", get(behaviours::behaviours))
        .route("/v1/query/segments", post(segments::list))
        .route("/v1/query/knn", post(query::knn))
        .route("/v1/query/anomalies", post(query::anomalies))
        .route("/v1/query/scores", post(query::scores))
        .route("/v1/query/history", post(query::history))
        .route("/v1/query/changes", post(query::changes))
        .route("/v1/query/trajectory", post(query::trajectory))
        .route("/v1/segments/fetch", post(segments::fetch))
        .route("/v1/segments/provide", post(segments::provide))
        .route("/v1/segments/{cid}", get(segments::show))
        .route("/v1/blocks/{cid}", get(segments::block))
        .route("/v1/archive", get(segments::archive))
        .route("/v1/archive/import", post(upload::import))
        .route("/v1/archive/pins", get(pins::list).post(pins::add))
        .route("/v1/archive/pins/remove", post(pins::remove))
        .route("/v1/archive/replicas", get(replicas::replicas))
        .route("/v1/archive/publish", post(publishing::publish))
        .route("/v1/archive/resolve", post(publishing::resolve))
        .route("/v1/bundles", get(bundles::list).post(bundles::make))
        .route("/v1/bundles/{sequence}", get(bundles::write))
        .route("/v1/bundles/import", post(bundles::import))
        .route("/v1/templates", get(templates::list))
        .route("/v1/templates/publish", post(templates::publish))
        .route("/v1/templates/adopt", post(templates::adopt))
        .route("/v1/templates/rollback", post(templates::roll_back))
        .route("/v1/privacy/ledger", get(templates::ledger))
        .route("/v1/privacy/ledger/{collection}", get(templates::ledger_of))
        .fallback(async || ApiError::not_found("no such call; docs/api.md lists them"))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(middleware::from_fn_with_state(token.clone(), auth::require_token))
        .layer(middleware::from_fn(traced));
    let console = console::router(&shared, &token).layer(middleware::from_fn(traced));
    Router::new()
        .route("/healthz", get(status::health))
        .merge(private)
        .merge(console)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// Carries out a call within a span that says which call it is and how it ended.
async fn traced(request: Request, next: Next) -> Response {
    // The call's pattern: what stands in its place may be a name that is nobody's business.
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let span = tracing::info_span!(
        "call",
        http.request.method = %request.method(),
        http.route = route,
        http.response.status_code = field::Empty,
    );
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

/// Longest wait for a request's body. Whoever announces one and never sends it holds a connection no
/// longer.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A part of the path, whose refusal looks like every other refusal of the API.
struct Path<T>(T);

impl<S, T> FromRequestParts<S> for Path<T>
where
    S: Send + Sync,
    axum::extract::Path<T>: FromRequestParts<S, Rejection = PathRejection>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(part)) => Ok(Self(part)),
            Err(rejection) => Err(ApiError::bad_request("bad_query", rejection.body_text())),
        }
    }
}

/// A JSON body whose refusal looks like every other refusal of the API.
struct Body<T>(T);

impl<S, T> FromRequest<S> for Body<T>
where
    S: Send + Sync,
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = Json::<T>::from_request(request, state);
        let Ok(body) = tokio::time::timeout(BODY_TIMEOUT, body).await else {
            return Err(ApiError::body_timeout(BODY_TIMEOUT));
        };
        match body {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(ApiError::body_too_large(BODY_BYTES_MAX))
            }
            Err(rejection) => Err(ApiError::bad_request("bad_json", rejection.body_text())),
        }
    }
}
