//! What is pinned in the archive, by name and by hand.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
};
use dunlin_archive::{Depth, NamedPin, Pin, PinName, Stats};
use dunlin_client as json;
use serde::Deserialize;

use super::{Body, error::ApiError, segments::parse_cid};
use crate::daemon::Shared;

/// Roots that are let go of in one transaction.
const PART: usize = 256;

type Answer<T> = Result<Json<T>, ApiError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParameters {
    #[serde(default)]
    all: bool,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<ListParameters>,
) -> Answer<json::Pins> {
    let read = move |shared: &Shared| -> Result<json::Pins, ApiError> {
        let named = shared.archive.named_pins()?.into_iter().map(named_json).collect();
        let all = if parameters.all { Some(shared.archive.usage("")?) } else { None };
        let usage = |(pin, usage): (Pin, dunlin_archive::Usage)| json::PinUsage {
            pin: pin.as_str().to_owned(),
            roots: usage.roots,
            blocks: usage.blocks,
            bytes: usage.bytes,
        };
        Ok(json::Pins { named, all: all.map(|all| all.into_iter().map(usage).collect()) })
    };
    Ok(Json(shared.blocking(read).await?))
}

pub(super) async fn add(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::PinRequest>,
) -> Answer<json::NamedPin> {
    let name = request
        .name
        .parse::<PinName>()
        .map_err(|problem| ApiError::bad_request("bad_query", problem))?;
    let root = parse_cid(&request.cid)?;
    let depth = if request.direct { Depth::Direct } else { Depth::Recursive };
    let pinned = shared
        .blocking(move |shared| shared.archive.set_pin(&name, &root, depth).map_err(ApiError::from))
        .await?;
    Ok(Json(named_json(pinned)))
}

pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    Body(request): Body<json::UnpinRequest>,
) -> Answer<json::UnpinResponse> {
    let gone = shared.blocking(move |shared| let_go(shared, &request.pin)).await?;
    shared.replicas.pins_changed();
    Ok(Json(json::UnpinResponse { blocks: gone.blocks, bytes: gone.bytes }))
}

/// Lets go of what a pin holds, a part at a time; returns about how much left.
fn let_go(shared: &Shared, pin: &str) -> Result<Stats, ApiError> {
    let before = shared.archive.stats()?;
    let is_known = match pin.parse::<PinName>() {
        Ok(name) => shared.archive.remove_pin(&name)?.is_some(),
        Err(_) => match Pin::removable(pin) {
            Some(pin) => remove_all(shared, &pin)?,
            None => {
                return Err(ApiError::bad_request(
                    "bad_query",
                    format!(
                        "{pin} is no pin that can be removed: give the name of one of your own, or the \
                         path of one under imported/, public/, fetched/ or replica/"
                    ),
                ));
            }
        },
    };
    if !is_known {
        return Err(ApiError::not_found(format!(
            "there is no pin {pin}; `dunlin archive pins ls --all` lists them"
        )));
    }
    let after = shared.archive.stats()?;
    Ok(Stats {
        blocks: before.blocks.saturating_sub(after.blocks),
        bytes: before.bytes.saturating_sub(after.bytes),
    })
}

/// Returns whether the pin held anything.
fn remove_all(shared: &Shared, pin: &Pin) -> Result<bool, ApiError> {
    let is_known = !shared.archive.roots(pin, None, 1)?.is_empty();
    while shared.archive.unpin_part(pin, PART)? {}
    shared.replicas.removed(pin);
    Ok(is_known)
}

fn named_json(pin: NamedPin) -> json::NamedPin {
    json::NamedPin {
        name: pin.name.to_string(),
        root: pin.root.to_string(),
        direct: pin.depth == Depth::Direct,
        blocks: pin.blocks,
        bytes: pin.bytes,
        complete: pin.is_complete,
    }
}
