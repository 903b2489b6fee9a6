//! `archive status` and `archive import`.

use std::{fs::File, io, path::Path};

use anyhow::Context;
use dunlin_client::{ArchiveStatus, Client, ImportResponse};

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
    format!(
        "{} own segments archived, {} due, {} fetched; {} blocks of {}; newest {}\n{table}{sealed}",
        status.archived,
        status.due,
        status.fetched,
        status.blocks,
        size(status.bytes),
        newest.map_or_else(|| "never".to_owned(), time),
    )
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
