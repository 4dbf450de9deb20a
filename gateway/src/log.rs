//! Logs go to stderr, so that stdout stays free for answers.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Logs from now on; what was asked for before wins.
pub(crate) fn to_stderr(log: &Log) -> anyhow::Result<()> {
    let filter = match (&log.filter, std::env::var(EnvFilter::DEFAULT_ENV)) {
        (Some(filter), _) => filter.clone(),
        (None, Ok(filter)) if !filter.is_empty() => filter,
        _ => "info".into(),
    };
    let filter = EnvFilter::try_new(&filter).with_context(|| {
        format!("`{filter}` is no filter for logs, expected `info` or `tollgate_gateway=debug`")
    })?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A test that asks twice is content with the first.
    let _ = match log.format {
        LogFormat::Text => logger.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logger.json().flatten_event(true).with_ansi(false).try_init(),
    };
    Ok(())
}
