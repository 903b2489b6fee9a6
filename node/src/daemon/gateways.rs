//! Asking trustless gateways for blocks: ours, Kubo's, or any other that the user names.
//!
//! A gateway is a peer that speaks HTTP: it is asked for one block at a time over a few connections, is
//! believed nothing, and loses the rest of its question to others when it is slow. It learns which CIDs
//! this node looks for, so only those are asked that the user named.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use axum::http::{Uri, uri::Scheme};
use dunlin_archive::Answer;
use dunlin_wire::{Cid, block::Block, limits::BLOCK_BYTES_MAX};
use tokio::{sync::Semaphore, task::JoinSet};

use super::fetch::Provider;

/// Connections to one gateway for one question.
const LANES: usize = 4;

/// Connections to gateways at once, over all retrievals: each takes a thread while it waits.
static LANES_OPEN: Semaphore = Semaphore::const_new(32);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for one block.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one question may take; what has not come by then is asked of others.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Pauses before a gateway that is busy is asked again; then it counts as one that refuses.
const BUSY_PAUSES_MS: [u64; 4] = [100, 200, 500, 1000];

/// Other addresses that a gateway may send us to.
const REDIRECTS_MAX: u32 = 3;

/// Where a gateway is: `http` or `https`, a host, and perhaps a path before `/ipfs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayUrl(String);

impl FromStr for GatewayUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem =
            || format!("{text:?} is no gateway's address like https://gateway.example.org");
        let uri: Uri = text.parse().map_err(|_| problem())?;
        let is_http = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&uri.scheme());
        if !is_http || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return Err(problem());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Speaks HTTP to gateways.
#[derive(Clone, Debug)]
pub(super) struct Gateways(ureq::Agent);

impl Gateways {
    pub(super) fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(BLOCK_TIMEOUT))
            .max_redirects(REDIRECTS_MAX)
            .max_idle_connections_per_host(LANES)
            .user_agent(concat!("dunlin/", env!("CARGO_PKG_VERSION")))
            .proxy(None);
        Self(config.build().new_agent())
    }

    /// Asks a gateway for blocks.
    pub(super) async fn ask(
        &self,
        url: &GatewayUrl,
        provider: Provider,
        cids: Vec<Cid>,
    ) -> Answer<Provider> {
        let mut lanes = JoinSet::new();
        let deadline = Instant::now() + QUESTION_TIMEOUT;
        for lane in 0..LANES.min(cids.len()) {
            let cids: Vec<_> = cids.iter().skip(lane).step_by(LANES).copied().collect();
            let permit = LANES_OPEN.acquire().await.expect("the semaphore is never closed");
            let (agent, url) = (self.0.clone(), url.clone());
            lanes.spawn_blocking(move || {
                let _permit = permit;
                ask_in_turn(&agent, &url, &cids, deadline)
            });
        }
        let mut all = Lane::default();
        while let Some(lane) = lanes.join_next().await {
            all.add(lane.expect("asking does not panic"));
        }
        let Lane { blocks, mut missing, wrong, late, end } = all;
        if blocks.is_empty() && missing.is_empty() && wrong.is_empty() {
            return match end {
                Some(End::Refused) => Answer::refused(provider),
                _ => Answer::failed(provider),
            };
        }
        missing.extend(late);
        Answer::blocks(provider, blocks, missing, wrong)
    }
}

/// What one connection brought.
#[derive(Default)]
struct Lane {
    blocks: Vec<Block>,
    missing: Vec<Cid>,
    wrong: Vec<Cid>,
    /// Those that it did not come to.
    late: Vec<Cid>,
    end: Option<End>,
}

/// Why a connection gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Refused,
    Failed,
}

impl Lane {
    fn add(&mut self, other: Self) {
        self.blocks.extend(other.blocks);
        self.missing.extend(other.missing);
        self.wrong.extend(other.wrong);
        self.late.extend(other.late);
        self.end = self.end.or(other.end);
    }
}

fn ask_in_turn(agent: &ureq::Agent, url: &GatewayUrl, cids: &[Cid], deadline: Instant) -> Lane {
    let mut lane = Lane::default();
    for (index, cid) in cids.iter().enumerate() {
        let got = if Instant::now() < deadline {
            get(agent, url, cid, deadline)
        } else {
            Got::Nothing(End::Failed)
        };
        match got {
            Got::Block(block) => lane.blocks.push(block),
            Got::Missing => lane.missing.push(*cid),
            Got::Wrong => lane.wrong.push(*cid),
            Got::Nothing(end) => {
                lane.late.extend(&cids[index..]);
                lane.end = Some(end);
                break;
            }
        }
    }
    lane
}

enum Got {
    Block(Block),
    Missing,
    Wrong,
    Nothing(End),
}

fn get(agent: &ureq::Agent, url: &GatewayUrl, cid: &Cid, deadline: Instant) -> Got {
    let address = format!("{url}/ipfs/{cid}?format=raw");
    let mut pauses = BUSY_PAUSES_MS.into_iter();
    loop {
        let request = agent.get(&address).header("Accept", "application/vnd.ipld.raw");
        let mut answer = match request.call() {
            Ok(answer) => answer,
            Err(cause) => {
                tracing::debug!(gateway = %url, %cause, "no block");
                return Got::Nothing(End::Failed);
            }
        };
        match answer.status().as_u16() {
            200 => {
                let body = answer.body_mut().with_config().limit(BLOCK_BYTES_MAX as u64 + 1);
                return match body.read_to_vec() {
                    Ok(bytes) => Block::verified(*cid, bytes).map_or(Got::Wrong, Got::Block),
                    Err(ureq::Error::BodyExceedsLimit(_)) => Got::Wrong,
                    Err(_) => Got::Nothing(End::Failed),
                };
            }
            404 | 410 | 412 => return Got::Missing,
            429 | 503 => match pauses.next().filter(|_| Instant::now() < deadline) {
                Some(pause) => std::thread::sleep(Duration::from_millis(pause)),
                None => return Got::Nothing(End::Refused),
            },
            400..=499 => return Got::Nothing(End::Refused),
            _ => return Got::Nothing(End::Failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_gateways_are_checked() {
        for (text, url) in [
            ("http://127.0.0.1:4610", "http://127.0.0.1:4610"),
            ("https://gateway.example.org/", "https://gateway.example.org"),
            ("https://example.org/gateway/", "https://example.org/gateway"),
        ] {
            assert_eq!(text.parse::<GatewayUrl>().unwrap().to_string(), url);
        }
        for text in ["", "gateway.example.org", "ftp://x.org", "http://", "http://x.org?a=b", "/x"]
        {
            assert!(text.parse::<GatewayUrl>().is_err(), "{text}");
        }
    }
}
