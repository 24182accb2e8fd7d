//! The media engine's process.

use std::process::ExitCode;

fn main() -> ExitCode {
    media::main_with(std::env::args_os())
}
