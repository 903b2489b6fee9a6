//! The course of an entity: what is left of its past in outlines, then its segments, then its open regime.

use crate::{
    compact::Flag,
    error::{ReadError, StoreError},
    question::{Asked, Coverage, Question, Source},
    store::Stored,
};

/// A stretch of a course with one mean. Of two that overlap, the later one begins where the first ends.
pub(crate) struct Stretch {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) mean: Vec<f32>,
    pub(crate) source: Source,
    /// Whether another node says so.
    pub(crate) is_foreign: bool,
}

/// What a walk along a course meets.
pub(crate) enum Met<'a> {
    Stretch(Stretch),
    /// A boundary within the stretches of an outline, which it remembers as a flag.
    Flag(&'a Flag, Source),
}

impl Question<'_> {
    /// Passes on, in time order, the stretches of an entity that overlap `from..=to`, and behind those of
    /// each outline its flags in that time.
    pub(crate) fn walk_course(
        &self,
        asked: &Asked,
        (from, to): (i64, i64),
        coverage: &mut Coverage,
        mut on: impl FnMut(Met<'_>),
    ) -> Result<(), ReadError> {
        let mut before = i64::MIN;
        let mut on_stretch = |stretch: Stretch, on: &mut dyn FnMut(Met<'_>)| {
            let stretch = stretch.after(before);
            before = stretch.end;
            if stretch.start <= to {
                on(Met::Stretch(stretch));
            }
        };
        let mut sealed = self.sealed(asked, (from, to))?.peekable();
        let begins_before = |stored: &Result<Stored, StoreError>, start: i64| {
            stored.as_ref().is_ok_and(|stored| stored.segment.start().0 < start)
        };
        for (cid, outline) in self.reader.outlines_of(self.number, &asked.id, from, to)? {
            coverage.outlines += 1;
            let source = Source::Outlined(cid);
            for piece in outline.pieces() {
                for (start, end) in self.own_parts(asked, piece) {
                    if start > to || end < from {
                        continue;
                    }
                    // Own segments are all after the outlines; those of others may be between.
                    while let Some(stored) = sealed.next_if(|one| begins_before(one, start)) {
                        coverage.segments_scanned += 1;
                        on_stretch(Stretch::sealed(&stored?), &mut on);
                    }
                    let mean = piece.mean.clone();
                    on_stretch(Stretch { start, end, mean, source, is_foreign: false }, &mut on);
                }
            }
            let is_in = |at: i64| (from..=to).contains(&at) && !self.is_taken(asked, at);
            for flag in outline.flags().iter().filter(|flag| is_in(flag.time.0)) {
                on(Met::Flag(flag, source));
            }
        }
        for stored in sealed {
            coverage.segments_scanned += 1;
            on_stretch(Stretch::sealed(&stored?), &mut on);
        }
        if let Some(open) = asked.open_between(from, to) {
            coverage.hot_regimes += 1;
            let (start, end, mean) = (open.start, open.end, open.mean.clone());
            let stretch = Stretch { start, end, mean, source: Source::Open, is_foreign: false };
            on_stretch(stretch, &mut on);
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
        let last = self.sealed(asked, (i64::MIN, end))?.next_back().transpose()?;
        let last = last.map(|stored| Stretch::sealed(&stored));
        // Own segments are all after the outlines.
        if last.as_ref().is_some_and(|last| !last.is_foreign) {
            return Ok(last);
        }
        let outlined = self.outlined_before(asked, end)?;
        Ok(last.into_iter().chain(outlined).max_by_key(|stretch| stretch.start))
    }

    /// Returns the last stretch of an outline that begins up to a moment.
    fn outlined_before(&self, asked: &Asked, end: i64) -> Result<Option<Stretch>, ReadError> {
        let last = self.reader.last_outline_start(self.number, &asked.id, end)?;
        let Some(start) = last else { return Ok(None) };
        let outlines = self.reader.outlines_of(self.number, &asked.id, start, start)?;
        let Some((cid, outline)) = outlines.last() else { return Ok(None) };
        let parts = outline.pieces().iter().rev().flat_map(|piece| {
            let parts = self.own_parts(asked, piece);
            parts.into_iter().rev().map(move |part| (part, piece))
        });
        let before = parts.into_iter().find(|((start, _), _)| *start <= end);
        Ok(before.map(|((start, end), piece)| {
            let (mean, source) = (piece.mean.clone(), Source::Outlined(*cid));
            Stretch { start, end, mean, source, is_foreign: false }
        }))
    }
}

impl Stretch {
    fn sealed(stored: &Stored) -> Self {
        let segment = &stored.segment;
        Self {
            start: segment.start().0,
            end: segment.end().0,
            mean: segment.mean().to_vec(),
            source: Source::Sealed(stored.cid),
            is_foreign: stored.is_foreign(),
        }
    }

    /// Returns it without the time up to `before`, which the one before it stands for, if anything is left of it then.
    fn after(self, before: i64) -> Self {
        Self { start: self.start.max(before.min(self.end)), ..self }
    }
}
