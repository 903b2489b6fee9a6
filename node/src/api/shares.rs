//! In what form the segments of a collection may leave.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use dunlin_archive::Pin;
use dunlin_client as json;
use dunlin_engine::CollectionName;

use super::{Body, Path, convert, error::ApiError};
use crate::{
    daemon::{Share, Shared, now},
    key_ring::KeyRing,
};

pub(super) async fn share(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Body(request): Body<json::ShareRequest>,
) -> Result<Json<json::ShareResponse>, ApiError> {
    let name = convert::collection_name(&name)?;
    let share = match request.share {
        json::Share::Private => Share::Private,
        json::Share::Sealed => Share::Sealed,
        json::Share::Noised => {
            return Err(ApiError::bad_request(
                "not_offered",
                "segments with noise are not made yet, so they cannot be shared; \
                 templates are what leaves in the open with noise",
            ));
        }
    };
    shared.blocking(move |shared| set(shared, &name, share)).await.map(Json)
}

fn set(
    shared: &Shared,
    name: &CollectionName,
    share: Share,
) -> Result<json::ShareResponse, ApiError> {
    if !shared.engine.collections()?.iter().any(|spec| spec.name == *name) {
        return Err(ApiError::not_found(format!("there is no collection {name}")));
    }
    let key = match share {
        Share::Sealed => {
            Some(KeyRing::sealing_or_new(&shared.dir, name, now().0)?.id().to_string())
        }
        Share::Private => None,
    };
    let before = shared.shares.set(&shared.dir, name, share).map_err(ApiError::store_failed)?;
    // The one trace of who may read what, beside the setting itself.
    let (from, to) = (before.as_str(), share.as_str());
    let key_id = key.as_deref().unwrap_or("none");
    tracing::info!(collection = %name, from, to, key_id, "what may leave was set");
    shared.sealed.notify_one();
    Ok(json::ShareResponse { before: share_json(before), share: share_json(share), key })
}

/// Returns the form of each collection that is not private.
pub(super) fn shares(shared: &Shared) -> BTreeMap<String, json::Share> {
    let shares = shared.shares.all().into_iter().filter(|(_, share)| *share != Share::Private);
    shares.map(|(name, share)| (name.to_string(), share_json(share))).collect()
}

const fn share_json(share: Share) -> json::Share {
    match share {
        Share::Private => json::Share::Private,
        Share::Sealed => json::Share::Sealed,
    }
}

/// Returns what sealed copies there are, and how many wait, by how many segments each pin of own ones holds.
pub(super) fn copies(
    shared: &Shared,
    own: &BTreeMap<Pin, u64>,
) -> Result<Vec<json::SealedCopies>, ApiError> {
    let held = shared.archive.pins(Pin::SEALED)?;
    let mut all: BTreeMap<String, json::SealedCopies> = BTreeMap::new();
    let mut add = |collection: &str, is_shared: bool| -> Result<(), ApiError> {
        let pin = Pin::sealed(collection);
        let copies = held.get(&pin).copied().unwrap_or(0);
        let segments = own.get(&Pin::own(collection)).copied().unwrap_or(0);
        let root = shared.archive.catalog(&pin)?.map(|root| root.cid.to_string());
        let due = if is_shared { segments.saturating_sub(copies) } else { 0 };
        let collection = collection.to_owned();
        all.insert(collection.clone(), json::SealedCopies { collection, copies, due, root });
        Ok(())
    };
    for name in held.keys().filter_map(Pin::collection) {
        add(name, false)?;
    }
    for name in shares(shared).keys() {
        add(name, true)?;
    }
    Ok(all.into_values().collect())
}
