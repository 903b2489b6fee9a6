//! `dunlin network`: keys of authorities, licenses, revocations. Only `publish` and `status` need a running node.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use dunlin_client::{Client, ClientError, MembershipStatus};
use dunlin_protocols::NetworkName;
use dunlin_trust::{Authorities, License, Revocations, UnixMillis, Withdrawal};
use dunlin_wire::{cbor, envelope};
use libp2p_identity::{Keypair, PeerId};
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::{
    cli::{NetworkCommand, SigningArgs},
    config::Config,
    daemon::{LICENSE_FILE, REVOCATIONS_FILE, RevocationContents, license_of, now},
    data_dir::{DataDir, create_secret, new_identity, read_key},
    output::{Output, time},
    statement::Statement,
};

/// Milliseconds.
const DAY: u64 = 24 * 60 * 60 * 1_000;

/// What `network create` and `network key` made.
#[derive(Debug, Serialize)]
struct Made {
    authorities: Vec<AuthorityKey>,
    /// The lines for `config.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
}

#[derive(Debug, Serialize)]
struct AuthorityKey {
    id: String,
    file: String,
}

/// A statement as it may be shown.
#[derive(Debug, Serialize)]
struct View {
    kind: &'static str,
    network: Option<String>,
    /// Whom it is about.
    peers: Vec<String>,
    /// Of a revocation: keys that are revoked already, in another log.
    other_keys: usize,
    issued_ms: Option<u64>,
    expires_ms: Option<u64>,
    signers: Vec<String>,
    /// Signatures that are still to come; absent when the authorities are not known here.
    missing: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

pub(super) fn network(
    path: &Path,
    client: impl Fn() -> Result<Client, ClientError>,
    command: &NetworkCommand,
    out: Output,
) -> anyhow::Result<()> {
    match command {
        NetworkCommand::Create { name, dir, authorities, threshold } => {
            create(name, dir, *authorities, *threshold, out)
        }
        NetworkCommand::Key { file } => {
            let authorities = vec![new_key(file)?];
            out.show(&Made { authorities, config: None }, made_text)
        }
        NetworkCommand::License { peer, signing, days } => license(path, peer, signing, *days, out),
        NetworkCommand::Revoke { peers, signing, log } => {
            revoke(path, peers, signing, log.as_deref(), out)
        }
        NetworkCommand::Sign { file, key } => sign(path, file, key, out),
        NetworkCommand::Show { file, config } => {
            let authorities = authorities(path, config.as_deref()).ok();
            show(&Statement::read(file)?, authorities.as_ref(), None, out)
        }
        NetworkCommand::Join { file } => join(path, file, out),
        NetworkCommand::Publish { file } => publish(&client()?, file, out),
        NetworkCommand::Withdraw { key, log, output, yes } => {
            ensure!(*yes, "this ends the key for good; add --yes to do it");
            withdraw(path, key.as_deref(), log.as_deref(), output, out)
        }
        NetworkCommand::Status => out.show(&client()?.membership()?, status_text),
    }
}

fn create(name: &str, dir: &Path, count: u8, threshold: u8, out: Output) -> anyhow::Result<()> {
    let name: NetworkName = name.parse()?;
    ensure!(
        (1..=count).contains(&threshold),
        "a threshold of {threshold} does not fit {count} authorities"
    );
    let fail = || format!("cannot use {}", dir.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(fail)?;
    ensure!(
        fs::read_dir(dir).with_context(fail)?.next().is_none(),
        "{} is not empty; name a new folder, so that no key is mistaken for another",
        dir.display()
    );
    let keys = (1..=count).map(|number| new_key(&dir.join(format!("authority-{number}.key"))));
    let authorities = keys.collect::<anyhow::Result<Vec<_>>>()?;
    let list: Vec<_> = authorities.iter().map(|key| format!("  \"{}\",\n", key.id)).collect();
    let list = list.concat();
    let config = format!(
        "[network]\nname = \"{name}\"\nauthorities = [\n{list}]\nthreshold = {threshold}\n"
    );
    write_new(&dir.join("network.toml"), config.as_bytes())?;
    out.show(&Made { authorities, config: Some(config) }, made_text)
}

fn new_key(file: &Path) -> anyhow::Result<AuthorityKey> {
    create_secret(file, &new_identity()?)?;
    let id = read_key(file)?.public().to_peer_id().to_string();
    Ok(AuthorityKey { id, file: file.display().to_string() })
}

fn made_text(made: &Made) -> String {
    let keys: Vec<_> =
        made.authorities.iter().map(|key| format!("{}  {}", key.id, key.file)).collect();
    let keys = keys.join("\n");
    match &made.config {
        None => keys,
        Some(config) => format!(
            "{keys}\n\nGive each key to its authority, and put this into the config.toml of every \
             node:\n\n{config}\nThen `dunlin network license` lets peers in."
        ),
    }
}

fn license(
    path: &Path,
    peer: &PeerId,
    signing: &SigningArgs,
    days: u32,
    out: Output,
) -> anyhow::Result<()> {
    let authorities = authorities(path, signing.config.as_deref())?;
    let issued = now();
    let expires = UnixMillis(issued.0 + u64::from(days) * DAY);
    let license = License::new(authorities.network(), *peer, issued, expires);
    let statement = Statement::License { license, signatures: Vec::new() };
    sign_new(statement, &authorities, signing, out)
}

fn revoke(
    path: &Path,
    peers: &[PeerId],
    signing: &SigningArgs,
    log: Option<&Path>,
    out: Output,
) -> anyhow::Result<()> {
    let authorities = authorities(path, signing.config.as_deref())?;
    let known = known_revocations(path, log, Some(authorities.clone()))?;
    if let Some(revoked) = peers.iter().find(|peer| known.is_revoked(peer)) {
        anyhow::bail!("{revoked} is revoked already");
    }
    let draft = known.draft(peers, now())?;
    let peers = peers.iter().map(ToString::to_string).collect();
    let statement = Statement::Revocation { draft, peers, signatures: Vec::new() };
    sign_new(statement, &authorities, signing, out)
}

fn sign_new(
    mut statement: Statement,
    authorities: &Authorities,
    signing: &SigningArgs,
    out: Output,
) -> anyhow::Result<()> {
    sign_with(&mut statement, &signing.key, Some(authorities))?;
    write_new(&signing.output, &statement.encode()?)?;
    show(&statement, Some(authorities), Some(&signing.output), out)
}

fn sign(path: &Path, file: &Path, keys: &[PathBuf], out: Output) -> anyhow::Result<()> {
    let mut statement = Statement::read(file)?;
    let authorities = authorities(path, None).ok();
    let authorities = authorities.filter(|known| statement.network() == Some(known.network()));
    sign_with(&mut statement, keys, authorities.as_ref())?;
    replace(file, &statement.encode()?)?;
    show(&statement, authorities.as_ref(), Some(file), out)
}

fn sign_with(
    statement: &mut Statement,
    keys: &[PathBuf],
    authorities: Option<&Authorities>,
) -> anyhow::Result<()> {
    for file in keys {
        let key = read_key(file)?;
        let id = key.public().to_peer_id();
        if let Some(authorities) = authorities {
            ensure!(
                authorities.keys().any(|authority| *authority == id),
                "{id} of {} is no authority of {}",
                file.display(),
                authorities.network()
            );
        }
        statement.sign(&key)?;
    }
    Ok(())
}

fn join(path: &Path, file: &Path, out: Output) -> anyhow::Result<()> {
    let dir = DataDir::open_or_create(path)?;
    let authorities = authorities(path, None)?;
    let statement = Statement::read(file)?;
    let me = dir.identity()?.public().to_peer_id();
    let endorsements = statement.clone().into_license()?;
    license_of(&authorities, &me, &endorsements)
        .with_context(|| format!("{} does not let {me} in", file.display()))?;
    dir.replace(LICENSE_FILE, &cbor::encode(&endorsements)?, 0o600)?;
    let installed = dir.path().join(LICENSE_FILE);
    show(&statement, Some(&authorities), Some(&installed), out)
}

fn publish(client: &Client, file: &Path, out: Output) -> anyhow::Result<()> {
    let statement = Statement::read(file)?;
    // Whether it can be told at all is known without the node.
    statement.clone().into_revocation()?;
    out.show(&client.publish_revocation(&statement.encode()?)?, |done| {
        format!("{} keys are revoked by it, {} in all", done.revoked, done.keys)
    })
}

fn withdraw(
    path: &Path,
    key: Option<&Path>,
    log: Option<&Path>,
    output: &Path,
    out: Output,
) -> anyhow::Result<()> {
    let key: Keypair = match key {
        Some(file) => read_key(file)?,
        None => DataDir::open_or_create(path)?.identity()?,
    };
    let authorities = authorities(path, None).ok();
    let known = known_revocations(path, log, authorities.clone())?;
    let stands_by = known.signed_by(&key.public().to_peer_id());
    let signed = envelope::sign(&key, Withdrawal::new(now(), stands_by))?;
    let statement = Statement::Withdrawal { signature: ByteBuf::from(signed.bytes) };
    write_new(output, &statement.encode()?)?;
    show(&statement, authorities.as_ref(), Some(output), out)
}

/// Returns who speaks for the network of a configuration.
fn authorities(path: &Path, config: Option<&Path>) -> anyhow::Result<Authorities> {
    let file = config.map_or_else(|| path.join("config.toml"), Path::to_owned);
    let authorities = Config::load(&file)?.network.authorities();
    authorities.with_context(|| {
        format!(
            "{} names no `network.authorities`, so its network is open; \
             `dunlin network create` makes a closed one, and --config names another file",
            file.display()
        )
    })
}

/// Returns the revocations in a node's log; none when no log is named and the data folder has none.
fn known_revocations(
    path: &Path,
    log: Option<&Path>,
    authorities: Option<Authorities>,
) -> anyhow::Result<Revocations> {
    let file = log.map_or_else(|| path.join(REVOCATIONS_FILE), Path::to_owned);
    let mut known = Revocations::new(authorities);
    if log.is_none() && !file.exists() {
        return Ok(known);
    }
    for record in RevocationContents::read(&file)?.records {
        // What these authorities did not say is no part of their log.
        known.restore(&record).ok();
    }
    Ok(known)
}

fn write_new(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut target = OpenOptions::new().write(true).create_new(true).open(file)?;
        target.write_all(bytes)?;
        target.sync_all()
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// Replaces a file as a whole: a signature that is added must not cost those that are there.
fn replace(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut next = file.as_os_str().to_owned();
    next.push(".next");
    let write = || -> io::Result<()> {
        fs::write(&next, bytes)?;
        fs::File::open(&next)?.sync_all()?;
        fs::rename(&next, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

fn show(
    statement: &Statement,
    authorities: Option<&Authorities>,
    file: Option<&Path>,
    out: Output,
) -> anyhow::Result<()> {
    let mut view = View {
        kind: "withdrawal",
        network: statement.network().map(str::to_owned),
        peers: Vec::new(),
        other_keys: 0,
        issued_ms: None,
        expires_ms: None,
        signers: statement.signers()?.iter().map(ToString::to_string).collect(),
        missing: authorities.map(|known| statement.missing(known)).transpose()?,
        file: file.map(|file| file.display().to_string()),
    };
    match statement {
        Statement::License { license, .. } => {
            view.kind = "license";
            view.peers = vec![license.peer().to_string()];
            view.issued_ms = Some(license.issued().0);
            view.expires_ms = Some(license.expires().0);
        }
        Statement::Revocation { draft, peers, .. } => {
            view.kind = "revocation";
            view.peers.clone_from(peers);
            view.other_keys = draft.added().saturating_sub(peers.len());
            view.issued_ms = Some(draft.head().issued().0);
        }
        Statement::Withdrawal { signature } => {
            let signed = envelope::open::<Withdrawal>(signature)?;
            view.peers = vec![signed.signer.to_string()];
            view.issued_ms = Some(signed.value.issued().0);
        }
    }
    out.show(&view, view_text)
}

fn view_text(view: &View) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<8} {value}\n"));
    line("is a", view.kind);
    view.network.iter().for_each(|network| line("network", network));
    view.peers.iter().for_each(|peer| line("of", peer));
    if view.other_keys > 0 {
        line("and", &format!("{} keys that are revoked in another log", view.other_keys));
    }
    view.issued_ms.iter().for_each(|issued| line("issued", &millis(*issued)));
    view.expires_ms.iter().for_each(|expires| line("until", &millis(*expires)));
    view.signers.iter().for_each(|signer| line("signed", signer));
    match view.missing {
        Some(0) if view.kind == "license" => line("next", "`dunlin network join` on its node"),
        Some(0) => line("next", "`dunlin network publish` at a running node"),
        Some(missing) => line("next", &format!("`dunlin network sign` by {missing} more")),
        None => {}
    }
    view.file.iter().for_each(|file| line("file", file));
    text
}

fn millis(millis: u64) -> String {
    time(i64::try_from(millis.saturating_mul(1_000)).unwrap_or(i64::MAX))
}

fn status_text(status: &MembershipStatus) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:<10} {value}\n"));
    line("network", &status.network);
    if status.authorities.is_empty() {
        line("open", "nobody needs a license");
    } else {
        let threshold = status.threshold;
        line("closed", &format!("{threshold} of {} must agree", status.authorities.len()));
        status.authorities.iter().for_each(|authority| line("authority", authority));
    }
    status
        .license_until_ms
        .iter()
        .for_each(|until| line("license", &format!("until {}", millis(*until))));
    status.license_problem.iter().for_each(|problem| line("license", problem));
    line("revoked", &format!("{} keys, digest {}", status.revoked_keys, status.revocations_digest));
    text
}
