//! `templates` and `privacy`: what is shared, what is taken, and at what cost.

use dunlin_client::{
    AdoptRequest, Client, LedgerEntry, LedgerView, PublishRequest, PublishResponse,
    RollBackRequest, TemplateSource, Templates,
};

use crate::{
    cli::{PrivacyCommand, TemplatesCommand},
    output::{Output, Table, time},
};

pub(super) fn templates(
    client: &Client,
    command: TemplatesCommand,
    out: Output,
) -> anyhow::Result<()> {
    match command {
        TemplatesCommand::Ls => out.show(&client.templates()?, sets),
        TemplatesCommand::Publish { collection, epsilon, unit, mechanism, cells_max, fresh } => {
            let request = PublishRequest { collection, epsilon, unit, mechanism, cells_max, fresh };
            out.show(&client.publish_templates(&request)?, published)
        }
        TemplatesCommand::Rollback { collection, peer } => {
            let request = RollBackRequest { collection, peer };
            out.show(&client.roll_back_templates(&request)?, sets)
        }
        TemplatesCommand::Adopt { collection } => {
            out.show(&client.adopt_templates(&AdoptRequest { collection })?, sets)
        }
    }
}

fn published(answer: &PublishResponse) -> String {
    let set = &answer.set;
    let spent = answer.epsilon_spent.map_or("an unbounded loss".to_owned(), |spent| {
        format!("{spent} of {}", answer.epsilon_max)
    });
    let delta = if set.delta > 0.0 { format!(", delta {}", set.delta) } else { String::new() };
    let what = format!("{} templates of {} in {} bytes", set.templates, set.collection, set.bytes);
    let mut lines = vec![if answer.unchanged {
        format!("nothing changed: the {what} are announced again, for nothing; {spent} spent")
    } else {
        format!("{what} released at epsilon {}{delta} per {}; {spent} spent", set.epsilon, set.unit)
    }];
    if let Some(from_us) = answer.from_us {
        lines
            .push(format!("older data than {} took no part: their budget is spent", time(from_us)));
    }
    if answer.entities_left_out > 0 {
        lines.push(format!(
            "{} entities took no part: their budget is spent",
            answer.entities_left_out
        ));
    }
    lines.join("\n")
}

fn sets(Templates { sets }: &Templates) -> String {
    let mut table =
        Table::new(["collection", "from", "templates", "epsilon", "unit", "issued", "gate"]);
    for set in sets {
        let gate = match (&set.verdict, set.source) {
            (_, TemplateSource::Own) => "own".to_owned(),
            (None, TemplateSource::Peer) => "not judged yet".to_owned(),
            (Some(verdict), TemplateSource::Peer) => {
                let word = if verdict.adopted { "adopted" } else { "refused" };
                format!("{word}: {}", verdict.reason)
            }
        };
        table.row([
            set.collection.clone(),
            set.signer.clone(),
            set.templates.to_string(),
            set.epsilon.to_string(),
            set.unit.clone(),
            time(i64::try_from(set.issued_ms.saturating_mul(1_000)).unwrap_or(i64::MAX)),
            gate,
        ]);
    }
    table.to_string()
}

pub(super) fn privacy(
    client: &Client,
    command: &PrivacyCommand,
    out: Output,
) -> anyhow::Result<()> {
    match command {
        PrivacyCommand::Ledger { collection: None } => out.show(&client.ledger()?, ledger),
        PrivacyCommand::Ledger { collection: Some(collection) } => {
            out.show(&client.ledger_of(collection)?, ledger)
        }
    }
}

fn ledger(view: &LedgerView) -> String {
    let mut parts = vec![entries(&view.entries)];
    if !view.accounts.is_empty() {
        parts.push(accounts(view));
    }
    if !view.entities.is_empty() {
        parts.push(entities(view));
    }
    let but = match view.delta {
        0.0 => String::new(),
        delta => format!(", but with probability {delta}"),
    };
    parts.push(format!("each unit of a collection loses at most {}{but}", view.epsilon_max));
    parts.join("\n\n")
}

fn entries(entries: &[LedgerEntry]) -> String {
    let mut table = Table::new([
        "time",
        "collection",
        "unit",
        "noise",
        "epsilon",
        "delta",
        "entities",
        "outcome",
        "purpose",
    ]);
    for entry in entries {
        let outcome = match (entry.released, entry.units_needed) {
            (true, _) => "released".to_owned(),
            (false, Some(needed)) => format!("too few: needs {needed}"),
            (false, None) => "prevented".to_owned(),
        };
        table.row([
            time(i64::try_from(entry.time_ms.saturating_mul(1_000)).unwrap_or(i64::MAX)),
            entry.collection.clone(),
            entry.unit.clone(),
            entry.mechanism.clone(),
            entry.epsilon.to_string(),
            entry.delta.to_string(),
            entry.entities.map_or("all".to_owned(), |count| count.to_string()),
            outcome,
            entry.purpose.clone(),
        ]);
    }
    table.to_string()
}

fn accounts(view: &LedgerView) -> String {
    let mut table = Table::new(["collection", "each", "spent at most", "left at least"]);
    for account in &view.accounts {
        table.row([
            account.collection.clone(),
            account.unit.clone(),
            bounded(account.epsilon_spent),
            account.epsilon_left.to_string(),
        ]);
    }
    table.to_string()
}

fn entities(view: &LedgerView) -> String {
    let mut table = Table::new(["entity", "spent"]);
    for entity in &view.entities {
        table.row([entity.entity.clone(), bounded(entity.epsilon_spent)]);
    }
    let more = if view.entities_cut { "\nand more" } else { "" };
    format!("{table}{more}")
}

/// A release that protects finer units promises nothing for coarser ones.
fn bounded(spent: Option<f64>) -> String {
    spent.map_or("no bound".to_owned(), |spent| spent.to_string())
}
