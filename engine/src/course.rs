//! The course of an entity: what is left of its past in outlines, then its segments, then its open regime.

use crate::{
    compact::{Flag, Piece},
    error::ReadError,
    question::{Asked, Coverage, Question, Source},
};

/// A stretch of a course with one mean.
pub(crate) struct Stretch {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) mean: Vec<f32>,
    pub(crate) source: Source,
}

/// What a walk along a course meets.
pub(crate) enum Met<'a> {
    Stretch(Stretch),
    /// A boundary within the stretches of an outline, which it remembers as a flag.
    Flag(&'a Flag, Source),
}

impl Question {
    /// Passes on, in time order, the stretches of an entity that overlap `from..=to`, and behind those of
    /// each outline its flags in that time.
    pub(crate) fn walk_course(
        &self,
        asked: &Asked,
        (from, to): (i64, i64),
        coverage: &mut Coverage,
        mut on: impl FnMut(Met<'_>),
    ) -> Result<(), ReadError> {
        for (cid, outline) in self.reader.outlines_of(self.number, &asked.id, from, to)? {
            coverage.outlines += 1;
            let source = Source::Outlined(cid);
            let overlaps = |piece: &&Piece| piece.start.0 <= to && piece.end.0 >= from;
            for piece in outline.pieces().iter().filter(overlaps) {
                on(Met::Stretch(Stretch::of_piece(piece, source)));
            }
            for flag in outline.flags().iter().filter(|flag| (from..=to).contains(&flag.time.0)) {
                on(Met::Flag(flag, source));
            }
        }
        for stored in self.reader.of_entity(self.number, &asked.id, from, to)? {
            let stored = stored?;
            if self.without.contains(&stored.cid) {
                continue;
            }
            coverage.segments_scanned += 1;
            on(Met::Stretch(Stretch {
                start: stored.segment.start().0,
                end: stored.segment.end().0,
                mean: stored.segment.mean().to_vec(),
                source: Source::Sealed(stored.cid),
            }));
        }
        if let Some(open) = asked.open_between(from, to) {
            coverage.hot_regimes += 1;
            let (start, end, mean) = (open.start, open.end, open.mean.clone());
            on(Met::Stretch(Stretch { start, end, mean, source: Source::Open }));
        }
        Ok(())
    }

    /// Returns the last stretch of an entity that began before a moment.
    pub(crate) fn stretch_before(
        &self,
        asked: &Asked,
        moment: i64,
    ) -> Result<Option<Stretch>, ReadError> {
        let Some(end) = moment.checked_sub(1) else { return Ok(None) };
        let mut past = self.reader.of_entity(self.number, &asked.id, i64::MIN, end)?;
        if let Some(stored) = past.next_back().transpose()? {
            return Ok(Some(Stretch {
                start: stored.segment.start().0,
                end: stored.segment.end().0,
                mean: stored.segment.mean().to_vec(),
                source: Source::Sealed(stored.cid),
            }));
        }
        let last = self.reader.last_outline_start(self.number, &asked.id, end)?;
        let Some(start) = last else { return Ok(None) };
        let outlines = self.reader.outlines_of(self.number, &asked.id, start, start)?;
        let Some((cid, outline)) = outlines.last() else { return Ok(None) };
        let piece = outline.pieces().iter().rfind(|piece| piece.start.0 <= end);
        Ok(piece.map(|piece| Stretch::of_piece(piece, Source::Outlined(*cid))))
    }
}

impl Stretch {
    fn of_piece(piece: &Piece, source: Source) -> Self {
        let (start, end, mean) = (piece.start.0, piece.end.0, piece.mean.clone());
        Self { start, end, mean, source }
    }
}
