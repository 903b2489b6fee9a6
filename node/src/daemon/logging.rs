//! Structured logs to standard error or to a file, and traces where a build exports them.

use std::{fs::OpenOptions, io::IsTerminal, path::Path, sync::Mutex};

use anyhow::Context;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt,
};

#[cfg(feature = "otel")]
use super::traces::Traces;
use crate::config::{LogConfig, LogFormat};

/// The variables that name a collector of traces, as OpenTelemetry specifies them.
const COLLECTOR: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Keeps what has to be kept until the process has nothing more to log.
#[derive(Debug)]
#[must_use = "traces that wait are sent when it is dropped"]
pub(super) struct Logging {
    #[cfg(feature = "otel")]
    _traces: Option<Traces>,
}

/// A part of the subscriber.
type Part = Box<dyn Layer<Registry> + Send + Sync>;

/// Begins to write logs as `config` says; `RUST_LOG` wins over its level.
///
/// # Errors
///
/// Fails when the filter or the file is impossible.
pub(super) fn init(config: &LogConfig, file: Option<&Path>) -> anyhow::Result<Logging> {
    let filter =
        EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&config.level))?;
    let lines = lines(config, file)?;
    #[cfg(feature = "otel")]
    let traces = Traces::from_env()?;
    #[cfg(feature = "otel")]
    let lines = lines.and_then(traces.as_ref().map(Traces::layer));
    // One filter over all: what is not logged is not traced.
    let part = lines.with_filter(filter);
    let started = tracing_subscriber::registry().with(part).try_init();
    started.map_err(|cause| anyhow::anyhow!("cannot start logging: {cause}"))?;
    #[cfg(not(feature = "otel"))]
    if is_collector_named() {
        tracing::warn!("this build exports no traces; build it with `--features otel`");
    }
    Ok(Logging {
        #[cfg(feature = "otel")]
        _traces: traces,
    })
}

/// Returns whether the environment names a collector of traces.
pub(super) fn is_collector_named() -> bool {
    COLLECTOR.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn lines(config: &LogConfig, file: Option<&Path>) -> anyhow::Result<Part> {
    let layer = tracing_subscriber::fmt::layer();
    Ok(match (file, config.format) {
        (None, LogFormat::Text) => {
            let is_terminal = std::io::stderr().is_terminal();
            layer.with_ansi(is_terminal).with_writer(std::io::stderr).boxed()
        }
        (None, LogFormat::Json) => layer.json().with_writer(std::io::stderr).boxed(),
        (Some(path), format) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = Mutex::new(
                file.with_context(|| format!("cannot write the log {}", path.display()))?,
            );
            match format {
                LogFormat::Text => layer.with_ansi(false).with_writer(file).boxed(),
                LogFormat::Json => layer.json().with_writer(file).boxed(),
            }
        }
    })
}
