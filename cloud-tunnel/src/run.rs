//! From arguments to a running server or agent and back to an exit code.

mod agent;
mod life;
mod server;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use proto_daemon::exit;

pub use self::life::RunError;

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
