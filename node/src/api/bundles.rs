//! Bundles: made, written, taken in.

use std::{
    io::{self, Write},
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json,
    body::{Body as HttpBody, Bytes},
    extract::{Query, State},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
};
use dunlin_archive::{
    LandError, PutError, ReadError,
    bundle::{self, BundleError, COLLECTIONS_MAX, ChainError, Exported, Gaps, Manifest},
};
use dunlin_client as json;
use dunlin_protocols::{NetworkError, PeerId};
use dunlin_wire::{Cid, envelope::Signed};
use futures::{StreamExt, future, stream};
use serde::Deserialize;
use tokio::sync::mpsc::{Sender, channel};

use super::{
    Body, Path, convert,
    error::{ApiError, chain},
    upload,
};
use crate::daemon::{BundleWish, ImportError, ImportWish, MakeError, Shared, Since};

/// Pieces of a bundle that wait for the client. When they are as many, nothing more is read.
const PIECES_MAX: usize = 8;

/// Bytes of a piece, unless a block is larger.
const PIECE_BYTES: usize = 256 * 1024;

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Answer<json::Bundles> {
    let bundles = shared.blocking(|shared| {
        let archive = &shared.archive;
        let received = archive.received()?.into_iter().map(|(peer, link)| json::BundleLink {
            peer: peer.to_string(),
            sequence: link.sequence,
            bundle: link.bundle.to_string(),
        });
        let unfinished = archive
            .staged()?
            .into_iter()
            .map(|(bundle, blocks)| json::UnfinishedBundle { bundle: bundle.to_string(), blocks });
        let sent = bundle::exported(archive, None)?;
        Ok::<_, ReadError>(json::Bundles {
            sent: sent.as_ref().map(exported_json),
            received: received.collect(),
            unfinished: unfinished.collect(),
        })
    });
    Ok(Json(bundles.await?))
}

pub(super) async fn make(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::BundleRequest>,
) -> Answer<json::BundleMade> {
    if request.collections.len() > COLLECTIONS_MAX {
        let problem =
            format!("{} collections; at most {COLLECTIONS_MAX}", request.collections.len());
        return Err(ApiError::bad_request("bad_query", problem));
    }
    for name in &request.collections {
        convert::collection_name(name)?;
    }
    let wish = BundleWish {
        since: request.since_us.map_or(Since::Last, Since::Time),
        collections: request.collections,
    };
    let made = shared.blocking(move |shared| shared.make_bundle(&wish)).await?;
    shared.bundle_counters.made.fetch_add(1, Ordering::Relaxed);
    Ok(Json(json::BundleMade {
        bundle: exported_json(&made.exported),
        more: made.more,
        due: made.due,
    }))
}

