//! Between the JSON shapes of the API and the checked types of the engine.

use dunlin_client as json;
use dunlin_engine::{
    CollectionName, CollectionSpec, Dim, EntityId, ErrorBound, Fidelity, Matched, Metadata, Metric,
    Nearest, Observation, SegmentPolicy, Timestamp, Units,
};

use super::error::ApiError;

/// How far below the threshold for one observation the threshold for slow drift lies.
const SLOW_SHARE: f64 = 0.75;

/// Returns the collection that `spec` describes, when all of it is accepted.
pub(super) fn collection_spec(spec: json::CollectionSpec) -> Result<CollectionSpec, ApiError> {
    let bad = |problem: String| ApiError::bad_request("bad_collection", problem);
    let name = collection_name(&spec.name)?;
    let dim = u16::try_from(spec.dim).unwrap_or(u16::MAX);
    let dim =
        Dim::new(dim).map_err(|_| bad(format!("dimension {}; it must be 1 to 4096", spec.dim)))?;
    let units = match spec.units {
        json::Units::Range { lower, upper } => Units::Range { lower, upper },
        json::Units::NoiseFloor => Units::NoiseFloor,
    };
    let mut policy = SegmentPolicy::for_units(&units);
    if let Some(threshold) = spec.threshold {
        policy.threshold = threshold;
        policy.slow_threshold = SLOW_SHARE * threshold;
    }
    let checked = CollectionSpec {
        metric: match spec.metric {
            json::Metric::Cosine => Metric::Cosine,
            json::Metric::Euclidean => Metric::Euclidean,
            json::Metric::Dot => Metric::Dot,
        },
        fidelity: match spec.fidelity {
            json::Fidelity::Summary => Fidelity::Summary,
            json::Fidelity::Bounded => Fidelity::Bounded,
            json::Fidelity::Lossless => Fidelity::Lossless,
        },
        policy,
        error_bound: spec.error_bound.map(|bound| match bound {
            json::ErrorBound::OfRange(share) => ErrorBound::OfRange(share),
            json::ErrorBound::Absolute(errors) => ErrorBound::Absolute(errors),
        }),
        lateness_us: spec.lateness_us,
        channels: spec.channels,
        ..CollectionSpec::new(name, dim, units)
    };
    checked.check().map_err(|problem| bad(problem.to_string()))?;
    Ok(checked)
}

/// Returns what a match says; `None` when it names nothing.
pub(super) fn matched_json(matched: Matched) -> Option<json::Matched> {
    let Matched { nearest, distance, margin } = matched;
    nearest_json(nearest).map(|nearest| json::Matched { nearest, distance, margin })
}

/// Returns the name of a known behaviour.
pub(super) fn nearest_json(nearest: Nearest) -> Option<json::Nearest> {
    match nearest {
        Nearest::Own(cid) => Some(json::Nearest::Segment(cid.to_string())),
        Nearest::Reference(id) => Some(json::Nearest::Template(id)),
        Nearest::Open => Some(json::Nearest::OpenRegime),
        Nearest::None => None,
    }
}

/// Returns `spec` as JSON.
pub(super) fn collection_json(spec: &CollectionSpec) -> json::CollectionSpec {
    json::CollectionSpec {
        name: spec.name.to_string(),
        dim: u16::from(spec.dim).into(),
        metric: match spec.metric {
            Metric::Cosine => json::Metric::Cosine,
            Metric::Euclidean => json::Metric::Euclidean,
            Metric::Dot => json::Metric::Dot,
        },
        fidelity: fidelity_json(spec.fidelity),
        error_bound: spec.error_bound.as_ref().map(|bound| match bound {
            ErrorBound::OfRange(share) => json::ErrorBound::OfRange(*share),
            ErrorBound::Absolute(errors) => json::ErrorBound::Absolute(errors.clone()),
        }),
        units: match &spec.units {
            Units::Range { lower, upper } => {
                json::Units::Range { lower: lower.clone(), upper: upper.clone() }
            }
            Units::NoiseFloor => json::Units::NoiseFloor,
        },
        threshold: Some(spec.policy.threshold),
        lateness_us: spec.lateness_us,
        channels: spec.channels.clone(),
    }
}

pub(super) fn fidelity_json(fidelity: Fidelity) -> json::Fidelity {
    match fidelity {
        Fidelity::Summary => json::Fidelity::Summary,
        Fidelity::Bounded => json::Fidelity::Bounded,
        Fidelity::Lossless => json::Fidelity::Lossless,
    }
}

/// Returns the metadata that `pairs` spell out, when it is small enough.
pub(super) fn metadata(
    pairs: std::collections::BTreeMap<String, String>,
) -> Result<Metadata, ApiError> {
    Metadata::new(pairs).map_err(|problem| ApiError::bad_request("bad_query", problem.to_string()))
}

/// Returns the name when it is well formed.
pub(super) fn collection_name(name: &str) -> Result<CollectionName, ApiError> {
    CollectionName::new(name).map_err(|problem| ApiError::bad_request("bad_collection", problem))
}

/// Returns the entity id when its length is accepted.
pub(super) fn entity_id(id: String) -> Result<EntityId, ApiError> {
    EntityId::new(id).map_err(|problem| ApiError::bad_request("bad_query", problem))
}

/// Returns the observations when each is well formed by itself; the engine checks them against their
/// collection.
pub(super) fn observations(list: Vec<json::Observation>) -> Result<Vec<Observation>, ApiError> {
    let one = |(index, observation): (usize, json::Observation)| {
        let bad = |problem: &dyn std::fmt::Display| {
            ApiError::bad_request("bad_observation", format!("observation {index}: {problem}"))
        };
        Ok(Observation {
            entity: EntityId::new(observation.entity).map_err(|problem| bad(&problem))?,
            timestamp: Timestamp(observation.timestamp_us),
            vector: observation.vector,
            metadata: observation
                .metadata
                .map(Metadata::new)
                .transpose()
                .map_err(|problem| bad(&problem))?,
        })
    };
    list.into_iter().enumerate().map(one).collect()
}
