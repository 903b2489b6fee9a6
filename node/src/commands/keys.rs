//! `keys ls|export|import|rotate`: on the key ring in the data folder, whether a node runs or not. Keys never go
//! over the API.

use std::{fs, io::Read, path::Path};

use anyhow::Context;
use dunlin_archive::sealing::KeyId;
use dunlin_engine::CollectionName;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    cli::KeysCommand,
    daemon::now,
    data_dir::DataDir,
    key_ring::{ExportedKey, HeldKey, KeyRing, Use},
    output::{Output, Table, print, time},
};

/// Longest text that is read as a key.
const TEXT_BYTES_MAX: u64 = 4096;

/// A key as it may be shown.
#[derive(Debug, Serialize)]
struct View {
    id: String,
    collection: String,
    since_ms: u64,
    seals: bool,
}

pub(super) fn keys(path: &Path, command: &KeysCommand, out: Output) -> anyhow::Result<()> {
    let dir = DataDir::open_or_create(path)?;
    match command {
        KeysCommand::Ls => {
            let ring = KeyRing::load(&dir)?;
            let views: Vec<_> = ring.keys().iter().map(view).collect();
            out.show(&views, |views| list(views))
        }
        KeysCommand::Export { key } => {
            let ring = KeyRing::load(&dir)?;
            print(&find(&ring, key)?.export())
        }
        KeysCommand::Import { file, seal } => {
            let exported: ExportedKey = read(file)?.parse()?;
            let purpose = if *seal { Use::OpenAndSeal } else { Use::Open };
            let id = KeyRing::import(&dir, &exported, purpose, now().0)?;
            let ring = KeyRing::load(&dir)?;
            let held = ring.get(&id).context("the key was removed meanwhile")?;
            out.show(&view(held), |view| {
                let seals = if view.seals { "opens and seals" } else { "opens" };
                format!("key {} {seals} collection {}", view.id, view.collection)
            })
        }
        KeysCommand::Rotate { collection } => {
            let collection = CollectionName::new(collection.as_str())?;
            let key = KeyRing::rotate(&dir, &collection, now().0)?;
            let ring = KeyRing::load(&dir)?;
            let held = ring.get(&key.id()).context("the key was removed meanwhile")?;
            out.show(&view(held), |view| {
                format!("key {} seals collection {} from now on", view.id, view.collection)
            })
        }
    }
}

fn find<'a>(ring: &'a KeyRing, key: &str) -> anyhow::Result<&'a HeldKey> {
    let by_id = key.parse::<KeyId>().ok().and_then(|id| ring.get(&id));
    let is_sealing = |held: &&HeldKey| held.seals && held.collection.as_str() == key;
    by_id.or_else(|| ring.keys().iter().find(is_sealing)).with_context(|| {
        format!(
            "no key {key:?}: name an id that `dunlin keys ls` shows, or a collection that is sealed"
        )
    })
}

/// Reads a key from a file. It stands on no command line, where other users of the machine would see it.
fn read(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(TEXT_BYTES_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(TEXT_BYTES_MAX).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read a key from {}", file.display()))?;
    Ok(text)
}

fn view(held: &HeldKey) -> View {
    View {
        id: held.key.id().to_string(),
        collection: held.collection.to_string(),
        since_ms: held.since_ms,
        seals: held.seals,
    }
}

fn list(views: &[View]) -> String {
    let mut table = Table::new(["key", "collection", "seals", "since"]);
    for view in views {
        let since = i64::try_from(view.since_ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let seals = if view.seals { "yes" } else { "no" };
        table.row([view.id.clone(), view.collection.clone(), seals.to_owned(), time(since)]);
    }
    table.to_string()
}
