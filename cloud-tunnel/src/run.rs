//! From arguments to a running server or agent and back to an exit code.

mod agent;
mod server;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use proto_daemon::admin::AdminError;
use proto_daemon::exit::{self, Exit};
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
    fn exit(&self) -> Exit {
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

/// The server beside kube-apiserver.
#[derive(Debug, Parser)]
#[command(
    name = "tunnel-server",
    version,
    about = "The cloud's end of the tunnel: kube-apiserver reaches nodes behind NAT by the link that their agent dialled",
    after_help = "kube-apiserver: --egress-selector-config-file names doors.httpConnect (protocol HTTPConnect), and\n\
                  --kubelet-preferred-address-types begins with Hostname.\n\
                  Health and metrics: curl --unix-socket <adminSocket> http://tunnel/readyz (/livez, /metrics, /status)."
)]
struct ServerArguments {
    /// The settings, a YAML file; deploy/tunnel-server.yaml shows every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the settings and the files that they name, print what is wrong, and exit.
    #[arg(long)]
    check_config: bool,
}

/// The agent on a node.
#[derive(Debug, Parser)]
#[command(
    name = "tunnel-agent",
    version,
    about = "The edge's end of the tunnel: dials a tunnel-server and, for it, the kubelets of the nodes in its list",
    after_help = "It listens nowhere; whatever is between node and cloud need only let it dial out.\n\
                  Health and metrics: curl --unix-socket <adminSocket> http://tunnel/readyz (/livez, /metrics, /status);\n\
                  /readyz says why there is no link."
)]
struct AgentArguments {
    /// The settings, a YAML file; deploy/tunnel-agent.yaml shows every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the settings and the files that they name, print what is wrong, and exit.
    #[arg(long)]
    check_config: bool,
}

/// Runs the server with these arguments (the first is the program's name) until it is told to stop.
pub fn server_main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let start = |own: &ServerArguments| server::start(&own.config, own.check_config);
    exit::main_with(arguments, "tunnel-server", start, RunError::exit)
}

/// Runs the agent with these arguments (the first is the program's name) until it is told to stop.
pub fn agent_main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let start = |own: &AgentArguments| agent::start(&own.config, own.check_config);
    exit::main_with(arguments, "tunnel-agent", start, RunError::exit)
}

fn say_good(path: &Path) {
    println!("{} is good", path.display());
}

/// Waits for the end of a drain, and says how it ended.
async fn drained(shutdown: &Shutdown) {
    shutdown.draining().await;
    tracing::info!(grace = ?DRAIN_GRACE, "draining");
    match shutdown.drained().await {
        Drained::Complete => tracing::info!("stopped"),
        Drained::Cut { open } => tracing::warn!(open, "stopped; open streams and links were cut"),
    }
}

/// Whether the process still takes work.
fn running(shutdown: &Shutdown) -> Result<(), String> {
    match shutdown.phase() {
        Phase::Running => Ok(()),
        phase => Err(phase.as_str().to_owned()),
    }
}
