//! Tells the engine what peers teach, so that each observation is matched with it as it comes in.
//!
//! What is adopted changes: sets arrive, expire, are judged, doubted and taken back, and peers stop being heard. So
//! it is told again when the gate has judged, when a standing changed, and once a minute in any case.

use std::{sync::Arc, time::Duration};

use dunlin_engine::{CollectionName, KEPT_REFERENCES_MAX, Reference};
use tokio_util::sync::CancellationToken;

use super::shared::Shared;

/// How often it is looked whether a set has expired: they last for days.
const PAUSE: Duration = Duration::from_secs(60);

/// Runs until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match shared.teach_all().await {
            Ok(()) => shared.recovered("matching"),
            // Observations are taken in all the same; the next minute may find it mended.
            Err(cause) => shared.report("matching", format!("{:#}", anyhow::Error::from(cause))),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = shared.taught.notified() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

impl Shared {
    async fn teach_all(self: &Arc<Self>) -> Result<(), dunlin_engine::ReadError> {
        for spec in self.blocking(|shared| shared.engine.collections()).await? {
            self.teach(&spec.name).await?;
        }
        Ok(())
    }

    /// Tells the engine what is adopted of a collection; as long as that is the same, nothing changes.
    pub(crate) async fn teach(
        self: &Arc<Self>,
        collection: &CollectionName,
    ) -> Result<(), dunlin_engine::ReadError> {
        let references = fitting(self.adopted(collection).await);
        let collection = collection.clone();
        self.blocking(move |shared| {
            shared.engine.keep_references(&collection, references, shared.fade_us())
        })
        .await
    }

    /// Returns from how much own past of an entity on templates count no more for it, in microseconds.
    pub(crate) fn fade_us(&self) -> Option<u64> {
        let fade = self.config.templates.fade?;
        Some(u64::try_from(fade.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Returns as many whole sets as are matched with: those that teach come first.
fn fitting(mut references: Vec<Reference>) -> Vec<Reference> {
    references.sort_by_key(|reference| reference.is_witness);
    let mut count = 0;
    for of_source in references.chunk_by(|a, b| a.source == b.source) {
        if count + of_source.len() > KEPT_REFERENCES_MAX {
            break;
        }
        count += of_source.len();
    }
    references.truncate(count);
    references
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(source: &str, is_witness: bool, count: usize) -> Vec<Reference> {
        let reference = |place: usize| Reference {
            id: format!("{source}/{place}"),
            source: source.to_owned(),
            is_witness,
            centroid: vec![0.5],
        };
        (0..count).map(reference).collect()
    }

    #[test]
    fn of_too_many_templates_whole_sets_are_matched_with_and_teachers_first() {
        let few = [set("a", true, 3), set("b", false, 2)].concat();
        let ids: Vec<_> = fitting(few).into_iter().map(|reference| reference.id).collect();
        assert_eq!(ids, ["b/0", "b/1", "a/0", "a/1", "a/2"]);
        let crowd = KEPT_REFERENCES_MAX - 10;
        let many = [set("a", true, crowd), set("b", false, 8), set("c", false, 2)].concat();
        assert_eq!(fitting(many).len(), KEPT_REFERENCES_MAX);
        let more = [set("a", true, crowd), set("b", false, 8), set("c", false, 3)].concat();
        assert_eq!(fitting(more).len(), 11);
    }
}
