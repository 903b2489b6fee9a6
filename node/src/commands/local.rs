//! `init`, `status`, `peers` and `collections`: the node itself and what it holds.

use std::{path::Path, time::Duration};

use anyhow::Context;
use dunlin_client::{
    Client, CollectionSpec, Collections, CompactRequest, CompactResponse, Entities, ErrorBound,
    NodeStatus, NoisedTerms, Peer, Peers, Quality, RemoveResponse, Share, ShareRequest,
    ShareResponse, Units,
};
use serde::Serialize;

use super::query;
use crate::{
    cli::{CollectionsCommand, InitArgs, StatusArgs},
    config::Config,
    data_dir::DataDir,
    output::{Output, Table, size, time},
};

/// What `dunlin init` prints.
#[derive(Debug, Serialize)]
struct Initialized {
    peer: String,
    data_dir: String,
    config: String,
}

pub(super) fn init(path: &Path, args: &InitArgs, out: Output) -> anyhow::Result<()> {
    let dir = DataDir::open_or_create(path)?;
    let config = dir.config_path();
    if let Some(name) = &args.network {
        let text = std::fs::read_to_string(&config).context("cannot read the configuration")?;
        let default = "name = \"dunlin\"";
        let chosen = format!("name = \"{name}\"");
        anyhow::ensure!(
            text.contains(default) || text.contains(&chosen),
            "{} names another network; change it there",
            config.display()
        );
        dir.replace("config.toml", text.replacen(default, &chosen, 1).as_bytes(), 0o644)?;
    }
    Config::load(&config)?;
    let made = Initialized {
        peer: dir.identity()?.public().to_peer_id().to_string(),
        data_dir: dir.path().display().to_string(),
        config: config.display().to_string(),
    };
    out.show(&made, |made| {
        format!(
            "peer    {}\ndata    {}\nconfig  {}\n\nstart it with `dunlin run --data-dir {}`",
            made.peer, made.data_dir, made.config, made.data_dir
        )
    })
}

pub(super) fn console(client: &Client, out: Output) -> anyhow::Result<()> {
    out.show(&client.console_pass()?, |pass| {
        format!("{}\n\nopen it in a browser on this machine within {} s", pass.url, pass.expires_s)
    })
}

pub(super) fn status(client: &Client, args: &StatusArgs, out: Output) -> anyhow::Result<()> {
    if args.cluster {
        let status = client.cluster_status()?;
        return out.show(&status, |status| {
            let mut table = Table::new(["peer", "role", "state", "transport", "address"]);
            for member in &status.members {
                table.row([
                    member.peer_id.clone(),
                    member.role.clone(),
                    format!("{:?}", member.state).to_lowercase(),
                    member.transport.clone().unwrap_or_default(),
                    member.address.clone().unwrap_or_default(),
                ]);
            }
            format!(
                "network {}: {}, {} nodes\n\n{table}",
                status.cluster_id, status.status, status.node_count
            )
        });
    }
    out.show(&client.status()?, status_text)
}

fn status_text(status: &NodeStatus) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<13} {value}\n"));
    line("peer", status.peer.clone());
    line("network", status.network.clone());
    line("version", status.version.clone());
    line("up", format!("{} s (pid {})", status.uptime_s, status.pid));
    line("listening", status.listen.join("\n              "));
    line("api", status.api.clone());
    line("data", status.data_dir.clone());
    line("collections", status.collections.to_string());
    line("entities", status.entities.to_string());
    line("observations", status.observations.to_string());
    line("segments", format!("{} ({} archived)", status.segments, status.archived));
    line("archive", status.backend.clone());
    line("peers", status.peers.to_string());
    line("reachable", reachable_text(status));
    line("adopted", format!("{} template sets", status.templates_adopted));
    if let Some(resident) = status.resident_bytes {
        line("memory", size(resident));
    }
    for problem in &status.problems {
        line("problem", problem.clone());
    }
    text
}

fn reachable_text(status: &NodeStatus) -> String {
    let mut text = match status.reachability.as_str() {
        "public" => "by strangers",
        "private" => "not by strangers",
        _ => "nobody has tried yet",
    }
    .to_owned();
    if !status.relays.is_empty() {
        text.push_str(&format!(", through {} relays", status.relays.len()));
    }
    for address in &status.external {
        text.push_str(&format!("\n              {address}"));
    }
    text
}

