//! `identity show|protect|unprotect|rotate|verify`: the node's key, on its data folder.

use std::{fs, io::Read as _, path::Path};

use anyhow::{Context as _, bail, ensure};
use dunlin_trust::{Endorsements, LINEAGE_MAX, Rotation, Withdrawal};
use dunlin_wire::{cbor, envelope};
use libp2p_identity::Keypair;
use serde::Serialize;

use crate::{
    cli::IdentityCommand,
    config::Config,
    daemon::{keep_withdrawal, now},
    data_dir::{DataDir, IDENTITY_FILE},
    identity_file::{Identity, NEW_PASSPHRASE_FILE, Passphrase, file_named_by, is_sealed},
    output::{Output, time},
};

/// The statements that lead from the node's first key to its present one.
const LINEAGE_FILE: &str = "lineage.cbor";

/// The key that is about to follow, while a rotation is not complete.
const SUCCESSOR_FILE: &str = ".identity.successor";

/// Largest lineage: each statement has two envelopes of less than 512 bytes.
const LINEAGE_BYTES_MAX: usize = LINEAGE_MAX * 1024;

/// A node's key as it may be shown.
#[derive(Debug, Serialize)]
struct View {
    /// Its peer id.
    peer: String,
    protected: bool,
    lineage: Vec<Link>,
}

/// One key that gave way to another.
#[derive(Debug, Serialize)]
struct Link {
    old: String,
    new: String,
    issued_ms: u64,
}

pub(super) fn identity(path: &Path, command: &IdentityCommand, out: Output) -> anyhow::Result<()> {
    if let IdentityCommand::Verify { file } = command {
        let lineage = links(&read_lineage(file)?)?;
        ensure!(!lineage.is_empty(), "{} names no rotation", file.display());
        return out.show(&lineage, |lineage| lineage_text(lineage));
    }
    // Whoever changes the key must be alone with it.
    let (dir, _lock) = match command {
        IdentityCommand::Show => (DataDir::open_or_create(path)?, None),
        _ => {
            let (dir, lock) = DataDir::open_or_create_locked(path)?;
            (dir, Some(lock))
        }
    };
    let keypair = match command {
        IdentityCommand::Protect => protect(&dir)?,
        IdentityCommand::Unprotect => {
            write(&dir, Identity { passphrase: None, ..dir.read_identity()? })?
        }
        IdentityCommand::Rotate { yes } => {
            ensure!(*yes, "this retires the node's key for good; add --yes to do it");
            rotate(&dir)?
        }
        IdentityCommand::Show | IdentityCommand::Verify { .. } => dir.read_identity()?.keypair,
    };
    show(&dir, &keypair, out)
}

fn show(dir: &DataDir, keypair: &Keypair, out: Output) -> anyhow::Result<()> {
    let file = dir.path().join(IDENTITY_FILE);
    let protected = is_sealed(&crate::data_dir::read_secret(&file)?);
    let lineage = links(&read_lineage(&dir.path().join(LINEAGE_FILE))?)?;
    let peer = keypair.public().to_peer_id().to_string();
    let view = View { peer, protected, lineage };
    out.show(&view, |view| {
        let protected = if view.protected { "a passphrase" } else { "the file's mode alone" };
        let text = format!("peer id    {}\nprotected by {protected}", view.peer);
        if view.lineage.is_empty() {
            text
        } else {
            format!("{text}\n{}", lineage_text(&view.lineage))
        }
    })
}

fn protect(dir: &DataDir) -> anyhow::Result<Keypair> {
    let identity = dir.read_identity()?;
    let new = Passphrase::of(NEW_PASSPHRASE_FILE, "new passphrase: ")?;
    if file_named_by(NEW_PASSPHRASE_FILE).is_none() {
        let again = Passphrase::of(NEW_PASSPHRASE_FILE, "the same again: ")?;
        ensure!(new.is(&again), "these differ; nothing was changed");
    }
    write(dir, Identity { passphrase: Some(new), ..identity })
}

