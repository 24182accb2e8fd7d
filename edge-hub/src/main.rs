//! The `edge-hub` process: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_hub::main_with(std::env::args_os())
}
