//! The page of a bootstrap node, which has no API: how it is, for whoever may reach the address, and its metrics.
//!
//! It tells numbers and the node's own addresses. Who is connected it tells nobody.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Instant};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{
        StatusCode,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{Html, IntoResponse},
    routing::get,
};
use dunlin_protocols::Handle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{OPEN_METRICS, Sample},
    gateway::Bounded,
};

/// The page fetches nothing and runs nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}td{padding:.2rem .5rem;border-top:1px solid #8884}\
td:last-child{text-align:right;font-variant-numeric:tabular-nums}code{overflow-wrap:anywhere}";

/// What is shown.
#[derive(Debug)]
struct Page {
    network: Handle,
    name: String,
    began: Instant,
}

/// Takes the address at which the page will be.
///
/// # Errors
///
/// Fails when it cannot be listened on.
pub(crate) async fn bind(at: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at} (page.listen)"))
}

/// Serves the page of a network's node until `stop`.
///
/// # Errors
///
/// Fails when it cannot be served any longer.
pub(crate) async fn serve(
    listener: TcpListener,
    network: Handle,
    name: String,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let page = Arc::new(Page { network, name, began: Instant::now() });
    let router = Router::new()
        .route("/", get(show))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .with_state(page);
    axum::serve(Bounded::new(listener), router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("the page failed")
}

async fn metrics(State(page): State<Arc<Page>>) -> impl IntoResponse {
    match Sample::of_network(&page.network).await.encode() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn show(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let reaching = page.network.reaching().await;
    let sample = Sample::of_network(&page.network).await;
    let mut listening: Vec<_> =
        page.network.listening().await.into_iter().chain(reaching.external).collect();
    listening.sort();
    listening.dedup();
    let minutes = page.began.elapsed().as_secs() / 60;
    let (name, version) = (&page.name, env!("CARGO_PKG_VERSION"));
    let mut html = format!(
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=10>\
         <meta name=viewport content=\"width=device-width\"><title>{name}</title><style>{STYLE}</style>\
         <h1>A bootstrap node of {name}</h1><p><code>{}</code></p>\
         <p>dunlin {version}, for {} h {} min. Strangers: {:?}. It {} the DHT.</p><h2>Addresses</h2><ul>",
        page.network.local_peer(),
        minutes / 60,
        minutes % 60,
        reaching.reachability,
        if reaching.is_dht_server { "serves" } else { "does not serve" },
    );
    // Writing to a string does not fail.
    for address in listening {
        write!(html, "<li><code>{address}</code>").ok();
    }
    html += "</ul><h2>Now</h2><table>";
    for (_, help, value) in sample.gauges() {
        write!(html, "<tr><td>{help}<td>{value}").ok();
    }
    html += "</table><h2>Since it began</h2><table>";
    for (_, help, value) in sample.counters() {
        write!(html, "<tr><td>{help}<td>{value}").ok();
    }
    html += "</table><p>The same for Prometheus: <a href=/metrics>/metrics</a></p>\n";
    ([(CONTENT_SECURITY_POLICY, POLICY)], Html(html))
}
