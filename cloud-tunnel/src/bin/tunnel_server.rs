//! The `tunnel-server` process: parse, run, exit code.

fn main() {}