pub(super) fn peers(client: &Client, out: Output) -> anyhow::Result<()> {
    out.show(&client.peers()?, |Peers { peers }| {
        let columns =
            ["peer", "standing", "score", "link", "rtt ms", "up", "down", "protocols", "address"];
        let mut table = Table::new(columns);
        for peer in peers {
            table.row([
                peer.peer.clone(),
                format!("{:?}{}", peer.standing, if peer.own { ", own" } else { "" })
                    .to_lowercase(),
                format!("{:.2}", peer.score),
                link_text(peer),
                peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1}")),
                peer.bytes_up.map_or_else(|| "-".to_owned(), size),
                peer.bytes_down.map_or_else(|| "-".to_owned(), size),
                if peer.connected { peer.protocols.len().to_string() } else { "-".to_owned() },
                peer.addresses.first().cloned().unwrap_or_default(),
            ]);
        }
        table.to_string()
    })
}

fn link_text(peer: &Peer) -> String {
    let (Some(transport), Some(direction)) = (&peer.transport, &peer.direction) else {
        return "-".to_owned();
    };
    let path = if peer.relay.is_some() { "relayed" } else { "direct" };
    format!("{transport} {direction} {path}")
}

pub(super) fn collections(
    client: &Client,
    command: CollectionsCommand,
    out: Output,
) -> anyhow::Result<()> {
    match command {
        CollectionsCommand::Ls => {
            out.show(&client.collections()?, |Collections { collections, shares }| {
                let mut table =
                    Table::new(["collection", "dim", "metric", "fidelity", "units", "share"]);
                for spec in collections {
                    table.row([
                        spec.name.clone(),
                        spec.dim.to_string(),
                        format!("{:?}", spec.metric).to_lowercase(),
                        format!("{:?}", spec.fidelity).to_lowercase(),
                        match &spec.units {
                            Units::Range { .. } => "fractions of range".to_owned(),
                            Units::NoiseFloor => "noise floors".to_owned(),
                        },
                        share_name(shares.get(&spec.name).copied().unwrap_or_default()).to_owned(),
                    ]);
                }
                table.to_string()
            })
        }
        CollectionsCommand::Create {
            name,
            dim,
            metric,
            fidelity,
            error,
            range,
            threshold,
            lateness_us,
        } => {
            let units = units(range, dim);
            let spec = CollectionSpec {
                name,
                dim,
                metric,
                fidelity,
                error_bound: error.map(ErrorBound::OfRange),
                units,
                threshold,
                lateness_us,
                channels: None,
            };
            out.show(&client.create_collection(&spec)?, |spec| {
                format!("collection {} is ready", spec.name)
            })
        }
        CollectionsCommand::Share { name, form, since, window } => {
            let is_noised = form == Share::Noised;
            anyhow::ensure!(is_noised || since.is_none(), "--since is for the form noised");
            let window_us = u64::try_from(window.as_micros()).ok().filter(|_| is_noised);
            let request = ShareRequest { share: form, since_us: since, window_us };
            out.show(&client.share_with(&name, &request)?, |answer| share_text(&name, answer))
        }
        CollectionsCommand::Quality { name } => out.show(&client.quality(&name)?, quality_text),
        CollectionsCommand::Compact { name, entity, before, nrmse, share } => {
            let request = CompactRequest { entity, from: None, before_us: before, nrmse, share };
            out.show(&compact(client, &name, &request)?, |done| {
                let CompactResponse { segments, outlines, bytes_before, bytes_after, .. } = done;
                if *segments == 0 {
                    return "nothing to compact: only archived segments that ended before then are, \
                            and of each entity the newest 512 never"
                        .to_owned();
                }
                let (before, after) = (size(*bytes_before), size(*bytes_after));
                format!("{segments} segments of {before} became {outlines} outlines of {after}")
            })
        }
        CollectionsCommand::Remove { name, entity, yes } => {
            anyhow::ensure!(
                yes,
                "this removes {entity} and all its segments from {name} for good; add --yes to do it"
            );
            out.show(&client.remove(&name, &entity)?, |removed| {
                let RemoveResponse { observations, segments } = removed;
                format!("removed {entity}: {segments} segments of {observations} observations")
            })
        }
        CollectionsCommand::Entities { name } => {
            out.show(&client.entities(&name)?, |Entities { entities }| {
                let mut table = Table::new([
                    "entity",
                    "observations",
                    "segments",
                    "open",
                    "drift",
                    "first",
                    "last",
                    "now nearest to",
                    "distance",
                    "margin",
                ]);
                for entity in entities {
                    let [name, distance, margin] = query::matched(entity.matched.as_ref());
                    let name = if entity.matched.is_some() { name } else { "-".to_owned() };
                    table.row([
                        entity.entity.clone(),
                        entity.observations.to_string(),
                        entity.segments.to_string(),
                        entity.open_observations.to_string(),
                        format!("{:.4}", entity.drift),
                        time(entity.first_us),
                        time(entity.last_us),
                        name,
                        distance,
                        margin,
                    ]);
                }
                table.to_string()
            })
        }
    }
}

