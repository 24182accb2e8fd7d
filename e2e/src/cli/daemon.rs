//! The daemons that the `eyot` program holds as hidden commands, so that a lab needs no second program.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// The command line of a daemon that this program holds.
fn named(program: &str, arguments: Vec<OsString>) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(program)).chain(arguments)
}

/// The one place where the roof starts a hub.
pub(super) fn hub(mut arguments: Vec<OsString>) -> ExitCode {
    if arguments.first().is_some_and(|first| first == "--exit-with-parent") {
        arguments.remove(0);
        // Whoever holds the other end of stdin has gone, by kill -9 perhaps; this process must not outlive it.
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(1);
        });
    }
    edge_hub::main_with(named("edge-hub", arguments))
}

/// The one place where the roof starts a pool's coordinator.
pub(super) fn coordinator(arguments: Vec<OsString>) -> ExitCode {
    pool_coordinator::main_with(named("pool-coordinator", arguments))
}

/// The one place where the roof starts a tunnel-server.
pub(super) fn tunnel_server(arguments: Vec<OsString>) -> ExitCode {
    cloud_tunnel::server_main_with(named("tunnel-server", arguments))
}

/// The one place where the roof starts a tunnel-agent.
pub(super) fn tunnel_agent(arguments: Vec<OsString>) -> ExitCode {
    cloud_tunnel::agent_main_with(named("tunnel-agent", arguments))
}

/// The name of the media engine's program: who calls `eyot` by it means the engine, as the lab's image does.
const ENGINE: &str = "media-engine";

/// Whether a program that was called by `name` is the media engine.
pub(super) fn is_engine(name: &OsStr) -> bool {
    Path::new(name).file_name().is_some_and(|name| name == ENGINE)
}

/// The one place where the roof starts a media engine.
pub(super) fn media_engine(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    media::main_with(std::iter::once(OsString::from(ENGINE)).chain(arguments))
}
