//! `archive status`, `import`, `publish` and `resolve`.

use std::{fs::File, io, path::Path};

use anyhow::Context;
use dunlin_client::{
    ArchiveStatus, Client, ImportResponse, Providing, PublishedName, ResolvedName,
};

use crate::{
    cli::ArchiveCommand,
    output::{Output, Table, size, time},
};

pub(super) fn archive(
    client: &Client,
    command: &ArchiveCommand,
    out: Output,
) -> anyhow::Result<()> {
    let (file, public) = match command {
        ArchiveCommand::Status => return out.show(&client.archive()?, status),
        ArchiveCommand::Publish => return out.show(&client.publish_name()?, published),
        ArchiveCommand::Resolve { name } => return out.show(&client.resolve(name)?, resolved),
        ArchiveCommand::Import { file, public } => (file, public),
    };
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
    let root = status.root.as_deref().unwrap_or("nothing is archived");
    let name = status
        .published
        .as_ref()
        .map_or_else(|| "nothing is published".to_owned(), |name| published(name));
    let Providing { provided, due, failed, left_out } = status.providing;
    let left_out = if left_out > 0 { format!(", {left_out} left out") } else { String::new() };
    format!(
        "{} own segments archived, {} due, {} fetched; {} blocks of {}; newest {}\n{table}\nall of it {root}\n\
         {name}\non the DHT {provided} provided, {due} due, {failed} failed{left_out}",
        status.archived,
        status.due,
        status.fetched,
        status.blocks,
        size(status.bytes),
        newest.map_or_else(|| "never".to_owned(), time),
    )
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
