//! `archive import`.

use std::{fs::File, io, path::Path};

use anyhow::Context;
use dunlin_client::{Client, ImportResponse};

use crate::{
    cli::ArchiveCommand,
    output::{Output, size},
};

pub(super) fn archive(
    client: &Client,
    command: &ArchiveCommand,
    out: Output,
) -> anyhow::Result<()> {
    let ArchiveCommand::Import { file, public } = command;
    let imported = if file == Path::new("-") {
        client.import(&mut io::stdin().lock(), *public)?
    } else {
        let mut car =
            File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        client.import(&mut car, *public).with_context(|| file.display().to_string())?
    };
    out.show(&imported, text)
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
