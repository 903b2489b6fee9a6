//! What a fleet does, as JSON.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{Query, State},
};
use dunlin_client as json;
use dunlin_privacy::discovery::{Behaviour, Outlier};
use serde::Deserialize;

use super::{Path, convert, error::ApiError};
use crate::daemon::{FleetError, Shared};

/// What to add to the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    #[serde(default)]
    details: bool,
}

pub(super) async fn behaviours(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
) -> Result<Json<json::BehavioursAnswer>, ApiError> {
    let name = convert::collection_name(&name)?;
    let started = Instant::now();
    let (spec, found) = shared
        .blocking(move |shared| {
            let spec = shared.engine.collection(&name)?;
            let found = shared.behaviours(&spec)?;
            Ok::<_, ApiError>((spec, found))
        })
        .await?;
    let channels = spec.channels.as_deref().unwrap_or_default();
    let all = found.behaviours.segments;
    let behaviours = found.behaviours.behaviours.into_iter().zip(1_u32..);
    let outliers = found.behaviours.outliers.iter().zip(found.outliers);
    let missing =
        "older segments were compacted before they were looked at; history has their course";
    Ok(Json(json::BehavioursAnswer {
        behaviours: behaviours
            .map(|(behaviour, id)| behaviour_json(behaviour, id, all, channels, wish.details))
            .collect(),
        outliers: outliers
            .filter_map(|(outlier, stored)| Some(outlier_json(outlier, &stored?)))
            .collect(),
        outlier_segments: found.behaviours.outlier_segments,
        resolution: found.behaviours.radius,
        coverage: json::Coverage {
            segments: all,
            complete: !found.is_compacted,
            missing: found.is_compacted.then(|| missing.to_owned()),
            elapsed_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            ..json::Coverage::default()
        },
    }))
}

fn behaviour_json(
    behaviour: Behaviour,
    id: u32,
    all: u64,
    channels: &[String],
    with_details: bool,
) -> json::Behaviour {
    let detail = |(segments, centroid)| json::BehaviourDetail { segments, centroid };
    let details = if with_details { behaviour.details } else { Vec::new() };
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = behaviour.segments as f64 / all.max(1) as f64;
    json::Behaviour {
        id,
        name: name_of(&behaviour.traits, channels),
        segments: behaviour.segments,
        share,
        observations: behaviour.observations,
        entities: behaviour.entities as u64,
        entities_cut: behaviour.is_entities_cut,
        dwell_us: behaviour.dwell_us,
        hours: behaviour.hours.to_vec(),
        first_us: behaviour.first_us,
        last_us: behaviour.last_us,
        spread: behaviour.spread,
        centroid: behaviour.centroid,
        details: details.into_iter().map(detail).collect(),
    }
}

/// Returns the channels in which a behaviour stands apart, in words.
fn name_of(traits: &[(usize, f64)], channels: &[String]) -> String {
    let one = |(channel, by): &(usize, f64)| {
        let name = channels.get(*channel).cloned().unwrap_or_else(|| format!("channel {channel}"));
        format!("{name} {}", if *by > 0.0 { "high" } else { "low" })
    };
    match traits {
        [] => "as usual".to_owned(),
        traits => traits.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

fn outlier_json(outlier: &Outlier, stored: &dunlin_engine::Stored) -> json::Outlier {
    let nearest = outlier.nearest.map(|(behaviour, distance)| json::NearestBehaviour {
        id: u32::try_from(behaviour + 1).unwrap_or(u32::MAX),
        distance,
    });
    json::Outlier {
        cid: stored.cid.to_string(),
        entity: stored.segment.entity().to_string(),
        start_us: stored.segment.start().0,
        end_us: stored.segment.end().0,
        segments: outlier.segments,
        nearest,
    }
}

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::NoRanges => Self::bad_request("bad_query", error),
            FleetError::Bounds(_) => Self::internal(error),
            FleetError::Read(cause) => cause.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_behaviour_is_named_by_what_stands_apart() {
        let channels = ["cpu".to_owned()];
        assert_eq!(name_of(&[(0, 1.5), (3, -2.0)], &channels), "cpu high, channel 3 low");
        assert_eq!(name_of(&[], &channels), "as usual");
    }
}
