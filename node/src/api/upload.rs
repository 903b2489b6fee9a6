//! Files that are sent to the node: read as they come, by a thread that may wait for a disk.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State},
};
use dunlin_archive::Visibility;
use dunlin_client as json;
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::error::ApiError;
use crate::daemon::Shared;

/// Pieces of a body that wait for the thread that reads them, some 64 KiB each. When they are as many, the
/// sender waits.
const PIECES_MAX: usize = 16;

/// Longest wait for the next piece of a body.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportParameters {
    #[serde(default)]
    public: bool,
}

pub(super) async fn import(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<ImportParameters>,
    body: Body,
) -> Result<Json<json::ImportResponse>, ApiError> {
    let ImportParameters { public } = parameters;
    let visibility = if public { Visibility::Public } else { Visibility::Private };
    let imported = read(&shared, body, move |shared, input| {
        dunlin_archive::import(&shared.archive, input, visibility)
    });
    let imported = imported.await;
    // What came before a damage stays, too.
    shared.replicas.pins_changed();
    shared.publisher.look();
    let imported = imported?;
    Ok(Json(json::ImportResponse {
        roots: imported.roots.iter().map(ToString::to_string).collect(),
        blocks: imported.blocks,
        bytes: imported.bytes,
        inline: imported.inline,
        public,
    }))
}

/// Runs `work` on a thread of its own, with the body as its input.
pub(super) async fn read<T: Send + 'static, E: Send + 'static>(
    shared: &Arc<Shared>,
    body: Body,
    work: impl FnOnce(&Shared, Pieces) -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let (sender, receiver) = channel(PIECES_MAX);
    let input = Pieces { receiver, rest: Bytes::new(), is_over: false };
    let work = shared.blocking(move |shared| work(shared, input));
    // When the work ends early, what follows is read and thrown away.
    let (done, ()) = tokio::join!(work, pump(body, sender));
    done
}

/// Hands on a body piece by piece; one that stands still or breaks ends with an error.
async fn pump(body: Body, sender: Sender<io::Result<Bytes>>) {
    let mut pieces = body.into_data_stream();
    let mut is_read = true;
    loop {
        let piece = match tokio::time::timeout(PIECE_TIMEOUT, pieces.next()).await {
            // An empty piece says that this was all; a sender that vanishes says nothing.
            Ok(None) => Ok(Bytes::new()),
            Ok(Some(Ok(piece))) if piece.is_empty() => continue,
            Ok(Some(piece)) => piece.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let is_last = !piece.as_ref().is_ok_and(|piece| !piece.is_empty());
        // A sender hears why it was refused only when it has sent all: before, it may find the connection
        // closed and look no further.
        is_read = is_read && sender.send(piece).await.is_ok();
        if is_last {
            return;
        }
    }
}

/// The pieces of a body, as a file is read.
pub(super) struct Pieces {
    receiver: Receiver<io::Result<Bytes>>,
    rest: Bytes,
    is_over: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.is_over {
            let vanished = || io::Error::from(io::ErrorKind::UnexpectedEof);
            self.rest = self.receiver.blocking_recv().ok_or_else(vanished)??;
            self.is_over = self.rest.is_empty();
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}
