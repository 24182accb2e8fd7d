//! The `tunnel-agent` process: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloud_tunnel::agent_main_with(std::env::args_os())
}
