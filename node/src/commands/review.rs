//! `dunlin review`: conflicts between segments, and a person's decision about them.

use dunlin_client::{
    Client, Conflict, ConflictVersion, PreferenceReason, ResolveConflict, Review, Segment,
};

use crate::{
    cli::ReviewCommand,
    output::{Output, Table, time},
};

/// Channels of a segment that are shown.
const CHANNELS_SHOWN: usize = 8;

pub(super) fn review(client: &Client, command: &ReviewCommand, out: Output) -> anyhow::Result<()> {
    match command {
        ReviewCommand::Ls => out.show(&all(client)?, list),
        ReviewCommand::Show { id } => {
            let conflict = client.conflict(id)?;
            // A segment whose block is damaged or left is told of all the same.
            let look = |version: &ConflictVersion| client.segment(&version.cid).ok();
            let segments = [look(&conflict.first), look(&conflict.second)];
            out.show(&conflict, |conflict| explanation(conflict, &segments))
        }
        ReviewCommand::Resolve { id, prefer } => {
            let decision = ResolveConflict { prefer: prefer.to_string() };
            let conflict = client.resolve_conflict(id, &decision)?;
            out.show(&conflict, |conflict| explanation(conflict, &[None, None]))
        }
    }
}

fn all(client: &Client) -> anyhow::Result<Review> {
    let mut all = client.review(None)?;
    while all.more {
        let Some(last) = all.conflicts.last() else { break };
        let page = client.review(Some(&last.id))?;
        all.more = page.more;
        all.conflicts.extend(page.conflicts);
    }
    Ok(all)
}

fn list(review: &Review) -> String {
    let mut table =
        Table::new(["conflict", "collection", "entity", "from", "to", "preferred", "why"]);
    for conflict in &review.conflicts {
        let (first, second) = (&conflict.first, &conflict.second);
        table.row([
            conflict.id.clone(),
            conflict.collection.clone(),
            conflict.entity.clone(),
            time(first.start_us.max(second.start_us)),
            time(first.end_us.min(second.end_us)),
            conflict.preferred.clone(),
            why(&conflict.reason),
        ]);
    }
    let unflagged = match review.unflagged {
        0 => String::new(),
        count => format!("; {count} more found no room and are not listed"),
    };
    format!("{table}\n{} conflicts{unflagged}", review.conflicts.len())
}

fn why(reason: &PreferenceReason) -> String {
    match reason {
        PreferenceReason::Decided { by, .. } => format!("decided on {by}"),
        PreferenceReason::Standing { points, against } => {
            format!("{points} points against {against}")
        }
        PreferenceReason::Tie { points } => format!("{points} points each; the lesser CID"),
    }
}

fn explanation(conflict: &Conflict, segments: &[Option<Segment>; 2]) -> String {
    let mut text = format!(
        "{} is about {} in {}; both segments are kept\n",
        conflict.id, conflict.entity, conflict.collection
    );
    for (version, segment) in [&conflict.first, &conflict.second].into_iter().zip(segments) {
        let is_preferred = version.cid == conflict.preferred;
        text.push_str(&format!(
            "\n{}{}\n",
            version.cid,
            if is_preferred { "  <- answers use this one" } else { "" }
        ));
        let mut line = |name: &str, value: String| {
            text.push_str(&format!("  {name:<9} {value}\n"));
        };
        line("from", time(version.start_us));
        line("to", time(version.end_us));
        let own = version.own.then_some("this node");
        line("sealed by", own.map_or_else(|| makers(version), str::to_owned));
        if own.is_some() && version.makers.len() > 1 {
            line("", makers(version));
        }
        if let Some(segment) = segment {
            line("count", segment.count.to_string());
            line("drift", format!("{:.4} at most", segment.drift_max));
            let mean = segment.mean.iter().take(CHANNELS_SHOWN).map(|value| format!("{value:.4}"));
            line("mean", mean.collect::<Vec<_>>().join(" "));
        }
    }
    text.push_str(&format!("\npreferred: {}\n", why(&conflict.reason)));
    text
}

fn makers(version: &ConflictVersion) -> String {
    if version.makers.is_empty() {
        "nobody said so yet".to_owned()
    } else {
        version.makers.join(", ")
    }
}
