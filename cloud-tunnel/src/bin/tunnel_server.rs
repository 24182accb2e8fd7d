//! The `tunnel-server` process: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloud_tunnel::server_main_with(std::env::args_os())
}
