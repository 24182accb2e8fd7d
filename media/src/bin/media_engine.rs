//! The `media-engine` process: parse, run, exit code.

fn main() {}
