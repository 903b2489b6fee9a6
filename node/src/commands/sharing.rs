//! `templates` and `privacy`: what is shared, what is taken, and at what cost.

use dunlin_client::{
    AdoptRequest, Client, LedgerView, PublishRequest, PublishResponse, TemplateSource, Templates,
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
        TemplatesCommand::Publish { collection, epsilon } => {
            let published = client.publish_templates(&PublishRequest { collection, epsilon })?;
            out.show(&published, |PublishResponse { set, epsilon_spent, epsilon_max }| {
                format!(
                    "{} templates of {} released in {} bytes at epsilon {} per {}; {epsilon_spent} of {epsilon_max} spent",
                    set.templates, set.collection, set.bytes, set.epsilon, set.unit
                )
            })
        }
        TemplatesCommand::Adopt { collection } => {
            out.show(&client.adopt_templates(&AdoptRequest { collection })?, sets)
        }
    }
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
        PrivacyCommand::Ledger => out.show(&client.ledger()?, |LedgerView { entries, epsilon_spent, epsilon_max }| {
            let mut table = Table::new(["time", "collection", "unit", "epsilon", "delta", "purpose"]);
            for entry in entries {
                table.row([
                    time(i64::try_from(entry.time_ms.saturating_mul(1_000)).unwrap_or(i64::MAX)),
                    entry.collection.clone(),
                    entry.unit.clone(),
                    entry.epsilon.to_string(),
                    entry.delta.to_string(),
                    entry.purpose.clone(),
                ]);
            }
            format!("{table}\n{epsilon_spent} spent in all; at most {epsilon_max} for each collection")
        }),
    }
}
