//! What both programs share of their life: why one cannot start, how its drain ends, whether it takes work.

use std::path::Path;

use proto_daemon::admin::AdminError;
use proto_daemon::exit::Exit;
use proto_daemon::shutdown::{Drained, Phase, Shutdown};
use proto_daemon::telemetry::TelemetryError;
use proto_daemon::tls::TlsError;

use crate::config::ConfigError;
use crate::link::control::DRAIN_GRACE;

/// Why a program could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// Logging.
    #[error("log: {0}")]
    Telemetry(#[from] TelemetryError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A unix socket.
    #[error("{key}: {source}{}", because(source))]
    Socket {
        /// The key in the file.
        key: &'static str,
        /// What is wrong.
        source: AdminError,
    },
    /// A listener.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The runtime or the signal handlers.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

fn because(error: &AdminError) -> String {
    std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default()
}

impl RunError {
    /// The process's exit code.
    pub(super) fn exit(&self) -> Exit {
        match self {
            // Whoever issues certificates may be about to write the file: starting again finds it.
            Self::Tls(TlsError::Read { .. }) => Exit::Unavailable,
            Self::Config(_) | Self::Telemetry(_) | Self::Tls(_) => Exit::Config,
            // A socket in use is free when its process has ended; a folder that refuses one stays as it is.
            Self::Socket { source: AdminError::InUse(_), .. } | Self::Listen { .. } => Exit::Unavailable,
            Self::Socket { .. } => Exit::Os,
            Self::Start(_) => Exit::Software,
        }
    }
}

/// Says that a configuration is good.
pub(super) fn say_good(path: &Path) {
    println!("{} is good", path.display());
}

/// Waits for the end of a drain, and says how it ended.
pub(super) async fn drained(shutdown: &Shutdown) {
    shutdown.draining().await;
    tracing::info!(grace = ?DRAIN_GRACE, "draining");
    match shutdown.drained().await {
        Drained::Complete => tracing::info!("stopped"),
        Drained::Cut { open } => tracing::warn!(open, "stopped; open streams and links were cut"),
    }
}

/// Whether the process still takes work.
pub(super) fn running(shutdown: &Shutdown) -> Result<(), String> {
    match shutdown.phase() {
        Phase::Running => Ok(()),
        phase => Err(phase.as_str().to_owned()),
    }
}
