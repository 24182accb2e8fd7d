//! The `tunnel-agent` process: parse, run, exit code.

fn main() {}
