//! Structured logs on standard error, and values that must never be in them.

use std::fmt;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How a log line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text, for people.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// What is logged, and how. The part `log` of every configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct LogConfig {
    /// `text` (the default) or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info` (the default), `debug`, `trace`, or directives such as
    /// `info,edge_hub::upstream=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".into() }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is no level and no list of directives.
    #[error("log.level: {level:?} is no level; write error, warn, info, debug or trace")]
    Level {
        /// As it was written.
        level: String,
        /// What the parser said.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber was installed before.
    #[error("logging was set up twice in this process")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

impl LogConfig {
    /// Whether [`init`] would accept this; for `--check-config`.
    ///
    /// # Errors
    /// [`TelemetryError::Level`].
    pub fn check(&self) -> Result<(), TelemetryError> {
        self.filter().map(|_| ())
    }

    fn filter(&self) -> Result<EnvFilter, TelemetryError> {
        EnvFilter::builder()
            .parse(&self.level)
            .map_err(|source| TelemetryError::Level { level: self.level.clone(), source })
    }
}

/// Sends this process's log lines to standard error from now on. Once per process.
///
/// # Errors
/// [`TelemetryError`]: no such level, or called twice.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt().with_env_filter(config.filter()?).with_writer(std::io::stderr);
    match config.format {
        // Colour codes in a journal are noise, and standard error of a unit is no terminal.
        LogFormat::Text => builder.with_ansi(false).finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// A secret: printing it prints `MASKED`, whatever it holds. [`Self::expose`] is the one way to it, so that a
/// search for that word finds every use.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Masked<T>(T);

impl<T> Masked<T> {
    /// Hides `secret` from all formatting.
    pub fn new(secret: T) -> Self {
        Self(secret)
    }

    /// The secret itself.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Masked<T> {
    fn from(secret: T) -> Self {
        Self(secret)
    }
}

impl<T> fmt::Debug for Masked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MASKED")
    }
}

impl<T> fmt::Display for Masked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MASKED")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_in_every_print_and_whole_where_it_is_exposed() {
        let secret = Masked::new("hunter2".to_owned());
        assert_eq!(
            format!("{secret} {secret:?} {:#?}", Some(&secret)),
            "MASKED MASKED Some(\n    MASKED,\n)"
        );
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_level_that_is_none_is_refused_by_name() {
        let wrong = LogConfig { level: "info,x=loud".into(), ..LogConfig::default() };
        assert!(wrong.check().expect_err("no level").to_string().contains("loud"));
        for level in ["error", "debug", "info,edge_hub::upstream=trace"] {
            LogConfig { level: level.into(), ..LogConfig::default() }.check().expect("a level");
        }
    }
}
