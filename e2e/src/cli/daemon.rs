//! The daemons that the `eyot` program holds as hidden commands, so that a lab needs no second program.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// The name of the media engine's program: who calls `eyot` by it means the engine, as the lab's image does.
const ENGINE: &str = "media-engine";

/// Which daemon to be; the words behind are its own.
#[derive(Debug, Subcommand)]
pub(super) enum Daemon {
    /// Run an edge-hub; the lab and the demo start their hubs by this
    #[command(hide = true, disable_help_flag = true)]
    Hub(Words),
    /// Run a pool's coordinator; the lab starts it by this
    #[command(hide = true, disable_help_flag = true)]
    Coordinator(Words),
    /// Run a tunnel-server; the lab starts its own by this
    #[command(hide = true, disable_help_flag = true)]
    TunnelServer(Words),
    /// Run a tunnel-agent; the lab starts its own by this
    #[command(hide = true, disable_help_flag = true)]
    TunnelAgent(Words),
    /// Run a media engine, as the program does under the name media-engine; the lab's pods do that
    #[command(hide = true, disable_help_flag = true)]
    MediaEngine(Words),
}

/// What is handed on to a daemon as it stands.
#[derive(Debug, Args)]
pub(super) struct Words {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Daemon {
    /// Runs it in this process; the one place where the roof starts daemons.
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Hub(words) => edge_hub::main_with(named("edge-hub", bound_to_parent(words.arguments))),
            Self::Coordinator(words) => {
                pool_coordinator::main_with(named("pool-coordinator", words.arguments))
            }
            Self::TunnelServer(words) => {
                cloud_tunnel::server_main_with(named("tunnel-server", words.arguments))
            }
            Self::TunnelAgent(words) => cloud_tunnel::agent_main_with(named("tunnel-agent", words.arguments)),
            Self::MediaEngine(words) => media_engine(words.arguments),
        }
    }
}

/// Whether a program that was called by `name` is the media engine.
pub(super) fn is_engine(name: &OsStr) -> bool {
    Path::new(name).file_name().is_some_and(|name| name == ENGINE)
}

/// Runs a media engine with `arguments`, without the program's name.
pub(super) fn media_engine(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    media::main_with(named(ENGINE, arguments))
}

/// The command line of a daemon that this program holds.
fn named(program: &str, arguments: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(program)).chain(arguments)
}

/// Takes `--exit-with-parent` off `arguments` and does what it says.
fn bound_to_parent(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.first().is_some_and(|first| first == "--exit-with-parent") {
        arguments.remove(0);
        // Whoever holds the other end of stdin has gone, by kill -9 perhaps; this process must not outlive it.
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(1);
        });
    }
    arguments
}