/// Writes an own bundle. One that cannot be written to its end is cut off, so that nobody takes it for whole.
pub(super) async fn write(
    State(shared): State<Arc<Shared>>,
    Path(sequence): Path<u64>,
) -> Result<impl IntoResponse, ApiError> {
    let exported =
        shared.blocking(move |shared| bundle::exported(&shared.archive, Some(sequence))).await?;
    let missing = || {
        ApiError::not_found(format!(
            "this node has no bundle {sequence}, or cannot write it any more; `dunlin bundle ls` \
             shows the last one"
        ))
    };
    let exported = exported.ok_or_else(missing)?;
    let (sender, receiver) = channel(PIECES_MAX);
    let work = move |shared: &Shared| {
        let mut out = Pieces { sender, buffer: Vec::new() };
        if let Err(cause) = shared.write_bundle(&exported, &mut out) {
            shared.bundle_counters.cut.fetch_add(1, Ordering::Relaxed);
            let cause = anyhow::Error::from(cause);
            tracing::debug!(cause = format!("{cause:#}"), "a bundle was cut off");
            // Who has left need not hear of it.
            out.sender.blocking_send(Err(io::Error::other(cause))).ok();
        }
    };
    // The work belongs to the answer: it ends when nobody reads any more.
    let work = stream::once(async move { shared.blocking(work).await });
    let work = work.filter_map(|()| future::ready(None));
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let body = HttpBody::from_stream(stream::select(pieces, work));
    Ok(([(CONTENT_TYPE, "application/vnd.ipld.car; version=1")], body))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportParameters {
    /// Peer ids with commas between them.
    #[serde(default)]
    from: String,
    #[serde(default)]
    accept_gap: bool,
}

pub(super) async fn import(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<ImportParameters>,
    body: HttpBody,
) -> Answer<json::BundleImported> {
    let peers = parameters.from.split(',').filter(|text| !text.is_empty());
    let peer = |text: &str| {
        let problem = |_| ApiError::bad_request("bad_query", format!("{text} is no peer id"));
        text.parse::<PeerId>().map_err(problem)
    };
    let gaps = if parameters.accept_gap { Gaps::Accepted } else { Gaps::Refused };
    let wish = ImportWish { from: peers.map(peer).collect::<Result<_, _>>()?, gaps };
    let landed =
        upload::read(&shared, body, move |shared, input| shared.import_bundle(input, &wish));
    let landed = landed.await;
    let counters = &shared.bundle_counters;
    let counter = if landed.is_ok() { &counters.imported } else { &counters.refused };
    counter.fetch_add(1, Ordering::Relaxed);
    let landed = landed?;
    Ok(Json(json::BundleImported {
        bundle: bundle_json(&landed.signed, &landed.bundle),
        resumed: landed.staged.resumed,
        templates_kept: landed.templates,
    }))
}

/// A file that is written piece by piece for who reads the answer.
struct Pieces {
    sender: Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

fn exported_json(exported: &Exported) -> json::Bundle {
    bundle_json(&exported.signed, &exported.sent.link.bundle)
}

/// Returns what a manifest says.
pub(crate) fn bundle_json(signed: &Signed<Manifest>, bundle: &Cid) -> json::Bundle {
    let manifest = &signed.value;
    json::Bundle {
        peer: signed.signer.to_string(),
        sequence: manifest.sequence,
        bundle: bundle.to_string(),
        previous: manifest.previous.as_ref().map(ToString::to_string),
        created_ms: manifest.created_unix_ms,
        form: match manifest.policy.form {
            bundle::Form::Private => "private".to_owned(),
        },
        since_us: manifest.policy.since_us,
        collections: manifest.policy.collections.clone(),
        from_us: manifest.span.map(|span| span.from_us),
        to_us: manifest.span.map(|span| span.to_us),
        segments: manifest.counts.segments,
        templates: manifest.counts.templates,
        blocks: manifest.counts.blocks,
        bytes: manifest.counts.bytes,
    }
}

impl From<MakeError> for ApiError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Busy => Self::unavailable("busy", error),
            MakeError::Nothing { .. } => Self::conflict("unchanged", error),
            MakeError::UnknownCollection { .. } => Self::not_found(error),
            full if full.is_full() => {
                let advice = "narrow it with --collection, or let --since last make several";
                Self::unavailable("full", format!("{full}; {advice}"))
            }
            MakeError::Engine(cause) => cause.into(),
            other => Self::store_failed(other),
        }
    }
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Busy => Self::unavailable("busy", error),
            ImportError::Bundle(BundleError::Car(cause)) => {
                Self::bad_request("bad_file", chain(&cause))
            }
            ImportError::Bundle(_) | ImportError::Stage(_) => {
                Self::bad_request("bad_file", chain(&error))
            }
            ImportError::NotNamed { .. } | ImportError::Gate(NetworkError::Gate(_)) => {
                Self::forbidden("peer_refused", error)
            }
            ImportError::Chain { ref cause, .. }
            | ImportError::Land(LandError::Chain(ref cause)) => {
                let code = match cause {
                    ChainError::Replayed { .. } => "replayed",
                    ChainError::Missing { .. } => "bundle_missing",
                    _ => "forked",
                };
                Self::conflict(code, error)
            }
            ImportError::Gate(cause) => Self::internal(cause),
            ImportError::Put(full @ PutError::Full { .. }) => Self::unavailable("full", full),
            other => Self::store_failed(other),
        }
    }
}
