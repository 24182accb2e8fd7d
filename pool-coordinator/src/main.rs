//! The `pool-coordinator` program.

fn main() -> std::process::ExitCode {
    pool_coordinator::main_with(std::env::args_os())
}
