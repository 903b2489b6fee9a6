//! The console: a page that dials this node as a browser does, and the tickets that let it in.
//!
//! The page itself is for everybody and holds nothing. What it shows comes over libp2p, to whom the operator gave a
//! ticket: `docs/api.md` tells how, `docs/security.md` who may not.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use dunlin_client as json;
use dunlin_protocols::{Multiaddr, PeerId, Protocol, messages::Ticket};
use libp2p_identity::ParseError;

use super::{
    Body,
    auth::{self, Token},
    error::ApiError,
};
use crate::{
    config::Mode,
    daemon::{PASS_LIFE, Shared, reached_here},
    gateway::is_own_host,
};

/// Addresses of this node that a page is told: it dials the first that answers.
const ADDRESSES_MAX: usize = 4;

/// The files of the page, as `clients/console` made them.
const FILES: [(&str, &str, &[u8]); 5] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../../../clients/console/dist/index.html")),
    (
        "/console.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../../clients/console/dist/console.js"),
    ),
    (
        "/console.css",
        "text/css; charset=utf-8",
        include_bytes!("../../../clients/console/dist/console.css"),
    ),
    ("/console.svg", "image/svg+xml", include_bytes!("../../../clients/console/dist/console.svg")),
    (
        "/console-licenses.txt",
        "text/plain; charset=utf-8",
        include_bytes!("../../../clients/console/dist/licenses.txt"),
    ),
];

/// Returns the page, and the call that gets it in.
pub(super) fn router(shared: &Arc<Shared>, token: &Token) -> Router<Arc<Shared>> {
    let mut router = Router::new();
    for (path, kind, bytes) in FILES {
        let file = move |State(shared): State<Arc<Shared>>| async move {
            (page_headers(&shared).await, [(CONTENT_TYPE, HeaderValue::from_static(kind))], bytes)
        };
        router = router.route(path, get(file));
    }
    let admitting = (token.clone(), Arc::clone(shared));
    let tickets = Router::new()
        .route("/v1/console/tickets", post(issue))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(middleware::from_fn_with_state(admitting, auth::require_token_or_pass));
    router.merge(tickets).layer(middleware::from_fn(from_here))
}

/// Refuses what did not come by an address of this machine, or came from a page of another origin: a stranger's page
/// may have its own name point here.
async fn from_here(request: Request, next: Next) -> Response {
    if !is_from_here(request.headers()) {
        return foreign().into_response();
    }
    next.run(request).await
}

fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(HeaderValue::to_str).transpose();
    // What is no text is nobody's name.
    let (Ok(host), Ok(origin)) = (text(HOST), text(ORIGIN)) else { return false };
    let is_same = |origin: &str| host.is_some_and(|host| origin == format!("http://{host}"));
    is_own_host(host) && origin.is_none_or(is_same)
}

fn foreign() -> ApiError {
    let problem =
        "the console is opened by the node's IP address or as localhost, and by no other name";
    ApiError::forbidden("foreign_origin", problem)
}

/// What browsers may do with the page: nothing but run its one script, and dial this node.
async fn page_headers(shared: &Shared) -> [(HeaderName, HeaderValue); 8] {
    let sockets: String =
        websockets(shared).await.iter().map(|(ip, port, _)| format!(" ws://{ip}:{port}")).collect();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'{sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    // It is made of numbers and the words above.
    let policy = HeaderValue::from_str(&policy).expect("addresses are visible characters");
    let named = HeaderName::from_static;
    let fixed = HeaderValue::from_static;
    [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, fixed("nosniff")),
        (X_FRAME_OPTIONS, fixed("DENY")),
        (REFERRER_POLICY, fixed("no-referrer")),
        (CACHE_CONTROL, fixed("no-store")),
        (named("cross-origin-opener-policy"), fixed("same-origin")),
        (named("cross-origin-resource-policy"), fixed("same-origin")),
        (named("permissions-policy"), fixed("camera=(), geolocation=(), microphone=()")),
    ]
}

