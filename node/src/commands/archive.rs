//! `archive status` and `archive import`.

use std::{fs::File, io, path::Path};

use anyhow::Context;
use dunlin_client::{ArchiveStatus, BackendStatus, Client, ImportResponse};

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
    format!(
        "{} own segments archived, {} due, {} fetched; {} blocks of {}; newest {}\n{}{table}",
        status.archived,
        status.due,
        status.fetched,
        status.blocks,
        size(status.bytes),
        newest.map_or_else(|| "never".to_owned(), time),
        backend(&status.backend),
    )
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

fn text(imported: &ImportResponse) -> String {
    let who = if imported.public { "for everybody" } else { "for this node and its own peers" };
    format!(
        "{} blocks ({}) are in the archive, {who}\n{}",
        imported.blocks,
        size(imported.bytes),
        imported.roots.join("\n")
    )
}
