//! The `pool-coordinator` process: parse, run, exit code.

fn main() {}
