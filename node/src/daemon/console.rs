//! What the operator's console is shown, and the passes by which a browser gets to it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use dunlin_engine::Stored;
use dunlin_protocols::{
    PeerView,
    messages::{
        CONSOLE_PEERS_MAX, CONSOLE_PROBLEMS_MAX, CONSOLE_PROTOCOLS_MAX, CONSOLE_SEGMENTS_MAX,
        ConsolePeer, ConsoleSegment, ConsoleView, console_text,
    },
};
use dunlin_wire::Cid;

use super::shared::Shared;
use crate::config::Serve;

/// Segments that are read to find the newest that are still there, beyond those that are shown: some may have been
/// removed or compacted.
const GAP_MAX: usize = 1_024;

/// Passes that wait to be used. The oldest one gives way.
const PASSES_MAX: usize = 8;

/// How long a pass can be used: as long as it takes to open a browser.
pub(crate) const PASS_LIFE: Duration = Duration::from_secs(120);

/// Passes: each stands in an address that `dunlin console` prints, and gets one page one ticket. The token of the API
/// shall stand in no address, which browsers remember and process lists show.
#[derive(Debug, Default)]
pub(crate) struct Passes(Mutex<BTreeMap<String, Instant>>);

impl Passes {
    /// Makes a pass.
    pub(crate) fn issue(&self, now: Instant) -> String {
        let random: [u8; 32] = rand::random();
        let pass: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        passes.retain(|_, made| now.saturating_duration_since(*made) < PASS_LIFE);
        if passes.len() >= PASSES_MAX {
            let oldest = passes.iter().min_by_key(|(_, made)| **made).map(|(pass, _)| pass.clone());
            oldest.and_then(|oldest| passes.remove(&oldest));
        }
        passes.insert(pass.clone(), now);
        pass
    }

    /// Returns whether this is a pass, which is used up then.
    pub(crate) fn take(&self, shown: &[u8], now: Instant) -> bool {
        // Looking it up tells how much of a guess is right to whom can measure it, of 256 random bits that live two
        // minutes.
        let Ok(shown) = std::str::from_utf8(shown) else { return false };
        let mut passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = passes.remove(shown);
        made.is_some_and(|made| now.saturating_duration_since(made) < PASS_LIFE)
    }
}

impl Shared {
    /// Returns what the console is shown now.
    ///
    /// # Errors
    ///
    /// Fails when a store cannot be read.
    pub(super) async fn console_view(self: &Arc<Self>) -> anyhow::Result<ConsoleView> {
        let me = self.network.local_peer();
        let mut peers = self.network.peers().await;
        peers.retain(|view| view.peer != me);
        let peers_known = peers.len() as u64;
        peers.sort_by_key(|view| (view.link.is_none(), !view.trust.is_own, view.peer));
        let problems = self.observed().problems;
        let reachability = self.network.reaching().await.reachability;
        let segments = self.blocking(Self::newest_segments).await?;
        Ok(ConsoleView {
            peer: me.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.config.network.name.to_string(),
            uptime_s: self.uptime().as_secs(),
            reachability: reachability.as_str().to_owned(),
            problems: problems
                .iter()
                .take(CONSOLE_PROBLEMS_MAX)
                .map(|(part, problem)| console_text(&format!("{part}: {problem}")))
                .collect(),
            peers: peers.iter().take(CONSOLE_PEERS_MAX).map(shown_peer).collect(),
            peers_known,
            segments,
        })
    }

    /// Returns the segments that were sealed last, the newest first.
    fn newest_segments(&self) -> anyhow::Result<Vec<ConsoleSegment>> {
        let last = self.engine.last_segment()?;
        let since = |count: usize| last.saturating_sub(count as u64);
        let mut sealed =
            self.engine.sealed_after(since(CONSOLE_SEGMENTS_MAX), CONSOLE_SEGMENTS_MAX)?;
        if sealed.len() < CONSOLE_SEGMENTS_MAX && since(CONSOLE_SEGMENTS_MAX) > 0 {
            sealed = self.engine.sealed_after(since(GAP_MAX), GAP_MAX)?;
        }
        let newest = sealed.iter().rev().take(CONSOLE_SEGMENTS_MAX);
        newest.map(|stored| self.shown_segment(stored)).collect()
    }

