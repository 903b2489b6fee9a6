//! `archive status`, `publish`, `resolve`, `replicas`, `pins`, `compact` and `import`.

use std::{fs::File, io, path::Path};

use anyhow::Context;
use dunlin_archive::Archive;
use dunlin_client::{
    ArchiveStatus, BackendStatus, Client, ClientError, ImportResponse, NamedPin, PinRequest, Pins,
    Providing, PublishedName, RecoveryStatus, Replicas, ResolvedName, UnpinResponse,
};
use serde::Serialize;

use crate::{
    cli::{ArchiveCommand, PinsCommand},
    data_dir::DataDir,
    output::{Output, Table, size, time},
};

pub(super) fn archive(
    dir: &Path,
    client: impl Fn() -> Result<Client, ClientError>,
    command: &ArchiveCommand,
    out: Output,
) -> anyhow::Result<()> {
    let (file, public) = match command {
        ArchiveCommand::Status => return out.show(&client()?.archive()?, status),
        ArchiveCommand::Replicas => return out.show(&client()?.replicas()?, replicas),
        ArchiveCommand::Pins(command) => return pins(&client()?, command, out),
        ArchiveCommand::Compact => return out.show(&compact(dir)?, Compacted::text),
        ArchiveCommand::Publish => return out.show(&client()?.publish_name()?, published),
        ArchiveCommand::Resolve { name } => return out.show(&client()?.resolve(name)?, resolved),
        ArchiveCommand::Import { file, public } => (file, public),
    };
    let client = client()?;
    let imported = if file == Path::new("-") {
        client.import(&mut io::stdin().lock(), *public)?
    } else {
        let mut car =
            File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        client.import(&mut car, *public).with_context(|| file.display().to_string())?
    };
    out.show(&imported, text)
}

fn status(status: &ArchiveStatus) -> String {
    let newest = status.last_archive_ms.map(|ms| i64::try_from(ms * 1_000).unwrap_or(i64::MAX));
    let mut table = Table::new(["collection", "segments", "catalog"]);
    for catalog in &status.catalogs {
        let count = catalog.segments.to_string();
        table.row([catalog.collection.clone(), count, catalog.root.clone()]);
    }
    let mut copies = String::new();
    if status.replicas > 0 {
        copies = format!(
            "{} objects have {} copies at peers, {} have fewer\n",
            status.replicated, status.replicas, status.under_replicated
        );
    }
    let mut sealed = String::new();
    if !status.sealed.is_empty() {
        let mut table = Table::new(["sealed copies of", "made", "due", "catalog"]);
        for copies in &status.sealed {
            let root = copies.root.clone().unwrap_or_default();
            let (made, due) = (copies.copies.to_string(), copies.due.to_string());
            table.row([copies.collection.clone(), made, due, root]);
        }
        sealed = format!("\n{table}");
    }
    if !status.noised.is_empty() {
        let mut table = Table::new(["noised segments of", "released", "until", "catalog"]);
        for releases in &status.noised {
            let root = releases.root.clone().unwrap_or_default();
            let released = releases.segments.to_string();
            let until = releases.until_us.map_or_else(String::new, time);
            table.row([releases.collection.clone(), released, until, root]);
        }
        sealed.push_str(&format!("\n{table}"));
    }
    let mut known = String::new();
    if status.recovery.enabled {
        let RecoveryStatus { held, conflicts, .. } = status.recovery;
        let mut table = Table::new(["known with own peers", "segments", "catalog"]);
        for catalog in &status.recovery.known {
            let count = catalog.segments.to_string();
            table.row([catalog.collection.clone(), count, catalog.root.clone()]);
        }
        known = format!("\n{table}{held} segments of own peers kept, {conflicts} conflicts\n");
    }
    let root = status.root.as_deref().unwrap_or("nothing is archived");
    let name =
        status.published.as_ref().map_or_else(|| "nothing is published".to_owned(), published);
    let Providing { provided, due, failed, left_out } = status.providing;
    let left_out = if left_out > 0 { format!(", {left_out} left out") } else { String::new() };
    format!(
        "{} own segments archived, {} due, {} fetched; {} blocks of {}; newest {}\n{copies}{}{table}{known}{sealed}\n\
         all of it {root}\n{name}\non the DHT {provided} provided, {due} due, {failed} failed{left_out}",
        status.archived,
        status.due,
        status.fetched,
        status.blocks,
        size(status.bytes),
        newest.map_or_else(|| "never".to_owned(), time),
        backend(&status.backend),
    )
}

fn replicas(replicas: &Replicas) -> String {
    let mut text = format!("each object shall have {} copies at peers\n", replicas.replicas);
    for (count, objects) in replicas.objects.iter().enumerate().rev() {
        text += &format!("{objects} objects have {count}\n");
    }
    if replicas.unfit > 0 {
        text += &format!("{} objects are too large or not readable here\n", replicas.unfit);
    }
    if replicas.untracked > 0 {
        text += &format!("{} objects are beyond what is looked after\n", replicas.untracked);
    }
    let mut peers = Table::new([
        "peer", "may hold", "link", "held", "asked", "lost", "proofs", "last", "paused",
    ]);
    let seconds = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |s| format!("{s} s"));
    for peer in &replicas.peers {
        peers.row([
            peer.peer.clone(),
            peer.may_hold.clone(),
            if peer.connected { "up" } else { "down" }.to_owned(),
            peer.held.to_string(),
            peer.asked.to_string(),
            peer.lost.to_string(),
            format!("{} right, {} failed", peer.proofs_right, peer.proofs_failed),
            peer.proved_s_ago.map_or_else(|| "-".to_owned(), |ago| format!("{ago} s ago")),
            seconds(peer.paused_s),
        ]);
    }
    let mut kept = Table::new(["held here for", "objects", "size"]);
    for one in &replicas.kept {
        kept.row([one.peer.clone(), one.objects.to_string(), size(one.bytes)]);
    }
    format!("{text}\n{peers}\n{kept}")
}

