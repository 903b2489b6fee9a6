//! In what form the segments of a collection may leave.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Json, extract::State};
use dunlin_archive::Pin;
use dunlin_client as json;
use dunlin_engine::CollectionName;

use super::{Body, Path, convert, error::ApiError};
use crate::{
    daemon::{NoisedError, SegmentTerms, Share, Shared, Windows, now},
    key_ring::KeyRing,
};

/// The length of a window, unless the request says another one: a day.
const WINDOW_US: u64 = 24 * 60 * 60 * 1_000_000;

pub(super) async fn share(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Body(request): Body<json::ShareRequest>,
) -> Result<Json<json::ShareResponse>, ApiError> {
    let name = convert::collection_name(&name)?;
    let json::ShareRequest { share, since_us, window_us } = request;
    if share != json::Share::Noised && (since_us, window_us) != (None, None) {
        let problem = "`since_us` and `window_us` are for the form noised";
        return Err(ApiError::bad_request("bad_query", problem));
    }
    let share = match share {
        json::Share::Private => Share::Private,
        json::Share::Sealed => Share::Sealed,
        json::Share::Noised => {
            let now_us = i64::try_from(now().0.saturating_mul(1_000)).unwrap_or(i64::MAX);
            Share::Noised(Windows {
                since_us: since_us.unwrap_or(now_us),
                length_us: window_us.unwrap_or(WINDOW_US),
            })
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
        Share::Private | Share::Noised(_) => None,
    };
    let noised = match share {
        Share::Noised(windows) => Some(terms_json(windows, &noised_terms(shared, name, windows)?)),
        Share::Private | Share::Sealed => None,
    };
    let before = shared.shares.set(&shared.dir, name, share).map_err(ApiError::store_failed)?;
    // The one trace of who may read what, beside the setting itself.
    let (from, to) = (before.as_str(), share.as_str());
    let key_id = key.as_deref().unwrap_or("none");
    tracing::info!(collection = %name, from, to, key_id, "what may leave was set");
    shared.sealed.notify_one();
    Ok(json::ShareResponse { before: share_json(before), share: share_json(share), key, noised })
}

fn noised_terms(
    shared: &Shared,
    name: &CollectionName,
    windows: Windows,
) -> Result<SegmentTerms, ApiError> {
    shared.noised_terms(name, windows).map_err(|refusal| match refusal {
        NoisedError::Sharing(cause) => cause.into(),
        refusal => ApiError::bad_request("noised", refusal.to_string()),
    })
}

fn terms_json(windows: Windows, promised: &SegmentTerms) -> json::NoisedTerms {
    json::NoisedTerms {
        since_us: windows.since_us,
        window_us: windows.length_us,
        epsilon: promised.terms.epsilon().as_f64(),
        delta: promised.terms.delta(),
        observations_needed: promised.observations_needed,
    }
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
        Share::Noised(_) => json::Share::Noised,
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
    for (name, _) in shares(shared).iter().filter(|(_, share)| **share == json::Share::Sealed) {
        add(name, true)?;
    }
    Ok(all.into_values().collect())
}

/// Returns what noised segments there are.
pub(super) fn noised(shared: &Shared) -> Result<Vec<json::NoisedReleases>, ApiError> {
    let held = shared.archive.pins(Pin::NOISED)?;
    let shares = shares(shared);
    let wanted = shares.iter().filter(|(_, share)| **share == json::Share::Noised);
    let there = held.keys().filter_map(Pin::collection).map(str::to_owned);
    let names: BTreeSet<String> = wanted.map(|(name, _)| name.clone()).chain(there).collect();
    let releases = |name: String| {
        let pin = Pin::noised(&name);
        let collection = CollectionName::new(name.clone()).ok();
        Ok(json::NoisedReleases {
            segments: held.get(&pin).copied().unwrap_or(0),
            until_us: collection.and_then(|collection| shared.noised_until(&collection)),
            root: shared.archive.catalog(&pin)?.map(|root| root.cid.to_string()),
            collection: name,
        })
    };
    names.into_iter().map(releases).collect()
}
