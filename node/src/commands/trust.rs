//! `dunlin trust`: how the running node judges its peers.

use dunlin_client::{Client, PeerTrust};

use crate::{
    cli::TrustCommand,
    output::{Output, Table, time},
};

pub(super) fn trust(client: &Client, command: &TrustCommand, out: Output) -> anyhow::Result<()> {
    match command {
        TrustCommand::Ls => {
            let mut peers: Vec<PeerTrust> = Vec::new();
            loop {
                let page = client.trust(peers.last().map(|last| last.peer.as_str()))?;
                let is_last = !page.more || page.peers.is_empty();
                peers.extend(page.peers);
                if is_last {
                    break;
                }
            }
            out.show(&peers, |peers| list(peers))
        }
        TrustCommand::Show { peer } => {
            out.show(&client.peer_trust(&peer.to_string())?, explanation)
        }
        TrustCommand::Quarantine { peer } => {
            out.show(&client.quarantine(&peer.to_string())?, explanation)
        }
        TrustCommand::Release { peer } => {
            out.show(&client.release(&peer.to_string())?, explanation)
        }
    }
}

fn list(peers: &[PeerTrust]) -> String {
    let mut table = Table::new(["peer", "standing", "score", "connected", "notes"]);
    for peer in peers {
        let notes = [(peer.own, "own"), (peer.held, "held by you")];
        let notes: Vec<_> = notes.into_iter().filter_map(|(is, note)| is.then_some(note)).collect();
        table.row([
            peer.peer.clone(),
            standing(peer),
            format!("{:.2}", peer.score),
            if peer.connected { "yes" } else { "no" }.to_owned(),
            notes.join(", "),
        ]);
    }
    table.to_string()
}

fn standing(peer: &PeerTrust) -> String {
    format!("{:?}", peer.standing).to_lowercase()
}

fn explanation(peer: &PeerTrust) -> String {
    let mut text = format!("{} is {}\n", peer.peer, standing(peer));
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<9} {value}\n"));
    if peer.own {
        line("own", "one of your own peers".to_owned());
    }
    if peer.held {
        line("held", "you quarantined it; `dunlin trust release` ends that".to_owned());
    }
    match peer.updated_ms {
        Some(millis) => {
            let micros = i64::try_from(millis.saturating_mul(1_000)).unwrap_or(i64::MAX);
            line("updated", time(micros));
        }
        None => line("updated", "never: a stranger begins in the middle".to_owned()),
    }
    let prior = peer.prior;
    let amount = |part: &str| {
        let lines = peer.lines.iter().filter(|line| line.part == part);
        lines.map(|line| line.amount).sum::<f64>()
    };
    let (earned, grave, slight) = (amount("earned"), amount("grave"), amount("slight"));
    for part in &peer.lines {
        line(&part.part, format!("{:>7.3}  {}", part.amount, part.evidence));
    }
    line(
        "score",
        format!(
            "{:>7.3}  = ({prior} + {earned:.3}) / (2 x {prior} + {earned:.3} + {grave:.3} + {slight:.3})",
            peer.score
        ),
    );
    text
}