/// Makes a key the node's, and returns it.
fn write(dir: &DataDir, identity: Identity) -> anyhow::Result<Keypair> {
    dir.replace(IDENTITY_FILE, &identity.to_bytes()?, 0o600)?;
    Ok(identity.keypair)
}

/// Makes a new key the node's. Interrupted anywhere, it leaves the old key in place, and the next call ends what this one
/// began: the statement, the withdrawal and the new key are on disk before the old key is gone.
fn rotate(dir: &DataDir) -> anyhow::Result<Keypair> {
    let config = Config::load(&dir.config_path())?;
    if config.network.authorities().is_some() {
        bail!(
            "this node is in a closed network, where its authorities say who is a peer: make another data folder, have \
             its key licensed, and the old one revoked (docs/revocation.md)"
        );
    }
    let old = dir.read_identity()?;
    let successor = successor(dir, &old)?;
    let mut lineage = read_lineage(&dir.path().join(LINEAGE_FILE))?;
    let (from, to) = (old.keypair.public().to_peer_id(), successor.public().to_peer_id());
    let known = Rotation::lineage(&lineage)?;
    if known.last().is_none_or(|last| last.new_key() != to) {
        ensure!(
            known.len() < LINEAGE_MAX,
            "{known} rotations are the most; move {LINEAGE_FILE} away to begin a new lineage",
            known = known.len()
        );
        lineage.push(Rotation::sign(&old.keypair, &successor, now())?);
        Rotation::lineage(&lineage).with_context(|| {
            format!("{LINEAGE_FILE} does not lead to {from}; move it away to begin a new lineage")
        })?;
        dir.replace(LINEAGE_FILE, &cbor::encode(&lineage)?, 0o644)?;
    }
    let withdrawal = envelope::sign(&old.keypair, Withdrawal::new(now(), None))?;
    keep_withdrawal(dir, &config, &withdrawal.bytes)?;
    let new = write(dir, Identity { keypair: successor, passphrase: old.passphrase })?;
    fs::remove_file(dir.path().join(SUCCESSOR_FILE)).context("the new key is in place")?;
    Ok(new)
}

/// Returns the key that follows: the one of a rotation that was interrupted, or a new one.
fn successor(dir: &DataDir, old: &Identity) -> anyhow::Result<Keypair> {
    let path = dir.path().join(SUCCESSOR_FILE);
    if let Some((_, bytes)) = dir.secret_if_any(SUCCESSOR_FILE)? {
        let same = old.passphrase.as_ref();
        let key = crate::identity_file::open_with(&bytes, same, &path)?;
        if key.public() != old.keypair.public() {
            return Ok(key);
        }
        // The rotation was complete but for the removal of this file.
    }
    let next = Keypair::generate_ed25519();
    // It is sealed as the old one is, also while it waits.
    let bytes = match &old.passphrase {
        None => Identity { keypair: next.clone(), passphrase: None }.to_bytes()?,
        Some(passphrase) => crate::identity_file::sealed_with(&next, passphrase)?,
    };
    dir.replace(SUCCESSOR_FILE, &bytes, 0o600)?;
    Ok(next)
}

/// Reads a lineage; an absent file is one without rotations.
fn read_lineage(path: &Path) -> anyhow::Result<Vec<Endorsements>> {
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file
            .and_then(|file| file.take(LINEAGE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {}", path.display()))?,
    };
    cbor::decode(&bytes, LINEAGE_BYTES_MAX)
        .with_context(|| format!("{} is no lineage", path.display()))
}

fn links(statements: &[Endorsements]) -> anyhow::Result<Vec<Link>> {
    let link = |rotation: Rotation| Link {
        old: rotation.old().to_string(),
        new: rotation.new_key().to_string(),
        issued_ms: rotation.issued().0,
    };
    Ok(Rotation::lineage(statements)?.into_iter().map(link).collect())
}

fn lineage_text(lineage: &[Link]) -> String {
    let line = |link: &Link| {
        let issued = i64::try_from(link.issued_ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
        format!("{}  {} gave way to {}", time(issued), link.old, link.new)
    };
    lineage.iter().map(line).collect::<Vec<_>>().join("\n")
}