    fn shown_segment(&self, stored: &Stored) -> anyhow::Result<ConsoleSegment> {
        let Stored { cid, segment, .. } = stored;
        Ok(ConsoleSegment {
            collection: console_text(segment.collection().as_str()),
            entity: console_text(&segment.entity().to_string()),
            start_us: segment.start().0,
            end_us: segment.end().0,
            count: segment.count().into(),
            cid: cid.to_string(),
            link: self.gateway_link(cid)?,
        })
    }

    /// Returns where the gateway shows a segment, when it does.
    fn gateway_link(&self, cid: &Cid) -> anyhow::Result<Option<String>> {
        let Some(address) = self.gateway_address else { return Ok(None) };
        let is_served = self.config.gateway.serve == Serve::All || self.archive.is_public(cid)?;
        let link = || format!("http://{}/ipfs/{cid}?format=html", reached_here(address));
        Ok(is_served.then(link))
    }
}

/// Returns where a browser on this machine finds what listens on an address, which may stand for all of them.
pub(crate) fn reached_here(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    address
}

fn shown_peer(view: &PeerView) -> ConsolePeer {
    let link = view.link.as_ref();
    let address = link.map(|link| &link.address).or(view.addresses.first());
    let traffic = link.map(|link| link.traffic);
    let percent = (view.trust.score.clamp(0.0, 1.0) * 100.0).round();
    ConsolePeer {
        peer: view.peer.to_string(),
        address: address.map(|address| console_text(&address.to_string())),
        transport: link.map(|link| link.transport.as_str().to_owned()),
        relay: link.and_then(|link| link.relay).map(|relay| relay.to_string()),
        rtt_us: link
            .and_then(|link| link.rtt)
            .map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        standing: view.trust.standing.as_str().to_owned(),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is rounded, and from 0 to 100"
        )]
        score: percent as u8,
        own: view.trust.is_own,
        bytes_up: traffic.map_or(0, |traffic| traffic.up),
        bytes_down: traffic.map_or(0, |traffic| traffic.down),
        agent: view.agent.as_deref().map(console_text),
        protocols: view
            .protocols
            .iter()
            .take(CONSOLE_PROTOCOLS_MAX)
            .map(|protocol| console_text(protocol.as_ref()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_good_once_and_not_for_long() {
        let (passes, start) = (Passes::default(), Instant::now());
        let pass = passes.issue(start);
        assert!(!passes.take(b"", start) && !passes.take(&pass.as_bytes()[1..], start));
        assert!(passes.take(pass.as_bytes(), start));
        assert!(!passes.take(pass.as_bytes(), start), "it is used up");
        let late = passes.issue(start);
        assert!(!passes.take(late.as_bytes(), start + PASS_LIFE));
    }

    #[test]
    fn there_are_never_more_than_a_few_passes() {
        let (passes, start) = (Passes::default(), Instant::now());
        let issued: Vec<_> =
            (0..100).map(|millis| passes.issue(start + Duration::from_millis(millis))).collect();
        let now = start + Duration::from_millis(100);
        let taken: Vec<_> =
            issued.iter().filter(|pass| passes.take(pass.as_bytes(), now)).collect();
        assert_eq!(taken, issued[100 - PASSES_MAX..].iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_listens_everywhere_is_reached_over_loopback() {
        let reached = |text: &str| reached_here(text.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:4600"), "127.0.0.1:4600");
        assert_eq!(reached("[::]:4600"), "127.0.0.1:4600");
        assert_eq!(reached("10.1.2.3:4600"), "10.1.2.3:4600");
    }
}