fn pins(client: &Client, command: &PinsCommand, out: Output) -> anyhow::Result<()> {
    match command {
        PinsCommand::Ls { all } => out.show(&client.pins(*all)?, listed),
        PinsCommand::Add { name, cid, direct } => {
            let request = PinRequest { name: name.clone(), cid: cid.clone(), direct: *direct };
            out.show(&client.pin(&request)?, |NamedPin { name, blocks, bytes, .. }| {
                format!("{name} holds {blocks} blocks of {}", size(*bytes))
            })
        }
        PinsCommand::Rm { pin } => {
            out.show(&client.unpin(pin)?, |UnpinResponse { blocks, bytes }| {
                format!("{pin} is gone; {blocks} blocks of {} left with it", size(*bytes))
            })
        }
    }
}

fn listed(pins: &Pins) -> String {
    let mut named = Table::new(["name", "kind", "blocks", "size", "root"]);
    for pin in &pins.named {
        let kind = match (pin.complete, pin.direct) {
            (false, _) => "incomplete",
            (true, true) => "direct",
            (true, false) => "recursive",
        };
        let (blocks, bytes) = (pin.blocks.to_string(), size(pin.bytes));
        named.row([pin.name.clone(), kind.to_owned(), blocks, bytes, pin.root.clone()]);
    }
    let Some(usage) = &pins.all else { return named.to_string() };
    let mut all = Table::new(["pin", "roots", "blocks", "size"]);
    for pin in usage {
        all.row([pin.pin.clone(), pin.roots.to_string(), pin.blocks.to_string(), size(pin.bytes)]);
    }
    format!("{named}\n{all}")
}

/// What compacting brought.
#[derive(Debug, Serialize)]
struct Compacted {
    bytes_before: u64,
    bytes_after: u64,
}

impl Compacted {
    fn text(&self) -> String {
        format!(
            "the archive's file had {} and has {}",
            size(self.bytes_before),
            size(self.bytes_after)
        )
    }
}

/// Compacts the archive of a node that does not run.
fn compact(dir: &Path) -> anyhow::Result<Compacted> {
    let path = dir.join("archive").join("blocks.redb");
    let file_bytes = || {
        let file = std::fs::metadata(&path);
        file.map(|file| file.len()).with_context(|| format!("cannot read {}", path.display()))
    };
    let bytes_before = file_bytes()?;
    let (dir, _lock) = DataDir::open_or_create_locked(dir)
        .context("the archive can be compacted while no node runs; stop it first")?;
    let path = dir.path().join("archive").join("blocks.redb");
    let mut archive = Archive::open(&path, dunlin_archive::Config::default())?;
    // One pass may make room for another.
    while archive.compact()? {}
    drop(archive);
    Ok(Compacted { bytes_before, bytes_after: file_bytes()? })
}

/// Says where blocks are kept, on a line or more; a node of an older version does not tell.
fn backend(backend: &BackendStatus) -> String {
    let name = backend.described.as_ref().unwrap_or(&backend.kind);
    if name.is_empty() {
        return String::new();
    }
    let mut lines = format!("backend: {name}");
    if backend.kind != "embedded" {
        let reachable = if backend.reachable { "reachable" } else { "NOT REACHABLE" };
        lines += &format!(", {reachable}; {} roots there, {} due", backend.placed, backend.due);
    }
    lines.push('\n');
    if let Some(problem) = &backend.problem {
        lines += &format!("  {problem}\n");
    }
    let Some(pinning) = &backend.pinning else { return lines };
    lines += &format!(
        "pinning service: {}; {} pinned, {} being pinned, {} queued, {} waiting, {} failed, {} leaving\n",
        pinning.service,
        pinning.pinned,
        pinning.pinning,
        pinning.queued,
        pinning.waiting,
        pinning.failed,
        pinning.leaving,
    );
    if let Some(problem) = &pinning.problem {
        lines += &format!("  {problem}\n");
    }
    for complaint in &pinning.complaints {
        lines += &format!("  {}: {}\n", complaint.root, complaint.problem);
    }
    lines
}

fn published(name: &PublishedName) -> String {
    let root = name.root.as_deref().unwrap_or("nothing");
    let moment = |ms: u64| time(i64::try_from(ms.saturating_mul(1_000)).unwrap_or(i64::MAX));
    let told = match name.told_ms {
        Some(ms) => format!("told to {} peers at {}", name.peers, moment(ms)),
        None if name.failures > 0 => format!("told to nobody, tried {} times", name.failures),
        None => "not told yet".to_owned(),
    };
    let due = if name.due { "; a newer root waits" } else { "" };
    format!(
        "/ipns/{} stands for {root} (number {}, until {}; {told}{due})",
        name.name,
        name.sequence,
        moment(name.eol_ms),
    )
}

fn resolved(resolved: &ResolvedName) -> String {
    let until = time(i64::try_from(resolved.eol_ms.saturating_mul(1_000)).unwrap_or(i64::MAX));
    format!("{} (number {}, until {until})", resolved.value, resolved.sequence)
}

fn text(imported: &ImportResponse) -> String {
    let who = if imported.public { "for everybody" } else { "for this node and its own peers" };
    format!(
        "{} blocks ({}) are in the archive, {who}\n{}",
        imported.blocks,
        size(imported.bytes),
        imported.roots.join("\n")
    )
}
