//! Why an engine could not start or had to stop, and the exit code that says so.

use std::{io, net::SocketAddr, path::PathBuf};

use proto_daemon::{admin::AdminError, exit::Exit, telemetry::TelemetryError};

use crate::{config::ConfigError, token::KeysError};

/// Why the engine could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// Logging.
    #[error("log: {0}")]
    Telemetry(#[from] TelemetryError),
    /// The keys of tokens.
    #[error("tokens: {0}")]
    Keys(#[from] KeysError),
    /// The secret of a TURN server.
    #[error("iceServers: {0}")]
    IceServers(String),
    /// The file that keeps the engine's state.
    #[error("stateFile: {}: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said, or what is wrong in it.
        source: io::Error,
    },
    /// The admin socket.
    #[error("adminSocket: {0}")]
    Admin(#[from] AdminError),
    /// A listener.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate for DTLS.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// The runtime, a thread or the signal handlers.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The thread that holds the sessions has ended by itself.
    #[error("the worker has ended; its log says why")]
    Worker,
    /// A question to a running engine was answered with no.
    #[error("{0}")]
    Probe(String),
}

impl RunError {
    /// The code that the parent process sees.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_)
            | Self::Telemetry(_)
            | Self::Keys(_)
            | Self::IceServers(_)
            | Self::State { .. } => Exit::Config,
            Self::Listen { .. } | Self::Admin(_) | Self::Probe(_) => Exit::Unavailable,
            Self::Certificate(_) | Self::Start(_) | Self::Worker => Exit::Software,
        }
    }
}