/// Returns where this node listens for browsers. A policy cannot name addresses of IPv6.
async fn websockets(shared: &Shared) -> Vec<(Ipv4Addr, u16, Multiaddr)> {
    let listening = shared.network.listening().await;
    let socket = |address: Multiaddr| {
        let mut parts = address.iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port)), Some(Protocol::Ws(_))) => {
                Some((ip, port, address.clone()))
            }
            _ => None,
        }
    };
    listening.into_iter().filter_map(socket).collect()
}

/// Makes a pass, for the address that `dunlin console` prints.
pub(super) async fn pass(State(shared): State<Arc<Shared>>) -> Json<json::ConsolePass> {
    let pass = shared.passes.issue(Instant::now());
    let url = format!("http://{}/#{pass}", reached_here(shared.api_address));
    Json(json::ConsolePass { url, expires_s: PASS_LIFE.as_secs() })
}

async fn issue(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Body(request): Body<json::ConsoleTicketRequest>,
) -> Result<Json<json::ConsoleTicket>, ApiError> {
    let bad = |cause: ParseError| ApiError::bad_request("bad_query", format!("peer: {cause}"));
    let peer: PeerId = request.peer.parse().map_err(bad)?;
    let mut sockets = websockets(&shared).await;
    if sockets.is_empty() {
        return Err(no_websocket(&shared));
    }
    let called = headers.get(HOST).and_then(|host| host.to_str().ok()).map(called_ip);
    let called = called.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    sockets.sort_by_key(|(ip, ..)| (IpAddr::V4(*ip) != called, !ip.is_loopback()));
    let random: [u8; 32] = rand::random();
    let expires_s = shared
        .network
        .expect_console(peer, Ticket::new(random))
        .await
        .map_err(ApiError::internal)?;
    tracing::info!(%peer, "a console may come");
    Ok(Json(json::ConsoleTicket {
        ticket: random.iter().map(|byte| format!("{byte:02x}")).collect(),
        addresses: sockets
            .iter()
            .take(ADDRESSES_MAX)
            .map(|(_, _, address)| address.to_string())
            .collect(),
        expires_s,
    }))
}

/// Returns the address by which this node was called; its name can only be `localhost`.
fn called_ip(host: &str) -> IpAddr {
    let without_port = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let ip = without_port.trim_matches(['[', ']']).parse();
    ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn no_websocket(shared: &Shared) -> ApiError {
    let problem = if shared.config.network.mode == Mode::AirGapped {
        "this node is air-gapped and listens for nobody, browsers included: set `network.mode` to another one, \
         or use `dunlin status --watch`"
    } else {
        "this node does not listen for browsers: add \"/ip4/127.0.0.1/tcp/4602/ws\" to `network.listen` and start \
         it again"
    };
    ApiError::conflict("no_websocket", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_called_by_address_or_as_localhost() {
        for (host, ip) in [
            ("127.0.0.1:4600", "127.0.0.1"),
            ("10.1.2.3", "10.1.2.3"),
            ("localhost:1", "127.0.0.1"),
            ("[::1]:4600", "::1"),
        ] {
            assert_eq!(called_ip(host), ip.parse::<IpAddr>().unwrap(), "{host}");
        }
    }

    #[test]
    fn nothing_of_the_page_is_inline_or_from_elsewhere() {
        let (_, _, page) = FILES[0];
        let page = std::str::from_utf8(page).unwrap();
        for forbidden in ["<style", "style=", "javascript:", " on", "http:", "https:", "//"] {
            let found = page.lines().find(|line| line.contains(forbidden));
            // A word may begin with "on"; a handler of events has an equals sign behind it.
            let is_handler = |line: &&str| forbidden != " on" || handler_in(line);
            assert_eq!(found.filter(is_handler), None, "{forbidden:?}");
        }
        let scripts: Vec<_> = page.match_indices("<script").collect();
        assert_eq!(scripts.len(), 1);
        assert!(page.contains("<script type=\"module\" src=\"/console.js\"></script>"));
    }

    fn handler_in(line: &str) -> bool {
        let name = |word: &str| word.split_once('=').map(|(name, _)| name.to_owned());
        line.split_whitespace().filter_map(name).any(|name| name.starts_with("on"))
    }
}
