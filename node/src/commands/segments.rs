//! `segments ls|show|seal|fetch`.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use anyhow::Context;
use dunlin_client::{
    Client, FetchRequest, FetchResponse, FetchedSegment, NoisedSegment, ProvideRequest,
    ProvideResponse, SealResponse, SealedOutcome, Segment, SegmentsQuery,
};

use crate::{
    cli::SegmentsCommand,
    output::{Output, Table, size, time},
};

/// Most segments that one request returns.
const PAGE_MAX: u32 = 1_000;

pub(super) fn segments(
    client: &Client,
    command: SegmentsCommand,
    out: Output,
) -> anyhow::Result<ExitCode> {
    match command {
        SegmentsCommand::Ls { collection, entity, range, limit } => {
            let mut query = SegmentsQuery {
                collection,
                entity,
                from_us: range.from,
                to_us: range.to,
                after: None,
                limit: None,
            };
            let segments = pages(client, &mut query, limit)?;
            out.show(&segments, |segments| list(segments))?;
        }
        SegmentsCommand::Show { cid, block } => {
            let segment = client.segment(&cid)?;
            if let Some(file) = block {
                let bytes = client.block(&cid)?;
                std::fs::write(&file, bytes)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
            out.show(&segment, details)?;
        }
        SegmentsCommand::Seal { entity, collection } => {
            let sealed = client.seal(&collection, &entity)?;
            out.show(&sealed, |SealResponse { cid }| match cid {
                Some(cid) => format!("sealed {cid}"),
                None => "no regime is open".to_owned(),
            })?;
        }
        SegmentsCommand::Provide { cids } => {
            let answer = client.provide(&ProvideRequest { cids })?;
            out.show(&answer, |ProvideResponse { provided }| {
                format!("{provided} objects are provided on the DHT, now and again")
            })?;
        }
        SegmentsCommand::Fetch { cids, peers, gateways, payload, dht } => {
            let answer = client.fetch(&FetchRequest { cids, peers, gateways, payload, dht })?;
            out.show(&answer, fetched)?;
            let is_whole =
                |fetched: &FetchedSegment| is_found(fetched) && fetched.missing_payload.is_empty();
            if !answer.segments.iter().all(is_whole) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns whether there was a segment, plain, opened or noised.
const fn is_found(fetched: &FetchedSegment) -> bool {
    fetched.segment.is_some() || fetched.noised.is_some()
}

/// Returns up to `limit` segments, asking for as many pages as that takes.
fn pages(client: &Client, query: &mut SegmentsQuery, limit: u32) -> anyhow::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    loop {
        let left = limit.saturating_sub(u32::try_from(segments.len()).unwrap_or(u32::MAX));
        query.limit = Some(left.min(PAGE_MAX));
        let page = client.segments(query)?;
        segments.extend(page.segments);
        query.after = page.next;
        if query.after.is_none() || segments.len() >= limit as usize {
            return Ok(segments);
        }
    }
}

fn list(segments: &[Segment]) -> String {
    let mut table = Table::new(["segment", "entity", "from", "to", "count", "score", "bytes"]);
    for segment in segments {
        table.row([
            segment.cid.clone(),
            segment.entity.clone(),
            time(segment.start_us),
            time(segment.end_us),
            segment.count.to_string(),
            format!("{:.4}", segment.anomaly_score),
            segment.block_bytes.to_string(),
        ]);
    }
    table.to_string()
}

fn details(segment: &Segment) -> String {
    let numbers = |values: &[f32]| {
        let texts: Vec<_> = values.iter().map(|value| format!("{value:.4}")).collect();
        texts.join(" ")
    };
    format!(
        "segment     {}\ncollection  {}\nentity      {}\nfrom        {}\nto          {}\ncount       {}\ndrift       {:.4} mean, {:.4} max\nscore       {:.4}\nfidelity    {}, {} payload blocks\nsize        {}\narchived    {}\nsealed copy {}\nconflicts   {}\nmean        {}\nspread      {}",
        segment.cid,
        segment.collection,
        segment.entity,
        time(segment.start_us),
        time(segment.end_us),
        segment.count,
        segment.drift_mean,
        segment.drift_max,
        segment.anomaly_score,
        format!("{:?}", segment.fidelity).to_lowercase(),
        segment.payload.len(),
        size(segment.block_bytes),
        if segment.archived { "yes" } else { "no" },
        segment.sealed.as_deref().unwrap_or("none"),
        if segment.conflicts.is_empty() { "none".to_owned() } else { segment.conflicts.join(" ") },
        numbers(&segment.mean),
        numbers(&segment.spread),
    )
}

fn fetched(answer: &FetchResponse) -> String {
    let mut table = Table::new(["segment", "entity", "count", "how"]);
    for fetched in &answer.segments {
        let attempts: Vec<_> = fetched
            .attempts
            .iter()
            .map(|attempt| {
                format!("{} {}", attempt.peer, format!("{:?}", attempt.outcome).to_lowercase())
            })
            .collect();
        let mut how = match (fetched.local, attempts.as_slice()) {
            (true, _) => "was here already".to_owned(),
            (false, []) => {
                "nobody to ask: no own peer is connected; name one with --peer or --gateway, \
                 or search with --dht"
                    .to_owned()
            }
            (false, attempts) => attempts.join(", "),
        };
        if !fetched.missing_payload.is_empty() {
            how = format!("{} payload blocks are missing; {how}", fetched.missing_payload.len());
        }
        if let Some(sealed) = &fetched.sealed {
            let key = &sealed.key;
            let told = match (sealed.outcome, &fetched.segment) {
                (SealedOutcome::Opened, Some(segment)) => format!("opened as {}", segment.cid),
                (SealedOutcome::NoKey, _) => format!(
                    "sealed with key {key}, which is not here; `dunlin keys import` takes it"
                ),
                (SealedOutcome::Opened | SealedOutcome::Forged, _) => {
                    format!("names key {key} and was not sealed with it")
                }
            };
            how = format!("{told}; {how}");
        }
        let (entity, count) = match (&fetched.segment, &fetched.noised) {
            (Some(segment), _) => (segment.entity.clone(), segment.count.to_string()),
            (None, Some(noised)) => {
                let NoisedSegment { signer, collection, unit, epsilon, .. } = noised;
                how = format!(
                    "noised, of {collection} at {signer}, from {} on for {}, epsilon {epsilon} per {unit}; {how}",
                    time(noised.start_us),
                    humantime::format_duration(Duration::from_micros(noised.window_us)),
                );
                (format!("pseudonym {}", noised.entity), format!("about {}", noised.count))
            }
            (None, None) => ("not found".to_owned(), String::new()),
        };
        table.row([fetched.cid.clone(), entity, count, how]);
    }
    let peers: BTreeSet<_> = answer
        .segments
        .iter()
        .flat_map(|fetched| &fetched.attempts)
        .map(|attempt| &attempt.peer)
        .collect();
    let found = answer.segments.iter().filter(|fetched| is_found(fetched)).count();
    format!("{table}\n{found} of {} segments, {} asked", answer.segments.len(), peers.len())
}