const fn share_name(share: Share) -> &'static str {
    match share {
        Share::Private => "private",
        Share::Sealed => "sealed",
        Share::Noised => "noised",
    }
}

fn share_text(name: &str, answer: &ShareResponse) -> String {
    let (before, now) = (share_name(answer.before), share_name(answer.share));
    if let Some(noised) = &answer.noised {
        return format!("{name} is {now} (it was {before}): {}", noised_text(noised));
    }
    match (&answer.key, answer.before) {
        (Some(key), _) => format!(
            "{name} is {now} (it was {before}): everybody may fetch copies sealed with key {key}\n\
             `dunlin archive status` tells how many are made; keep a copy of the key: `dunlin keys export {name}`"
        ),
        (None, Share::Private) => format!("{name} is {now}, as it was"),
        (None, _) => format!(
            "{name} is {now} (it was {before}): no more copies are made, and those here are unpinned\n\
             what strangers fetched is theirs for ever, and as closed as its key is kept"
        ),
    }
}

fn noised_text(noised: &NoisedTerms) -> String {
    let NoisedTerms { since_us, window_us, epsilon, delta, observations_needed } = noised;
    let window = humantime::format_duration(Duration::from_micros(*window_us));
    let delta = if *delta > 0.0 { format!(", delta {delta}") } else { String::new() };
    format!(
        "everybody may fetch the noised mean of each entity and window of {window} since {}\n\
         each observation loses epsilon {epsilon}{delta} by its window; a window takes about \
         {observations_needed} observations of an entity\n\
         which entities there are is not protected, they have pseudonyms; `dunlin archive status` shows what \
         is released, `dunlin privacy ledger` what it cost",
        time(*since_us)
    )
}

/// Returns the units of a collection whose channels all have the same declared range, or none.
pub(super) fn units(range: Option<(f32, f32)>, dim: u32) -> Units {
    match range {
        None => Units::NoiseFloor,
        Some((lower, upper)) => {
            let each = |bound| vec![bound; dim as usize];
            Units::Range { lower: each(lower), upper: each(upper) }
        }
    }
}

fn quality_text(quality: &Quality) -> String {
    let window = match (quality.window_ratio, quality.window_observations) {
        (Some(ratio), Some(length)) => {
            format!("{ratio:.2} with fixed windows of {length:.1} observations and the same error")
        }
        _ => "not known at this fidelity".to_owned(),
    };
    format!(
        "observations  {}\nsegments      {}\nsize          {} -> {}\nratio         {:.2}\nwindow ratio  {window}\nnRMSE         {:.4}\nR2            {:.4}",
        quality.observations,
        quality.segments,
        size(quality.raw_bytes),
        size(quality.stored_bytes),
        quality.ratio,
        quality.nrmse,
        quality.r2,
    )
}

/// Asks for more until there is no more to do. What is done stays done when this is interrupted.
fn compact(
    client: &Client,
    name: &str,
    request: &CompactRequest,
) -> anyhow::Result<CompactResponse> {
    let progress = indicatif::ProgressBar::new_spinner();
    let (mut all, mut request) = (CompactResponse::default(), request.clone());
    loop {
        let done = client.compact(name, &request)?;
        all.segments += done.segments;
        all.outlines += done.outlines;
        all.bytes_before += done.bytes_before;
        all.bytes_after += done.bytes_after;
        progress.set_message(format!("{} segments compacted", all.segments));
        progress.tick();
        request.from = done.next;
        if request.from.is_none() {
            progress.finish_and_clear();
            return Ok(all);
        }
    }
}
