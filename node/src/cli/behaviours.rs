//! `dunlin behaviours` and `dunlin history`: what they may be told.

use clap::Args;
use dunlin_client::TemplateUse;

use super::{TimeRange, template_use};

#[derive(Debug, Args)]
pub(crate) struct BehavioursArgs {
    /// The collection.
    #[arg(default_value = "default")]
    pub(crate) collection: String,
    /// Also say what each behaviour consists of, with --json.
    #[arg(long)]
    pub(crate) details: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The entity.
    pub(crate) entity: String,
    /// The collection.
    #[arg(long, short, default_value = "default")]
    pub(crate) collection: String,
    #[command(flatten)]
    pub(crate) range: TimeRange,
    /// At most this many points.
    #[arg(long, default_value_t = 1000)]
    pub(crate) limit: u32,
    /// Count adopted templates as known behaviour (adopted), or not (none), or shuffled (control).
    #[arg(long, value_parser = template_use, default_value = "adopted")]
    pub(crate) templates: TemplateUse,
}
