//! The `eyot` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::cli::run(std::env::args_os())
}
