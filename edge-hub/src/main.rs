//! The `edge-hub` process.
fn main() {}
