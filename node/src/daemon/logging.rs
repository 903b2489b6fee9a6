//! Structured logs to standard error or to a file.

use std::{fs::OpenOptions, io::IsTerminal, path::Path, sync::Mutex};

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt::SubscriberBuilder};

use crate::config::{LogConfig, LogFormat};

/// Begins to write logs as `config` says; `RUST_LOG` wins over its level.
pub(super) fn init(config: &LogConfig, file: Option<&Path>) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&config.level))?;
    let builder = SubscriberBuilder::default().with_env_filter(filter);
    let done = match (file, config.format) {
        (None, LogFormat::Text) => {
            let is_terminal = std::io::stderr().is_terminal();
            builder.with_ansi(is_terminal).with_writer(std::io::stderr).try_init()
        }
        (None, LogFormat::Json) => builder.json().with_writer(std::io::stderr).try_init(),
        (Some(path), format) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = Mutex::new(
                file.with_context(|| format!("cannot write the log {}", path.display()))?,
            );
            match format {
                LogFormat::Text => builder.with_ansi(false).with_writer(file).try_init(),
                LogFormat::Json => builder.json().with_writer(file).try_init(),
            }
        }
    };
    done.map_err(|cause| anyhow::anyhow!("cannot start logging: {cause}"))
}
