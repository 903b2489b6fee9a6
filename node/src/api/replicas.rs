//! Copies of objects: of this node's at peers, and of peers' here.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use dunlin_archive::{
    Pin,
    replication::{Fit, PeerSummary, Summary},
};
use dunlin_client as json;

use super::error::ApiError;
use crate::daemon::Shared;

pub(super) async fn replicas(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<json::Replicas>, ApiError> {
    let Summary { replicas, objects, unfit, untracked, peers } = shared.replicas.status().summary;
    let kept = shared.blocking(|shared| shared.archive.usage(Pin::REPLICA)).await?;
    let kept = kept.into_iter().map(|(pin, usage)| json::KeptFor {
        peer: pin.as_str()[Pin::REPLICA.len()..].to_owned(),
        objects: usage.roots,
        bytes: usage.bytes,
    });
    Ok(Json(json::Replicas {
        replicas: replicas as u64,
        objects,
        unfit,
        untracked,
        peers: peers.iter().map(peer_json).collect(),
        kept: kept.collect(),
    }))
}

fn peer_json(peer: &PeerSummary) -> json::ReplicaPeer {
    let may_hold = match peer.fit {
        Fit::All => "all",
        Fit::Public => "public",
        Fit::None => "nothing",
    };
    json::ReplicaPeer {
        peer: peer.peer.to_string(),
        may_hold: may_hold.to_owned(),
        connected: peer.is_here,
        held: peer.held,
        asked: peer.asked,
        lost: peer.lost,
        paused_s: peer.paused.as_ref().map(Duration::as_secs),
        proved_s_ago: peer.proved_ago.as_ref().map(Duration::as_secs),
        proofs_right: peer.proofs_right,
        proofs_failed: peer.proofs_failed,
    }
}
